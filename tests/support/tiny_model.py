"""Tiny versions that really load and answer: graphs of a few nodes, published without TensorFlow.

store = open_store(tmp_path)
version = publish_numeric(store)      # tiny@1 and tiny@production: FP64, INT64, BOOL, nullable FP64
version = publish_mixed(store)        # tiny_text: the same and two text columns
version = publish_lean(store)         # tiny again, whose features do not read the last of its columns
version = publish_wide(store)         # wide: as many columns and classes as are asked for

version = publish_numeric(store, model_bytes=build_endless_graph())   # or build_large_graph()

``expect_probabilities`` computes the answers a second time in numpy. Versions of another ``scale``
answer otherwise: its sign turns the classes around.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.support.manifests import publish_tiny
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.manifest import Golden
from timberline.registry.names import PRODUCTION
from timberline.registry.signature import (
    LABEL_OUTPUT,
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    ClassLabel,
    Column,
    SourceTable,
    build_signature,
)
from timberline.registry.store import Store

CLASSES = (
    ClassLabel(value="1", label="Spruce"),
    ClassLabel(value="2", label='50 % "Pine"'),  # what a careless template would break on
    ClassLabel(value="7", label="Fichte, große"),
)
NUMERIC_COLUMNS = (
    Column(name="height", datatype="FP64", default=0.0, unit="m", minimum=0.0, maximum=100.0),
    Column(name="rings", datatype="INT64", minimum=1.0, maximum=900.0),
    Column(name="is_wet", datatype="BOOL", default=False),
    Column(name="slope", datatype="FP64", is_nullable=True, unit="degrees"),
)
SOILS = {"clay": 1.0, "sand": -1.0}
LEAN_COLUMNS = NUMERIC_COLUMNS[:3]
MIXED_COLUMNS = (
    Column(name="soil", datatype="BYTES", categories=tuple(SOILS)),
    *NUMERIC_COLUMNS,
    Column(name="note", datatype="BYTES", is_nullable=True),
)
# (numeric columns, classes), so scaled that the rows below fall into different classes.
_WEIGHTS = np.array([[0.1, -0.1, 0.0], [-0.01, 0.02, 0.0], [0.0, 1.0, 3.0], [0.0, 0.0, -0.05]])
_TEXT_WEIGHTS = np.array([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])  # (text columns, classes)
NUMERIC_ROWS = (
    (12.5, 40, False, None),
    (30.0, 400, True, 12.0),
    (0.0, 1, True, -3.5),
)
MIXED_ROWS = tuple(
    (soil, *row, note)
    for row, soil, note in zip(NUMERIC_ROWS, ("clay", "sand", "peat"), (None, "", "ü:7"), strict=True)
)

Row = Sequence[float | int | bool | str | None]


def publish_numeric(
    store: Store,
    model: str = "tiny",
    *,
    alias: str | None = PRODUCTION,
    scale: float = 1.0,
    **changes: Any,
) -> int:
    """Publish the next version with numeric columns only and point ``alias``, if any, at it."""
    return _publish(store, model, NUMERIC_COLUMNS, NUMERIC_ROWS, alias, changes, scale)


def publish_lean(store: Store, model: str = "tiny", *, alias: str | None = PRODUCTION, **changes: Any) -> int:
    """Publish the next version of the numeric model, which takes slope to be 0, and point ``alias`` at it."""
    given = {
        "model_bytes": build_lean_graph(),
        "table": SourceTable(unread={"slope": "input", "answer": "target"}),
        **changes,
    }
    return _publish(store, model, LEAN_COLUMNS, [row[:3] for row in NUMERIC_ROWS], alias, given)


def publish_mixed(store: Store, model: str = "tiny_text", *, alias: str = PRODUCTION, **changes: Any) -> int:
    """Publish the next version with numeric and text columns and point ``alias`` at it."""
    return _publish(store, model, MIXED_COLUMNS, MIXED_ROWS, alias, changes)


def publish_wide(
    store: Store,
    model: str = "wide",
    *,
    width: int = 54,
    class_count: int = 7,
    names: Sequence[str] = (),
    alias: str = PRODUCTION,
) -> int:
    """Publish the next version with ``width`` columns ``c0``, ``c1``, … and point ``alias`` at it.

    The first columns have the ``names`` instead. Every column has the default 0 and every row the same
    answer: what is tried with it are sizes, or commands that need a version and not its answers.
    """
    called = (*names, *(f"c{index}" for index in range(len(names), width)))
    columns = tuple(Column(name=name, datatype="FP64", default=0.0) for name in called)
    classes = tuple(ClassLabel(value=f"{index}", label=f"class {index}") for index in range(class_count))
    weights = np.zeros((width, class_count), dtype=np.float32)
    nodes = [
        helper.make_node("Cast", [NUMERIC_INPUT], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES_OUTPUT], axis=1),
        helper.make_node("ArgMax", [PROBABILITIES_OUTPUT], [LABEL_OUTPUT], axis=1, keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(NUMERIC_INPUT, TensorProto.DOUBLE, [None, width])]
    outputs = [
        helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.FLOAT, [None, class_count]),
        helper.make_tensor_value_info(LABEL_OUTPUT, TensorProto.INT64, [None]),
    ]
    graph = helper.make_graph(nodes, "wide", inputs, outputs, [numpy_helper.from_array(weights, "weights")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    golden = Golden(
        rows=((1.0,) * width,), class_indexes=(0,), probabilities=((1 / class_count,) * class_count,)
    )
    version = publish_tiny(
        store,
        model,
        model_bytes=made.SerializeToString(),
        signature=build_signature(columns, classes),
        golden=golden,
        histograms={},
    )
    point_alias(store, model, alias, version)
    return version


def point_alias(store: Store, model: str, alias: str, version: int) -> None:
    """Point ``alias`` at ``version``, wherever it points now."""
    seen = read_alias(store, model, alias)
    move_alias(store, model, alias, version, expected=seen.sequence if seen else None, reason="a test")


def expect_probabilities(
    columns: Sequence[Column], rows: Sequence[Row], scale: float = 1.0
) -> npt.NDArray[np.float64]:
    """What the tiny graph says about ``rows``, (rows, classes), computed without it."""
    logits = np.zeros((len(rows), len(CLASSES)))
    for index, row in enumerate(rows):
        values = dict(zip([column.name for column in columns], row, strict=True))
        numbers = [float(values.get(column.name) or 0) for column in NUMERIC_COLUMNS]
        logits[index] = np.array(numbers) @ _WEIGHTS * scale
        if "soil" in values:
            texts = [SOILS.get(str(values["soil"]), 0.0), 1.0 if values["note"] is None else 0.0]
            logits[index] += np.array(texts) @ _TEXT_WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def build_graph(
    columns: Sequence[Column], probabilities: str = PROBABILITIES_OUTPUT, scale: float = 1.0
) -> bytes:
    """The tiny graph's bytes for numeric or mixed columns; ``probabilities`` names its first output."""
    nodes, values = _numeric_nodes(scale)
    inputs = [helper.make_tensor_value_info(NUMERIC_INPUT, TensorProto.DOUBLE, [None, len(NUMERIC_COLUMNS)])]
    logits = "numeric_logits"
    if len(columns) > len(NUMERIC_COLUMNS):
        nodes += _text_nodes()
        values["text_weights"] = _TEXT_WEIGHTS.astype(np.float32)
        inputs.append(helper.make_tensor_value_info(TEXT_INPUT, TensorProto.STRING, [None, 2]))
        logits = "logits"
    nodes += [
        helper.make_node("Softmax", [logits], [probabilities], axis=1),
        helper.make_node("ArgMax", [probabilities], [LABEL_OUTPUT], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, [None, len(CLASSES)]),
        helper.make_tensor_value_info(LABEL_OUTPUT, TensorProto.INT64, [None]),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 2)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def build_lean_graph() -> bytes:
    """The numeric graph over all columns but the last one, for which it puts 0."""
    model = ModelProto.FromString(build_graph(NUMERIC_COLUMNS))
    graph = model.graph
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(LEAN_COLUMNS)
    for node in graph.node:
        node.input[:] = ["padded" if name == NUMERIC_INPUT else name for name in node.input]
    graph.node.insert(0, helper.make_node("Pad", [NUMERIC_INPUT, "one_behind"], ["padded"]))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 1]), "one_behind"))
    return bytes(model.SerializeToString())


def build_endless_graph() -> bytes:
    """As the numeric graph, but it goes round in a loop for longer than anybody lives."""
    turns = {"turns": np.array(2**62, np.int64)}
    return _add_to_logits([_build_loop()], {**turns, "yes": np.array(True)})


def build_slow_graph() -> bytes:
    """As the numeric graph, but it goes round in a loop rows² times; 2,000 rows take some seconds."""
    nodes = [
        helper.make_node("Shape", [NUMERIC_INPUT], ["rows"], start=0, end=1),
        helper.make_node("Mul", ["rows", "rows"], ["squared"]),
        helper.make_node("Squeeze", ["squared"], ["turns"]),
    ]
    return _add_to_logits([*nodes, _build_loop()], {"yes": np.array(True)})


def _build_loop() -> Any:
    state = [
        helper.make_tensor_value_info("again", TensorProto.BOOL, []),
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
    ]
    results = [
        helper.make_tensor_value_info("once_more", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next_sum", TensorProto.FLOAT, []),
    ]
    steps = [
        helper.make_node("Identity", ["again"], ["once_more"]),
        helper.make_node("Add", ["sum", "zero"], ["next_sum"]),
    ]
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    body = helper.make_graph(steps, "body", [turn, *state], results)
    return helper.make_node("Loop", ["turns", "yes", "zero"], ["more"], body=body)


def build_large_graph(numbers: int = 900_000_000) -> bytes:
    """As the numeric graph, but so many float32 (3.6 GB) are made and summed up on the way; few bytes."""
    nodes = [
        helper.make_node("Expand", ["zero", "shape"], ["numbers_of_nothing"]),
        helper.make_node("ReduceSum", ["numbers_of_nothing"], ["more"], keepdims=0),
    ]
    return _add_to_logits(nodes, {"shape": np.array([numbers], np.int64)})


def _add_to_logits(nodes: Sequence[Any], constants: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The numeric graph with ``more``, which ``nodes`` compute and is 0, added before the softmax."""
    model = ModelProto.FromString(build_graph(NUMERIC_COLUMNS))
    graph = model.graph
    softmax = next(index for index, node in enumerate(graph.node) if node.op_type == "Softmax")
    before, after = list(graph.node[:softmax]), list(graph.node[softmax:])
    after[0].input[0] = "more_logits"
    add = helper.make_node("Add", ["numeric_logits", "more"], ["more_logits"])
    del graph.node[:]
    graph.node.extend([*before, *nodes, add, *after])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return bytes(model.SerializeToString())


def _numeric_nodes(scale: float) -> tuple[list[Any], dict[str, npt.NDArray[np.float32]]]:
    nodes = [
        helper.make_node("Cast", [NUMERIC_INPUT], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["numbers"], ["is_null"]),
        helper.make_node("Where", ["is_null", "zero", "numbers"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["numeric_logits"]),
    ]
    return nodes, {"zero": np.zeros((), np.float32), "weights": (_WEIGHTS * scale).astype(np.float32)}


def _text_nodes() -> list[Any]:
    """soil → its number in `SOILS`, else 0; note → 1 where it is null."""
    # One LabelEncoder serves both columns: no note is called like a soil, no soil is null.
    keys, numbers = [*SOILS, NULL_TEXT], [*SOILS.values(), 1.0]
    encoder: Mapping[str, Any] = {"keys_strings": keys, "values_floats": numbers, "default_float": 0.0}
    return [
        helper.make_node("LabelEncoder", [TEXT_INPUT], ["texts"], domain="ai.onnx.ml", **encoder),
        helper.make_node("MatMul", ["texts", "text_weights"], ["text_logits"]),
        helper.make_node("Add", ["numeric_logits", "text_logits"], ["logits"]),
    ]


def _publish(
    store: Store,
    model: str,
    columns: tuple[Column, ...],
    rows: Sequence[Row],
    alias: str | None,
    changes: dict[str, Any],
    scale: float = 1.0,
) -> int:
    probabilities = expect_probabilities(columns, rows, scale)
    golden = Golden(
        rows=tuple(tuple(row) for row in rows),
        class_indexes=tuple(int(index) for index in probabilities.argmax(axis=1)),
        probabilities=tuple(tuple(row) for row in probabilities.tolist()),
    )
    manifest = {"signature": build_signature(columns, CLASSES), "golden": golden, "histograms": {}, **changes}
    graph = manifest.pop("model_bytes", None) or build_graph(columns, scale=scale)
    version = publish_tiny(store, model, model_bytes=graph, **manifest)
    if alias is not None:
        point_alias(store, model, alias, version)
    return version
