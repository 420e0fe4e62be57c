"""Hand-made ONNX graphs for tests that need no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18


def feature_graph(columns: Sequence[int], *, width: int, opset: int = OPSET) -> onnx.ModelProto:
    """`numeric` DOUBLE (rows, ``width``) → `features` FLOAT: the chosen columns, as they are."""
    return _model(
        [
            helper.make_node("Gather", ["numeric", "columns"], ["gathered"], axis=1),
            helper.make_node("Cast", ["gathered"], ["features"], to=TensorProto.FLOAT),
        ],
        helper.make_tensor_value_info("numeric", TensorProto.DOUBLE, ["rows", width]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(columns)]),
        {"columns": np.array(columns, np.int64)},
        opset,
    )


def network_graph(
    weights: npt.NDArray[Any], bias: npt.NDArray[Any], *, prefix: str = "", opset: int = OPSET
) -> onnx.ModelProto:
    """`features` → softmax(features @ weights + bias); inner names start with ``prefix``."""
    inner = [f"{prefix}{name}" for name in ("weights", "bias", "product", "sum")]
    return _model(
        [
            helper.make_node("MatMul", ["features", inner[0]], [inner[2]]),
            helper.make_node("Add", [inner[2], inner[1]], [inner[3]]),
            helper.make_node("Softmax", [inner[3]], ["probabilities"], axis=-1),
        ],
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(weights)]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", len(bias)]),
        {inner[0]: weights.astype(np.float32), inner[1]: bias.astype(np.float32)},
        opset,
    )


def random_network(features: int, classes: int, *, seed: int = 1, **options: Any) -> onnx.ModelProto:
    """A `network_graph` with seeded weights and biases."""
    generator = np.random.default_rng(seed)
    return network_graph(
        generator.normal(size=(features, classes)), generator.normal(size=classes), **options
    )


def _model(
    nodes: list[onnx.NodeProto],
    input: onnx.ValueInfoProto,
    output: onnx.ValueInfoProto,
    constants: dict[str, npt.NDArray[Any]],
    opset: int,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", [input], [output], tensors)
    sets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=sets, ir_version=helper.find_min_ir_version_for(sets))
