"""The fields of one column of CSV to its values, read as training reads them: by DuckDB's reader and casts.

What is a field, and which column it belongs to, `inference/formats/tables.py` has found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from timberline.inference.errors import RowError
from timberline.inference.formats.strict_json import fill_default, place, quote, read_text
from timberline.registry.signature import NULL_TEXT, Column, SourceTable

_DIGITS = "[0-9]+(?:_[0-9]+)*"
_SPACE = r"[ \t\n\v\f\r]*"
_NUMBER = re.compile(
    rf"{_SPACE}[+-]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?{_SPACE}"
)
_NAN = re.compile(rf"{_SPACE}[+-]?nan(?:\([a-z0-9_]*\))?{_SPACE}", re.ASCII | re.IGNORECASE)
# What numbers are made of. Among what only holds these, ``float`` takes what `_NUMBER` does; it alone
# would also take ``nan``, ``infinity`` and the digits of every script.
_NUMBER_CHARACTERS = b"0123456789+-.eE_ \t\n\v\f\r"
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "0"), 0.0),
}
_SWAP = str.maketrans(",.", ".,")

Fields = Sequence[str]


class FieldReader:
    """Reads fields of tables that are written like one.

    Args:
        table: what is NULL in it, and whether its numbers have commas for points.
        has_points: whether numbers may have points all the same.
    """

    def __init__(self, table: SourceTable, *, has_points: bool) -> None:
        self._nulls = table.null_text
        self._to_points: Callable[[str], str] | None = None
        if table.decimal == ",":
            self._to_points = _allow_commas if has_points else _swap_commas
        # Only these can be taken for numbers.
        characters = _NUMBER_CHARACTERS + table.decimal.encode()
        self.number_nulls = tuple(t for t in self._nulls if not t.encode().translate(None, characters))

    def read_numbers(self, fields: Fields, column: Column, first: int) -> Sequence[float | None]:
        """One column's values as numbers, ``first`` being the number of the first row; NULL is NaN.

        Raises:
            RowError: a field is no value of the column's; says which row.
        """
        if column.datatype == "BOOL":
            numbers = list(map(_BOOLEANS.get, fields))
            if None not in numbers and not any(text in fields for text in self._nulls):
                return numbers
        elif not any(text in fields for text in self.number_nulls):
            written = fields if self._to_points is None else list(map(self._to_points, fields))
            joined = "".join(written)
            if joined.isascii() and not joined.encode().translate(None, _NUMBER_CHARACTERS):
                try:
                    return list(map(float, written))
                except ValueError:
                    pass  # what is wrong is found below
        nulls = self._nulls
        return [
            _fill_null(column, row, math.nan) if field in nulls else self._read_number(field, column, row)
            for row, field in enumerate(fields, first)
        ]

    def read_texts(self, fields: Fields, column: Column, first: int) -> npt.NDArray[np.object_]:
        """One column's values as strings; NULL is ``NULL_TEXT``. Raises as `read_numbers`."""
        texts: Sequence[Any] = fields
        nulls = self._nulls
        if NULL_TEXT in "".join(fields) or any(text in fields for text in nulls):
            texts = [
                _fill_null(column, row, NULL_TEXT) if field in nulls else read_text(field, column, row)
                for row, field in enumerate(fields, first)
            ]
        return np.array(texts, dtype=object)

    def _read_number(self, field: str, column: Column, row: int) -> float:
        if column.datatype == "BOOL":
            number = _BOOLEANS.get(field.lower())
            if number is None:
                raise RowError(f"expected true or false, found {quote(field)}", where=place(row, column.name))
            return number
        written = field if self._to_points is None else self._to_points(field)
        if _NUMBER.fullmatch(written):
            return float(written)
        if column.datatype == "FP64" and column.is_nullable and _NAN.fullmatch(written):
            return math.nan
        raise RowError(f"expected a number, found {quote(field)}", where=place(row, column.name))


def leave_out(column: Column, row: int) -> Any:
    """The value where there is no field, as its tensor has it.

    Raises:
        RowError: the column has no default and may not be null.
    """
    value = fill_default(column, row)
    return (NULL_TEXT if column.datatype == "BYTES" else math.nan) if value is None else value


def _fill_null(column: Column, row: int, null: float | str) -> Any:
    """The value where NULL is given: NULL as in training if the column may be null, else its default."""
    return null if column.is_nullable else fill_default(column, row)


def _swap_commas(field: str) -> str:
    """Commas for points and points for commas, which no number has."""
    return field.translate(_SWAP)


def _allow_commas(field: str) -> str:
    """As `_swap_commas`, but what has no comma may have a point."""
    return field.translate(_SWAP) if "," in field else field
