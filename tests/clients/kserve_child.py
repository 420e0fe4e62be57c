"""A client of the public ``kserve`` package, in a process of its own.

Reads {"url", "model"} from its argument and prints what it saw as JSON. The script uses the package as
its documentation does and knows nothing of this project.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.errors import UnsupportedProtocol
from kserve.protocol.infer_type import RequestedOutput

MATRIX = [[12.5, 40, 0, float("nan")], [30.0, 400, 1, 12.0], [0.0, 1, 1, -3.5]]
TEXTS = [["clay", "\x00"], ["sand", ""], ["peat", "ü:7"]]  # U+0000 alone is NULL
ROWS = [{"soil": "clay", "rings": 40}, {"soil": "sand", "rings": 400, "is_wet": True, "slope": 12.0}]


def build_inputs(model: str, is_binary: bool) -> list[InferInput]:
    """The tensors; in JSON the package has no way to write NULL for a string, so that row is left out."""
    rows = slice(None) if is_binary else slice(1, None)
    matrix = np.array(MATRIX[rows], dtype=np.float64)
    numeric = InferInput("numeric", list(matrix.shape), "FP64")
    numeric.set_data_from_numpy(matrix, binary_data=is_binary)
    if model == "tiny":
        return [numeric]
    texts = np.array(TEXTS[rows], dtype=np.object_)
    text = InferInput("text", list(texts.shape), "BYTES", parameters={"content_type": "str"})
    text.set_data_from_numpy(texts, binary_data=is_binary)
    return [text, numeric]


def read(answer: InferResponse) -> dict[str, Any]:
    """What an answer holds."""
    values = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    return {"model": answer.model_name, "id": answer.id, "values": values}


async def fail(coming: Awaitable[Any]) -> list[Any]:
    """The error of something that must fail."""
    try:
        return ["answered", str(await coming)]
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    except UnsupportedProtocol as error:
        return [type(error).__name__, str(error)]


async def talk_v2(client: InferenceRESTClient, url: str, model: str) -> dict[str, Any]:
    """The Open Inference Protocol."""

    async def ask(is_binary: bool, name: str = model, **more: Any) -> Any:
        request = InferRequest(model_name=name, infer_inputs=build_inputs(model, is_binary), **more)
        return await client.infer(url, request, model_name=model)

    outputs = [RequestedOutput("label"), RequestedOutput("probabilities", {"binary_data": True})]
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, model),
        "other ready": await client.is_model_ready(url, "other"),
        "JSON": read(await ask(False, request_id="7")),
        "binary": read(await ask(True, request_id="7")),
        "binary to binary": read(await ask(True, parameters={"binary_data_output": True, "priority": 1})),
        "chosen outputs": read(await ask(True, request_outputs=outputs)),
        "other name": await fail(ask(False, "other")),
    }


async def talk_v1(client: InferenceRESTClient, url: str, model: str) -> dict[str, Any]:
    """The protocol before."""
    rows = ROWS if model != "tiny" else [{k: v for k, v in row.items() if k != "soil"} for row in ROWS]
    return {
        "live": await client.is_server_live(url),
        "server ready": await fail(client.is_server_ready(url)),
        "model ready": await client.is_model_ready(url, model),
        "other ready": await fail(client.is_model_ready(url, "other")),
        "predictions": await client.infer(url, {"instances": rows}, model_name=model),
        "explain": await fail(client.explain(url, model, {"instances": rows})),
    }


async def talk(url: str, model: str) -> dict[str, Any]:
    """Everything that a client asks of a server, and what it was told."""
    seen = {}
    for protocol, ask in (("v2", talk_v2), ("v1", talk_v1)):
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            seen[protocol] = await ask(client, url, model)
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(**json.loads(sys.argv[1])))))
