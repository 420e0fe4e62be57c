"""The service that most people write: FastAPI, a pydantic model of the row, ONNX Runtime.

``--threads`` declares the endpoint with ``def``, which FastAPI runs in its thread pool; without it
with ``async def``, on the event loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import Field, create_model

from timberline.benchmarks.dev.competitors.program import ServedGraph, open_version, parse_arguments
from timberline.benchmarks.dev.competitors.uvicorn_server import serve

_TYPES: dict[str, Any] = {"FP64": float, "INT64": int, "BOOL": bool}


def build_app(graph: ServedGraph, name: str, *, in_threads: bool) -> FastAPI:
    """``POST /predict``: one object of named raw values to class, label and probabilities."""
    model, _, version = name.partition("@")
    row_type, answer_type = _row_type(graph), _answer_type()
    values = [label["value"] for label in graph.classes]
    labels = [label["label"] for label in graph.classes]

    def predict(row: Any) -> Any:
        numbers = np.array([list(row.__dict__.values())], dtype=np.float64)  # (1, columns)
        probabilities, chosen = graph.session.run(["probabilities", "label"], {"numeric": numbers})
        index = int(chosen[0])
        return answer_type(
            prediction=values[index],
            label=labels[index],
            probabilities=dict(zip(values, probabilities[0].tolist(), strict=True)),
            model=model,
            version=int(version),
        )

    async def predict_on_loop(row: Any) -> Any:
        return predict(row)

    endpoint = predict if in_threads else predict_on_loop
    endpoint.__annotations__ = {"row": row_type, "return": answer_type}
    app = FastAPI()
    app.add_api_route("/predict", endpoint, methods=["POST"])
    return app


def _row_type(graph: ServedGraph) -> Any:
    fields: dict[str, Any] = {}
    for index, column in enumerate(graph.columns):
        kind, default = _TYPES[column["datatype"]], column["default"]
        if column["is_nullable"]:
            kind = kind | None
        elif default is None:
            default = ...
        fields[f"c{index}"] = (kind, Field(default, alias=column["name"]))
    return create_model("Row", **fields)


def _answer_type() -> Any:
    return create_model(
        "Answer",
        prediction=(str, ...),
        label=(str, ...),
        probabilities=(dict[str, float], ...),
        model=(str, ...),
        version=(int, ...),
    )


if __name__ == "__main__":
    _options = parse_arguments(
        __doc__, version={"type": Path, "required": True}, threads={"action": "store_true"}
    )
    serve(
        build_app(open_version(_options.version), _options.name, in_threads=_options.threads), _options.name
    )
