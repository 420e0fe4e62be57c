"""What DuckDB and the trained Keras model say about one raw row; no ONNX on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import keras
import numpy as np

import timberline.training.model.network  # noqa: F401  registers the layers that model.keras names
from timberline.registry.runs import find_run, read_run
from timberline.training.features import parse_features


def answer(data: str, model: str, row: dict[str, Any]) -> dict[str, float]:
    """Probabilities by class value of ``row``, columns left out being their declared default."""
    run = read_run(find_run(Path(data), model))
    values = {column.name: row.get(column.name, column.default) for column in run.columns}
    literals = ", ".join(f'CAST({value} AS DOUBLE) AS "{name}"' for name, value in values.items())
    program = parse_features(run.features_sql, run.columns, fitted=run.fitted)
    with duckdb.connect() as connection:
        features = connection.execute(program.select_sql(f"(SELECT {literals})")).fetchone()
    network = keras.models.load_model(Path(data) / run.keras_model)
    output = network.predict(np.array([features], np.float32), verbose=0)
    probabilities = output["probabilities"] if isinstance(output, dict) else output
    return {label.value: float(p) for label, p in zip(run.classes, probabilities[0], strict=True)}
