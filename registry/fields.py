"""Values as fields of CSV, written so that training and a service read them back as they are."""

from __future__ import annotations

import datetime

from timberline.registry.moments import Value, parse_moment
from timberline.registry.signature import Column, SourceTable

_DAY_US = 86_400_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def write_field(value: Value, column: Column, table: SourceTable) -> str | None:
    """``value``, as clients send it, as a field of a row of ``table``; None where nothing stands for NULL.

    A timestamp whose format has no seconds loses them (`is_carried`).
    """
    if value is None:
        return table.null_field
    if isinstance(value, bool):
        words = table.true_text if value else table.false_text
        return words[0] if words else str(value).lower()
    if column.moment is None or column.time_format is None:
        return str(value)
    number = parse_moment(str(value), column.moment)
    microseconds = number * _DAY_US if column.moment == "date" else number
    return (_EPOCH + datetime.timedelta(microseconds=microseconds)).strftime(column.time_format)


def is_carried(value: Value, column: Column, table: SourceTable) -> bool:
    """Whether the field of ``value`` is read back as ``value`` and not as NULL or another one."""
    field = write_field(value, column, table)
    if value is None or field is None:
        return field is not None
    if field in table.null_text:
        return False
    if column.moment is None or column.time_format is None:
        return True
    try:
        found = parse_moment(field, column.moment, column.time_format)
    except ValueError:
        return False
    return found == parse_moment(str(value), column.moment)
