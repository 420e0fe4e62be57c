"""A graph of single values: what one row's features need, before anything is laid out in tensors.

No NULL and no type but double and bool: `compile` has turned three-valued logic into pairs of
bools, and NULL numbers into NaN. Equal values are one object, so that what is shared is computed
once; `emit` turns the graph into ONNX nodes over blocks of columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Scalar:
    """One value of a row.

    Args:
        operator: an ONNX operator's name (capital letter), or one of `emit`'s own: ``numeric``, ``text``,
            ``word``, ``const``, ``affine``, ``any``, ``all``, ``select``, ``cosine``, ``atan_guess``,
            ``to_float``, ``number``, ``to_word``, ``to_index``, ``lookup``, ``bit_and``,
            ``bit_or``, ``bit_xor``; and of text ``string``, ``join``,
            ``where_text``, ``same_text``, ``matches``, ``pick_one``, ``pick``, ``weigh``.
        arguments: the values it is computed from.
        payload: column index, constant, the terms of an affine sum, the table of a ``lookup``, the pattern of
            ``matches``, or what ``pick_one`` has for the one of its bools that is true, ``weigh`` sums of the
            true ones, and ``pick`` has for each number that they are the bits of.
        order: when it was made; arguments come before what uses them.
    """

    operator: str
    arguments: tuple[Scalar, ...]
    payload: object
    order: int

    @property
    def constant(self) -> float | bool | None:
        """The value, if it does not depend on the row."""
        return self.payload if self.operator == "const" else None  # type: ignore[return-value]


_TESTS = {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "IsInf": np.isinf,
    "IsNaN": np.isnan,
}
_BOOL_OPERATORS = {*_TESTS, "And", "Or", "Not", "any", "all"}
# What constants are computed with beforehand.
_FOLDS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Mod": np.fmod,
    "Pow": np.power,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sign": np.sign,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "cosine": lambda x, _: np.cos(x),
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Clip": lambda x, reach: np.clip(x, -reach, reach),
    **_TESTS,
    "number": np.float64,
    "bit_and": lambda a, b: _bits(np.bitwise_and, a, b),
    "bit_or": lambda a, b: _bits(np.bitwise_or, a, b),
    "bit_xor": lambda a, b: _bits(np.bitwise_xor, a, b),
    "atan_guess": lambda x: np.float64(np.arctan(np.float32(x))),
    "to_float": lambda x: np.float64(np.float32(x)),
}


def _bits(operator: Callable[..., Any], a: Any, b: Any) -> float:
    return float(operator(a.astype(np.int64), b.astype(np.int64)))


@dataclass
class ScalarGraph:
    """Makes scalars; asking for an equal one again gives the same object, and constants are folded."""

    _known: dict[object, Scalar] = field(default_factory=dict)

    def make(self, operator: str, *arguments: Scalar, payload: object = None) -> Scalar:
        """The value of ``operator`` over ``arguments``."""
        if arguments and operator in _FOLDS and all(a.operator == "const" for a in arguments):
            return self._fold(operator, arguments, payload)
        if operator == "Equal" and (found := self._see_through(*arguments)) is not None:
            return found
        return self._intern((operator, arguments, payload), operator, arguments, payload)

    def number(self, value: float) -> Scalar:
        """A double constant; -0 and 0 are two constants, NaN is one."""
        key = ("const", "nan" if math.isnan(value) else (value, math.copysign(1, value)))
        return self._intern(key, "const", (), value)

    def truth(self, value: bool) -> Scalar:
        """A bool constant."""
        return self._intern(("const", "bool", value), "const", (), value)

    def text(self, value: str) -> Scalar:
        """A text constant."""
        return self._intern(("const", "text", value), "const", (), value)

    def _see_through(self, value: Scalar, constant: Scalar) -> Scalar | None:
        """Whether ``pick_one`` picked the constant: that is one of its bools."""
        if value.operator == "Where" and value.arguments[1] is self.number(NAN):
            found = self._see_through(value.arguments[2], constant)
            return None if found is None else self.every([self.negate(value.arguments[0]), found])
        if value.operator != "pick_one" or constant.operator != "const":
            return None
        numbers: tuple[object, ...] = value.payload  # type: ignore[assignment]
        return value.arguments[numbers.index(constant.payload)] if constant.payload in numbers else None

    def _intern(self, key: object, operator: str, arguments: tuple[Scalar, ...], payload: object) -> Scalar:
        if key not in self._known:
            self._known[key] = Scalar(operator, arguments, payload, len(self._known))
        return self._known[key]

    def _fold(self, operator: str, arguments: tuple[Scalar, ...], payload: object) -> Scalar:
        values = [np.asarray(argument.payload) for argument in arguments]
        with np.errstate(all="ignore"):
            result = _FOLDS[operator](*values, *(() if payload is None else (payload,)))
        return self.truth(bool(result)) if operator in _BOOL_OPERATORS else self.number(float(result))

    # Logic, with what is known beforehand left out.

    def negate(self, value: Scalar) -> Scalar:
        """Not ``value``."""
        if value.operator == "const":
            return self.truth(not value.payload)
        return value.arguments[0] if value.operator == "Not" else self.make("Not", value)

    def every(self, values: Sequence[Scalar]) -> Scalar:
        """Whether all of ``values`` are true."""
        return self._combine(values, neutral=True, pair="And", many="all")

    def some(self, values: Sequence[Scalar]) -> Scalar:
        """Whether at least one of ``values`` is true."""
        return self._combine(values, neutral=False, pair="Or", many="any")

    def _combine(self, values: Sequence[Scalar], *, neutral: bool, pair: str, many: str) -> Scalar:
        flat: dict[Scalar, None] = {}
        for value in values:
            for part in value.arguments if value.operator in {pair, many} else (value,):
                if part.constant is (not neutral):
                    return self.truth(not neutral)
                if part.constant is None:
                    flat[part] = None
        parts = list(flat)
        if len(parts) <= 1:
            return parts[0] if parts else self.truth(neutral)
        return self.make(pair if len(parts) == 2 else many, *parts)

    def choose(self, condition: Scalar, value: Scalar, other: Scalar) -> Scalar:
        """``value`` where ``condition`` is true, else ``other``; the same choice is the same scalar."""
        if condition.operator == "const":
            return value if condition.payload else other
        if value is other:
            return value
        if condition.operator == "Not":
            return self.choose(condition.arguments[0], other, value)
        if value is self.number(1.0) and other is self.number(0.0):
            return self.make("number", condition)
        return self.make("Where", condition, value, other)


@dataclass(frozen=True)
class Affine:
    """``bias`` plus a weighted sum of raw columns that are whole numbers and never NULL."""

    terms: tuple[tuple[int, float], ...]
    bias: float

    @property
    def is_exact(self) -> bool:
        """Whether no order of summation rounds, for columns up to 2**22 in magnitude."""
        return all(map(is_exact, (self.bias, *(weight for _, weight in self.terms))))

    @property
    def is_close(self) -> bool:
        """Whether every order of summation ends within 1e-8, for columns up to 2**22 in magnitude.

        A single product is off by a rounding or two of itself, far below what a float32 holds. Of at
        most five terms whose weights sum to 4 the rounding errors do: 5 × 2**-53 × 4 × 2**22 is 1e-8.
        """
        weights = [abs(weight) for _, weight in self.terms]
        if len(weights) == 1 and self.bias == 0:
            return math.isfinite(weights[0])
        return len(weights) <= 5 and sum(weights) <= 4 and abs(self.bias) < 2**22

    def plus(self, other: Affine, factor: float) -> Affine:
        """This plus ``factor`` times the other."""
        terms = dict(self.terms)
        for column, weight in other.terms:
            terms[column] = terms.get(column, 0.0) + factor * weight
        kept = tuple(sorted((column, weight) for column, weight in terms.items() if weight))
        return Affine(kept, self.bias + factor * other.bias)


def is_exact(value: float) -> bool:
    """A multiple of 1/1024 below 2**20: with 22 bits of a column and one to spare, 53 bits hold the sum."""
    return abs(value) < 2**20 and float(value * 1024).is_integer()
