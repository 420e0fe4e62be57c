"""Scales beside matrix products: folded where that is the same computation, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from timberline.exporter.graph.compose import fold_scales
from timberline.exporter.graph.graphs import make_model
from timberline.exporter.graph.runtime import open_session

WIDTH = 5
GENERATOR = np.random.default_rng(7)
CONSTANTS = {
    "mean": GENERATOR.normal(size=WIDTH),
    "scale": GENERATOR.uniform(0.5, 2, WIDTH),
    "one": np.array([3.0]),
    "weights": GENERATOR.normal(size=(WIDTH, WIDTH)),
    "bias": GENERATOR.normal(size=WIDTH),
    "matrix": GENERATOR.normal(size=(2, WIDTH)),
}
X = GENERATOR.normal(size=(2, WIDTH)).astype(np.float32)


def build(*nodes: tuple[str, str, str, dict[str, Any]]) -> onnx.ModelProto:
    """A model x → y of (operator, operands, output, attributes)."""
    made = [
        helper.make_node(operator, operands.split(), [output], **attributes)
        for operator, operands, output, attributes in nodes
    ]
    values = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in CONSTANTS.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", WIDTH]) for n in ("x", "y")]
    return make_model(helper.make_graph(made, "g", ends[:1], ends[1:], values), {"": 18})


def run(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """y for X."""
    result: npt.NDArray[np.float32] = open_session(model.SerializeToString(), threads=1).run(None, {"x": X})[
        0
    ]
    return result


def fold(model: onnx.ModelProto, *keep: str) -> list[str]:
    """Operators after folding; asserts that the result is the same."""
    before = run(model)
    fold_scales(model, set(keep))
    # float32 sums of five products near 1.
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in model.graph.node]


def test_standardisation_and_calibration_leave_one_subtraction() -> None:
    """The usual network pays for three nodes that its weights can hold."""
    model = build(
        ("Sub", "x mean", "a", {}),
        ("Mul", "a scale", "b", {}),
        ("Gemm", "b weights bias", "c", {}),
        ("Mul", "c one", "d", {}),
        ("Add", "scale d", "y", {}),
    )
    assert fold(model) == ["Sub", "Gemm"]


def test_tensor_that_others_read_stays() -> None:
    """A scaled value with a second reader would be lost to it."""
    model = build(
        ("Mul", "x scale", "a", {}),
        ("Gemm", "a weights bias", "b", {}),
        ("Add", "a b", "y", {}),
    )
    assert fold(model) == ["Mul", "Gemm", "Add"]


def test_kept_tensor_stays() -> None:
    """`features` is cut out by its name after composing."""
    model = build(("Mul", "x scale", "features", {}), ("Gemm", "features weights bias", "y", {}))
    assert fold(model, "features") == ["Mul", "Gemm"]


@pytest.mark.parametrize("attributes", [{"transB": 1}, {"alpha": 2.0}, {"beta": 0.5}])
def test_product_with_factors_of_its_own_stays(attributes: dict[str, Any]) -> None:
    """Their order of application is not the plain one."""
    model = build(("Mul", "x scale", "a", {}), ("Gemm", "a weights bias", "y", attributes))
    assert fold(model) == ["Mul", "Gemm"]


def test_constant_that_is_not_one_a_column_stays() -> None:
    """A value for each row is no scale of the weights."""
    model = build(("Gemm", "x weights bias", "a", {}), ("Mul", "a matrix", "y", {}))
    assert fold(model) == ["Gemm", "Mul"]
