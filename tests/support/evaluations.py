"""Held-out predictions and whole versions for tests of the gate; no TensorFlow.

store = open_store(tmp_path)
publish_judged(store, alias="production")                 # a champion that is right in 9 of 10 rows
publish_judged(store, alias="candidate", crippled=True)   # the same graph with its outputs shuffled
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import numpy_helper

from tests.support.tiny_model import (
    CLASSES,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    build_graph,
    expect_probabilities,
    publish_numeric,
)
from timberline.registry.manifest import GateLimits, Golden
from timberline.registry.store import Store

# Latency is not what these tests are about, and the machine may be busy: any p50 and p99 passes.
ANY_SPEED = GateLimits(
    min_accuracy=0.5,
    max_p50_ms=1e6,
    max_p50_increase=1e6,
    max_p99_increase=1e6,
    max_service_p50_increase=1e6,
    max_cpu_increase=1e6,
)


def encode_evaluation(
    truth: Sequence[int] | npt.NDArray[np.int64],
    label: Sequence[int] | npt.NDArray[np.int64],
    *,
    classes: int = len(CLASSES),
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    baselines: Mapping[str, Sequence[int] | npt.NDArray[np.int64]] | None = None,
) -> bytes:
    """evaluation.parquet with these true and predicted classes; the label has probability 0.8.

    Without ``baselines`` there is one, which always answers the first class.
    """
    labels = np.asarray(label, np.int64)
    chances = np.full((labels.size, classes), 0.2 / (classes - 1), np.float32)
    chances[np.arange(labels.size), labels] = 0.8
    given = {"majority_class": np.zeros(labels.size)} if baselines is None else baselines
    columns: dict[str, Any] = {
        "row": np.asarray(rows if rows is not None else np.arange(labels.size), np.int64),
        "class_index": np.asarray(truth, np.int16),
        "label_index": labels.astype(np.int16),
        **{f"p_{index}": chances[:, index] for index in range(classes)},
        **{f"slice_{name}": inside for name, inside in (slices or {}).items()},
        **{f"baseline_{name}": np.asarray(answers, np.int16) for name, answers in given.items()},
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def draw_evaluation(rows: int = 6000, *, shift: int = 0, wrong: float = 0.1, seed: int = 0) -> bytes:
    """Predictions that are right except for a share; ``shift`` moves every label to another class."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, len(CLASSES), rows)
    label = np.where(chance.random(rows) < wrong, (truth + 1) % len(CLASSES), truth)
    return encode_evaluation(truth, (label + shift) % len(CLASSES))


def publish_judged(store: Store, *, alias: str, crippled: bool = False, **changes: Any) -> int:
    """Publish a version of ``tiny`` that can be served and judged, and point ``alias`` at it."""
    shift = 1 if crippled else 0
    probabilities = np.roll(expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS), shift, axis=1)
    golden = Golden(
        rows=NUMERIC_ROWS,
        class_indexes=tuple(int(index) for index in probabilities.argmax(axis=1)),
        probabilities=tuple(tuple(row) for row in probabilities.tolist()),
    )
    given: dict[str, Any] = {
        "model_bytes": _roll_outputs(build_graph(NUMERIC_COLUMNS), shift),
        "evaluation_bytes": draw_evaluation(shift=shift),
        "golden": golden,
        "gate": ANY_SPEED,
    }
    return publish_numeric(store, alias=alias, **(given | changes))


def _roll_outputs(graph: bytes, shift: int) -> bytes:
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.name == "weights":
            rolled = np.roll(numpy_helper.to_array(tensor), shift, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(rolled, "weights"))
    return bytes(model.SerializeToString())
