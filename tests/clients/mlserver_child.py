"""A client of the public ``mlserver`` package, in a process of its own: its types, its codecs, its command.

Reads {"url", "model"} from its argument and prints what it saw as JSON. The script uses the package as
its documentation does and knows nothing of this project.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pandas as pd
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, RequestOutput

MATRIX = np.array([[12.5, 40, 0, np.nan], [30.0, 400, 1, 12.0], [0.0, 1, 1, -3.5]])
NAMES = ("height", "rings", "is_wet", "slope")
SOILS, NOTES = ["clay", "sand", "peat"], ["a", "", "ü:7"]
TEXTS = [text for pair in zip(SOILS, NOTES, strict=True) for text in pair]


def read(answer: InferenceResponse) -> dict[str, Any]:
    """What an answer holds."""
    outputs = answer.outputs
    values = {output.name: NumpyCodec.decode_output(output).tolist() for output in outputs}
    return {"model": answer.model_name, "version": answer.model_version, "id": answer.id, "values": values}


def build_tensors(model: str) -> list[RequestInput]:
    """The graph's own tensors, with the codecs' hints."""
    numeric = NumpyCodec.encode_input("numeric", MATRIX)
    if model == "tiny":
        return [numeric]
    text = StringCodec.encode_input("text", TEXTS, use_bytes=False)
    text.shape = [3, 2]
    return [text, numeric]


def build_columns(model: str) -> InferenceRequest:
    """A table, a tensor a column."""
    frame = pd.DataFrame(dict(zip(NAMES, MATRIX.T, strict=True))).astype({"rings": "int64", "is_wet": "bool"})
    request = PandasCodec.encode_request(frame)
    if model != "tiny":
        columns = {"soil": SOILS, "note": NOTES}
        request.inputs += [
            StringCodec.encode_input(name, column, use_bytes=False) for name, column in columns.items()
        ]
    return request


def run_command(url: str, model: str, *flags: str) -> list[dict[str, Any]]:
    """The lines that ``mlserver infer`` writes for two lines of one row each."""
    requests = []
    for index in range(1, 3):  # whose rows have no NULL: the command's own blobs and JSON have none
        numeric = NumpyCodec.encode_input("numeric", MATRIX[index : index + 1])
        inputs = [numeric]
        if model != "tiny":
            text = StringCodec.encode_input("text", TEXTS[2 * index : 2 * index + 2], use_bytes=False)
            text.shape = [1, 2]
            inputs.insert(0, text)
        requests.append(InferenceRequest(id=str(index), inputs=inputs))
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "asked"), Path(folder, "told")
        asked.write_text("".join(request.model_dump_json() + "\n" for request in requests), "utf-8")
        command = [str(Path(sys.executable).with_name("mlserver")), "infer", "-u", url, "-m", model]
        command += ["-i", str(asked), "-o", str(told), "-r", "1", *flags]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return [json.loads(line) for line in told.read_text("utf-8").splitlines()]


async def talk(url: str, model: str) -> dict[str, Any]:
    """Everything that a client asks of a server, and what it was told."""
    seen: dict[str, Any] = {}
    async with aiohttp.ClientSession(f"http://{url}") as session:

        async def ask(request: InferenceRequest) -> dict[str, Any]:
            body = request.model_dump_json()
            headers = {"Content-Type": "application/json"}
            async with session.post(f"/v2/models/{model}/infer", data=body, headers=headers) as response:
                text = await response.text()
                assert response.status == 200, text
                return read(InferenceResponse.model_validate_json(text))

        hints = Parameters(content_type="np", headers={"x-tenant": "a:b"}, anything=[1, {"b": None}])
        seen["tensors"] = await ask(InferenceRequest(id="7", parameters=hints, inputs=build_tensors(model)))
        wanted = [RequestOutput(name="label", parameters=Parameters(content_type="np"))]
        seen["label"] = await ask(InferenceRequest(inputs=build_tensors(model), outputs=wanted))
        seen["columns"] = await ask(build_columns(model))
    try:
        seen["pandas text"] = (
            PandasCodec.encode_request(pd.DataFrame({"soil": SOILS})).inputs[0].datatype.value
        )
    except KeyError as error:
        seen["pandas text"] = repr(error)
    seen["command"] = run_command(url, model)
    seen["command, batched"] = run_command(url, model, "-s", "2")
    if model == "tiny":
        seen["command, binary"] = run_command(url, model, "-b")
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(**json.loads(sys.argv[1])))))
