"""A small table as the ETL stage leaves it, with its model folder: what `run_train` starts from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.registry.manifest import Histogram
from timberline.registry.runs import Fitted
from timberline.registry.runtime.documents import encode_document
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.stages import Stage, digest_value
from timberline.registry.signature import ClassLabel
from timberline.training.config import ModelConfig, input_columns, load_model_config
from timberline.training.data.fitting import FITTED_FILE
from timberline.training.data.profile import (
    PROFILE_SCHEMA_VERSION,
    ColumnProfile,
    Duplicates,
    Profile,
)

MODEL = "circle"
FEATURES_SQL = "SELECT x, y, x * x + y * y AS squared FROM raw\n"
_TOML = """
[model]
name = "circle"
title = "Inside or outside of a circle"

[source]
kind = "csv"
path = "never_read.csv"

[columns]
x = { type = "number" }
y = { type = "number" }
inside = { type = "integer" }

[target]
column = "inside"

[split]
kind = "random"

[network]
kind = "mlp_ple"
widths = [16, 16]
bins = 8
embedding_width = 4

[training]
epochs = 4
batch_rows = 32
learning_rate = 0.01
ema_momentum = 0.9
shuffle_window_rows = 100
"""
_CLASSES = ("outside", "rim", "inside")
_ROWS = {"train": 400, "validation": 150, "test": 300}


def forced_precision() -> str:
    """What ``TIMBERLINE_TRAINING_PRECISION`` says, or ``auto``; tests/platforms chooses with it."""
    return os.environ.get("TIMBERLINE_TRAINING_PRECISION", "auto")


def write_model(models: Path, overrides: tuple[str, ...] = (), *, name: str = MODEL) -> ModelConfig:
    """Leave the model folder ``name`` and read it back."""
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    text = _TOML.replace(f'name = "{MODEL}"', f'name = "{name}"')
    (folder / "model.toml").write_text(f'{text}precision = "{forced_precision()}"\n', "utf-8")
    (folder / "features.sql").write_text(FEATURES_SQL, "utf-8")
    return load_model_config(models, name, overrides=overrides, use_environment=False)


def prepare(config: ModelConfig, data: Path, *, seed: int = 0) -> None:
    """Leave the three splits and their profile, with a receipt, under ``data``."""
    inputs = {"raw": digest_value(seed), "features": digest_bytes(FEATURES_SQL.encode())}
    with Stage("etl", data / "prepared" / config.model.name, inputs).fill() as folder:
        counts = {}
        for index, (split, rows) in enumerate(_ROWS.items()):
            table = _make_table(np.random.default_rng((seed, index)), rows)
            pq.write_table(table, folder / f"{split}.parquet", row_group_size=128)
            classes = table.column("__class__").to_numpy()
            counts[split] = tuple(np.bincount(classes, minlength=len(_CLASSES)).tolist())
        (folder / "profile.json").write_bytes(encode_document(_profile(config, counts)))
        (folder / FITTED_FILE).write_bytes(encode_document(Fitted()))


def _make_table(random: np.random.Generator, rows: int) -> pa.Table:
    points = random.uniform(-1, 1, (rows, 2))
    squared = (points**2).sum(axis=1)
    classes = np.digitize(-squared, [-0.7, -0.4])  # far out → 0, near → 2
    return pa.table(
        {
            "__row__": np.arange(rows),
            "__class__": pa.array(classes, pa.int16()),
            "x": points[:, 0],
            "y": points[:, 1],
            "squared": squared.astype(np.float32),
        }
    )


def _profile(config: ModelConfig, counts: dict[str, tuple[int, ...]]) -> Profile:
    column = ColumnProfile(
        dtype="number", nulls=0, histogram=Histogram(counts=(200, 200), edges=(-1.0, 0.0, 1.0))
    )
    return Profile(
        schema_version=PROFILE_SCHEMA_VERSION,
        model=config.model.name,
        duckdb="2.0",
        classes=tuple(ClassLabel(value=str(i), label=name) for i, name in enumerate(_CLASSES)),
        feature_names=("x", "y", "squared"),
        input_columns=input_columns(config),
        rejected_lines=0,
        rows=_ROWS,
        class_counts=counts,
        fingerprints={split: digest_value(split) for split in ("source", *_ROWS)},
        duplicates=Duplicates(distinct_inputs=0, rows=dict.fromkeys(_ROWS, 0)),
        columns={"x": column, "y": column},
    )
