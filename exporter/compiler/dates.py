"""Dates and timestamps as stock ONNX operators over doubles: the civil calendar without a table.

A DATE is a whole number of days since 1970-01-01, a TIMESTAMP one of microseconds. Every step is exact: sums
stay under 2**53, a quotient that is cut is further from a whole number than its rounding is wide, and a
remainder of doubles is exact by definition. NaN (NULL) stays NaN throughout. `training.features.dates` has
DuckDB compute the same.

The calendar: March is the first month of a year, so that a leap day is its last. Adding the leap days that
the Gregorian calendar has skipped makes a day number of the Julian one, whose years are 365.25 days, cut.
"""

from __future__ import annotations

from collections.abc import Callable

from timberline.exporter.compiler.formulas import cut
from timberline.exporter.compiler.scalars import NAN, Scalar, ScalarGraph
from timberline.training.features import Call, Expression, Literal, ValueType
from timberline.training.features.dates import is_checked
from timberline.training.features.expressions import DAY_US, LARGEST_DAY

_CYCLE = 146_097.0  # days of 400 Gregorian years; 146,100 of Julian ones
# So many cycles before 1970 every number below is positive, of which Mod needs to know no sign.
_SHIFT = 700
_MARCH_OF_0 = 719_468.0  # days from 0000-03-01 to 1970-01-01
STEPS = {"day": DAY_US, "hour": 3_600e6, "minute": 60e6, "second": 1e6}
# Thirty and thirty-one days in turn, from March on: 153 days are five months.
_MONTH, _YEAR_OF_MONTHS = 30.6, 367.2


class Calendar:
    """Writes what is asked of one graph; equal parts of two questions are one scalar."""

    def __init__(self, graph: ScalarGraph) -> None:
        self._graph = graph

    def year(self, day: Scalar) -> Scalar:
        # Of the Julian day number from January of the year 0 on, of which a year is 365.25 days cut up.
        january = self._add(self._julian(day), 59.375 - _SHIFT * (_CYCLE + 3))
        return self._floor_div(january, 365.25)

    def quarter(self, day: Scalar) -> Scalar:
        return self._make("Ceil", self._div(self._months(day), 3 * _MONTH))

    def month(self, day: Scalar) -> Scalar:
        return self._make("Ceil", self._div(self._months(day), _MONTH))

    def day(self, day: Scalar) -> Scalar:
        return self._make("Ceil", self._mod(self._months(day), _MONTH))

    def dayofyear(self, day: Scalar) -> Scalar:
        return self._make("Sub", self._add(day, 1.0), self.new_year(self.year(day)))

    def dayofweek(self, day: Scalar) -> Scalar:
        return self._mod(self._add(day, 4.0 + _SHIFT * _CYCLE), 7.0)

    def isodow(self, day: Scalar) -> Scalar:
        return self._add(self._mod(self._add(day, 3.0 + _SHIFT * _CYCLE), 7.0), 1.0)

    def week(self, day: Scalar) -> Scalar:
        return self._make("Ceil", self._div(self.dayofyear(self._thursday(day)), 7.0))

    def isoyear(self, day: Scalar) -> Scalar:
        return self.year(self._thursday(day))

    def _month_number(self, day: Scalar) -> Scalar:
        """Months from January of the year 0 on."""
        return self._make("Add", self._mul(self.year(day), 12.0), self._add(self.month(day), -1.0))

    def new_year(self, year: Scalar) -> Scalar:
        """The day of January 1."""
        skipped = self._skipped(self._floor_div(self._add(year, -1.0), 100.0))
        julian = self._make("Ceil", self._mul(year, 365.25))
        return self._add(self._make("Sub", julian, skipped), -60.0 - _MARCH_OF_0)

    def first_of_month(self, months: Scalar) -> Scalar:
        """The first day of a month, by the number that `_month_number` gives."""
        march = self._add(months, -2.0)
        year = self._floor_div(march, 12.0)
        month = self._make("Sub", march, self._mul(year, 12.0))
        julian = self._make("Floor", self._mul(year, 365.25))
        # A tenth keeps five months, which are whole, off the edge.
        days = self._make("Floor", self._add(self._mul(month, _MONTH), 0.5))
        gregorian = self._make("Sub", julian, self._skipped(self._floor_div(year, 100.0)))
        return self._add(self._make("Add", gregorian, days), -_MARCH_OF_0)

    def hour(self, time: Scalar) -> Scalar:
        return self.steps(self._time_of_day(time), "hour")

    def minute(self, time: Scalar) -> Scalar:
        return self.steps(self._mod(self._time_of_day(time), STEPS["hour"]), "minute")

    def second(self, time: Scalar) -> Scalar:
        return self.steps(self._mod(self._time_of_day(time), STEPS["minute"]), "second")

    def to_date(self, time: Scalar) -> Scalar:
        return self.steps(time, "day")

    def to_timestamp(self, day: Scalar) -> Scalar:
        return self._mul(day, DAY_US)

    def steps(self, time: Scalar, unit: str) -> Scalar:
        """How many of these units of time have passed."""
        return self._floor_div(time, STEPS[unit])

    def _time_of_day(self, time: Scalar) -> Scalar:
        return self._make("Sub", time, self.to_timestamp(self.to_date(time)))

    def epoch(self, value: Scalar, kind: ValueType) -> Scalar:
        if kind is ValueType.DATE:
            return self._mul(value, DAY_US / STEPS["second"])
        return self._div(value, STEPS["second"])

    def start(self, unit: str, value: Scalar) -> Scalar:
        """The first day, or microsecond, of the unit that the value is in."""
        match unit:
            case "year":
                return self.new_year(self.year(value))
            case "quarter":
                quarters = self._mul(self._add(self.quarter(value), -1.0), 3.0)
                return self.first_of_month(self._make("Add", self._mul(self.year(value), 12.0), quarters))
            case "month":
                return self._make("Sub", self._add(value, 1.0), self.day(value))
            case "week":
                return self._add(self._thursday(value), -3.0)
        return self._mul(self.steps(value, unit), STEPS[unit])

    def last_day(self, day: Scalar) -> Scalar:
        return self._add(self.first_of_month(self._add(self._month_number(day), 1.0)), -1.0)

    def difference(  # noqa: PLR0911  (one line a unit)
        self, unit: str, start: Scalar, end: Scalar, *, is_late: bool
    ) -> Scalar:
        """Starts of a unit between two values; ``is_late``: neither is before the year 0."""
        match unit:
            case "day":
                return self._make("Sub", end, start)
            case "week":
                return cut(self._graph, self._div(self._make("Sub", end, start), 7.0))
            case "quarter":
                # DuckDB cuts towards zero, which shows before the year 0.
                first, last = (self._div(self._month_number(day), 3.0) for day in (start, end))
                if is_late:
                    return self._make("Sub", self._make("Floor", last), self._make("Floor", first))
                return self._make("Sub", cut(self._graph, last), cut(self._graph, first))
            case "year":
                return self._make("Sub", self.year(end), self.year(start))
            case "month":
                return self._make("Sub", self._month_number(end), self._month_number(start))
        return self._make("Sub", self.steps(end, unit), self.steps(start, unit))

    def shift(self, day: Scalar, count: Scalar, *, is_checked: bool) -> Scalar:
        """The day ``count`` days later; NaN beyond the days that there are."""
        graph, later = self._graph, self._make("Add", day, count)
        if not is_checked:
            return later
        is_day = graph.make("LessOrEqual", graph.make("Abs", later), graph.number(LARGEST_DAY))
        return graph.choose(is_day, later, graph.number(NAN))

    def _thursday(self, day: Scalar) -> Scalar:
        """The Thursday of the day's week, in whose year the week is; 1970-01-01 was one."""
        return self._mul(self._floor_div(self._add(day, 3.0), 7.0), 7.0)

    def _julian(self, day: Scalar) -> Scalar:
        """The Julian days since a 1 March and three quarters, as a leap day makes a year's end."""
        number = self._add(day, _MARCH_OF_0 + 0.75 + _SHIFT * _CYCLE)
        century = self._floor_div(number, 36_524.25)
        return self._make("Add", number, self._skipped(century))

    def _skipped(self, century: Scalar) -> Scalar:
        """Leap days skipped before the century: three of four."""
        return self._make("Ceil", self._mul(century, 0.75))

    def _months(self, day: Scalar) -> Scalar:
        """The day within 12 times 30.6 days from January on; a half keeps it off the edges."""
        since_march = self._make("Floor", self._mod(self._julian(day), 365.25))
        return self._mod(self._add(since_march, 61.7), _YEAR_OF_MONTHS)

    def _make(self, operator: str, *arguments: Scalar) -> Scalar:
        return self._graph.make(operator, *arguments)

    def _add(self, value: Scalar, number: float) -> Scalar:
        return self._make("Add", value, self._graph.number(number))

    def _mul(self, value: Scalar, number: float) -> Scalar:
        return self._make("Mul", value, self._graph.number(number))

    def _div(self, value: Scalar, number: float) -> Scalar:
        return self._make("Div", value, self._graph.number(number))

    def _mod(self, value: Scalar, number: float) -> Scalar:
        return self._make("Mod", value, self._graph.number(number))

    def _floor_div(self, value: Scalar, number: float) -> Scalar:
        return self._make("Floor", self._div(value, number))


_OF_ONE: dict[str, Callable[[Calendar, Scalar], Scalar]] = {
    "year": Calendar.year,
    "quarter": Calendar.quarter,
    "month": Calendar.month,
    "day": Calendar.day,
    "dayofyear": Calendar.dayofyear,
    "dayofweek": Calendar.dayofweek,
    "isodow": Calendar.isodow,
    "week": Calendar.week,
    "isoyear": Calendar.isoyear,
    "hour": Calendar.hour,
    "minute": Calendar.minute,
    "second": Calendar.second,
    "last_day": Calendar.last_day,
    "to_date": Calendar.to_date,
    "to_timestamp": Calendar.to_timestamp,
}
# Days of the year 0 and later count their months from 0 on.
_YEAR_0 = -719_528.0


def build_of_dates(graph: ScalarGraph, call: Call, value_of: Callable[[Expression], Scalar]) -> Scalar | None:
    """The operator as a value of ``graph``; None if it is not one of dates."""
    calendar, arguments = Calendar(graph), call.arguments
    if call.operator in _OF_ONE:
        return _OF_ONE[call.operator](calendar, value_of(arguments[0]))
    match call.operator:
        case "epoch":
            return calendar.epoch(value_of(arguments[0]), arguments[0].type)
        case "date_trunc":
            return calendar.start(_unit(call), value_of(arguments[1]))
        case "date_diff":
            is_late = min(argument.low for argument in arguments[1:]) >= _YEAR_0
            return calendar.difference(_unit(call), *map(value_of, arguments[1:]), is_late=is_late)
        case "date_add":
            return calendar.shift(*map(value_of, arguments), is_checked=is_checked(call))
    return None


def _unit(call: Call) -> str:
    word = call.arguments[0]
    assert isinstance(word, Literal)
    return str(word.value)
