"""Scalars → ONNX nodes over blocks of columns, so that a single row costs few nodes.

A node costs about a microsecond whatever its width, so values of the same operator that can be
computed at the same time share one node: forty comparisons with forty constants are one Greater.
Every block is (rows, width); a value is one column of a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from timberline.exporter.compiler.emit import Block, Emitter
from timberline.exporter.compiler.scalars import Scalar

# Which values may share a node: the operator, which arguments are constants, and the payload of Clip; of an
# operator with any number of arguments, what their number is padded to.
_Key = tuple[str, tuple[bool, ...], object]
_VARIADIC = {"any", "all", "select"}
# How many conditions of such operators one node goes through, as floats: 64 MB for a thousand rows. What a
# node itself costs is nothing beside so many.
_MOST_CONDITIONS = 2**14
_SOURCES = {"const", "numeric", "text"}


def build_model(
    outputs: Sequence[Scalar],
    *,
    numeric_is_whole: Sequence[bool],
    text_count: int,
    vocabulary: dict[str, float],
    opset: int,
) -> tuple[onnx.ModelProto, Mapping[str, Sequence[Scalar]]]:
    """Lay ``outputs`` out as the graph that `operators.build_feature_graph` describes.

    Args:
        outputs: the features in order.
        numeric_is_whole: of each numeric column, whether it is a whole number and never NULL.
        text_count: width of the text input.
        vocabulary: the number that stands for each text; any other text is 0.
        opset: version of the ONNX operator set.

    Returns:
        The graph, and by node the values that the node was made for.
    """
    emitter = Emitter(numeric_is_whole, text_count, vocabulary, opset)
    layout = _Layout(emitter)
    pending = _reachable(outputs)
    emitter.purpose = [s for s in pending if s.operator == "text"]
    if emitter.purpose:
        emitter.source("text")
    sums = [s for s in pending if s.operator == "affine"]
    if sums:
        emitter.purpose = sums
        layout.place(sums, emitter.affine([s.payload for s in sums]))
    pending = [s for s in pending if s.operator not in _SOURCES | {"affine"}]
    while pending:
        group = _next_group(pending, layout)
        for part in layout.split(group):
            emitter.purpose = part
            layout.place(part, layout.compute(part))
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
    return scalar.operator, tuple(a.operator == "const" for a in scalar.arguments), scalar.payload


def _conditions(scalar: Scalar) -> tuple[Scalar, ...]:
    """The bools that ``any``, ``all`` or ``select`` go through."""
    count = len(scalar.arguments)
    return scalar.arguments[: count // 2] if scalar.operator == "select" else scalar.arguments


def _values(scalar: Scalar) -> tuple[Scalar, ...]:
    """What ``select`` selects from: a value a condition, and one for none of them."""
    return scalar.arguments[len(scalar.arguments) // 2 :]


def _next_group(pending: Sequence[Scalar], layout: _Layout) -> list[Scalar]:
    """The values to compute next, as one node.

    A kind of which nothing is left behind goes first; otherwise the kind that leaves the smallest
    share behind, since what is left behind costs a second node.
    """
    waiting = Counter(map(_key, pending))
    ready: dict[_Key, list[Scalar]] = {}
    for scalar in pending:
        if all(layout.has(argument) for argument in scalar.arguments):
            ready.setdefault(_key(scalar), []).append(scalar)
    key = max(ready, key=lambda k: (len(ready[k]) / waiting[k], -ready[k][0].order))
    return sorted(ready[key], key=layout.position)


class _Layout:
    """Which column of which block every value is."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._places: dict[Scalar, tuple[Block, int]] = {}

    def has(self, scalar: Scalar) -> bool:
        """Whether the value can be used by now."""
        return scalar.operator in _SOURCES or scalar in self._places

    def place(self, scalars: Sequence[Scalar], block: Block) -> None:
        """Record that these values are the columns of ``block``."""
        self._places.update({scalar: (block, index) for index, scalar in enumerate(scalars)})

    def position(self, scalar: Scalar) -> list[tuple[int, int]]:
        """Sorts a group in the order in which its arguments lie, so that they need no reordering."""
        places = (self._place(a) for a in scalar.arguments if a.operator != "const")
        return [(block.number, index) for block, index in places]

    def _place(self, scalar: Scalar) -> tuple[Block, int]:
        if scalar.operator in {"numeric", "text"}:
            assert isinstance(scalar.payload, int)
            return self._emitter.source(scalar.operator), scalar.payload
        return self._places[scalar]

    def split(self, group: Sequence[Scalar]) -> list[list[Scalar]]:
        """The group as one node, or one for each combination of blocks it reads if that is cheaper."""
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
                places = [self._place(s) for s in operand]
                cost += self._emitter.gather_cost(places[:1] if len(set(operand)) == 1 else places)
        return cost

    def fetch(self, scalars: Sequence[Scalar]) -> str:
        """Name of a tensor whose columns are these values."""
        new = dict.fromkeys(s for s in scalars if s.operator == "const" and s not in self._places)
        if new:
            self.place(list(new), self._emitter.spread([s.payload for s in new]))
        return self._emitter.gather([self._place(s) for s in scalars])

    def _operand(self, scalars: Sequence[Scalar]) -> str:
        """Name of a tensor that is, or broadcasts to, these values side by side."""
        first = scalars[0]
        if first.operator == "const":
            values = [s.payload for s in scalars]
            is_one = all(s is first for s in scalars)
            return self._emitter.constant(np.array(values[0] if is_one else values))
        return self.fetch([first] if all(s is first for s in scalars) else scalars)

    def compute(self, group: Sequence[Scalar]) -> Block:
        """Emit one group of `_next_group` and return the block of its values."""
        first = group[0]
        if first.operator in _VARIADIC:
            return self._reduce(group)
        operands = [self._operand(column) for column in zip(*(s.arguments for s in group), strict=True)]
        return self._emitter.elementwise(first.operator, operands, first.payload, len(group))

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


def _pad(scalars: tuple[Scalar, ...], width: int) -> tuple[Scalar, ...]:
    return scalars + scalars[-1:] * (width - len(scalars))
