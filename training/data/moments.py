"""Text of dates and timestamps → whole numbers, as SQL: what `registry.moments.parse_moment` reads.

A service has no DuckDB and the ETL no time for a call a row, so that there are two. They read the same texts
to the same numbers, which a test holds.
"""

from __future__ import annotations

from timberline.registry.moments import DATE_TEXT, FIRST_DAY, LARGEST_MOMENT, LAST_DAY, TIMESTAMP_TEXT
from timberline.registry.signature import Moment
from timberline.training.data.database import literal

_EPOCH = "DATE '1970-01-01'"


def moment_of_text(text: str, moment: Moment, time_format: str | None) -> str:
    """BIGINT days or microseconds since 1970-01-01 of the SQL ``text``; NULL where it stands for none.

    The session's time zone has to be UTC (`open_database`).
    """
    if time_format is not None:
        # "epoch" and "infinity" are texts that strptime knows whatever the format.
        found = (
            f"try_strptime(CASE WHEN regexp_matches({text}, '[0-9]') THEN {text} END, {literal(time_format)})"
        )
        if moment == "date":
            day = f"CAST({found} AS DATE)"
            return _within(f"CASE WHEN {found} = {day} THEN {day} - {_EPOCH} END", moment)
        return _within(f"epoch_us({found})", moment)
    if moment == "date":
        # Beyond the date itself there is midnight at most.
        return _within(f"TRY_CAST({_matching(text, DATE_TEXT)} AS DATE) - {_EPOCH}", moment)
    return _within(f"epoch_us(TRY_CAST({_matching(text, TIMESTAMP_TEXT)} AS TIMESTAMPTZ))", moment)


def moment_of_value(value: str, moment: Moment) -> str:
    """The same of an SQL ``value`` that is a DATE, TIMESTAMP or TIMESTAMPTZ; a date has no time of day."""
    if moment == "timestamp":
        return _within(f"epoch_us({value})", moment)
    return _within(
        f"CASE WHEN {value} = CAST({value} AS DATE) THEN CAST({value} AS DATE) - {_EPOCH} END", moment
    )


def _matching(text: str, pattern: str) -> str:
    return f"CASE WHEN regexp_full_match({text}, {literal(pattern)}) THEN {text} END"


def _within(number: str, moment: Moment) -> str:
    low, high = (FIRST_DAY, LAST_DAY) if moment == "date" else (-LARGEST_MOMENT, LARGEST_MOMENT)
    return f"CASE WHEN {number} BETWEEN {low} AND {high} THEN {number} END"
