"""A tiny version whose rows have dates and text that is a category, with the graph's output of their codes.

store = open_store(tmp_path)
version = publish_pets(store)      # pets@1 and pets@production

``expect_probabilities`` computes the answers a second time in numpy, from the values that the graph takes: a
date in days, a timestamp in microseconds. `AS_SENT` are the same rows as clients write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from tests.support.manifests import publish_tiny
from tests.support.tiny_model import Row, point_alias
from timberline.registry.manifest import Category, Golden, Histogram
from timberline.registry.names import PRODUCTION
from timberline.registry.signature import (
    CATEGORIES_OUTPUT,
    FIRST_CODE,
    LABEL_OUTPUT,
    NULL_CODE,
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    UNKNOWN_CODE,
    ClassLabel,
    Column,
    SourceTable,
    build_signature,
)
from timberline.registry.store import Store

CLASSES = (ClassLabel(value="0", label="stays"), ClassLabel(value="1", label="goes"))
# The features that are text: they are called otherwise than the columns that they are made of.
VOCABULARIES = {"kind_of_breed": ("Collie", "Pug", "Zander, blau"), "coat": ("black", "white")}
COLUMNS = (
    Column(name="breed", datatype="BYTES", is_nullable=True, categories=VOCABULARIES["kind_of_breed"]),
    Column(name="weight", datatype="FP64", is_nullable=True, minimum=1.0, maximum=60.0),
    Column(name="born", datatype="INT64", moment="date", minimum=10957.0, maximum=18262.0),
    Column(name="seen", datatype="INT64", moment="timestamp", is_nullable=True, minimum=1e15, maximum=1.6e15),
    Column(name="is_chipped", datatype="BOOL"),
    Column(name="colour", datatype="BYTES", categories=VOCABULARIES["coat"]),
)
# As the graph takes them; of the last row no text is known.
ROWS: tuple[Row, ...] = (
    ("Collie", 20.5, 15826, 1_367_411_400_000_000, True, "black"),
    (None, None, 16000, 1_367_411_400_250_000, False, "white"),
    ("Zander, blau", 3.0, -1, None, True, "white"),
    ("Dackel", 9.0, 18262, 1_577_836_800_000_001, False, "grey"),
)
AS_SENT: tuple[Row, ...] = (
    ("Collie", 20.5, "2013-05-01", "2013-05-01T12:30:00Z", True, "black"),
    (None, None, "2013-10-22", "2013-05-01 12:30:00.25", False, "white"),
    ("Zander, blau", 3.0, "1969-12-31", None, True, "white"),
    ("Dackel", 9.0, "2020-01-01", "2020-01-01T02:00:00.000001+02:00", False, "grey"),
)
UNKNOWN = [f"{name}: unknown category" for name in VOCABULARIES]
# Of the numbers, then of the codes: (columns, classes).
_SCALES = np.array([0.01, 1e-4, 1e-15, 1.0])
_WEIGHTS = np.array([[1.0, -1.0], [0.5, 0.2], [-0.7, 0.7], [0.3, -0.3]])
_CODE_WEIGHTS = np.array([[0.4, -0.2], [-0.3, 0.25]])


def code_rows(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """The codes of these rows' text, (rows, features), computed without the graph."""
    named = [dict(zip([column.name for column in COLUMNS], row, strict=True)) for row in rows]
    return np.array([[_code(row[column], vocabulary) for column, vocabulary in _texts()] for row in named])


def expect_probabilities(rows: Sequence[Row]) -> npt.NDArray[np.float64]:
    """What the graph says about ``rows``, (rows, classes), computed without it."""
    numbers = [[float(value or 0) for value in row[1:5]] for row in rows]
    logits = np.array(numbers) * _SCALES @ _WEIGHTS + code_rows(rows) @ _CODE_WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def publish_pets(store: Store, model: str = "pets", *, alias: str = PRODUCTION, **changes: Any) -> int:
    """Publish the next version and point ``alias`` at it."""
    probabilities = expect_probabilities(ROWS)
    golden = Golden(
        rows=tuple(tuple(row) for row in ROWS),
        class_indexes=tuple(int(index) for index in probabilities.argmax(axis=1)),
        probabilities=tuple(tuple(row) for row in probabilities.tolist()),
    )
    manifest = {
        "signature": build_signature(COLUMNS, CLASSES),
        "golden": golden,
        "histograms": HISTOGRAMS,
        "categories": tuple(Category(feature=n, values=len(v)) for n, v in VOCABULARIES.items()),
        "table": TABLE,
        **changes,
    }
    version = publish_tiny(store, model, model_bytes=build_graph(), **manifest)
    point_alias(store, model, alias, version)
    return version


TABLE = SourceTable(null_text=("", "NA"), unread={"id": "key", "left": "target"})
HISTOGRAMS = {
    "breed": Histogram(counts=(40, 30, 20), categories=VOCABULARIES["kind_of_breed"], nulls=10),
    "weight": Histogram(counts=(50, 40), edges=(1.0, 20.0, 60.0), nulls=10),
    "born": Histogram(counts=(25, 25, 25, 25), edges=(10957.0, 12783.0, 14610.0, 16436.0, 18262.0)),
    "seen": Histogram(counts=(50, 50), edges=(1e15, 1.3e15, 1.6e15)),
    "is_chipped": Histogram(counts=(60, 40), edges=(0.0, 0.5, 1.0)),
    "colour": Histogram(counts=(70, 30), categories=VOCABULARIES["coat"]),
}


def build_graph() -> bytes:
    """The graph's bytes: three outputs, of which the last one are the codes."""
    constants = {
        "zero": np.zeros((), np.float64),
        "scales": _SCALES,
        "weights": _WEIGHTS,
        "code_weights": _CODE_WEIGHTS,
        "first": np.array([0]),
        "second": np.array([1]),
    }
    nodes = [
        helper.make_node("IsNaN", [NUMERIC_INPUT], ["is_null"]),
        helper.make_node("Where", ["is_null", "zero", NUMERIC_INPUT], ["filled"]),
        helper.make_node("Mul", ["filled", "scales"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["of_numbers"]),
    ]
    for at, (_, vocabulary) in zip(("first", "second"), _texts(), strict=True):
        keys = [NULL_TEXT, *vocabulary]
        codes = [NULL_CODE, *range(FIRST_CODE, FIRST_CODE + len(vocabulary))]
        encoder: dict[str, Any] = {"keys_strings": keys, "values_int64s": codes}
        nodes += [
            helper.make_node("Gather", [TEXT_INPUT, at], [f"text_{at}"], axis=1),
            helper.make_node(
                "LabelEncoder",
                [f"text_{at}"],
                [f"code_{at}"],
                domain="ai.onnx.ml",
                default_int64=UNKNOWN_CODE,
                **encoder,
            ),
        ]
    nodes += [
        helper.make_node("Concat", ["code_first", "code_second"], [CATEGORIES_OUTPUT], axis=1),
        helper.make_node("Cast", [CATEGORIES_OUTPUT], ["codes"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["codes", "code_weights"], ["of_codes"]),
        helper.make_node("Add", ["of_numbers", "of_codes"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["wide"], axis=1),
        helper.make_node("Cast", ["wide"], [PROBABILITIES_OUTPUT], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", [PROBABILITIES_OUTPUT], [LABEL_OUTPUT], axis=1, keepdims=0),
    ]
    numeric = sum(column.datatype != "BYTES" for column in COLUMNS)
    inputs = [
        helper.make_tensor_value_info(NUMERIC_INPUT, TensorProto.DOUBLE, [None, numeric]),
        helper.make_tensor_value_info(TEXT_INPUT, TensorProto.STRING, [None, len(VOCABULARIES)]),
    ]
    outputs = [
        helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.FLOAT, [None, len(CLASSES)]),
        helper.make_tensor_value_info(LABEL_OUTPUT, TensorProto.INT64, [None]),
        helper.make_tensor_value_info(CATEGORIES_OUTPUT, TensorProto.INT64, [None, len(VOCABULARIES)]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "pets", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 2)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(made.SerializeToString())


def _texts() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The columns of text in order, and the vocabulary of the feature that is made of each."""
    names = [column.name for column in COLUMNS if column.datatype == "BYTES"]
    return tuple(zip(names, VOCABULARIES.values(), strict=True))


def _code(value: Any, vocabulary: Sequence[str]) -> int:
    if value is None:
        return NULL_CODE
    return FIRST_CODE + vocabulary.index(value) if value in vocabulary else UNKNOWN_CODE
