"""Typed calls from typed arguments: the type rules, and what is written with other operators.

Knows no SQL text. What has no meaning raises `ExpressionError`, to which the caller adds the place.

Every call has bounds of its value, and whether it can be NaN. Most values are finite and most
divisors are not zero: to know that spares guards in the SQL and nodes in the graph. Bounds may be
too wide, never too narrow.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from timberline.registry.signature import FIRST_CODE, NULL_CODE, UNKNOWN_CODE
from timberline.training.features import dates
from timberline.training.features.expressions import (
    INFINITY,
    LARGEST_DOUBLE,
    LARGEST_WHOLE,
    Call,
    Expression,
    ExpressionError,
    Literal,
    LookupTable,
    ValueType,
    is_whole_text,
    may_be_zero,
)

PI = math.pi
_DOUBLE, _BIGINT, _BOOLEAN, _VARCHAR = list(ValueType)[:4]
NULL = Literal(None, _DOUBLE)
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
_LOGIC = {"and", "or", "not"}
_KEEPS_BIGINT = {"add", "sub", "mul", "intdiv", "mod", "neg", "abs"}
_ROUNDING = {"floor", "ceil", "trunc", "round"}
# (low, high, whether arguments that are not NULL can give NaN)
Bounds = tuple[float, float, bool]
ANYTHING: Bounds = (-INFINITY, INFINITY, False)


def number(value: float) -> Literal:
    """A DOUBLE constant."""
    return Literal(value, _DOUBLE)


def call(operator: str, arguments: Sequence[Expression]) -> Expression:  # noqa: PLR0911  (a table of rules)
    """A call of any operator of fixed arity, typed; the rest have functions of their own."""
    if operator in _COMPARISONS:
        return _comparison(operator, *arguments)
    if operator in _LOGIC:
        return _call(operator, _flatten(operator, [as_boolean(a) for a in arguments]), _BOOLEAN)
    match operator:
        case "is_null":
            return Call("is_null", tuple(arguments), _BOOLEAN, nullable=False, low=0, high=1)
        case "nullif":
            value, other = arguments
            return case([(call("eq", [value, other]), NULL)], value)
        case "radians":
            return call("mul", [arguments[0], number(PI / 180)])
        case "degrees":
            return call("mul", [arguments[0], number(180 / PI)])
        case "pow":
            return _power(*arguments)
        case "add" | "sub" if any(a.type.is_moment for a in arguments):
            return dates.arithmetic(operator, *arguments)
    for argument in arguments:
        _need_number(argument, operator)
    first = arguments[0]
    if operator in _ROUNDING and first.type is _BIGINT:
        return first
    if operator == "neg" and isinstance(first, Literal) and first.value is not None:
        return Literal(-first.low, first.type)
    if operator == "intdiv" and any(a.type is not _BIGINT for a in arguments):
        raise ExpressionError(
            "// divides whole numbers, and one side is a DOUBLE", "Write floor(a / b) or trunc(a / b)."
        )
    is_whole = operator in _KEEPS_BIGINT and all(a.type is _BIGINT for a in arguments)
    return _call(operator, arguments, _BIGINT if is_whole or operator == "sign" else _DOUBLE)


def _flatten(operator: str, arguments: Sequence[Expression]) -> list[Expression]:
    """A chain of ANDs or ORs as one call: a list of hundreds is then no deep tree."""
    if operator == "not":
        return list(arguments)
    nested = [a.arguments if isinstance(a, Call) and a.operator == operator else (a,) for a in arguments]
    return [part for parts in nested for part in parts]


def extreme(operator: str, arguments: Sequence[Expression]) -> Expression:
    """``greatest`` or ``least``, which skip NULLs."""
    if any(a.type.is_moment for a in arguments):
        arguments = dates.unify(arguments)
        kind = arguments[0].type
    else:
        for argument in arguments:
            _need_number(argument, operator)
        kind = _common_type(arguments)
    if len(arguments) == 1:
        return arguments[0]
    low, high, _ = hull(arguments)
    nullable = all(a.nullable for a in arguments)
    return Call(operator, tuple(arguments), kind, nullable, low, high)


def coalesce(arguments: Sequence[Expression]) -> Expression:
    """The first argument that is not NULL."""
    unified = _unify(arguments)
    if len(unified) == 1:
        return unified[0]
    low, high, _ = hull(unified)
    nullable = all(a.nullable for a in unified)
    return Call("coalesce", tuple(unified), _type_of(unified), nullable, low, high)


def case(branches: Sequence[tuple[Expression, Expression]], default: Expression) -> Expression:
    """The value of the first branch whose condition is true, else ``default``."""
    conditions = [as_boolean(condition) for condition, _ in branches]
    *values, default = _unify([*(value for _, value in branches), default])
    low, high, _ = hull([*values, default])
    pairs = [part for pair in zip(conditions, values, strict=True) for part in pair]
    nullable = any(v.nullable for v in (*values, default))
    return Call("case", (*pairs, default), _type_of([*values, default]), nullable, low, high)


def code(value: Expression, vocabulary: Sequence[str]) -> Expression:
    """The code of a text value: a whole number, never NULL."""
    codes = tuple(float(FIRST_CODE + index) for index in range(len(vocabulary)))
    return lookup(value, LookupTable(tuple(vocabulary), codes, float(UNKNOWN_CODE), float(NULL_CODE)))


def lookup(value: Expression, table: LookupTable) -> Expression:
    """What ``table`` has for ``value``; texts give texts, and of numbers whole ones whole ones."""
    if isinstance(value, Literal):
        known = dict(zip(table.keys, table.values, strict=True))
        constant = table.null if value.value is None else known.get(value.value, table.other)
        return Literal(constant, _type_of_constants([*table.values, table.other, table.null]))
    found = [*table.values, table.other, *([table.null] if value.nullable else [])]
    numbers = [float(v) for v in found if not isinstance(v, str) and v is not None] or [0.0]
    kind = _type_of_constants(found)
    return Call("lookup", (value,), kind, None in found, min(numbers), max(numbers), table=table)


def _type_of_constants(values: Sequence[float | str | None]) -> ValueType:
    known = [v for v in values if v is not None]
    if any(isinstance(v, str) for v in known):
        return _VARCHAR
    return _BIGINT if all(float(v).is_integer() for v in known) else _DOUBLE


def cast(value: Expression, kind: str) -> Expression:
    """CAST to DOUBLE, FLOAT, BIGINT, BOOLEAN, DATE or TIMESTAMP."""
    if kind in {"DATE", "TIMESTAMP"}:
        return dates.cast(value, ValueType(kind))
    if value.type.is_moment:
        raise dates.refuse(value)
    if value.type is _VARCHAR:
        raise ExpressionError("text cannot be cast", "Compare it with constants: `name = 'value'`.")
    if kind == "BOOLEAN":
        return as_boolean(value)
    if kind == value.type:
        return value
    if kind == "BIGINT":
        return _call("to_bigint", [value], _BIGINT)
    if kind == "FLOAT":
        return _call("to_float", [as_number(value)], _DOUBLE)
    return _call("to_double", [value], _DOUBLE)


def try_cast(value: Expression, kind: str, limits: tuple[float, float] | None) -> Expression:
    """TRY_CAST: as CAST, and NULL for a number beyond ``limits``, those of a whole type, or of FLOAT."""
    if value.type is _VARCHAR:
        raise ExpressionError(
            "what is a number in a text is not known in the graph",
            "Declare the column as a number, and the words that mean NULL as null_text, in model.toml.",
        )
    result = cast(value, kind)
    if kind == "FLOAT":
        is_beyond = call("and", [is_infinite(result), call("not", [is_infinite(value)])])
        return case([(is_beyond, NULL)], result) if may_be_infinite(result) else result
    if limits is None or (result.low >= limits[0] and result.high <= limits[1]):
        return result
    low, high = map(number, limits)
    is_within = call("and", [call("ge", [result, low]), call("le", [result, high])])
    return _bound(case([(is_within, result)], NULL), *limits)


def _bound(value: Expression, low: float, high: float) -> Expression:
    """The value with bounds that are known from elsewhere."""
    return dataclasses.replace(value, low=low, high=high) if isinstance(value, Call) else value


def is_infinite(value: Expression) -> Expression:
    """Whether a number is plus or minus infinity."""
    return call("eq", [call("abs", [value]), number(INFINITY)])


def is_finite(value: Expression) -> Expression:
    """Whether a number is not infinite; NaN is NULL."""
    return call("lt", [call("abs", [value]), number(INFINITY)])


def is_same(a: Expression, b: Expression) -> Expression:
    """``a IS NOT DISTINCT FROM b``: as ``=``, and two NULLs are the same."""
    both_null = call("and", [call("is_null", [a]), call("is_null", [b])])
    return coalesce([call("or", [call("eq", [a, b]), both_null]), Literal(False, _BOOLEAN)])


def bits(operator: str, a: Expression, b: Expression) -> Expression:
    """``bit_and``, ``bit_or`` or ``bit_xor`` of whole numbers in two's complement; NULL beyond ±2**53."""
    arguments = [_as_bits(value) for value in (a, b)]
    reach = 2.0 ** max(_bit_count(value) for value in arguments)
    are_positive = all(value.low >= 0 for value in arguments)
    nullable = any(value.nullable for value in arguments)
    return Call(operator, tuple(arguments), _BIGINT, nullable, 0.0 if are_positive else -reach, reach - 1)


def _as_bits(value: Expression) -> Expression:
    if value.type is not _BIGINT and not (isinstance(value, Literal) and value.value is None):
        raise ExpressionError(
            f"bits are of whole numbers, and one side is {value.type}", "Write CAST(... AS INTEGER)."
        )
    if value.low >= -LARGEST_WHOLE and value.high <= LARGEST_WHOLE:
        return value
    is_exact = call("le", [call("abs", [value]), number(LARGEST_WHOLE)])
    return _bound(case([(is_exact, value)], NULL), -LARGEST_WHOLE, LARGEST_WHOLE)


def _bit_count(value: Expression) -> int:
    return int(max(abs(value.low), abs(value.high))).bit_length()


def shift(value: Expression, count: Expression, *, is_left: bool) -> Expression:
    """``value << count`` as a product, ``value >> count`` as a quotient that is cut down."""
    if not (isinstance(count, Literal) and count.type is _BIGINT and 0 <= count.low <= 52):
        raise ExpressionError("a number is shifted by a whole constant from 0 to 52 bits")
    if value.type is not _BIGINT:
        raise ExpressionError(
            f"<< and >> shift whole numbers, and got {value.type}", "Write CAST(... AS INTEGER)."
        )
    power = Literal(2.0**count.low, _BIGINT)
    return call("mul", [value, power]) if is_left else _call("floor", [call("div", [value, power])], _BIGINT)


def logarithm(base: Expression, value: Expression) -> Expression:
    """``log(base, value)`` as ln(value) / ln(base), for which both sides have an operator."""
    if isinstance(base, Literal) and base.low > 0 and base.low != 1:
        return call("div", [call("ln", [value]), number(math.log(base.low))])
    return call("div", [call("ln", [value]), call("ln", [base])])


def rounded(operator: str, value: Expression, digits: Expression | None) -> Expression:
    """``round`` or ``trunc`` to ``digits`` after the point, as DuckDB does it: scale, round, scale back."""
    if digits is None:
        return call(operator, [value])
    if not isinstance(digits, Literal) or digits.type is not _BIGINT or abs(digits.low) > 22:
        raise ExpressionError(f"{operator} takes a whole constant from -22 to 22 as its number of digits")
    if digits.low == 0 or (digits.low > 0 and value.type is _BIGINT):
        return call(operator, [value])
    # Powers of ten are exact in DOUBLE up to 10**22.
    scale = number(10.0 ** abs(digits.low))
    there, back = ("mul", "div") if digits.low > 0 else ("div", "mul")
    return call(back, [call(operator, [call(there, [value, scale])]), scale])


def as_boolean(value: Expression) -> Expression:
    """The value as a condition: a number is true when it is not 0."""
    if isinstance(value, Literal) and value.value is None:
        return Literal(None, _BOOLEAN)
    if value.type is _VARCHAR:
        raise ExpressionError("text is not a condition", "Compare it: `name = 'value'`.")
    if value.type.is_moment:
        raise dates.refuse(value)
    return value if value.type is _BOOLEAN else _comparison("ne", value, number(0.0))


def as_number(value: Expression) -> Expression:
    """The value as a number: a boolean is 0 or 1."""
    return _call("to_bigint", [value], _BIGINT) if value.type is _BOOLEAN else value


def _call(operator: str, arguments: Sequence[Expression], type: ValueType) -> Call:
    low, high, makes_nan = (0.0, 1.0, False) if type is _BOOLEAN else find_bounds(operator, arguments)
    nullable = makes_nan or any(a.nullable for a in arguments)
    return Call(operator, tuple(arguments), type, nullable, low, high, makes_nan)


def _comparison(operator: str, a: Expression, b: Expression) -> Expression:
    a, b = _unify([a, b])
    if a.type is _VARCHAR:
        if operator not in {"eq", "ne"}:
            raise ExpressionError("text has no order here", "Compare it with = or IN.")
        if not (isinstance(a, Literal) or isinstance(b, Literal) or (is_whole_text(a) and is_whole_text(b))):
            raise ExpressionError("what is cut from text can be compared with constants only")
    if a.type is _BOOLEAN:
        a, b = as_number(a), as_number(b)
    return Call(operator, (a, b), _BOOLEAN, nullable=a.nullable or b.nullable, low=0, high=1, makes_nan=False)


def _power(base: Expression, exponent: Expression) -> Expression:
    """Small whole powers are products, which are exact on both sides and cheap."""
    _need_number(base, "power")
    _need_number(exponent, "power")
    if isinstance(exponent, Literal) and exponent.value in {1.0, 2.0, 3.0}:
        base = base if base.type is _DOUBLE else cast(base, "DOUBLE")
        result = base
        for _ in range(int(exponent.low) - 1):
            result = call("mul", [result, base])
        return result
    return _call("pow", [base, exponent], _DOUBLE)


def _need_number(value: Expression, operator: str) -> None:
    if value.type.is_moment:
        raise dates.refuse(value)
    if not value.type.is_number:
        name = {"add": "+", "sub": "-", "mul": "*", "div": "/", "intdiv": "//", "mod": "%", "neg": "-"}
        hint = "Write CAST(... AS INTEGER)." if value.type is _BOOLEAN else "Compare it: `name = 'value'`."
        raise ExpressionError(f"{name.get(operator, operator)} takes numbers, and got {value.type}", hint)


def _unify(values: Sequence[Expression]) -> list[Expression]:
    """The values under one type; NULL takes any, booleans become numbers beside numbers."""
    kinds = {v.type for v in values if not (isinstance(v, Literal) and v.value is None)}
    if any(kind.is_moment for kind in kinds):
        return dates.unify(values)
    if _VARCHAR in kinds and len(kinds) > 1:
        raise ExpressionError(f"text and {(kinds - {_VARCHAR}).pop()} cannot be mixed")
    if kinds in ({_BOOLEAN}, {_VARCHAR}):
        kind = kinds.pop()
        return [Literal(None, kind) if v.nullable and isinstance(v, Literal) else v for v in values]
    numbers = [as_number(v) for v in values]
    kind = _common_type(numbers)
    return [Literal(None, kind) if isinstance(v, Literal) and v.value is None else v for v in numbers]


def _type_of(unified: Sequence[Expression]) -> ValueType:
    """The type of a choice between values that `_unify` gave: of numbers, whole if all of them are."""
    first = unified[0].type
    return _common_type(unified) if first.is_number else first


def _common_type(values: Sequence[Expression]) -> ValueType:
    is_whole = all(v.type is _BIGINT or (isinstance(v, Literal) and v.value is None) for v in values)
    return _BIGINT if is_whole else _DOUBLE


def find_bounds(operator: str, arguments: Sequence[Expression]) -> Bounds:
    """Bounds of a number-valued operator's result."""
    finder = _FINDERS.get(operator)
    return finder(*arguments) if finder else ANYTHING


def may_be_infinite(value: Expression) -> bool:
    """Whether plus or minus infinity is possible."""
    return math.isinf(value.low) or math.isinf(value.high)


def hull(values: Sequence[Expression]) -> Bounds:
    """The narrowest bounds around several values."""
    return min(v.low for v in values), max(v.high for v in values), False


def _add(a: Expression, b: Expression) -> Bounds:
    return _ordered(a.low + b.low, a.high + b.high, makes_nan=may_be_infinite(a) and may_be_infinite(b))


def _sub(a: Expression, b: Expression) -> Bounds:
    return _ordered(a.low - b.high, a.high - b.low, makes_nan=may_be_infinite(a) and may_be_infinite(b))


def _mul(a: Expression, b: Expression) -> Bounds:
    corners = [x * y for x, y in itertools.product((a.low, a.high), (b.low, b.high))]
    makes_nan = (may_be_infinite(a) and may_be_zero(b)) or (may_be_infinite(b) and may_be_zero(a))
    if any(map(math.isnan, corners)):
        return -INFINITY, INFINITY, makes_nan
    low = max(min(corners), 0.0) if a is b else min(corners)
    return low, max(corners), makes_nan


def _div(a: Expression, b: Expression) -> Bounds:
    makes_nan = (may_be_zero(a) and may_be_zero(b)) or (may_be_infinite(a) and may_be_infinite(b))
    if may_be_zero(b) or may_be_infinite(a) or may_be_infinite(b):
        return -INFINITY, INFINITY, makes_nan
    corners = [x / y for x, y in itertools.product((a.low, a.high), (b.low, b.high))]
    return min(corners), max(corners), makes_nan


def _intdiv(a: Expression, b: Expression) -> Bounds:
    reach = max(abs(a.low), abs(a.high))
    return -reach, reach, may_be_zero(b)


def _mod(a: Expression, b: Expression) -> Bounds:
    return min(a.low, 0.0), max(a.high, 0.0), may_be_zero(b) or may_be_infinite(a)


def _abs(a: Expression) -> Bounds:
    return 0.0, max(abs(a.low), abs(a.high)), False


def _sqrt(a: Expression) -> Bounds:
    return 0.0, math.sqrt(max(a.high, 0.0)), a.low < 0


def _cbrt(a: Expression) -> Bounds:
    # Wider than the cube root may be off.
    low, high = (math.copysign(abs(edge) ** (1 / 3), edge) for edge in (a.low, a.high))
    return low - abs(low) * 0.001, high + abs(high) * 0.001, False


def _exp(a: Expression) -> Bounds:
    return 0.0, math.exp(a.high) * 1.001 if a.high < 709 else INFINITY, False


def _ln(a: Expression) -> Bounds:
    return -INFINITY if a.low <= 0 else -746.0, INFINITY if math.isinf(a.high) else 710.0, a.low < 0


def _pow(a: Expression, b: Expression) -> Bounds:
    is_whole = b.low == b.high and b.low.is_integer()
    return 0.0 if a.low >= 0 else -INFINITY, INFINITY, a.low < 0 and not is_whole


def _wave(a: Expression) -> Bounds:
    return -1.0, 1.0, may_be_infinite(a)


def _tan(a: Expression) -> Bounds:
    # No double is close enough to an odd multiple of pi/2 for the cosine to be zero.
    return -LARGEST_DOUBLE, LARGEST_DOUBLE, may_be_infinite(a)


def _arc(a: Expression) -> Bounds:
    return -math.pi, math.pi, a.low < -1 or a.high > 1


def _angle(*_: Expression) -> Bounds:
    return -math.pi, math.pi, False


def _whole(a: Expression) -> Bounds:
    return a.low - 1, a.high + 1, False


def _to_float(a: Expression) -> Bounds:
    reach = max(abs(a.low), abs(a.high))
    return (-reach * 1.001, reach * 1.001, False) if reach < 3e38 else ANYTHING


def _ordered(low: float, high: float, *, makes_nan: bool) -> Bounds:
    return -INFINITY if math.isnan(low) else low, INFINITY if math.isnan(high) else high, makes_nan


_FINDERS: dict[str, Callable[..., Bounds]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "intdiv": _intdiv,
    "mod": _mod,
    "neg": lambda a: (-a.high, -a.low, False),
    "abs": _abs,
    "sign": lambda _: (-1.0, 1.0, False),
    "sqrt": _sqrt,
    "cbrt": _cbrt,
    "exp": _exp,
    "ln": _ln,
    "pow": _pow,
    "sin": _wave,
    "cos": _wave,
    "tan": _tan,
    "asin": _arc,
    "acos": _arc,
    "atan": _angle,
    "atan2": _angle,
    "floor": _whole,
    "ceil": _whole,
    "trunc": _whole,
    "round": _whole,
    "to_bigint": _whole,
    "to_double": lambda a: (a.low, a.high, False),
    "to_float": _to_float,
}
