"""Dates and timestamps: which texts and numbers are read, to what, and why others are refused."""

from __future__ import annotations

import datetime

import pytest

from timberline.registry.moments import (
    FIRST_DAY,
    LARGEST_MOMENT,
    LAST_DAY,
    check_time_format,
    moment_of_number,
    parse_moment,
    write_moment,
)
from timberline.registry.signature import Moment

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _days(text: str) -> int:
    return (datetime.date.fromisoformat(text) - _EPOCH.date()).days


def _microseconds(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


@pytest.mark.parametrize("text", ["2013-05-01", "1969-12-31", "0001-01-01", "9999-12-31", "2000-02-29"])
def test_a_date_is_the_days_since_1970(text: str) -> None:
    """Features, golden rows and clients count from one day; Python's calendar says how far it is."""
    assert parse_moment(text, "date") == _days(text)
    assert write_moment(_days(text), "date") == text


@pytest.mark.parametrize("behind", ["T00:00", " 00:00:00", "T00:00:00.000", "T00:00:00Z", " 00:00:00+00:00"])
def test_a_date_with_midnight_is_the_date(behind: str) -> None:
    """Libraries write a column of dates so."""
    assert parse_moment(f"2013-05-01{behind}", "date") == _days("2013-05-01")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2013-05-01", "2013-05-01T00:00:00+00:00"),
        ("2013-05-01T10:30", "2013-05-01T10:30:00+00:00"),
        ("2013-05-01 10:30:15", "2013-05-01T10:30:15+00:00"),
        ("2013-05-01T10:30:15Z", "2013-05-01T10:30:15+00:00"),
        ("2013-05-01T10:30:15+02", "2013-05-01T08:30:15+00:00"),
        ("2013-05-01T10:30:15-0230", "2013-05-01T13:00:15+00:00"),
        ("2013-05-01T10:30:15.1+02:00", "2013-05-01T08:30:15.100000+00:00"),
        ("1969-12-31T23:59:59.9999999", "1969-12-31T23:59:59.999999+00:00"),
    ],
)
def test_a_timestamp_is_the_microseconds_since_1970_in_utc(text: str, same: str) -> None:
    """The offset is taken off; without one the time is UTC."""
    assert parse_moment(text, "timestamp") == _microseconds(same)


@pytest.mark.parametrize(
    ("text", "moment", "why"),
    [
        ("31.12.2013", "date", "is not a date such as 2013-05-01"),
        ("2013-5-1", "date", "is not a date such as"),
        ("2013-02-29", "date", "names a day that does not exist"),
        ("0000-01-01", "date", "names a day that does not exist"),
        ("2013-05-01T10:00", "date", "is not a date alone"),
        ("2013-05-01T00:00+02:00", "date", "is not a date alone"),
        ("", "date", "is not a date such as"),
        ("2013-05-01\n", "date", "is not a date such as"),
        ("٢013-05-01", "date", "is not a date such as"),
        ("2013-05-01T24:00", "timestamp", "is not a timestamp such as"),
        ("2013-05-01T10:00 Europe/Berlin", "timestamp", "names a time zone"),
        ("2013-05-01T10:00:00 CET", "timestamp", "names a time zone"),
        ("2255-06-05T23:47:34.740992", "timestamp", "is beyond"),
        ("1600-01-01", "timestamp", "is beyond"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_reason(text: str, moment: Moment, why: str) -> None:
    """A client reads the reason in the answer, and a user of the ETL in the list of rejected rows."""
    with pytest.raises(ValueError, match=why):
        parse_moment(text, moment)


@pytest.mark.parametrize(
    ("text", "time_format", "same"),
    [
        ("31.12.2013", "%d.%m.%Y", "2013-12-31T00:00:00+00:00"),
        ("1.2.69", "%-d.%-m.%y", "1969-02-01T00:00:00+00:00"),
        ("1.2.68", "%d.%m.%y", "2068-02-01T00:00:00+00:00"),
        (" 12/31/2013  1:05 pm ", "%m/%d/%Y %I:%M %p", "2013-12-31T13:05:00+00:00"),
        ("12/31/2013 12:05 AM", "%m/%d/%Y %I:%M %p", "2013-12-31T00:05:00+00:00"),
        ("Tue, 31 DEC 2013", "%a, %d %b %Y", "2013-12-31T00:00:00+00:00"),
        ("Tuesday December 31 2013", "%A %B %d %Y", "2013-12-31T00:00:00+00:00"),
        ("20131231", "%Y%m%d", "2013-12-31T00:00:00+00:00"),
        ("2013 365", "%Y %j", "2013-12-31T00:00:00+00:00"),
        ("2013-12-31 10:00:01.5+02", "%Y-%m-%d %H:%M:%S.%f%z", "2013-12-31T08:00:01.500000+00:00"),
        ("100% 2013-12-31", "100%% %Y-%m-%d", "2013-12-31T00:00:00+00:00"),
    ],
)
def test_a_format_says_how_a_moment_is_written(text: str, time_format: str, same: str) -> None:
    """The files of spreadsheets have days and months in every order."""
    assert parse_moment(text, "timestamp", time_format) == _microseconds(same)


@pytest.mark.parametrize(
    ("text", "time_format", "why"),
    [
        ("2013-12-31", "%d.%m.%Y", "is not a date of the format %d.%m.%Y"),
        ("31.13.2013", "%d.%m.%Y", "has no month from 1 to 12"),
        ("29.02.2013", "%d.%m.%Y", "names a day that does not exist"),
        ("31.12.2013 10:00", "%d.%m.%Y %H:%M", "has a time of day"),
        ("epoch", "%d.%m.%Y", "is not a date of the format"),
        ("1122013", "%d%m%Y", "has no month from 1 to 12"),
        ("\u017fat 01.02.2013", "%a %d.%m.%Y", "is not a date of the format"),
    ],
)
def test_what_does_not_follow_the_format_is_refused(text: str, time_format: str, why: str) -> None:
    """The format is all that tells the day from the month; nothing is guessed."""
    with pytest.raises(ValueError, match=why):
        parse_moment(text, "date", time_format)


@pytest.mark.parametrize(
    ("time_format", "moment", "why"),
    [
        ("%d.%m.%Y %Z", "timestamp", "a time zone by name is not converted"),
        ("%d.%m.%Y %q", "timestamp", "has %q; known are %Y"),
        ("%d.%m.%-B", "timestamp", "has %-B; known are"),
        ("%d.%m.%Y %", "timestamp", "has a single %"),
        ("%d.%m", "date", "names no day"),
        ("%Y %U", "date", "has %U; known are"),
        ("%d.%m.%y %Y", "date", "reads the year twice"),
        ("%Y-%m-%d %j", "date", "has %j beside a month"),
        ("%Y-%m-%d %I:%M", "timestamp", "%I and %p, which go together"),
        ("%Y-%m-%d %z", "date", "a date has no offset"),
    ],
)
def test_a_format_that_tells_no_moment_is_refused(time_format: str, moment: Moment, why: str) -> None:
    """It is refused when model.toml is read, and not after the table was."""
    with pytest.raises(ValueError, match=why):
        check_time_format(time_format, moment)


@pytest.mark.parametrize(
    ("value", "moment", "same"),
    [(0, "date", 0), (-1.0, "date", -1), (1.5, "timestamp", 1_500_000), (-1, "timestamp", -1_000_000)],
)
def test_a_number_is_days_of_a_date_and_seconds_of_a_timestamp(
    value: float, moment: Moment, same: int
) -> None:
    """What a client has at hand; days and seconds are what its language counts in."""
    assert moment_of_number(value, moment) == same


@pytest.mark.parametrize(
    ("value", "moment", "why"),
    [
        (0.5, "date", "is not a whole number of days"),
        (LAST_DAY + 1, "date", "years 1 to 9999"),
        (FIRST_DAY - 1, "date", "years 1 to 9999"),
        (float("nan"), "date", "is not a finite number"),
        (float("inf"), "timestamp", "is not a finite number"),
        (1_357_000_000_000, "timestamp", "is beyond"),
        (10**400, "date", "is not a finite number"),
        (10**400, "timestamp", "is not a finite number"),
        (1e305, "timestamp", "is beyond"),
    ],
)
def test_a_number_that_is_no_moment_is_refused(value: float, moment: Moment, why: str) -> None:
    """Milliseconds in the place of seconds would be a day of the year 44,970."""
    with pytest.raises(ValueError, match=why):
        moment_of_number(value, moment)


@pytest.mark.parametrize("value", [0, 1, -1, LARGEST_MOMENT, -LARGEST_MOMENT, 1_357_034_400_100_000])
def test_a_written_timestamp_is_read_back(value: int) -> None:
    """Model cards and test rows show moments as text that can be sent."""
    assert parse_moment(write_moment(value, "timestamp"), "timestamp") == value
    if value == 1_357_034_400_100_000:
        assert write_moment(value, "timestamp") == "2013-01-01T10:00:00.1Z"
