"""``fitted.*``: constants of features.sql that are learned from the training split.

Each call becomes a constant or, of one value a category, a look-up. `training.data.fitting` asks DuckDB
for them; here is what may be asked for, and what type it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from timberline.registry.runs import Fitted
from timberline.training.features import build
from timberline.training.features.expressions import (
    Call,
    Expression,
    ExpressionError,
    Literal,
    LookupTable,
    ValueType,
)

SCHEMA = "fitted"
# function → (how it is written, what it means)
LEARNED: dict[str, tuple[str, str]] = {
    "mean": ("fitted.mean(x)", "mean of the training rows"),
    "median": ("fitted.median(x)", "median, between the two middle values of an even number"),
    "quantile": (
        "fitted.quantile(x, share)",
        "quantile, linear between two values; share a constant, 0 to 1",
    ),
    "std": ("fitted.std(x)", "standard deviation of a sample, as stddev"),
    "min": ("fitted.min(x)", "smallest value"),
    "max": ("fitted.max(x)", "largest value"),
    "mode": ("fitted.mode(c)", "commonest value, the first of several; of text or whole numbers"),
    "frequency": (
        "fitted.frequency(c)",
        "share of the training rows that have this row's value; 0 if none has",
    ),
    "target_mean": (
        "fitted.target_mean(c, smoothing), fitted.target_mean(c, smoothing, 'class')",
        "share of the class (the last one if none is named) among the training rows of this row's value, "
        "with `smoothing` rows of the share of all added; out of fold in training rows",
    ),
}
_TABLES = {"frequency", "target_mean"}
# Beside the keys of a table: what any other value has, and NULL.
_OTHER, _NULL = "", "NULL"


class _UnknownText(Literal):
    """A text constant that is not fitted yet. It stands wherever a constant may, beside ``lower(x)`` too."""


@dataclass(frozen=True, eq=False)
class Learned:
    """One call: ``key`` is its canonical text, ``argument`` what it is over.

    ``parameter``: the share of a quantile, or the smoothing of a target mean; ``class_value``: its class.
    """

    key: str
    function: str
    argument: Expression
    parameter: float | None = None
    class_value: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether it has one value a category."""
        return self.function in _TABLES

    def bind(self, fitted: Fitted) -> Expression:
        """The call as what it was fitted to."""
        if not self.is_table:
            value = fitted.constants[self.key]
            kind = self.result_type
            return Literal(value if isinstance(value, str) or value is None else float(value), kind)
        found, is_text = fitted.tables[self.key], self.argument.type is ValueType.VARCHAR
        other = fitted.constants[f"{self.key}{_OTHER}"]
        null = fitted.constants[f"{self.key} {_NULL}"]
        assert not isinstance(other, str)
        assert not isinstance(null, str)
        keys = tuple(found) if is_text else tuple(map(float, found))
        return build.lookup(self.argument, LookupTable(keys, tuple(found.values()), other, null))

    @property
    def result_type(self) -> ValueType:
        """What the call is before it is fitted, too."""
        if self.function == "mode" or (self.function in {"min", "max"}):
            return self.argument.type
        return ValueType.DOUBLE

    def stand_in(self) -> Expression:
        """The call while it is not fitted: of its type, any value; a constant reads no column."""
        if self.result_type is ValueType.VARCHAR:
            return _UnknownText("", ValueType.VARCHAR)
        read = (self.argument,) if self.is_table else ()
        return Call("learned", read, self.result_type, nullable=False)

    def constants(self, other: float, null: float) -> dict[str, float]:
        """What `Fitted.constants` holds beside the table."""
        return {f"{self.key}{_OTHER}": other, f"{self.key} {_NULL}": null}


class Learning:
    """The ``fitted.*`` calls of one statement: constants once ``fitted`` is known, before of their type."""

    def __init__(self, fitted: Fitted | None) -> None:
        self.fitted = fitted
        self._calls: dict[str, tuple[Learned, str]] = {}

    @property
    def calls(self) -> tuple[Learned, ...]:
        """Each once, in the order of the text."""
        return tuple(found for found, _ in self._calls.values())

    def add(self, found: Learned, sql: str) -> Expression:
        """The call; ``sql`` of its argument distinguishes two of one text over different aliases."""
        key, count = found.key, 1
        while key in self._calls and self._calls[key][1] != sql:
            count += 1
            key = f"{found.key} #{count}"
        known, _ = self._calls.setdefault(key, (dataclasses.replace(found, key=key), sql))
        return known.stand_in() if self.fitted is None else known.bind(self.fitted)


def read_learned(function: exp.Anonymous, arguments: Sequence[Expression]) -> Learned:
    """One ``fitted.*`` call over checked arguments.

    Raises:
        ExpressionError: there is no such function, or its arguments are not what it takes.
    """
    name = function.name.lower()
    if name not in LEARNED:
        raise ExpressionError(
            f"there is no fitted.{function.name}",
            f"There are: {', '.join(f'fitted.{own}' for own in LEARNED)}.",
        )
    most = {"quantile": 2, "target_mean": 3}.get(name, 1)
    least = {"quantile": 2, "target_mean": 2}.get(name, 1)
    if not least <= len(arguments) <= most:
        raise ExpressionError(f"fitted.{name} is written {LEARNED[name][0]}")
    argument, *rest = arguments
    if _holds_learned(argument):
        raise ExpressionError("a fitted.* call cannot be inside of another")
    if name == "mode" or name in _TABLES:
        if argument.type not in {ValueType.VARCHAR, ValueType.BIGINT}:
            raise ExpressionError(f"fitted.{name} takes text or whole numbers, and got {argument.type}")
    elif not argument.type.is_number:
        raise ExpressionError(f"fitted.{name} takes numbers, and got {argument.type}")
    key = f"{name}({', '.join(node.sql('duckdb') for node in function.expressions)})"
    return Learned(key, name, argument, *_read_parameters(name, rest))


def _read_parameters(name: str, rest: Sequence[Expression]) -> tuple[float | None, str | None]:
    if not rest:
        return None, None
    first, *others = rest
    if not isinstance(first, Literal) or not first.type.is_number or first.value is None:
        raise ExpressionError(f"fitted.{name} takes a constant, as in {LEARNED[name][0]}")
    if first.low < 0 or (name == "quantile" and first.low > 1):
        raise ExpressionError(f"fitted.{name} got {first.low:g}; it is written {LEARNED[name][0]}")
    if not others:
        return first.low, None
    (label,) = others
    if not isinstance(label, Literal) or not isinstance(label.value, str):
        raise ExpressionError("the class of fitted.target_mean is a text, as it stands in [target] classes")
    return first.low, label.value


def _holds_learned(value: Expression) -> bool:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, _UnknownText):
            return True
        if isinstance(part, Call):
            if part.operator == "learned":
                return True
            waiting += part.arguments
    return False
