"""Scales beside a matrix product, folded into its weights: fewer nodes for a single row to pass through.

The standardisation in front of a network's first layer and the calibration behind its last are
one multiplication each, and a node costs about a microsecond whatever it computes. Subtractions in front
stay: x - mean is exact where x * w - mean * w cancels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Weights = npt.NDArray[np.float32]


def fold_scales(model: onnx.ModelProto, keep: set[str], *, in_front: bool = True) -> None:
    """Rewrite ``model`` in place until no constant scale stands beside a Gemm that could take it.

    Args:
        model: an optimised graph.
        keep: tensors that must stay as they are, besides the outputs.
        in_front: also scales before a product. Without them its operand is no longer standardised,
            which quantisation needs: there one scale serves all columns.
    """
    kept = keep | {output.name for output in model.graph.output}
    folder = _Folder(model.graph, kept, in_front)
    while folder.fold_once():
        pass


class _Folder:
    """One graph, its constants and who makes and reads each tensor."""

    def __init__(self, graph: onnx.GraphProto, kept: set[str], in_front: bool) -> None:
        self._is_in_front = in_front
        self._graph = graph
        self._kept = kept
        self._count = 0

    def fold_once(self) -> bool:
        """Fold one scale or shift; False if there is none."""
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        makers = {node.output[0]: node for node in self._graph.node}
        for node in self._graph.node:
            if _is_plain_gemm(node) and self._fold_in_front(node, makers.get(node.input[0])):
                return True
            gemm = next((makers[name] for name in node.input if name in makers), None)
            if gemm is not None and _is_plain_gemm(gemm) and self._fold_behind(gemm, node):
                return True
        return False

    def _fold_in_front(self, gemm: onnx.NodeProto, scale: onnx.NodeProto | None) -> bool:
        """``(x * s) W + b`` → ``x (s W) + b``."""
        if (
            not self._is_in_front
            or scale is None
            or scale.op_type != "Mul"
            or not self._is_only_reader(scale.output[0])
        ):
            return False
        factor, source = self._split(scale)
        weights = self._read(gemm.input[1])
        if factor is None or weights is None or factor.size not in {1, weights.shape[0]}:
            return False
        gemm.input[0] = source
        gemm.input[1] = self._constant(weights * factor.reshape(-1, 1))
        self._graph.node.remove(scale)
        return True

    def _fold_behind(self, gemm: onnx.NodeProto, node: onnx.NodeProto) -> bool:
        """``(x W + b) * s`` → ``x (W s) + b s``, and ``(x W + b) + c`` → ``x W + (b + c)``."""
        if node.op_type not in {"Mul", "Add"} or not self._is_only_reader(gemm.output[0]):
            return False
        constant, _ = self._split(node)
        weights, bias = self._read(gemm.input[1]), self._read(gemm.input[2])
        if constant is None or weights is None or bias is None or constant.size not in {1, weights.shape[1]}:
            return False
        row = constant.reshape(1, -1)
        if node.op_type == "Mul":
            gemm.input[1] = self._constant(weights * row)
        combine: Callable[[Weights, Weights], Weights] = np.multiply if node.op_type == "Mul" else np.add
        gemm.input[2] = self._constant(combine(np.broadcast_to(bias, (1, weights.shape[1])), row).reshape(-1))
        gemm.output[0] = node.output[0]
        self._graph.node.remove(node)
        return True

    def _split(self, node: onnx.NodeProto) -> tuple[Weights | None, str]:
        """The constant operand, one value or one a column, and the name of the other operand."""
        for own, other in ((0, 1), (1, 0)):
            value = self._read(node.input[own])
            if value is not None and value.size == max(value.shape, default=1):
                return value, node.input[other]
        return None, ""

    def _read(self, name: str) -> Weights | None:
        tensor = self._constants.get(name)
        value = None if tensor is None else numpy_helper.to_array(tensor)
        return value if value is not None and value.dtype == np.float32 else None

    def _is_only_reader(self, name: str) -> bool:
        return name not in self._kept and sum(list(n.input).count(name) for n in self._graph.node) == 1

    def _constant(self, value: Weights) -> str:
        self._count += 1
        name = f"folded_{self._count}"
        self._graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name


def _is_plain_gemm(node: onnx.NodeProto) -> bool:
    """``x W + b`` without transposition or factors; what the converter and the optimiser leave."""
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    neutral = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    is_plain = all(value == neutral.get(name) for name, value in values.items())
    return node.op_type == "Gemm" and len(node.input) == 3 and is_plain
