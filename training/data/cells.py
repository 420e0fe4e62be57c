"""What a cell of a source file is as a value of its column, as SQL.

DuckDB's reader converts whole numbers, numbers, booleans and text by itself. It has no way to take a format
for one column, or digits in groups of three and no others: such cells are text, and converted here. A
service has no DuckDB and reads the same cells to the same values (`registry.moments.parse_moment`), which a
test holds.
"""

from __future__ import annotations

from timberline.registry.moments import DATE_TEXT, FIRST_DAY, LARGEST_MOMENT, LAST_DAY, TIMESTAMP_TEXT
from timberline.registry.rows import quote
from timberline.registry.signature import Moment
from timberline.training.config import MOMENTS, ColumnSection, EtlSection
from timberline.training.data.database import literal

_EPOCH = "DATE '1970-01-01'"
# Wide whole numbers are read with 19 digits before the point and 18 behind it; others as DOUBLE, which is
# faster to read and to check, and exact as long as they are what their column declares.
_WIDE_TYPE = "DECIMAL(37, 18)"
_INTEGER_BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}


def storage_type(column: ColumnSection) -> str:
    """The smallest whole-number type that holds the declared range or the allowed values."""
    bounds = [value for value in column.allowed or () if not isinstance(value, str)] or column.bounds
    if not bounds:
        return "BIGINT"
    for name, bits in _INTEGER_BITS.items():
        if -(2 ** (bits - 1)) <= min(bounds) and max(bounds) < 2 ** (bits - 1):
            return name
    return "BIGINT"


def number_type(column: ColumnSection, *, is_narrow: bool) -> str:
    """The type that numbers of the column are read as."""
    is_wide = column.type == "integer" and (storage_type(column) == "BIGINT" or not is_narrow)
    return _WIDE_TYPE if is_wide else "DOUBLE"


def is_converted(column: ColumnSection, etl: EtlSection) -> bool:
    """Whether the reader has no type for the cells of the column, so that they are read as text."""
    return column.type in MOMENTS or (bool(etl.thousands) and column.type in ("integer", "number"))


def grouped_number(text: str, etl: EtlSection, type_: str) -> str:
    """The number in ``text``, whose digits may be in groups of three; NULL if it is none."""
    trimmed = f"trim({text})"
    plain = f"replace({trimmed}, {literal(etl.thousands)}, '')"
    groups = f"[+-]?[0-9]{{1,3}}([{etl.thousands}][0-9]{{3}})+([{etl.decimal}][0-9]*)?([eE][+-]?[0-9]+)?"
    has_none = f"NOT contains({trimmed}, {literal(etl.thousands)})"
    is_number = f"({has_none} OR regexp_full_match({trimmed}, {literal(groups)}))"
    if etl.decimal == ",":
        is_number += f" AND NOT contains({plain}, '.')"
        plain = f"replace({plain}, ',', '.')"
    return f"TRY_CAST(CASE WHEN {is_number} THEN {plain} END AS {type_})"


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
        return _within(f"epoch_us(CAST({value} AS TIMESTAMP))", moment)
    day = f"CAST({value} AS DATE)"
    return _within(f"CASE WHEN {value} = {day} THEN {day} - {_EPOCH} END", moment)


def show_value(name: str, column: ColumnSection) -> str:
    """The stored column as text for people, 80 characters at most."""
    value = quote(name)
    if column.type == "date":
        value = f"{_EPOCH} + CAST({value} AS INTEGER)"
    elif column.type == "timestamp":
        value = f"make_timestamp({value})"
    return f"left(CAST({value} AS VARCHAR), 80)"


def _matching(text: str, pattern: str) -> str:
    return f"CASE WHEN regexp_full_match(trim({text}), {literal(pattern)}) THEN trim({text}) END"


def _within(number: str, moment: Moment) -> str:
    low, high = (FIRST_DAY, LAST_DAY) if moment == "date" else (-LARGEST_MOMENT, LARGEST_MOMENT)
    return f"CASE WHEN {number} BETWEEN {low} AND {high} THEN {number} END"
