"""Between which numbers an operator's result lies, and whether it can be NaN.

Knowing that most values are finite and most divisors are not zero spares guards in the SQL and
nodes in the graph. Bounds may be wide; they may never be too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from timberline.training.features.expressions import INFINITY, LARGEST_DOUBLE, Expression, may_be_zero

# (low, high, whether arguments that are not NULL can give NaN)
Bounds = tuple[float, float, bool]
ANYTHING: Bounds = (-INFINITY, INFINITY, False)


def find_bounds(operator: str, arguments: Sequence[Expression]) -> Bounds:
    """Bounds of a number-valued operator's result."""
    finder = _FINDERS.get(operator)
    return finder(arguments) if finder else ANYTHING


def may_be_infinite(value: Expression) -> bool:
    """Whether plus or minus infinity is possible."""
    return math.isinf(value.low) or math.isinf(value.high)


def hull(values: Sequence[Expression]) -> Bounds:
    """The narrowest bounds around several values."""
    return min(v.low for v in values), max(v.high for v in values), False


def _add(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    return _ordered(a.low + b.low, a.high + b.high, makes_nan=may_be_infinite(a) and may_be_infinite(b))


def _sub(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    return _ordered(a.low - b.high, a.high - b.low, makes_nan=may_be_infinite(a) and may_be_infinite(b))


def _mul(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    corners = [x * y for x, y in itertools.product((a.low, a.high), (b.low, b.high))]
    makes_nan = (may_be_infinite(a) and may_be_zero(b)) or (may_be_infinite(b) and may_be_zero(a))
    if any(map(math.isnan, corners)):
        return -INFINITY, INFINITY, makes_nan
    low = max(min(corners), 0.0) if a is b else min(corners)
    return low, max(corners), makes_nan


def _div(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    makes_nan = (may_be_zero(a) and may_be_zero(b)) or (may_be_infinite(a) and may_be_infinite(b))
    if may_be_zero(b) or may_be_infinite(a) or may_be_infinite(b):
        return -INFINITY, INFINITY, makes_nan
    corners = [_quotient(x, y) for x, y in itertools.product((a.low, a.high), (b.low, b.high))]
    return min(corners), max(corners), makes_nan


def _quotient(a: float, b: float) -> float:
    try:
        return a / b
    except OverflowError:  # pragma: no cover  (floats give infinity; kept for whole-number literals)
        return math.copysign(INFINITY, a) * math.copysign(1, b)


def _intdiv(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    reach = max(abs(a.low), abs(a.high))
    return -reach, reach, may_be_zero(b)


def _mod(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    return min(a.low, 0.0), max(a.high, 0.0), may_be_zero(b) or may_be_infinite(a)


def _neg(arguments: Sequence[Expression]) -> Bounds:
    return -arguments[0].high, -arguments[0].low, False


def _abs(arguments: Sequence[Expression]) -> Bounds:
    (a,) = arguments
    return 0.0, max(abs(a.low), abs(a.high)), False


def _sqrt(arguments: Sequence[Expression]) -> Bounds:
    (a,) = arguments
    return 0.0, math.sqrt(max(a.high, 0.0)), a.low < 0


def _exp(arguments: Sequence[Expression]) -> Bounds:
    (a,) = arguments
    return 0.0, math.exp(a.high) * 1.001 if a.high < 709 else INFINITY, False


def _ln(arguments: Sequence[Expression]) -> Bounds:
    (a,) = arguments
    return -INFINITY if a.low <= 0 else -746.0, INFINITY if math.isinf(a.high) else 710.0, a.low < 0


def _pow(arguments: Sequence[Expression]) -> Bounds:
    a, b = arguments
    is_whole = b.low == b.high and b.low.is_integer()
    return 0.0 if a.low >= 0 else -INFINITY, INFINITY, a.low < 0 and not is_whole


def _wave(arguments: Sequence[Expression]) -> Bounds:
    return -1.0, 1.0, may_be_infinite(arguments[0])


def _tan(arguments: Sequence[Expression]) -> Bounds:
    # No double is close enough to an odd multiple of pi/2 for the cosine to be zero.
    return -LARGEST_DOUBLE, LARGEST_DOUBLE, may_be_infinite(arguments[0])


def _arc(arguments: Sequence[Expression]) -> Bounds:
    return -math.pi, math.pi, arguments[0].low < -1 or arguments[0].high > 1


def _angle(_: Sequence[Expression]) -> Bounds:
    return -math.pi, math.pi, False


def _whole(arguments: Sequence[Expression]) -> Bounds:
    (a,) = arguments
    return a.low - 1, a.high + 1, False


def _unit(_: Sequence[Expression]) -> Bounds:
    return -1.0, 1.0, False


def _to_float(arguments: Sequence[Expression]) -> Bounds:
    (a,) = arguments
    reach = max(abs(a.low), abs(a.high))
    return (-reach * 1.001, reach * 1.001, False) if reach < 3e38 else ANYTHING


def _ordered(low: float, high: float, *, makes_nan: bool) -> Bounds:
    return -INFINITY if math.isnan(low) else low, INFINITY if math.isnan(high) else high, makes_nan


_FINDERS: dict[str, Callable[[Sequence[Expression]], Bounds]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "intdiv": _intdiv,
    "mod": _mod,
    "neg": _neg,
    "abs": _abs,
    "sign": _unit,
    "sqrt": _sqrt,
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
    "to_double": hull,
    "to_float": _to_float,
}
