"""The typed expression tree: what features.sql means, once its text has been read and checked.

Every value is computed in DOUBLE. BIGINT is a promise ("a whole number"), not a machine type:
whole numbers are exact up to 2**53 and never overflow. A computation that has no answer (0/0,
sqrt(-1)) is NULL, so NULL and NaN are one thing on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from timberline.registry.moments import FIRST_DAY, LAST_DAY
from timberline.registry.runs import code_column
from timberline.registry.runtime.files import digest_bytes

INFINITY = float("inf")
LARGEST_DOUBLE = 1.7976931348623157e308
# Of a whole-number column: beyond it the ETL and the service refuse a value, as a DOUBLE would round it.
LARGEST_WHOLE = float(2**53 - 1)
DAY_US = 86_400_000_000.0
# A date that is computed and lies further from 1970-01-01 is NULL: years -271821 to 275760.
LARGEST_DAY = 99_999_999.0


class ExpressionError(Exception):
    """The expression has no meaning in the language; becomes a FeatureError with its position."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class ValueType(StrEnum):
    """What an expression's value is."""

    DOUBLE = "DOUBLE"
    BIGINT = "BIGINT"
    BOOLEAN = "BOOLEAN"
    VARCHAR = "VARCHAR"
    DATE = "DATE"
    TIMESTAMP = "TIMESTAMP"

    @property
    def is_number(self) -> bool:
        """Whether arithmetic is defined on it."""
        return self in {ValueType.DOUBLE, ValueType.BIGINT}

    @property
    def is_moment(self) -> bool:
        """Whether it is a date (days since 1970-01-01) or a timestamp (microseconds since, UTC)."""
        return self in {ValueType.DATE, ValueType.TIMESTAMP}


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant; None is NULL (of any type)."""

    value: float | bool | str | None
    type: ValueType

    @property
    def nullable(self) -> bool:
        """Whether it is NULL."""
        return self.value is None

    @property
    def low(self) -> float:
        """The value of a number; 0 for anything else, whose bounds are not used."""
        return float(self.value) if isinstance(self.value, int | float) else 0.0

    @property
    def high(self) -> float:
        """As ``low``."""
        return self.low


@dataclass(frozen=True, eq=False)
class ColumnRef:
    """A raw column. A number is finite: NaN counts as NULL, infinities are refused by the ETL's checks."""

    column: str
    type: ValueType
    nullable: bool

    @property
    def low(self) -> float:
        """Smallest value of the column's type (not of its data: the service meets other rows)."""
        if self.type is ValueType.DATE:
            return float(FIRST_DAY)
        return 0.0 if self.type is ValueType.BOOLEAN else -self.high

    @property
    def high(self) -> float:
        """Largest value of the column's type."""
        if self.type is ValueType.BOOLEAN:
            return 1.0
        if self.type is ValueType.DATE:
            return float(LAST_DAY)
        return LARGEST_DOUBLE if self.type is ValueType.DOUBLE else LARGEST_WHOLE


@dataclass(frozen=True)
class LookupTable:
    """A constant for each of some texts or numbers; the operator ``lookup`` finds a value in it.

    Args:
        keys: what is looked up; all texts or all numbers, each once.
        values: what is found, in the same order; all texts or all numbers, or None for NULL
            (``other`` is None then too).
        other: what is found for a value that is no key.
        null: what is found for NULL.
    """

    keys: tuple[str, ...] | tuple[float, ...]
    values: tuple[str | None, ...] | tuple[float | None, ...]
    other: float | str | None = None
    null: float | str | None = None

    @property
    def is_text(self) -> bool:
        """Whether texts are looked up; nothing at all is looked up by its text."""
        return not any(isinstance(key, float) for key in self.keys)

    @cached_property
    def name(self) -> str:
        """What it is called in SQL: equal tables have equal names."""
        return f"lookup_{digest_bytes(repr((self.keys, self.values)).encode())[:16]}"


@dataclass(frozen=True, eq=False)
class Call:
    """An operator of `training.features.language.OPERATORS` over typed arguments.

    Args:
        low: no value that is not NULL is below; infinite where it may be.
        high: no value that is not NULL is above; infinite where it may be.
        makes_nan: arguments that are not NULL may still give NaN, which then counts as NULL.
        table: what ``lookup`` looks up in.

    Equality is identity: a shared subtree is one object, and comparing by content would take
    exponential time on it.
    """

    operator: str
    arguments: tuple[Expression, ...]
    type: ValueType
    nullable: bool
    low: float = -INFINITY
    high: float = INFINITY
    makes_nan: bool = False
    table: LookupTable | None = None


Expression = Literal | ColumnRef | Call


def may_be_zero(value: Expression) -> bool:
    """Whether the number can be zero."""
    return value.low <= 0 <= value.high


def may_be_negative_zero(value: Expression) -> bool:
    """Whether the number can be -0, whose sign shows in divisors; a whole-number column holds none."""
    is_whole_input = isinstance(value, ColumnRef | Literal) and value.type is not ValueType.DOUBLE
    return may_be_zero(value) and not is_whole_input


def is_whole_text(value: Expression) -> bool:
    """Whether a graph has the text itself, and not only the number of the word that it is."""
    if isinstance(value, Literal | ColumnRef):
        return True
    match value.operator:
        case "concat" | "coalesce":
            return all(map(is_whole_text, value.arguments))
        case "case":
            return all(map(is_whole_text, (*value.arguments[1:-1:2], value.arguments[-1])))
    return False


def read_columns(value: Expression) -> tuple[str, ...]:
    """The names of the raw columns that it is computed from, each once, in the order of its text."""
    waiting, seen = [value], set[Expression]()
    names: dict[str, None] = {}
    while waiting:
        part = waiting.pop()
        if isinstance(part, ColumnRef):
            names[part.column] = None
        elif isinstance(part, Call) and part not in seen:
            seen.add(part)
            waiting += reversed(part.arguments)
    return tuple(names)


def may_hold_null(value: Expression) -> bool:
    """Whether NULL in a nullable column may make it NULL; a computation without an answer does not count."""
    waiting, seen = [value], set[Expression]()
    while waiting:
        part = waiting.pop()
        if not part.nullable or part in seen:
            continue
        if isinstance(part, ColumnRef):
            return True
        seen.add(part)
        waiting += part.arguments if isinstance(part, Call) else ()
    return False


@dataclass(frozen=True)
class Feature:
    """One named column of the network's input.

    ``vocabulary``: of a category, the training values in the order of their codes (`registry.runs.Fitted`);
    its expression is then a ``lookup`` of the code. None for a number, and for text without its vocabulary.
    ``write`` gives ``text``: how its author wrote it, in DuckDB's spelling. It takes time, and few ask.
    """

    name: str
    expression: Expression
    vocabulary: tuple[str, ...] | None = None
    write: Callable[[], str] = field(default=str, compare=False)

    @property
    def text(self) -> str:
        """How its author wrote it, in one line."""
        return self.write()

    @property
    def stored_name(self) -> str:
        """The column of the prepared data that holds it: a category may have the name of its raw column."""
        return self.name if self.vocabulary is None else code_column(self.name)

    @property
    def is_plain_column(self) -> bool:
        """Whether it is a raw column under its own name, which the prepared data already hold."""
        return isinstance(self.expression, ColumnRef) and self.expression.column == self.name
