"""Scalars → ONNX nodes over blocks of columns, so that a single row costs few nodes.

A node costs about a microsecond whatever its width, so values of the same operator that can be
computed at the same time share one node: forty comparisons with forty constants are one Greater.
Every block is (rows, width); a value is one column of a block. `build_model` decides which values share a
node; `Emitter` writes the nodes and knows tensors and operator sets, not features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from timberline.exporter.compiler.formulas import SHIFTABLE
from timberline.exporter.compiler.scalars import NAN, Affine, Scalar
from timberline.exporter.graph.graphs import make_model, make_value
from timberline.registry.signature import FEATURES, NULL_TEXT, NUMERIC_INPUT, TEXT_INPUT
from timberline.training.features import LookupTable

_ML_OPSET = 4  # LabelEncoder from strings to doubles
_QUARTER_TURN = (math.pi / 2, 6.123233995736766e-17)  # pi/2 as the sum of two doubles
_REDUCE_AXES_AS_INPUT = 18  # opset from which ReduceMax takes its axes as an input


# Which values may share a node: the operator, which arguments are constants, and the payload of Clip; of an
# operator with any number of arguments, what their number is padded to.
_Key = tuple[str, tuple[bool, ...], object]
_VARIADIC = {"any", "all", "select"}
# How many conditions of such operators one node goes through, as floats: 64 MB for a thousand rows. What a
# node itself costs is nothing beside so many.
_MOST_CONDITIONS = 2**14
_PICKS = {"pick_one", "pick", "weigh"}
# What leaves the other side as it is, and how far from it a float no longer tells.
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_UNSEEN = {0.0: 2.0**-149, 1.0: 2.0**-23}
# Values that are matrix products.
_PRODUCTS = {"affine", "weigh", "pick_one"}
_SOURCES = {"const", "numeric", "text", "word", "string"}
# What of text is an operator of ONNX.
_TEXT_OPERATORS = {"join": "StringConcat", "where_text": "Where", "same_text": "Equal"}


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
        vocabulary: the number that stands for each text, 1 to their number; any other text is 0.
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
        self._words: Block | None = None
        self._strings = self._block(TEXT_INPUT, text_count)

    def source(self, kind: str) -> Block:
        """The raw numeric columns, or the raw text columns as numbers.

        Text as ``word`` is INT64, and where NULL one more than the last number; as ``text`` it is
        DOUBLE, and NaN where NULL; as ``string`` it is itself.
        """
        if kind == "string":
            return self._strings
        if kind == "numeric":
            return self._numeric
        if kind == "word":
            if self._words is None:
                self._words = self._encode(self._null_word, np.int64)
            return self._words
        if self._text is None and self._words is not None:
            table = np.append(np.arange(self._null_word, dtype=np.float64), NAN)
            self._text = self.look_up(table, self._words.tensor, self._words.width)
        elif self._text is None:
            self._text = self._encode(NAN, np.float64)
        return self._text

    @property
    def _null_word(self) -> int:
        return len(self._vocabulary) + 1

    def _encode(self, null: float, kind: type[np.float64 | np.int64]) -> Block:
        numbers = {NULL_TEXT: null, **self._vocabulary}
        attributes = {
            "keys_tensor": numpy_helper.from_array(np.array(list(numbers), dtype=object)),
            "values_tensor": numpy_helper.from_array(np.array(list(numbers.values()), dtype=kind)),
            "default_tensor": numpy_helper.from_array(np.array([0], dtype=kind)),
        }
        tensor = self._node("LabelEncoder", TEXT_INPUT, domain="ai.onnx.ml", **attributes)
        return self._block(tensor, self._counts[TEXT_INPUT])

    def find(self, tables: Sequence[object], places: str) -> Block:
        """What each `LookupTable` has at ``places`` INT64 (rows, tables): all by one look-up."""
        parts = [self._lay_out(table) for table in tables]
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        if len(parts) > 1:
            places = self._node("Add", places, self.constant(starts.astype(np.int64)))
        return self.look_up(np.concatenate(parts), places, len(parts))

    def _lay_out(self, table: object) -> npt.NDArray[np.float64]:
        """The table's values by word or, from the least on, by whole number; then ``other`` and ``null``."""
        assert isinstance(table, LookupTable)
        other, null = self._value(table.other), self._value(table.null)
        found = [self._value(value) for value in table.values]
        if table.is_text:
            laid = np.full(self._null_word + 1, other)
            laid[[int(self._vocabulary[str(key)]) for key in table.keys]] = found
            laid[-1] = null
            return laid
        keys = np.array(table.keys, dtype=np.float64).astype(np.int64)
        laid = np.full(int(keys.max() - keys.min()) + 3, other)
        laid[keys - keys.min()] = found
        laid[-1] = null
        return laid

    def _value(self, value: float | str | None) -> float:
        return NAN if value is None else self._vocabulary[value] if isinstance(value, str) else float(value)

    def weigh(self, bools: str, weights: Sequence[float]) -> Block:
        """The sum of the weights of those bools of a row that are true."""
        column = self.constant(np.array(weights).reshape(-1, 1))
        return self._block(self._node("MatMul", self._as_double(bools), column), 1)

    def look_up_bits(self, bools: str, width: int, values: Sequence[float]) -> Block:
        """The value at the number of which the ``width`` bools of a row are the bits, the lowest first."""
        place = self.weigh(bools, [2.0**bit for bit in range(width)])
        table = np.zeros(2**width)
        table[: len(values)] = values
        return self.look_up(table, self._node("Cast", place.tensor, to=TensorProto.INT64), 1)

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
            case "matches":
                return self._node("RegexFullMatch", *operands, pattern=payload)
            case "join" | "where_text" | "same_text":
                return self._node(_TEXT_OPERATORS[operator], *operands)
            case "to_index":
                return self._node("Cast", *operands, to=TensorProto.INT64)
            case "to_word":
                (number,) = operands
                if payload:  # it may be NULL
                    last = self.constant(np.array(float(self._null_word)))
                    number = self._node("Where", self._node("IsNaN", number), last, number)
                return self._node("Cast", number, to=TensorProto.INT64)
            case "to_float":
                return self._as_double(self._as_float(*operands))
            case "atan_guess":
                return self._as_double(self._node("Atan", self._as_float(*operands)))
            case "cosine":
                return self._cosine(*operands, is_far=bool(payload))
            case "Clip":
                reach = [self.constant(np.array(sign * payload)) for sign in (-1.0, 1.0)]  # type: ignore[operator]
                return self._node("Clip", *operands, *reach)
            case "bit_and" | "bit_or" | "bit_xor":
                return self._bits(f"Bitwise{operator.removeprefix('bit_').title()}", operands)
            case "Mod":
                return self._node("Mod", *operands, fmod=1)
        return self._node(operator, *operands)

    def _bits(self, operator: str, operands: Sequence[str]) -> str:
        whole = [self._node("Cast", operand, to=TensorProto.INT64) for operand in operands]
        return self._as_double(self._node(operator, *whole))

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

    def gather(self, columns: Sequence[tuple[Block, int]]) -> str:
        """Name of a tensor with these columns of these blocks, in this order."""
        key = tuple((block.number, index) for block, index in columns)
        if key not in self._gathered:
            self._gathered[key] = self._gather(columns)
        return self._gathered[key]

    def _gather(self, columns: Sequence[tuple[Block, int]]) -> str:
        blocks = list(dict.fromkeys(block for block, _ in columns))
        together = blocks[0].tensor if len(blocks) == 1 else self._concat(blocks)
        whole = _columns(blocks)
        if tuple((block.number, index) for block, index in columns) == whole:
            return together
        position = {column: index for index, column in enumerate(whole)}
        indices = np.array([position[block.number, index] for block, index in columns])
        return self._node("Gather", together, self.constant(indices), axis=1)

    def gather_cost(self, columns: Sequence[tuple[Block, int]]) -> int:
        """How many nodes `gather` would add."""
        key = tuple((block.number, index) for block, index in columns)
        blocks = list(dict.fromkeys(block for block, _ in columns))
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
        inputs = [make_value(name, width, kind=kinds[name]) for name, width in self._counts.items() if width]
        constants = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, "features", inputs, [make_value(FEATURES, count)], constants)
        opsets = {"": self._opset}
        if self._text is not None or self._words is not None:
            opsets["ai.onnx.ml"] = _ML_OPSET
        model = make_model(graph, opsets)
        onnx.checker.check_model(model, full_check=True)
        return model

    def constant(self, value: npt.NDArray[Any]) -> str:
        """Name of an initializer with this value; equal ones are stored once."""
        if value.dtype.kind == "U":  # numpy's own type of text
            value = value.astype(object)
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        key = str(value.dtype).encode() + str(value.shape).encode() + content
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


def build_model(
    outputs: Sequence[Scalar], emitter: Emitter
) -> tuple[onnx.ModelProto, Mapping[str, Sequence[Scalar]]]:
    """Lay ``outputs``, the features in order, out as the graph that `compile.build_feature_graph` describes.

    Returns:
        The graph, and by node the values that the node was made for.
    """
    layout = _Layout(emitter)
    pending = _reachable(outputs)
    for kind in ("word", "text"):
        emitter.purpose = [s for s in pending if s.operator == kind]
        if emitter.purpose:
            emitter.source(kind)
    sums = [s for s in pending if s.operator == "affine"]
    if sums:
        emitter.purpose = sums
        layout.assign(sums, emitter.affine([s.payload for s in sums]))
    pending = [s for s in pending if s.operator not in _SOURCES | {"affine"}]
    keys = {scalar: _key(scalar) for scalar in pending}
    while pending:
        group = _next_group(pending, layout, keys)
        for part in layout.split(group):
            emitter.purpose = part
            layout.assign(part, layout.compute(part))
        done = set(group)
        pending = [s for s in pending if s not in done]
    emitter.purpose = outputs
    return emitter.finish(layout.fetch(outputs), len(outputs)), emitter.purposes


def share_out(
    outputs: Sequence[Scalar], purposes: Mapping[str, Sequence[Scalar]]
) -> dict[str, dict[int, float]]:
    """By node, which share of it each output (by index) accounts for; the shares of a node sum to 1.

    A node is shared evenly by the values that it was made for, and a value by the outputs that need it.
    """
    users: dict[Scalar, set[int]] = {}
    for index, output in enumerate(outputs):
        for scalar in _reachable([output]):
            users.setdefault(scalar, set()).add(index)
    shares: dict[str, dict[int, float]] = {}
    for node, scalars in purposes.items():
        found: dict[int, float] = {}
        for scalar in scalars:
            for index in users[scalar]:
                found[index] = found.get(index, 0.0) + 1 / len(scalars) / len(users[scalar])
        shares[node] = found
    return shares


def _reachable(outputs: Sequence[Scalar]) -> list[Scalar]:
    """All that the outputs need, arguments first."""
    found: set[Scalar] = set()
    waiting = list(outputs)
    while waiting:
        scalar = waiting.pop()
        if scalar not in found:
            found.add(scalar)
            waiting.extend(scalar.arguments)
    return sorted(found, key=lambda s: s.order)


def _key(scalar: Scalar) -> _Key:
    if scalar.operator in _VARIADIC:
        has_constants = scalar.operator == "select" and all(v.operator == "const" for v in _values(scalar))
        return scalar.operator, (has_constants,), 1 << (len(_conditions(scalar)) - 1).bit_length()
    # Look-ups in any tables share a node.
    payload = None if scalar.operator == "lookup" else scalar.payload
    return scalar.operator, tuple(a.operator == "const" for a in scalar.arguments), payload


def _conditions(scalar: Scalar) -> tuple[Scalar, ...]:
    """The bools that ``any``, ``all`` or ``select`` go through."""
    count = len(scalar.arguments)
    return scalar.arguments[: count // 2] if scalar.operator == "select" else scalar.arguments


def _values(scalar: Scalar) -> tuple[Scalar, ...]:
    """What ``select`` selects from: a value a condition, and one for none of them."""
    return scalar.arguments[len(scalar.arguments) // 2 :]


def _next_group(pending: Sequence[Scalar], layout: _Layout, keys: Mapping[Scalar, _Key]) -> list[Scalar]:
    """The values to compute next, as one node.

    A kind of which nothing is left behind goes first; otherwise the kind that leaves the smallest
    share behind, since what is left behind costs a second node.
    """
    waiting = Counter(map(keys.__getitem__, pending))
    ready: dict[_Key, list[Scalar]] = {}
    for scalar in pending:
        if all(layout.has(argument) for argument in scalar.arguments):
            ready.setdefault(keys[scalar], []).append(scalar)
    key = max(ready, key=lambda k: (len(ready[k]) / waiting[k], -ready[k][0].order))
    return sorted(ready[key], key=layout.position)


class _Layout:
    """Which column of which block every value is."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._assigned: dict[Scalar, tuple[Block, int]] = {}

    def has(self, scalar: Scalar) -> bool:
        """Whether the value can be used by now."""
        return scalar.operator in _SOURCES or scalar in self._assigned

    def assign(self, scalars: Sequence[Scalar], block: Block) -> None:
        """Record that these values are the columns of ``block``."""
        self._assigned.update({scalar: (block, index) for index, scalar in enumerate(scalars)})

    def position(self, scalar: Scalar) -> list[tuple[int, int]]:
        """Sorts a group in the order in which its arguments lie, so that they need no reordering."""
        columns = (self._column(a) for a in scalar.arguments if a.operator != "const")
        return [(block.number, index) for block, index in columns]

    def _column(self, scalar: Scalar) -> tuple[Block, int]:
        if scalar.operator in {"numeric", "text", "word", "string"}:
            assert isinstance(scalar.payload, int)
            return self._emitter.source(scalar.operator), scalar.payload
        return self._assigned[scalar]

    def split(self, group: Sequence[Scalar]) -> list[list[Scalar]]:
        """The group as one node, or one for each combination of blocks it reads if that is cheaper."""
        if group[0].operator in _PICKS:
            return [[scalar] for scalar in group]
        if group[0].operator in _VARIADIC:
            count = max(1, _MOST_CONDITIONS // max(len(_conditions(s)) for s in group))
            return [list(group[start : start + count]) for start in range(0, len(group), count)]
        parts: dict[tuple[int, ...], list[Scalar]] = {}
        for scalar in group:
            parts.setdefault(tuple(number for number, _ in self.position(scalar)), []).append(scalar)
        apart = list(parts.values())
        return apart if sum(map(self._cost, apart)) < self._cost(group) else [list(group)]

    def _cost(self, group: Sequence[Scalar]) -> int:
        cost = 1
        for operand in set(zip(*(s.arguments for s in group), strict=True)):
            if operand[0].operator != "const":
                columns = [self._column(s) for s in operand]
                cost += self._emitter.gather_cost(columns[:1] if len(set(operand)) == 1 else columns)
        return cost

    def fetch(self, scalars: Sequence[Scalar]) -> str:
        """Name of a tensor whose columns are these values."""
        new = dict.fromkeys(s for s in scalars if s.operator == "const" and s not in self._assigned)
        if new:
            self.assign(list(new), self._emitter.spread([s.payload for s in new]))
        return self._emitter.gather([self._column(s) for s in scalars])

    def _operand(self, scalars: Sequence[Scalar], *, may_be_constant: bool) -> str:
        """Name of a tensor that is, or broadcasts to, these values side by side."""
        first = scalars[0]
        if first.operator == "const":
            values = [s.payload for s in scalars]
            is_one = all(s is first for s in scalars)
            if is_one and not may_be_constant:
                return self.fetch([first])
            return self._emitter.constant(np.array(values[0] if is_one else values))
        return self.fetch([first] if all(s is first for s in scalars) else scalars)

    def compute(self, group: Sequence[Scalar]) -> Block:
        """Emit one group of `_next_group` and return the block of its values."""
        first = group[0]
        if first.operator in _VARIADIC:
            return self._reduce(group)
        if first.operator in _PICKS:
            return self._pick(first)
        if first.operator == "lookup":
            places = self.fetch([s.arguments[0] for s in group])
            return self._emitter.find([s.payload for s in group], places)
        columns = list(zip(*(s.arguments for s in group), strict=True))
        is_safe = not any(s.operator in _PRODUCTS for column in columns for s in column)
        operands = [
            self._operand(
                column,
                may_be_constant=not _is_rewritten(first.operator, place, column[0].payload, is_safe=is_safe),
            )
            for place, column in enumerate(columns)
        ]
        if all(column[0].operator == "const" for column in columns):
            # What is not folded beforehand still has a value in every row.
            operands[0] = self.fetch(columns[0])
        return self._emitter.elementwise(first.operator, operands, first.payload, len(group))

    def _pick(self, scalar: Scalar) -> Block:
        bools = self.fetch(scalar.arguments)
        values: tuple[float, ...] = scalar.payload  # type: ignore[assignment]
        if scalar.operator != "pick":
            return self._emitter.weigh(bools, values)
        return self._emitter.look_up_bits(bools, len(scalar.arguments), values)

    def _reduce(self, group: Sequence[Scalar]) -> Block:
        """An operator over any number of conditions, a group of it in one tensor (rows, group, width).

        Whatever has fewer conditions repeats its last one, which changes no answer.
        """
        operator, width = group[0].operator, max(len(_conditions(s)) for s in group)
        conditions = self.fetch([c for s in group for c in _pad(_conditions(s), width)])
        if operator != "select":
            return self._emitter.reduce(operator, conditions, len(group), width)
        values = [v for s in group for v in (*_pad(_values(s)[:-1], width), _values(s)[-1])]
        chosen = self._emitter.first_true(conditions, len(group), width)
        if all(v.operator == "const" for v in values):
            return self._emitter.look_up(np.array([v.payload for v in values]), chosen, len(group))
        return self._emitter.pick(self.fetch(values), chosen, len(group))


def _is_rewritten(operator: str, place: int, value: object, *, is_safe: bool) -> bool:
    """Whether ONNX Runtime would drop the operation with this constant, or join it with another one.

    It reads the constant in 32 bits: x * 1.00000001 is x to it, (1 / x) * y is y / x, which rounds otherwise,
    and what a matrix product (not ``is_safe``) is multiplied with becomes an attribute of the product. A
    constant that stands in every row is none to it.
    """
    neutral = _NEUTRAL.get(operator)
    if neutral is None or not isinstance(value, int | float):
        return False
    if not is_safe and operator in {"Mul", "Div"}:
        return True
    if value == neutral and (operator, place) != ("Div", 0):
        return False
    return abs(value - neutral) <= _UNSEEN[neutral]


def _pad(scalars: tuple[Scalar, ...], width: int) -> tuple[Scalar, ...]:
    return scalars + scalars[-1:] * (width - len(scalars))
