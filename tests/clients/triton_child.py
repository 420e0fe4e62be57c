"""A client of the public ``tritonclient[http]``, in a process of its own: gevent and warnings stay in it.

Reads {"url", "model", "is_async"} from its argument and prints what it saw as JSON. The script uses
the package as its documentation does and knows nothing of this project.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

MATRIX = [[12.5, 40, 0, float("nan")], [30.0, 400, 1, 12.0], [0.0, 1, 1, -3.5]]
TEXTS = [["clay", "\x00"], ["sand", ""], ["peat", "ü:7"]]  # U+0000 alone is NULL


async def talk(url: str, model: str, is_async: bool) -> dict[str, Any]:
    """Everything that a client asks of a server, and what it was told."""
    if is_async:
        import tritonclient.http.aio as triton
    else:
        import tritonclient.http as triton

    client = triton.InferenceServerClient(url)

    async def ask(method: str, *arguments: Any, **named: Any) -> Any:
        found = getattr(client, method)(*arguments, **named)
        return await found if inspect.isawaitable(found) else found

    async def fail(method: str, *arguments: Any, **named: Any) -> list[str | None]:
        try:
            await ask(method, *arguments, **named)
        except InferenceServerException as error:
            return [error.status(), error.message()]
        return ["200", None]

    def tensor(name: str, rows: list[list[Any]], datatype: str, is_blob: bool) -> Any:
        dtype: Any = {"FP64": "<f8", "FP32": "<f4", "BYTES": object}[datatype]
        values = np.array(rows, dtype=dtype)
        found = triton.InferInput(name, list(values.shape), datatype)
        return found.set_data_from_numpy(values, binary_data=is_blob) or found

    def read(result: Any) -> dict[str, Any]:
        answer = result.get_response()
        values = {output["name"]: result.as_numpy(output["name"]).tolist() for output in answer["outputs"]}
        return {"id": answer.get("id"), "version": answer["model_version"], "values": values}

    def outputs(is_blob: bool) -> list[Any]:
        names = ("label", "probabilities")
        return [triton.InferRequestedOutput(name, binary_data=is_blob) for name in names]

    def inputs(datatype: str, is_blob: bool) -> list[Any]:
        matrix = [tensor("numeric", MATRIX if is_blob else [[1, 2, 0, 3]], datatype, is_blob)]
        if model != "tiny_text":
            return matrix
        return [tensor("text", TEXTS if is_blob else [["clay", "ü"]], "BYTES", is_blob), *matrix]

    seen: dict[str, Any] = {
        "live": await ask("is_server_live"),
        "ready": await ask("is_server_ready"),
        "model ready": [await ask("is_model_ready", model), await ask("is_model_ready", model, "1")],
        "other ready": await ask("is_model_ready", "other"),
        "server": await ask("get_server_metadata"),
        "model": await ask("get_model_metadata", model, "1"),
        "index": await ask("get_model_repository_index"),
        "config": await fail("get_model_config", model),
        "unknown model": await fail("infer", "other", inputs("FP64", True)),
        "wrong shape": await fail("infer", model, [tensor("numeric", [[1, 2]], "FP64", True)]),
        "unknown output": await fail(
            "infer", model, inputs("FP64", True), outputs=[triton.InferRequestedOutput("x")]
        ),
    }

    async def infer(*arguments: Any, **named: Any) -> dict[str, Any]:
        return read(await ask("infer", model, *arguments, **named))

    for form in ("gzip", "deflate", None):
        named = {"request_compression_algorithm": form, "response_compression_algorithm": form}
        seen[f"blobs {form}"] = await infer(inputs("FP64", True), request_id="7", **named)
    seen["float32"] = await infer(inputs("FP32", True), outputs=outputs(True), model_version="1")
    seen["blobs to JSON"] = await infer(inputs("FP64", True), outputs=outputs(False))
    seen["JSON"] = await infer(inputs("FP64", False), outputs=outputs(False))
    seen["JSON to blobs"] = await infer(inputs("FP64", False))
    await ask("close")
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(**json.loads(sys.argv[1])))))
