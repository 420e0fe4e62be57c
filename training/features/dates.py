"""Dates and timestamps as expressions: their parts, what cuts and compares them, and the SQL of each.

A DATE is computed as its days, a TIMESTAMP as its microseconds since 1970-01-01 in UTC, both in DOUBLE and
exact: columns lie within ±(2**53 - 1), and what is computed beyond is whole days, of which 13 bits are zero.
Parts of a day's date are defined over DATE, parts of its time over TIMESTAMP; a cast lies between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from timberline.registry.moments import parse_moment
from timberline.training.features.expressions import (
    DAY_US,
    LARGEST_DAY,
    Call,
    Expression,
    ExpressionError,
    Literal,
    ValueType,
)

_DATE, _TIMESTAMP, _BIGINT = ValueType.DATE, ValueType.TIMESTAMP, ValueType.BIGINT
# Of each part the smallest and largest value; years are those of ±`LARGEST_DAY`.
DATE_PARTS: dict[str, tuple[float, float]] = {
    "year": (-271_821.0, 275_760.0),
    "quarter": (1.0, 4.0),
    "month": (1.0, 12.0),
    "day": (1.0, 31.0),
    "dayofyear": (1.0, 366.0),
    "dayofweek": (0.0, 6.0),
    "isodow": (1.0, 7.0),
    "week": (1.0, 53.0),
    "isoyear": (-271_821.0, 275_760.0),
}
TIME_PARTS: dict[str, tuple[float, float]] = {
    "hour": (0.0, 23.0),
    "minute": (0.0, 59.0),
    "second": (0.0, 59.0),
}
# DuckDB's other words for a part.
_SYNONYMS = {
    "dow": "dayofweek",
    "weekday": "dayofweek",
    "doy": "dayofyear",
    "dayofmonth": "day",
    "weekofyear": "week",
}
_DATE_STEPS = ("year", "quarter", "month", "week", "day")
_STEPS = (*_DATE_STEPS, *TIME_PARTS)
_NEAREST = {
    "decade": "year(x) // 10",
    "century": "year(x) // 100",
    "millennium": "year(x) // 1000",
    "millisecond": "epoch(x) * 1000",
    "microsecond": "epoch(x) * 1000000",
    "yearweek": "isoyear(x) * 100 + week(x)",
    "julian": "x - DATE '1970-01-01'",
}
# A constant's offset: DuckDB's TIMESTAMP would drop it.
_OFFSET = re.compile(r"[T ].*[+-][0-9:]+$")
_EPOCH = "DATE '1970-01-01'"


def constant(text: str, kind: ValueType) -> Literal:
    """The moment that a constant in quotes stands for."""
    if _OFFSET.search(text):
        raise ExpressionError(f"'{text[:80]}' has an offset, which SQL's TIMESTAMP drops", "Write it in UTC.")
    try:
        value = parse_moment(text, "date" if kind is _DATE else "timestamp")
    except ValueError as error:
        raise ExpressionError(f"'{text[:80]}' {error}") from None
    return Literal(float(value), kind)


def part(name: str, value: Expression) -> Expression:
    """``year(value)`` and the like; whole numbers, of a second too."""
    name = _SYNONYMS.get(_singular(name), _singular(name))
    if name == "epoch":
        return epoch(value)
    if name not in DATE_PARTS and name not in TIME_PARTS:
        known = ", ".join([*DATE_PARTS, *TIME_PARTS, "epoch", *_SYNONYMS])
        raise ExpressionError(f"there is no part {name!r} here", _suggest(name, known))
    _need_moment(name, value)
    if name in DATE_PARTS:
        return Call(name, (as_date(value),), _BIGINT, value.nullable, *DATE_PARTS[name])
    return Call(name, (as_timestamp(value),), _BIGINT, value.nullable, *TIME_PARTS[name])


def epoch(value: Expression) -> Expression:
    """Seconds since 1970-01-01, with a fraction."""
    _need_moment("epoch", value)
    factor = 86_400.0 if value.type is _DATE else 1e-6
    low, high = value.low * factor, value.high * factor
    return Call("epoch", (value,), ValueType.DOUBLE, value.nullable, low - 1, high + 1)


def truncate(unit: str, value: Expression) -> Expression:
    """``date_trunc('unit', value)``: the start of the unit, a TIMESTAMP as in DuckDB."""
    _need_moment("date_trunc", value)
    unit = _find_step("date_trunc", unit)
    if unit == "day":
        return as_timestamp(as_date(value))
    if unit in _DATE_STEPS:
        # A year back at most.
        day = as_date(value)
        cut = Call("date_trunc", (_word(unit), day), _DATE, day.nullable, day.low - 366, day.high)
        return as_timestamp(cut)
    if value.type is _DATE:
        return as_timestamp(value)
    low = value.low - 3_600e6
    return Call("date_trunc", (_word(unit), value), _TIMESTAMP, value.nullable, low, value.high)


def difference(unit: str, start: Expression, end: Expression) -> Expression:
    """``date_diff('unit', start, end)``, as DuckDB counts: boundaries crossed; of a week, seven days."""
    unit = _find_step("date_diff", unit)
    start, end = unify([start, end])
    _need_moment("date_diff", start)
    convert = as_date if unit in _DATE_STEPS else as_timestamp
    start, end = convert(start), convert(end)
    low, high = end.low - start.high, end.high - start.low
    if unit != "day":
        # Every unit is longer than what its type counts in, so that no boundary may lie between two moments.
        low, high = min(low - 1, 0.0), max(high + 1, 0.0)
    arguments = (_word(unit), start, end)
    return Call("date_diff", arguments, _BIGINT, start.nullable or end.nullable, low, high)


def last_day(value: Expression) -> Expression:
    """The last DATE of its month."""
    _need_moment("last_day", value)
    day = as_date(value)
    return Call("last_day", (day,), _DATE, day.nullable, day.low, day.high + 30)


def arithmetic(operator: str, a: Expression, b: Expression) -> Expression:
    """DATE + days, days + DATE, DATE - days, DATE - DATE."""
    if operator == "sub" and b.type.is_moment:
        if a.type is _TIMESTAMP or b.type is _TIMESTAMP:
            raise ExpressionError(
                "the difference of timestamps is an INTERVAL, which is no number",
                "Write `epoch(a) - epoch(b)` for seconds or `date_diff('day', b, a)`.",
            )
        return difference("day", b, a)
    day, count = (b, a) if b.type.is_moment and operator == "add" else (a, b)
    if operator not in {"add", "sub"} or day.type is not _DATE or count.type is not _BIGINT:
        raise ExpressionError(
            f"{a.type} and {b.type} have no such operation",
            "A DATE takes + and - of whole days: `CAST(ts AS DATE) + CAST(n AS INTEGER)`.",
        )
    if operator == "sub":
        count = Call("neg", (count,), _BIGINT, count.nullable, -count.high, -count.low)
    low, high = day.low + count.low, day.high + count.high
    if max(-low, high) <= LARGEST_DAY:
        return Call("date_add", (day, count), _DATE, day.nullable or count.nullable, low, high)
    return Call("date_add", (day, count), _DATE, True, max(low, -LARGEST_DAY), min(high, LARGEST_DAY))


def is_checked(call: Call) -> bool:
    """Whether this ``date_add`` can leave the days that there are, where it is NULL."""
    day, count = call.arguments
    return max(-(day.low + count.low), day.high + count.high) > LARGEST_DAY


def as_date(value: Expression) -> Expression:
    """The day of a moment."""
    if value.type is _DATE:
        return value
    if isinstance(value, Literal):
        return Literal(None if value.value is None else float(value.low // DAY_US), _DATE)
    if isinstance(value, Call) and value.operator == "to_timestamp":
        return value.arguments[0]
    low, high = value.low // DAY_US, value.high // DAY_US
    return Call("to_date", (value,), _DATE, value.nullable, low, high)


def as_timestamp(value: Expression) -> Expression:
    """The first microsecond of a day."""
    if value.type is _TIMESTAMP:
        return value
    if isinstance(value, Literal):
        return Literal(None if value.value is None else value.low * DAY_US, _TIMESTAMP)
    low, high = value.low * DAY_US, value.high * DAY_US
    return Call("to_timestamp", (value,), _TIMESTAMP, value.nullable, low, high)


def unify(values: Sequence[Expression]) -> list[Expression]:
    """Moments under one type: texts are read, dates are timestamps beside timestamps, NULL takes any."""
    constants = [
        v for v in values if isinstance(v, Literal) and (v.value is None or isinstance(v.value, str))
    ]
    kinds = {v.type for v in values if v not in constants}
    other = next((kind for kind in kinds if not kind.is_moment), None)
    if other is not None:
        moment = next((kind for kind in kinds if kind.is_moment), _DATE)
        found = "text" if other is ValueType.VARCHAR else other
        raise ExpressionError(
            f"{moment} and {found} cannot be mixed",
            "Compare it with a constant: `DATE '2013-05-01'`, `TIMESTAMP '2013-05-01 10:00:00'`.",
        )
    kind = _TIMESTAMP if _TIMESTAMP in kinds else _DATE
    convert = as_timestamp if kind is _TIMESTAMP else as_date
    return [_convert(value, kind) if isinstance(value, Literal) else convert(value) for value in values]


def _convert(literal: Literal, kind: ValueType) -> Expression:
    if literal.value is None:
        return Literal(None, kind)
    if isinstance(literal.value, str):
        return constant(literal.value, kind)
    return as_timestamp(literal) if kind is _TIMESTAMP else literal


def cast(value: Expression, kind: ValueType) -> Expression:
    """CAST of a moment, or of a constant text, to DATE or TIMESTAMP."""
    if isinstance(value, Literal) and (value.value is None or isinstance(value.value, str)):
        return _convert(value, kind)
    if not value.type.is_moment:
        hint = 'Declare the column as type = "date" or "timestamp" in model.toml.'
        raise ExpressionError(f"{value.type} cannot be cast to {kind}", hint)
    return as_date(value) if kind is _DATE else as_timestamp(value)


def refuse(value: Expression) -> ExpressionError:
    """The error for a moment where a number or a condition is needed."""
    if value.type is _DATE:
        hint = "Write what of it counts: `year(d)`, `dayofweek(d)`, `d - DATE '2000-01-01'` (days)."
    else:
        hint = "Write what of it counts: `epoch(ts)` (seconds), `hour(ts)`, `year(ts)`."
    return ExpressionError(f"a {value.type} is no number and no condition", hint)


def _word(unit: str) -> Literal:
    return Literal(unit, ValueType.VARCHAR)


def _need_moment(function: str, value: Expression) -> None:
    if not value.type.is_moment:
        kind = "text" if value.type is ValueType.VARCHAR else value.type
        hint = 'Declare the column as type = "date" or "timestamp" in model.toml.'
        raise ExpressionError(f"{function} takes a date or timestamp, and got {kind}", hint)


def _find_step(function: str, unit: str) -> str:
    step = _singular(unit)
    if step not in _STEPS:
        raise ExpressionError(f"{function} has no unit {unit!r} here", _suggest(step, ", ".join(_STEPS)))
    return step


def _singular(name: str) -> str:
    return name.lower().removesuffix("s")


def _suggest(name: str, known: str) -> str:
    return f"Write `{_NEAREST[name]}`." if name in _NEAREST else f"There are: {known}."


# Canonical SQL. Its functions are DuckDB's own: the calendar of a table is not ours.


def render(call: Call, arguments: list[str]) -> str | None:  # noqa: PLR0911  (one line an operator)
    """The operator over its rendered arguments as DOUBLE; None if it is not one of dates."""
    name = call.operator
    if name in DATE_PARTS or name in TIME_PARTS:
        return f"CAST({name}({_moment(call.arguments[0], arguments[0])}) AS DOUBLE)"
    match name:
        case "epoch":
            return f"epoch({_moment(call.arguments[0], arguments[0])})"
        case "to_date":
            return _days(f"CAST({_moment(call.arguments[0], arguments[0])} AS DATE)")
        case "to_timestamp":
            return f"({arguments[0]} * {DAY_US:.0f}e0)"
        case "last_day":
            return _days(f"last_day({_moment(call.arguments[0], arguments[0])})")
        case "date_trunc":
            cut = f"date_trunc({arguments[0]}, {_moment(call.arguments[1], arguments[1])})"
            if call.type is _DATE:
                return _days(f"CAST({cut} AS DATE)")
            return f"CAST(epoch_us({cut}) AS DOUBLE)"
        case "date_diff":
            start, end = map(_moment, call.arguments[1:], arguments[1:])
            return f"CAST(date_diff({arguments[0]}, {start}, {end}) AS DOUBLE)"
        case "date_add":
            total = f"({arguments[0]} + {arguments[1]})"
            # DECIMAL(8, 0) ends where the days do; nothing in it rounds a whole number.
            return f"CAST(TRY_CAST({total} AS DECIMAL(8, 0)) AS DOUBLE)" if is_checked(call) else total
    return None


def _moment(value: Expression, text: str) -> str:
    if value.type is _DATE:
        return f"({_EPOCH} + CAST({text} AS INTEGER))"
    return f"make_timestamp(CAST({text} AS BIGINT))"


def _days(date: str) -> str:
    return f"CAST({date} - {_EPOCH} AS DOUBLE)"
