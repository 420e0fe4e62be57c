"""Expressions that only choose: constants, by comparisons of one value with constants.

``x = 'c'``, ``coalesce(x = 'c', false)``, ``x IS NOT NULL AND x = 'c'`` and ``CASE WHEN x = 'c' THEN 1
ELSE 0 END`` differ in form and not, or only where x is NULL, in meaning. Such an expression is a table over
the few cases that it can tell apart: NULL, each constant, and what lies between. `tabulate` computes that
table with the language's own three-valued logic; `write` makes scalars of a table and knows nothing of the
form it came from, so that equal meanings are equal scalars and cost the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timberline.exporter.compiler.scalars import NAN, Scalar, ScalarGraph
from timberline.training.features import Call, Expression, Literal, ValueType

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

# Operators that compute nothing new: their values are arguments, constants, or truths about them.
_LOGIC = {"and", "or", "not"}
_COMPARE: dict[str, Callable[[Doubles, Doubles], Bools]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
CHOOSING = {*_LOGIC, *_COMPARE, "is_null", "case", "coalesce", "to_double", "to_bigint", "to_float"}
# Costs of writing a set of cases, in nodes: what is cheapest is written.
_NOT_COST, _AND_COST = 0.5, 1.5
_UNTESTABLE = math.inf


@dataclass(frozen=True)
class Cases:
    """The cases of one value: ``points`` stand for them, in ascending order behind NULL (NaN).

    Args:
        value: the value itself.
        kind: VARCHAR (a number in the vocabulary, 0 for any other text), BOOLEAN, or a number's type.
        points: float64 (cases,); a range between two constants is represented by a number in it.
        is_range: which cases are more than one value: the ranges, and "any other text".
    """

    value: Scalar
    kind: ValueType
    points: Doubles
    is_range: Bools


@dataclass(frozen=True)
class Table:
    """What an expression is in each case: ``values`` (cases,), NULL as NaN, a boolean as 0 or 1.

    ``is_own``: where it is the compared value itself.
    """

    cases: Cases
    values: Doubles
    is_own: Bools


def make_cases(
    value: Scalar, expression: Expression, constants: set[float | str], vocabulary: Mapping[str, float]
) -> Cases:
    """The cases that comparisons with ``constants`` tell apart of ``value``, which ``expression`` became."""
    if expression.type is ValueType.VARCHAR:
        words = sorted(vocabulary[c] for c in constants if isinstance(c, str))
        points, is_range = [0.0, *words], [True] + [False] * len(words)
    elif expression.type is ValueType.BOOLEAN:
        points, is_range = [0.0, 1.0], [False, False]
    else:
        points, is_range = _cut([c for c in constants if not isinstance(c, str)])
    if expression.nullable:
        points, is_range = [NAN, *points], [False, *is_range]
    return Cases(value, expression.type, np.array(points), np.array(is_range))


def _cut(constants: list[float]) -> tuple[list[float], list[bool]]:
    """Each constant and, where there is a double, a number between it and the next; at the ends infinity."""
    points, is_range = [-math.inf], [True]
    cuts = sorted(set(constants))
    for index, cut in enumerate(cuts):
        points.append(cut)
        is_range.append(False)
        is_last = index == len(cuts) - 1
        between = math.inf if is_last else math.nextafter(cut, math.inf)
        if is_last or between < cuts[index + 1]:
            points.append(between)
            is_range.append(True)
    return points, is_range


# The table of an expression.


@dataclass(frozen=True)
class _Column:
    """One expression over the cases; of a condition, ``values`` are 0, 1 and NaN."""

    values: Doubles
    is_own: Bools

    @property
    def is_null(self) -> Bools:
        return np.isnan(self.values)


def tabulate(
    expression: Call,
    value: Scalar,
    subject: Expression,
    is_subject: Callable[[Expression], bool],
    constants: Iterable[Literal],
    vocabulary: Mapping[str, float],
) -> Table | None:
    """What ``expression`` is in each case; None if a part of it computes with the value itself.

    Args:
        expression: made of `CHOOSING` operators over ``constants`` and the subject.
        value: what it chooses by.
        subject: an expression that became ``value``.
        is_subject: whether a part is such an expression.
        constants: the literals in it.
        vocabulary: the number of every text among them.
    """
    cuts = {c.value for c in constants if c.value is not None}
    while True:
        tabulator = _Tabulator(make_cases(value, subject, cuts, vocabulary), is_subject, vocabulary)
        column = tabulator.column(expression)
        if column is None:
            return None
        # A condition or a rounded constant is compared with too; each pass finds what the last one led to.
        if not tabulator.missing:
            return Table(tabulator.cases, column.values, column.is_own)
        cuts |= tabulator.missing


class _Tabulator:
    """Computes expressions over ``cases``; ``missing`` fills with numbers that should have been a case."""

    def __init__(
        self, cases: Cases, is_subject: Callable[[Expression], bool], vocabulary: Mapping[str, float]
    ) -> None:
        self.cases = cases
        self.missing: set[float] = set()
        self._is_subject = is_subject
        self._vocabulary = vocabulary
        self._nothing = np.zeros(len(cases.points), dtype=bool)
        self._known: dict[Expression, _Column | None] = {}

    def column(self, expression: Expression) -> _Column | None:
        if isinstance(expression, Literal):
            return self._constant(expression)
        if self._is_subject(expression):
            return _Column(self.cases.points, ~self._nothing)
        assert isinstance(expression, Call)
        if expression.operator in _COMPARE:
            return self._compute(expression)  # not kept: a long IN list would keep a column a constant
        if expression not in self._known:
            self._known[expression] = self._compute(expression)
        return self._known[expression]

    def _constant(self, literal: Literal) -> _Column:
        value = literal.value
        number = NAN if value is None else self._vocabulary[value] if isinstance(value, str) else float(value)
        return _Column(np.full(len(self.cases.points), number), self._nothing)

    def _compute(self, call: Call) -> _Column | None:  # noqa: PLR0911  (one line a kind of operator)
        if call.operator in {"and", "or"}:
            return self._combine(call)
        if call.operator == "case":
            return self._case(call)
        columns = []
        for argument in call.arguments:
            column = self.column(argument)
            if column is None:
                return None
            columns.append(column)
        if call.operator in _COMPARE:
            a, b = columns
            if not any(isinstance(argument, Literal) for argument in call.arguments):
                self._require_cases(a, b)
            found = _COMPARE[call.operator](a.values, b.values).astype(np.float64)
            return _Column(np.where(a.is_null | b.is_null, NAN, found), self._nothing)
        match call.operator:
            case "not":
                return _Column(1.0 - columns[0].values, self._nothing)
            case "is_null":
                return _Column(columns[0].is_null.astype(np.float64), self._nothing)
            case "coalesce":
                return functools.reduce(lambda b, a: _where(a.is_null, b, a), reversed(columns))
        return self._cast(call, columns[0])

    def _require_cases(self, a: _Column, b: _Column) -> None:
        """Note what a range is compared with and would have to be cut at."""
        for own, other in ((a, b), (b, a)):
            found = other.values[own.is_own & ~other.is_own & self.cases.is_range]
            self.missing |= set(found[~np.isnan(found)].tolist()) - set(self.cases.points.tolist())

    def _combine(self, call: Call) -> _Column | None:
        """AND or OR: what decides, else NULL if there is one."""
        deciding = 0.0 if call.operator == "and" else 1.0
        decided, unknown = self._nothing.copy(), self._nothing.copy()
        for argument in call.arguments:
            column = self.column(argument)
            if column is None:
                return None
            decided |= column.values == deciding
            unknown |= column.is_null
        values = np.where(decided, deciding, np.where(unknown, NAN, 1.0 - deciding))
        return _Column(values, self._nothing)

    def _case(self, call: Call) -> _Column | None:
        """From the last branch to the first, so that no two of a thousand branches are held at a time."""
        *pairs, default = call.arguments
        result = self.column(default)
        for condition, value in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
            is_chosen, chosen = self.column(condition), self.column(value)
            if is_chosen is None or chosen is None or result is None:
                return None
            result = _where(is_chosen.values == 1.0, chosen, result)
        return result

    def _cast(self, call: Call, column: _Column) -> _Column | None:
        """A cast of a whole number or to DOUBLE changes nothing; one that rounds is for constants only."""
        is_whole = call.arguments[0].type in {ValueType.BOOLEAN, ValueType.BIGINT}
        if call.operator == "to_double" or (call.operator == "to_bigint" and is_whole):
            return column
        if (column.is_own & self.cases.is_range).any():
            return None
        if call.operator == "to_bigint":
            return _Column(np.rint(column.values), self._nothing)
        with np.errstate(over="ignore"):
            return _Column(column.values.astype(np.float32).astype(np.float64), self._nothing)


def _where(condition: Bools, a: _Column, b: _Column) -> _Column:
    return _Column(np.where(condition, a.values, b.values), np.where(condition, a.is_own, b.is_own))


# Scalars of a table.


def write(graph: ScalarGraph, table: Table, table_branches: int) -> Scalar:
    """The table as a double: the commonest value, and where the others are.

    Args:
        graph: where to make it.
        table: what to make.
        table_branches: from how many branches on they are one look-up and not a chain.
    """
    cases = table.cases
    own = _own(table)
    tests = {cases.value: _Test(cases, own)} if own.any() else {}
    is_null = np.isnan(table.values) & ~own
    for value in dict.fromkeys(table.values[~own & ~is_null].tolist()):
        tests[graph.number(value)] = _Test(cases, (table.values == value) & ~own)
    # NULL is chosen last: that choice is then the same for every constant that the value is compared with.
    if is_null.any():
        tests[graph.number(NAN)] = _Test(cases, is_null)
    rest = max(tests, key=lambda value: tests[value].cost)
    branches = [value for value in tests if value is not rest]
    conditions = [tests[value].write(graph) for value in branches]
    if len(branches) >= table_branches:
        return graph.make("select", *conditions, *branches, rest)
    result = rest
    for condition, value in reversed(list(zip(conditions, branches, strict=True))):
        result = graph.choose(condition, value, result)
    return result


def _own(table: Table) -> Bools:
    """Where the expression is the compared value itself and no constant would do.

    A case of one value counts as well where another one needs it: NULL beside a range costs nothing then.
    """
    cases = table.cases
    same: Bools = (table.values == cases.points) | (np.isnan(table.values) & np.isnan(cases.points))
    if same.all() and table.is_own[cases.is_range].all():
        return same
    is_needed: Bools = table.is_own & cases.is_range
    return is_needed | (same & ~cases.is_range) if is_needed.any() else is_needed


def write_truth(graph: ScalarGraph, table: Table, wanted: bool) -> Scalar:
    """Whether the condition is true (or, if ``wanted`` is False, false)."""
    return _Test(table.cases, table.values == float(wanted)).write(graph)


class _Test:
    """Whether the value is in one of the cases ``inside``, or, if that is cheaper, in none of the others."""

    def __init__(self, cases: Cases, inside: Bools) -> None:
        self._cases = cases
        inner, outer = _list_parts(cases, inside), _list_parts(cases, ~inside)
        straight, around = _cost(cases, inner), _cost(cases, outer) + _NOT_COST
        self._is_straight = straight <= around
        self._parts = inner if self._is_straight else outer
        self.cost = min(straight, around)

    def write(self, graph: ScalarGraph) -> Scalar:
        """The test as a bool."""
        assert self._parts is not None
        found = graph.some([_write_part(graph, self._cases, *part) for part in self._parts])
        return found if self._is_straight else graph.negate(found)


# First and last case, both included, of a run of neighbours.
_Part = tuple[int, int]


def _list_parts(cases: Cases, inside: Bools) -> list[_Part] | None:
    """The runs that make up ``inside``; None if there is no telling "any other text" by itself."""
    if cases.kind is ValueType.VARCHAR and (inside & cases.is_range).any():
        return None
    if cases.kind in {ValueType.VARCHAR, ValueType.BOOLEAN}:
        return [(index, index) for index in np.flatnonzero(inside).tolist()]
    has_null = bool(inside[0]) and math.isnan(cases.points[0])
    steps = np.diff(np.concatenate(([False], inside, [False])).astype(np.int8))
    if has_null:
        steps[:2] = 0, int(inside[1])
    starts, ends = np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
    return [(0, 0)] * has_null + [(start, end - 1) for start, end in zip(starts, ends, strict=True)]


def _cost(cases: Cases, parts: list[_Part] | None) -> float:
    return _UNTESTABLE if parts is None else sum(_cost_part(cases, *part) for part in parts)


def _cost_part(cases: Cases, first: int, last: int) -> float:
    is_between = first != last or bool(cases.is_range[first])
    is_bounded = cases.points[first] > -math.inf and last < len(cases.points) - 1
    return 1.0 + _AND_COST if is_between and is_bounded else 1.0


def _write_part(graph: ScalarGraph, cases: Cases, first: int, last: int) -> Scalar:
    value, low = cases.value, float(cases.points[first])
    if math.isnan(low):
        return graph.make("IsNaN", value)
    if cases.kind is ValueType.BOOLEAN:
        return graph.make("Greater" if low else "Less", value, graph.number(0.5))
    if first == last and not cases.is_range[first]:
        return graph.make("Equal", value, graph.number(low))
    bounds = []
    if low > -math.inf:
        is_open = cases.is_range[first]
        edge = graph.number(float(cases.points[first - is_open]))
        bounds.append(graph.make("Greater" if is_open else "GreaterOrEqual", value, edge))
    if last < len(cases.points) - 1:
        is_open = cases.is_range[last]
        edge = graph.number(float(cases.points[last + is_open]))
        bounds.append(graph.make("Less" if is_open else "LessOrEqual", value, edge))
    return graph.every(bounds) if bounds else graph.negate(graph.make("IsNaN", value))
