"""Number-valued operators of the feature language as stock ONNX operators over doubles.

The meaning of each stands in `training.features.OPERATORS`. ONNX Runtime's CPU provider, from the
oldest release that the manifest promises (`exporter.graph.runtime.find_minimum_runtime`), has double
kernels for all that is used here but two: `Atan` exists in float only, and is the first guess of a Newton
step that ends in double precision; `Cos` came in 1.29, and is a shifted `Sin`. ``-0`` counts as ``0``
wherever its sign could show: in divisors, bases of powers and atan2; `training.features.program`
writes ``+ 0e0`` there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from timberline.exporter.compiler.scalars import NAN, Scalar, ScalarGraph
from timberline.training.features import Call, Expression, ValueType, may_be_negative_zero, may_be_zero

# Beyond it, arc tangent is pi/2 to the last bit of a double, and float still holds the number.
_STEEPEST = 1e17
# Below it pi/2 can be added to an angle with a rounding under 2**-27, whose square is nothing beside 1.
SHIFTABLE = 2.0**26


def build_formula(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar | None:
    """The operator over its translated arguments; None if it is not one of numbers."""
    direct = _DIRECT.get(call.operator)
    if direct:
        return graph.make(direct, *arguments)
    formula = _FORMULAS.get(call.operator)
    return formula(graph, call, arguments) if formula else None


_DIRECT = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "mod": "Mod",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "ln": "Log",
    "sin": "Sin",
    "floor": "Floor",
    "ceil": "Ceil",
    "to_float": "to_float",
}


def _intdiv(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    a, b = arguments
    quotient = cut(graph, graph.make("Div", a, b))
    if not may_be_zero(call.arguments[1]):
        return quotient
    return graph.choose(graph.make("Equal", b, graph.number(0.0)), graph.number(NAN), quotient)


def cut(graph: ScalarGraph, value: Scalar) -> Scalar:
    """The value cut towards zero."""
    is_negative = graph.make("Less", value, graph.number(0.0))
    return graph.choose(is_negative, graph.make("Ceil", value), graph.make("Floor", value))


def _round(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    """Half away from zero. ``floor(|x| + 0.5)`` would be shorter, and wrong at 0.49999999999999994."""
    (x,) = arguments
    half = graph.number(0.5)
    to_even = graph.make("Round", x)
    is_tie = graph.make("Equal", graph.make("Abs", graph.make("Sub", x, to_even)), half)
    away = graph.make("Add", x, graph.make("Mul", graph.make("Sign", x), half))
    return graph.choose(is_tie, away, to_even)


def _to_bigint(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    is_whole = call.arguments[0].type in {ValueType.BOOLEAN, ValueType.BIGINT}
    return arguments[0] if is_whole else graph.make("Round", arguments[0])


def _pow(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    base, exponent = call.arguments
    a, b = arguments
    power = graph.make("Pow", _plus_zero(graph, base, a), b)
    # pow(NaN, 0) and pow(1, NaN) are 1; NULL to any power, or any number to the power NULL, is NULL.
    hidden = []
    if base.nullable and may_be_zero(exponent):
        hidden.append(graph.make("IsNaN", a))
    if exponent.nullable and base.low <= 1 <= base.high:
        hidden.append(graph.make("IsNaN", b))
    return graph.choose(graph.some(hidden), graph.number(NAN), power)


def _cbrt(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    """A power of the magnitude, and one Newton step: the third of an exponent is rounded."""
    (x,) = arguments
    size, third = graph.make("Abs", x), graph.number(1 / 3)
    root = graph.make("Pow", size, third)
    excess = graph.make("Sub", root, graph.make("Div", size, graph.make("Mul", root, root)))
    root_again = graph.make("Sub", root, graph.make("Mul", excess, third))
    value = call.arguments[0]
    # 0 / 0 and infinity / infinity have no step.
    if may_be_zero(value) or math.isinf(value.low) or math.isinf(value.high):
        has_step = graph.make("Equal", excess, excess)
        root_again = graph.choose(has_step, root_again, root)
    return graph.make("Mul", graph.make("Sign", x), root_again)


def _bits(operator: str, graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    nulls = [
        graph.make("IsNaN", scalar)
        for value, scalar in zip(call.arguments, arguments, strict=True)
        if value.nullable
    ]
    return graph.choose(graph.some(nulls), graph.number(NAN), graph.make(operator, *arguments))


def _cos(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    angle = call.arguments[0]
    return _cosine(graph, arguments[0], max(-angle.low, angle.high))


def _cosine(graph: ScalarGraph, x: Scalar, reach: float) -> Scalar:
    """cos x for ``|x| <= reach``: where that is small, half of the nodes do (`emit` writes them)."""
    return graph.make("cosine", x, payload=reach >= SHIFTABLE)


def _arc_tangent(graph: ScalarGraph, value: Scalar) -> Scalar:
    """y = g + tan(y - g), where g is Atan in float: the angle left is about 1e-7, so tan(e) is e to 1e-21.

    tan(y - g) = (x cos g - sin g) / (cos g + x sin g), from the addition theorem.
    """
    x = graph.make("Clip", value, payload=_STEEPEST)
    guess = graph.make("atan_guess", x)
    sine, cosine = graph.make("Sin", guess), _cosine(graph, guess, math.pi / 2)
    above = graph.make("Sub", graph.make("Mul", x, cosine), sine)
    below = graph.make("Add", graph.make("Mul", x, sine), cosine)
    return graph.make("Add", guess, graph.make("Div", above, below))


def _asin(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    (x,) = arguments
    return _arc_tangent(
        graph, graph.make("Div", x, graph.make("Sqrt", graph.make("Mul", *_around_one(graph, x))))
    )


def _acos(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    """2 atan(sqrt((1 - x) / (1 + x))); pi/2 - asin(x) would lose its digits near 1."""
    ratio = graph.make("Div", *_around_one(graph, arguments[0]))
    return graph.make("Mul", _arc_tangent(graph, graph.make("Sqrt", ratio)), graph.number(2.0))


def _around_one(graph: ScalarGraph, x: Scalar) -> tuple[Scalar, Scalar]:
    one = graph.number(1.0)
    return graph.make("Sub", one, x), graph.make("Add", x, one)


def _atan2(graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    zero, pi = graph.number(0.0), graph.number(math.pi)
    y, x = arguments
    slope = graph.make("Div", y, _plus_zero(graph, call.arguments[1], x))
    if all(math.isinf(max(-e.low, e.high)) for e in call.arguments):
        # Both infinite is a diagonal; their quotient is NaN.
        is_diagonal = graph.every([graph.make("IsInf", y), graph.make("IsInf", x)])
        diagonal = graph.make("Mul", graph.make("Sign", y), graph.make("Sign", x))
        slope = graph.choose(is_diagonal, diagonal, slope)
    # 0/0 is the angle 0, and NULL where x is.
    on_axis = zero
    if call.arguments[1].nullable:
        on_axis = graph.choose(graph.make("IsNaN", x), graph.number(NAN), zero)
    slope = graph.choose(graph.make("Equal", y, zero), on_axis, slope)
    half_turn = graph.choose(graph.make("Less", y, zero), graph.number(-math.pi), pi)
    turn = graph.choose(graph.make("Less", x, zero), half_turn, zero)
    return graph.make("Add", _arc_tangent(graph, slope), turn)


def _extreme(keeps: str, graph: ScalarGraph, call: Call, arguments: list[Scalar]) -> Scalar:
    """NULLs are skipped, as in DuckDB; ONNX's Max and Min would give NaN."""

    def pick(a: Scalar, pair: tuple[Expression, Scalar]) -> Scalar:
        expression, b = pair
        reasons = [graph.make(keeps, a, b)]
        if expression.nullable:
            reasons.append(graph.make("IsNaN", b))
        return graph.choose(graph.some(reasons), a, b)

    pairs = list(zip(call.arguments, arguments, strict=True))
    return functools.reduce(pick, pairs[1:], arguments[0])


def _plus_zero(graph: ScalarGraph, expression: Expression, value: Scalar) -> Scalar:
    """``value``, with 0 for -0. Written 0 - (-x): ONNX Runtime would drop ``x + 0`` as having no effect."""
    if value.operator == "affine" or not may_be_negative_zero(expression):
        return value
    return graph.make("Sub", graph.number(0.0), graph.make("Neg", value))


_Formula = Callable[[ScalarGraph, Call, list[Scalar]], Scalar]
_FORMULAS: dict[str, _Formula] = {
    "div": lambda graph, call, a: graph.make("Div", a[0], _plus_zero(graph, call.arguments[1], a[1])),
    "intdiv": _intdiv,
    "trunc": lambda graph, _, a: cut(graph, *a),
    "round": _round,
    "to_bigint": _to_bigint,
    "to_double": lambda _, __, a: a[0],
    "pow": _pow,
    "cbrt": _cbrt,
    "bit_and": functools.partial(_bits, "bit_and"),
    "bit_or": functools.partial(_bits, "bit_or"),
    "bit_xor": functools.partial(_bits, "bit_xor"),
    "cos": _cos,
    "tan": lambda graph, call, a: graph.make("Div", graph.make("Sin", *a), _cos(graph, call, a)),
    "atan": lambda graph, _, a: _arc_tangent(graph, *a),
    "asin": _asin,
    "acos": _acos,
    "atan2": _atan2,
    "greatest": functools.partial(_extreme, "GreaterOrEqual"),
    "least": functools.partial(_extreme, "LessOrEqual"),
}
