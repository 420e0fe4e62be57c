"""Dates and timestamps as text and as whole numbers: the one place that parses and writes them.

A date is the days since 1970-01-01, a timestamp the microseconds since then in UTC (`signature.Moment`).
What can be read is what DuckDB reads to the same number, so that the ETL and a service agree:

- ISO 8601, which is `DATE_TEXT` or `TIMESTAMP_TEXT` with blanks around, and a day that there is. The ETL
  matches these expressions too, as DuckDB's CAST alone takes more, and leaves away what does not fit: the
  time of day of a date, the offset of a timestamp;
- with a format of a column, what DuckDB's ``strptime`` reads by it.

A `ValueError` of this module has the reason as a predicate, to stand behind the text.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Sequence

from timberline.registry.signature import Column, Moment

# One raw value; None is NULL.
Value = float | int | bool | str | None
_LARGEST_DOUBLE = sys.float_info.max
_DAY_US = 86_400_000_000
# Beyond these a whole number is not exact in the graph's FP64: a timestamp of 1684 to 2255.
LARGEST_MOMENT = 2**53 - 1
FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = r"(?:[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
DATE_TEXT = rf"{_DATE}(?:[T ]00:00(?::00(?:\.0+)?)?(?:Z|[+-]00(?::?00)?)?)?"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?"
TIMESTAMP_TEXT = rf"{_DATE}(?:[T ]{_TIME}(?:Z|{_OFFSET})?)?"

_ISO_DATE = re.compile(DATE_TEXT)
_ISO_TIMESTAMP = re.compile(
    r"(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})"
    r"(?:[T ](?P<H>[01][0-9]|2[0-3]):(?P<M>[0-5][0-9])(?::(?P<S>[0-5][0-9])(?:\.(?P<f>[0-9]+))?)?"
    rf"(?:Z|(?P<z>{_OFFSET}))?)?"
)
_NAMED_ZONE = re.compile(rf"{_DATE}[T ][0-9:.]+ ?[A-Za-z][A-Za-z_/+-]+[0-9]*")

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)


def _any_of(names: tuple[str, ...], length: int | None = None) -> str:
    return "|".join(name[:length] for name in names)


# How each letter is read: the part of a moment that it sets, and its text.
_LETTERS: dict[str, tuple[str, str]] = {
    "Y": ("year", "[0-9]{1,4}"),
    "y": ("year", "[0-9]{1,2}"),
    "m": ("month", "[0-9]{1,2}"),
    "b": ("month", _any_of(_MONTHS, 3)),
    "B": ("month", _any_of(_MONTHS)),
    "d": ("day", "[0-9]{1,2}"),
    "j": ("day of the year", "[0-9]{1,3}"),
    "H": ("hour", "[0-9]{1,2}"),
    "I": ("hour", "[0-9]{1,2}"),
    "p": ("half of the day", "AM|PM"),
    "M": ("minute", "[0-9]{1,2}"),
    "S": ("second", "[0-9]{1,2}"),
    "f": ("fraction of a second", "[0-9]{1,6}"),
    "a": ("weekday", _any_of(_WEEKDAYS, 3)),
    "A": ("weekday", _any_of(_WEEKDAYS)),
    "z": ("offset", "[+-][0-9]{2}(?::[0-9]{2}(?::[0-9]{2})?|[0-9]{2})?"),
}
# With a hyphen DuckDB writes no leading zero; it reads both alike.
_UNPADDED = "ymdjHIMS"
_KNOWN = " ".join([*(f"%{letter}" for letter in _LETTERS), *(f"%-{letter}" for letter in _UNPADDED), "%%"])
_SPECIFIER = re.compile(r"%(?:(-?)([A-Za-z])|(%))")
_SPACES = " \t\n\v\f\r"
_RANGES = {"m": (1, 12), "d": (1, 31), "j": (1, 366), "H": (0, 23), "I": (1, 12), "M": (0, 59), "S": (0, 59)}


def parse_moment(text: str, moment: Moment, time_format: str | None = None) -> int:
    """The days or microseconds since 1970-01-01 that ``text`` stands for.

    Args:
        text: ISO 8601 (`DATE_TEXT`, `TIMESTAMP_TEXT`), blanks around it or not; without an offset it is UTC,
            and digits beyond microseconds are cut off.
        time_format: how it is written instead, in the letters of `check_time_format`; blanks around the text
            and runs of them count as DuckDB's ``strptime`` counts them.

    Raises:
        ValueError: it is no such moment, names a time zone, a date has a time of day, or a timestamp is
            beyond ±(2^53 - 1) microseconds.
    """
    return _read(moment, time_format)(text)


def write_moment(value: int, moment: Moment) -> str:
    """ISO 8601: ``2013-05-01``, or ``2013-05-01T10:00:00Z`` with as many digits of a second as it needs.

    Raises:
        ValueError: the year is not within 1 and 9999.
    """
    days, rest = (value, 0) if moment == "date" else divmod(value, _DAY_US)
    if not FIRST_DAY <= days <= LAST_DAY:
        raise ValueError("is not within the years 1 to 9999")
    year, month, day = _civil(days)
    date = f"{year:04}-{month:02}-{day:02}"
    if moment == "date":
        return date
    seconds, fraction = divmod(rest, 1_000_000)
    minutes, second = divmod(seconds, 60)
    behind = f".{fraction:06}".rstrip("0") if fraction else ""
    return f"{date}T{minutes // 60:02}:{minutes % 60:02}:{second:02}{behind}Z"


def write_row(row: Sequence[Value], columns: Sequence[Column]) -> tuple[Value, ...]:
    """A row as the graph takes it, in the order of ``columns``, as clients send it: moments are ISO 8601.

    Raises:
        ValueError: as `write_moment`.
    """
    pairs = zip(row, columns, strict=True)
    return tuple([v if v is None or c.moment is None else write_moment(int(v), c.moment) for v, c in pairs])


def moment_of_number(value: float, moment: Moment) -> int:
    """The moment that a client's number stands for: whole days of a date, seconds of a timestamp.

    Seconds are rounded to microseconds, which is exact where a double is.

    Raises:
        ValueError: it is not finite, a date is not whole, or the moment is out of range.
    """
    if not abs(value) <= _LARGEST_DOUBLE:
        raise ValueError("is not a finite number")
    if moment == "timestamp":
        scaled = value * (1_000_000 if isinstance(value, int) else 1e6)  # infinite from 1.8e302 on
        return _within(round(scaled) if math.isfinite(scaled) else LARGEST_MOMENT + 1)
    days = int(value)
    if days != value:
        raise ValueError("is not a whole number of days since 1970-01-01")
    if not FIRST_DAY <= days <= LAST_DAY:
        raise ValueError("is not within the years 1 to 9999")
    return days


def check_time_format(time_format: str, moment: Moment) -> None:
    """Refuse a format that does not tell one moment from another, or that DuckDB would read otherwise.

    Raises:
        ValueError: it has an unknown letter, sets a part twice, lacks the day, or reads what ``moment``
            has not.
    """
    found = _letters(time_format)
    parts = [_LETTERS[letter][0] for letter in found]
    for part in parts:
        if parts.count(part) > 1:
            raise ValueError(f"reads the {part} twice")
    named = set(parts)
    is_day = {"year", "month", "day"} <= named or {"year", "day of the year"} <= named
    if not is_day:
        raise ValueError("names no day: it needs %Y or %y, a month (%m, %b or %B) and %d, or %Y and %j")
    if "day of the year" in named and named & {"month", "day"}:
        raise ValueError("has %j beside a month or a day, and either would do")
    if ("I" in found) != ("p" in found):
        raise ValueError("has one of %I and %p, which go together; hours from 0 to 23 are %H")
    if moment == "date" and "offset" in named:
        raise ValueError('has %z, and a date has no offset; declare the column as type = "timestamp"')


def _letters(time_format: str) -> list[str]:
    behind = _SPECIFIER.sub("", time_format)
    if "%Z" in time_format or "%-Z" in time_format:
        raise ValueError(
            "has %Z: a time zone by name is not converted; write the offset (%z), or times of UTC without one"
        )
    letters = [letter for _, letter, _ in _SPECIFIER.findall(time_format) if letter]
    unknown = next(
        (
            f"%{hyphen}{letter}"
            for hyphen, letter, _ in _SPECIFIER.findall(time_format)
            if letter and (letter not in _LETTERS or (hyphen and letter not in _UNPADDED))
        ),
        "a single %" if "%" in behind else None,
    )
    if unknown:
        raise ValueError(f"has {unknown}; known are {_KNOWN}")
    return letters


@functools.lru_cache(maxsize=256)
def _read(moment: Moment, time_format: str | None) -> Callable[[str], int]:
    """What reads texts of one column; it remembers some, as the same day stands in many rows."""
    remember = functools.lru_cache(maxsize=65_536)
    if time_format is not None:
        check_time_format(time_format, moment)
        pattern = _compile(time_format)
        return remember(lambda text: _parse_by_format(text, pattern, time_format, moment))
    return remember(_parse_iso_date if moment == "date" else _parse_iso_timestamp)


def _parse_iso_date(text: str) -> int:
    text = text.strip(" ")
    if _ISO_DATE.fullmatch(text):
        return _days(int(text[:4]), int(text[5:7]), int(text[8:10]))
    if _ISO_TIMESTAMP.fullmatch(text):
        raise ValueError("is not a date alone: it has a time of day or an offset")
    raise ValueError("is not a date such as 2013-05-01")


def _parse_iso_timestamp(text: str) -> int:
    text = text.strip(" ")
    found = _ISO_TIMESTAMP.fullmatch(text)
    if not found:
        if _NAMED_ZONE.fullmatch(text):
            raise ValueError("names a time zone; write its offset, such as +02:00, or the time of UTC")
        raise ValueError("is not a timestamp such as 2013-05-01T10:00:00Z")
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    whole = _days(int(year), int(month), int(day)) * _DAY_US
    if hour:
        seconds = int(hour) * 3600 + int(minute) * 60 + int(second or 0) - _offset_seconds(offset)
        whole += seconds * 1_000_000 + int((fraction or "0")[:6].ljust(6, "0"))
    return _within(whole)


def _compile(time_format: str) -> re.Pattern[str]:
    """The format as an expression that takes what ``strptime`` takes; as that does, it never goes back."""
    parts: list[str] = []
    at = 0
    for specifier in _SPECIFIER.finditer(time_format):
        parts.append(_literal(time_format[at : specifier.start()]))
        _, letter, percent = specifier.groups()
        parts.append(f"(?P<{letter}>(?>(?:{_LETTERS[letter][1]})))" if letter else percent)
        at = specifier.end()
    parts.append(_literal(time_format[at:]))
    return re.compile(f"[{_SPACES}]*+{''.join(parts)}[{_SPACES}]*+", re.IGNORECASE | re.ASCII)


def _literal(text: str) -> str:
    """Any blanks match any others; letters match as they are."""
    pieces = re.split(f"[{_SPACES}]+", text)
    return f"[{_SPACES}]++".join(f"(?-i:{re.escape(piece)})" if piece else "" for piece in pieces)


def _parse_by_format(text: str, pattern: re.Pattern[str], time_format: str, moment: Moment) -> int:
    matched = pattern.fullmatch(text)
    if not matched:
        raise ValueError(f"is not a {moment} of the format {time_format}")
    found = matched.groupdict()
    for letter, (low, high) in _RANGES.items():
        if letter in found and not low <= int(found[letter]) <= high:
            raise ValueError(
                f"has no {_LETTERS[letter][0]} from {low} to {high}, by the format {time_format}"
            )
    if "j" in found:
        days = _days(_year(found), 1, 1) + int(found["j"]) - 1
    else:
        days = _days(_year(found), _month(found), int(found["d"]))
    if days > LAST_DAY:
        raise ValueError("is not within the years 1 to 9999")
    seconds = _hour(found) * 3600 + int(found.get("M", 0)) * 60 + int(found.get("S", 0))
    rest = (seconds - _offset_seconds(found.get("z"))) * 1_000_000 + int(found.get("f", "0").ljust(6, "0"))
    if moment == "timestamp":
        return _within(days * _DAY_US + rest)
    if rest:
        raise ValueError('has a time of day, and a date has none; declare the column as type = "timestamp"')
    return days


def _year(found: dict[str, str]) -> int:
    if "Y" in found:
        return int(found["Y"])
    year = int(found["y"])
    return year + (1900 if year > 68 else 2000)


def _month(found: dict[str, str]) -> int:
    if "m" in found:
        return int(found["m"])
    name = (found.get("b") or found["B"])[:3].title()
    return 1 + [month[:3] for month in _MONTHS].index(name)


def _hour(found: dict[str, str]) -> int:
    if "I" not in found:
        return int(found.get("H", 0))
    return int(found["I"]) % 12 + 12 * (found["p"].upper() == "PM")


def _offset_seconds(offset: str | None) -> int:
    if not offset:
        return 0
    digits = offset[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:])
    return -seconds if offset[0] == "-" else seconds


def _within(microseconds: int) -> int:
    if abs(microseconds) > LARGEST_MOMENT:
        raise ValueError("is beyond ±(2^53 - 1) microseconds from 1970-01-01, the years 1684 to 2255")
    return microseconds


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a day of the proleptic Gregorian calendar.

    Raises:
        ValueError: there is no such day.
    """
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year < 1 or not 1 <= month <= 12:
        raise ValueError("names a day that does not exist")
    length = 29 if month == 2 and is_leap else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    if not 1 <= day <= length:
        raise ValueError("names a day that does not exist")
    before = year - 1
    leaps = before // 4 - before // 100 + before // 400
    return before * 365 + leaps + _DAYS_BEFORE[month - 1] + (month > 2 and is_leap) + day - 1 + FIRST_DAY


def _civil(days: int) -> tuple[int, int, int]:
    # Late: a service that has no dates does without it.
    import datetime  # noqa: PLC0415

    date = datetime.date.fromordinal(days - FIRST_DAY + 1)
    return date.year, date.month, date.day
