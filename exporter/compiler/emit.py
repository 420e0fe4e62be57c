"""Writes ONNX nodes over blocks of columns; knows tensors and operator sets, not features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from timberline.exporter.compiler.formulas import SHIFTABLE
from timberline.exporter.compiler.lowering import Affine
from timberline.exporter.compiler.scalars import Scalar
from timberline.exporter.graph.graphs import make_model
from timberline.registry.signature import FEATURES, NUMERIC_INPUT, TEXT_INPUT

_ML_OPSET = 4  # LabelEncoder from strings to doubles
_QUARTER_TURN = (math.pi / 2, 6.123233995736766e-17)  # pi/2 as the sum of two doubles
_REDUCE_AXES_AS_INPUT = 18  # opset from which ReduceMax takes its axes as an input


@dataclass(frozen=True)
class Block:
    """A tensor of shape (rows, width); ``number`` counts blocks as they are made."""

    tensor: str
    width: int
    number: int


class Emitter:
    """One graph under construction.

    Args:
        numeric_is_whole: of each numeric column, whether it is a whole number and never NULL.
        text_count: width of the text input.
        vocabulary: the number that stands for each text; any other text is 0.
        opset: version of the ONNX operator set.
    """

    def __init__(
        self, numeric_is_whole: Sequence[bool], text_count: int, vocabulary: dict[str, float], opset: int
    ) -> None:
        self._numeric_is_whole = numeric_is_whole
        self._counts = {NUMERIC_INPUT: len(numeric_is_whole), TEXT_INPUT: text_count}
        self._vocabulary = vocabulary
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[bytes, onnx.TensorProto] = {}
        self._gathered: dict[tuple[tuple[int, int], ...], str] = {}
        self._block_count = 0
        # What the nodes made now are for, and what each node made so far was for.
        self.purpose: Sequence[Scalar] = ()
        self.purposes: dict[str, Sequence[Scalar]] = {}
        self._numeric = self._block(NUMERIC_INPUT, len(numeric_is_whole))
        self._text: Block | None = None

    def source(self, kind: str) -> Block:
        """The raw numeric columns, or the raw text columns as numbers."""
        if kind == "numeric":
            return self._numeric
        if self._text is None:
            words = np.array(list(self._vocabulary), dtype=object)
            attributes = {
                "keys_tensor": numpy_helper.from_array(words),
                "values_tensor": numpy_helper.from_array(np.array(list(self._vocabulary.values()))),
                "default_tensor": numpy_helper.from_array(np.array([0.0])),
            }
            tensor = self._node("LabelEncoder", TEXT_INPUT, domain="ai.onnx.ml", **attributes)
            self._text = self._block(tensor, self._counts[TEXT_INPUT])
        return self._text

    def affine(self, sums: Sequence[object]) -> Block:
        """All sums of raw columns as one matrix product; ``sums`` are `Affine`.

        A column that may be NULL or infinite stays out of the product: 0 times it is NaN.
        """
        whole = [index for index, is_whole in enumerate(self._numeric_is_whole) if is_whole]
        columns = self.gather([(self._numeric, index) for index in whole])
        weights = np.zeros((self._numeric.width, len(sums)))
        bias = np.zeros(len(sums))
        for index, affine in enumerate(sums):
            assert isinstance(affine, Affine)
            bias[index] = affine.bias
            for column, weight in affine.terms:
                weights[column, index] = weight
        operands = [columns, self.constant(weights[whole])]
        if bias.any():
            return self._block(self._node("Gemm", *operands, self.constant(bias)), len(sums))
        return self._block(self._node("MatMul", *operands), len(sums))

    def elementwise(self, operator: str, operands: Sequence[str], payload: object, width: int) -> Block:
        """One operator over operands that broadcast to (rows, width)."""
        return self._block(self._elementwise(operator, operands, payload), width)

    def _elementwise(  # noqa: PLR0911  (one line an operator that is not one of ONNX)
        self, operator: str, operands: Sequence[str], payload: object
    ) -> str:
        match operator:
            case "number":
                return self._node("Cast", *operands, to=TensorProto.DOUBLE)
            case "to_float":
                return self._as_double(self._as_float(*operands))
            case "atan_guess":
                return self._as_double(self._node("Atan", self._as_float(*operands)))
            case "cosine":
                return self._cosine(*operands, is_far=bool(payload))
            case "Clip":
                reach = [self.constant(np.array(sign * payload)) for sign in (-1.0, 1.0)]  # type: ignore[operator]
                return self._node("Clip", *operands, *reach)
            case "Mod":
                return self._node("Mod", *operands, fmod=1)
        return self._node(operator, *operands)

    def _cosine(self, x: str, *, is_far: bool) -> str:
        """cos x, with an exact Sin within an ulp where ``|x| < SHIFTABLE`` and, ``is_far``, 4e-16 beyond.

        sin(x + pi/2) alone is off by the rounding of the sum, 4e-12 for an angle of 1e5. That rounding is
        known: with s = x + pi/2 rounded and e = x + pi/2 - s, cos x = sin(s + e) = sin s - e sin x + O(e**2).
        Beyond, where e is no longer small, 1 - 2 sin(x/2)**2 halves an angle without rounding it, and is off
        by a few roundings of 1 however large x is.
        """
        quarter, rest = (self.constant(np.array(part)) for part in _QUARTER_TURN)
        shifted = self._node("Add", x, quarter)
        lost = self._node("Sub", quarter, self._node("Sub", shifted, x))
        correction = self._node("Mul", self._node("Add", lost, rest), self._node("Sin", x))
        near = self._node("Sub", self._node("Sin", shifted), correction)
        if not is_far:
            return near
        half = self._node("Sin", self._node("Mul", x, self.constant(np.array(0.5))))
        double_square = self._node("Mul", half, self._node("Add", half, half))
        far = self._node("Sub", self.constant(np.array(1.0)), double_square)
        is_near = self._node("Less", self._node("Abs", x), self.constant(np.array(SHIFTABLE)))
        return self._node("Where", is_near, near, far)

    def reduce(self, operator: str, conditions: str, count: int, width: int) -> Block:
        """Whether any, or all, of each ``width`` bools are true: (rows, count * width) → (rows, count)."""
        kind = "ReduceMax" if operator == "any" else "ReduceMin"
        numbers = self._by_group(self._as_float(conditions), count, width)
        axis, kept = (1, 1) if count == 1 else (2, 0)
        if self._opset >= _REDUCE_AXES_AS_INPUT:
            reduced = self._node(kind, numbers, self.constant(np.array([axis])), keepdims=kept)
        else:
            reduced = self._node(kind, numbers, axes=[axis], keepdims=kept)
        return self._block(self._node("Cast", reduced, to=TensorProto.BOOL), count)

    def first_true(self, conditions: str, count: int, width: int) -> str:
        """Of each ``width`` bools the index of the first true one; ``width`` if none is.

        (rows, count * width) → (rows, count); the indexes go on from group to group, ``width`` + 1 apart.
        """
        numbers = self._by_group(self._as_float(conditions), count, width)
        axis, kept = (1, 1) if count == 1 else (2, 0)
        pads = self.constant(np.array([0] * (2 * axis + 1) + [1]))
        one = self.constant(np.array(1.0, dtype=np.float32))
        found = self._node("ArgMax", self._node("Pad", numbers, pads, one), axis=axis, keepdims=kept)
        return (
            found if count == 1 else self._node("Add", found, self.constant(np.arange(count) * (width + 1)))
        )

    def _by_group(self, numbers: str, count: int, width: int) -> str:
        """(rows, count * width) → (rows, count, width); one group stays as it is."""
        if count == 1:
            return numbers
        return self._node("Reshape", numbers, self.constant(np.array([0, count, width])))

    def look_up(self, table: npt.NDArray[np.float64], chosen: str, count: int) -> Block:
        """The constants at ``chosen`` (rows, count)."""
        return self._block(self._node("Gather", self.constant(table), chosen, axis=0), count)

    def pick(self, values: str, chosen: str, count: int) -> Block:
        """Each row's values in the columns ``chosen`` (rows, count)."""
        return self._block(self._node("GatherElements", values, chosen, axis=1), count)

    def spread(self, values: Sequence[object]) -> Block:
        """Constants in every row."""
        some = self.gather([(self.source("numeric" if self._numeric.width else "text"), 0)])
        constants = self.constant(np.array(values))
        spread = self._node("Where", self._node("IsNaN", some), constants, constants)
        return self._block(spread, len(values))

    def gather(self, places: Sequence[tuple[Block, int]]) -> str:
        """Name of a tensor with these columns of these blocks, in this order."""
        key = tuple((block.number, index) for block, index in places)
        if key not in self._gathered:
            self._gathered[key] = self._gather(places)
        return self._gathered[key]

    def _gather(self, places: Sequence[tuple[Block, int]]) -> str:
        blocks = list(dict.fromkeys(block for block, _ in places))
        together = blocks[0].tensor if len(blocks) == 1 else self._concat(blocks)
        columns = _columns(blocks)
        if tuple((block.number, index) for block, index in places) == columns:
            return together
        position = {column: index for index, column in enumerate(columns)}
        indices = np.array([position[block.number, index] for block, index in places])
        return self._node("Gather", together, self.constant(indices), axis=1)

    def gather_cost(self, places: Sequence[tuple[Block, int]]) -> int:
        """How many nodes `gather` would add."""
        key = tuple((block.number, index) for block, index in places)
        blocks = list(dict.fromkeys(block for block, _ in places))
        whole = _columns(blocks)
        concat = 0 if len(blocks) == 1 or whole in self._gathered else 1
        return 0 if key in self._gathered else concat + (key != whole)

    def _concat(self, blocks: Sequence[Block]) -> str:
        key = _columns(blocks)
        if key not in self._gathered:
            self._gathered[key] = self._node("Concat", *(b.tensor for b in blocks), axis=1)
        return self._gathered[key]

    def finish(self, features: str, count: int) -> onnx.ModelProto:
        """The checked model, with the ``count`` columns of ``features`` as FLOAT for its output."""
        self._add("Cast", [features], FEATURES, to=TensorProto.FLOAT)
        kinds = {NUMERIC_INPUT: TensorProto.DOUBLE, TEXT_INPUT: TensorProto.STRING}
        inputs = [
            helper.make_tensor_value_info(name, kinds[name], ["rows", width])
            for name, width in self._counts.items()
            if width
        ]
        output = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["rows", count])
        graph = helper.make_graph(
            self._nodes, "features", inputs, [output], list(self._initializers.values())
        )
        opsets = {"": self._opset}
        if self._text is not None:
            opsets["ai.onnx.ml"] = _ML_OPSET
        model = make_model(graph, opsets)
        onnx.checker.check_model(model, full_check=True)
        return model

    def constant(self, value: npt.NDArray[Any]) -> str:
        """Name of an initializer with this value; equal ones are stored once."""
        key = str(value.dtype).encode() + str(value.shape).encode() + value.tobytes()
        if key not in self._initializers:
            name = f"constant_{len(self._initializers)}"
            self._initializers[key] = numpy_helper.from_array(value, name)
        return self._initializers[key].name

    def _as_float(self, tensor: str) -> str:
        return self._node("Cast", tensor, to=TensorProto.FLOAT)

    def _as_double(self, tensor: str) -> str:
        return self._node("Cast", tensor, to=TensorProto.DOUBLE)

    def _block(self, tensor: str, width: int) -> Block:
        self._block_count += 1
        return Block(tensor, width, self._block_count)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._add(operator, inputs, name, **attributes)
        return name

    def _add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> None:
        # Named, since runtimes from 1.18 to 1.21 give two nodes without a name the same one when they fuse.
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        self.purposes[name] = self.purpose


def _columns(blocks: Sequence[Block]) -> tuple[tuple[int, int], ...]:
    return tuple((block.number, index) for block in blocks for index in range(block.width))
