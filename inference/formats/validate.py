"""What a raw value of each column may be: one set of rules for JSON, CSV, float32 and tensors.

- Numbers are finite; an INT64 column takes what has no fraction, up to ±(2^53 - 1), beyond which a JSON
  number is not exact; booleans, numbers and strings do not stand for each other.
- A date or a timestamp is ISO 8601 text or a number: days of a date, seconds of a timestamp. The graph's own
  tensor alone holds them as the graph takes them.
- NULL only where the column may be null; no U+0000 in a string.

Single values of JSON are read one by one. For values that are tensors already, `MatrixRules` looks at the
whole matrix in one cheap pass, which answers for nearly every request; which value is wrong is only
looked for when that pass cannot say that none is.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from timberline.inference.errors import BatchTooLargeError, RowError
from timberline.inference.session import Feed
from timberline.registry.moments import FIRST_DAY, LAST_DAY, moment_of_number, parse_moment
from timberline.registry.signature import NULL_TEXT, Column, Moment, SourceTable

LARGEST_INTEGER = 2.0**53 - 1
# Names that an unknown one is compared with, some 10 µs each on the event loop.
_MOST_COMPARED = 200
# Of a version that says nothing of its table: all of its columns are read, and an empty field is NULL.
NO_TABLE: Final = SourceTable()
_EXPECTED = {"FP64": "a number", "INT64": "an integer", "BOOL": "true or false", "BYTES": "a string"}
_EXPECTED_MOMENT: dict[Moment, str] = {
    "date": "a date such as 2013-05-01 or days since 1970-01-01",
    "timestamp": "a timestamp such as 2013-05-01T12:30:00Z or seconds since 1970-01-01",
}
# `registry.moments` remembers texts, of which this is the longest; no moment needs as many characters.
_LONGEST_MOMENT = 100
# Bounds that hold every value of a column; outside of the first are the infinities alone.
_LARGEST = float(np.finfo(np.float64).max)
_BOUNDS = {
    "FP64": (-_LARGEST, _LARGEST),
    "INT64": (-LARGEST_INTEGER, LARGEST_INTEGER),
    "BOOL": (0.0, 1.0),
    "date": (float(FIRST_DAY), float(LAST_DAY)),
}
# With more runs of columns of one datatype than this, looking at each costs more than the close look.
_MOST_RUNS = 8
_STEP = 64  # strings that are looked at together


class Pairs(list[tuple[str, Any]]):
    """An object as pairs, with names that are given twice."""


class Token(str):
    """NaN, Infinity or -Infinity: many programs write them, but they are no JSON."""

    __slots__ = ()


class Layout(NamedTuple):
    """What a row may name: the columns that are read, in order, and the table that they come from."""

    by_name: dict[str, Column]
    table: SourceTable

    @classmethod
    def of(cls, columns: Sequence[Column], table: SourceTable) -> Layout:
        """The layout of a signature's columns; a column of theirs is never unread."""
        return cls({column.name: column for column in columns}, table)

    def is_known(self, name: str) -> bool:
        """Whether it is the name of a column, read or not."""
        return name in self.by_name or name in self.table.unread


class MatrixRules:
    """What the values of one signature must be.

    Args:
        columns: the signature's, in order.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.numeric = tuple(column for column in columns if column.datatype != "BYTES")
        self.text = tuple(column for column in columns if column.datatype == "BYTES")
        bounds = [_BOUNDS[_find_kind(column)] for column in self.numeric]
        self._bounds = np.array(bounds, dtype=np.float64).reshape(-1, 2).T  # lowest, highest: (columns,) each
        self._is_whole = np.array([column.datatype != "FP64" for column in self.numeric], dtype=bool)
        self._is_nullable = np.array([column.is_nullable for column in self.numeric], dtype=bool)
        self._runs = _find_runs(self.numeric)

    def join_columns(self, row_count: int, read: Callable[[Column], Any]) -> Feed:
        """Rows of which ``read`` gives each column: a value for each row, or one value for all."""
        numeric = text = None
        if self.numeric:
            numeric = np.empty((row_count, len(self.numeric)), dtype=np.float64)
            for index, column in enumerate(self.numeric):
                numeric[:, index] = read(column)
        if self.text:
            text = np.empty((row_count, len(self.text)), dtype=np.object_)
            for index, column in enumerate(self.text):
                text[:, index] = read(column)
        return Feed(numeric, text)

    def check_numeric(self, numeric: npt.NDArray[np.float64]) -> None:
        """Refuse the first value, by row and then by column, that its column does not take.

        Args:
            numeric: (rows, numeric columns); NULL is NaN.

        Raises:
            RowError: NaN where null is not allowed; an infinity; a fraction, or more than
                ±(2^53 - 1), in an INT64 column; neither 0 nor 1 in a BOOL column.
        """
        if not numeric.size or self._is_plain(numeric):
            return
        is_wrong = self._find_wrong(numeric)  # (rows, columns)
        if is_wrong.any():
            row, column = divmod(int(np.argmax(is_wrong)), is_wrong.shape[1])
            _refuse_number(float(numeric[row, column]), self.numeric[column], row)

    def _is_plain(self, numeric: npt.NDArray[np.float64]) -> bool:
        """Whether all is right and nothing is NULL."""
        if len(self._runs) > _MOST_RUNS:
            return False
        for columns, kind in self._runs:
            block = numeric[:, columns]
            lowest, highest = _BOUNDS[kind]
            # A NaN is its block's least and greatest value, and within no bounds. Over the whole
            # block and not by column: five times as fast.
            if not (
                lowest
                <= np.minimum.reduce(block, axis=None)
                <= np.maximum.reduce(block, axis=None)
                <= highest
            ):
                return False
            if kind != "FP64" and not (np.rint(block) == block).all():
                return False
        return True

    def _find_wrong(self, numeric: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        lowest, highest = self._bounds
        is_null = np.isnan(numeric)
        is_outside = (numeric < lowest) | (numeric > highest)
        is_broken = self._is_whole & (np.rint(numeric) != numeric) & ~is_null
        found: npt.NDArray[np.bool_] = (is_null & ~self._is_nullable) | is_outside | is_broken
        return found

    def check_text(self, text: npt.NDArray[np.object_]) -> None:
        """Refuse the first string, by row and then by column, that its column does not take.

        Args:
            text: (rows, text columns) of str; NULL is ``NULL_TEXT``, so that a string which is
                U+0000 alone stands for NULL.

        Raises:
            RowError: NULL where null is not allowed; a string with U+0000 or half of a surrogate pair.
        """
        values = text.ravel().tolist()
        # Some at a time: joined, all are as much memory again.
        if not any(_may_be_wrong(values[at : at + _STEP]) for at in range(0, len(values), _STEP)):
            return
        for index, value in enumerate(values):
            row, column = divmod(index, len(self.text))
            if not (value == NULL_TEXT and self.text[column].is_nullable):
                read_text(None if value == NULL_TEXT else value, self.text[column], row)


def fill_absent(column: Column, row: int) -> Any:
    """The value of a column that row ``row`` leaves out, as its tensor holds it.

    Raises:
        RowError: the column has no default and may not be null.
    """
    value = fill_default(column, row)
    return (NULL_TEXT if column.datatype == "BYTES" else math.nan) if value is None else value


def _may_be_wrong(values: Sequence[Any]) -> bool:
    """Whether one of these may be no string, or one that not every column takes."""
    try:
        joined = "".join(values)
        joined.encode()
    except (TypeError, UnicodeEncodeError):
        return True
    return NULL_TEXT in joined


def _find_kind(column: Column) -> str:
    return "date" if column.moment == "date" else column.datatype


def _find_runs(columns: Sequence[Column]) -> tuple[tuple[slice, str], ...]:
    """Columns of one kind that stand side by side."""
    runs: list[tuple[slice, str]] = []
    for kind, group in itertools.groupby(map(_find_kind, columns)):
        start = runs[-1][0].stop if runs else 0
        runs.append((slice(start, start + len(list(group))), kind))
    return tuple(runs)


def _refuse_number(value: float, column: Column, row: int) -> None:
    """Raise the error for a number that is known to be wrong."""
    if np.isnan(value):
        raise RowError(
            "expected a number, found NaN",
            where=name_cell(row, column.name),
            hint="NaN stands for null, which this column does not take.",
        )
    if column.moment == "date":
        try:
            moment_of_number(value, "date")
        except ValueError as error:
            _refuse(value, column, row, why=error)
    if column.datatype == "BOOL":
        raise RowError(f"expected 0 or 1, found {value!r:.80}", where=name_cell(row, column.name))
    read_number(value, column, row)


def fill_default(column: Column, index: int | None) -> Any:
    """The value of ``column`` in row ``index`` (None for the only row) where none is given.

    Raises:
        RowError: the column has no default and may not be null.
    """
    if not column.may_be_absent:
        raise RowError("is missing", where=name_cell(index, column.name), hint="It has no default.")
    return column.default


def read_value(value: Any, column: Column, index: int | None, null_text: Collection[str] = ()) -> Any:
    """``value`` as one of ``column`` in row ``index`` (None for the only row).

    Args:
        value: of `load_json`.
        column: decides what is taken.
        index: of the row.
        null_text: texts that mean NULL in CSV, where JSON has null.

    Raises:
        RowError: the column does not take it.
    """
    if value is None:
        if column.is_nullable:
            return None
        _refuse(value, column, index)
    if column.datatype != "BYTES" and isinstance(value, str) and value in null_text:
        hint = "The training table writes NULL so; in JSON it is null." if column.is_nullable else ""
        _refuse(value, column, index, hint)
    if column.moment is not None:
        try:
            return to_moment(value, column.moment)
        except TypeError:
            _refuse(value, column, index)
        except ValueError as error:
            _refuse(value, column, index, why=error)
    if column.datatype == "BYTES":
        return read_text(value, column, index)
    if column.datatype == "BOOL":
        return value if isinstance(value, bool) else _refuse(value, column, index)
    return read_number(value, column, index)


def to_moment(value: Any, moment: Moment, time_format: str | None = None) -> int:
    """What stands for a date or timestamp as the graph takes it.

    Args:
        value: of `load_json`; with ``time_format`` a text.
        moment: which of the two.
        time_format: as in `registry.moments.parse_moment`.

    Raises:
        TypeError: it is neither text nor a number.
        ValueError: it is no moment; says why, as a predicate.
    """
    if type(value) is str:
        if len(value) > _LONGEST_MOMENT:
            raise ValueError(f"has more than {_LONGEST_MOMENT} characters")
        return parse_moment(value, moment, time_format)
    if type(value) is int or type(value) is float:
        return moment_of_number(value, moment)
    raise TypeError(f"{type(value).__name__} is no {moment}")


def read_number(value: Any, column: Column, index: int | None) -> float:
    """``value`` as a number of an FP64 or INT64 column of row ``index`` (None for the only row).

    Raises:
        RowError: it is none, or not one that the column takes.
    """
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        _refuse(value, column, index)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    where = name_cell(index, column.name)
    if not math.isfinite(number):
        raise RowError("the number is out of range, expected a finite one", where=where)
    if column.datatype == "INT64":
        if not number.is_integer():
            raise RowError(f"expected an integer, found {value!r:.80}", where=where)
        if abs(number) > LARGEST_INTEGER:
            raise RowError("the integer is not exact, expected at most ±(2^53 - 1)", where=where)
    return number


def read_text(value: Any, column: Column, index: int | None) -> str:
    """``value`` as a string of row ``index`` (None for the only row).

    Raises:
        RowError: it is none, or holds what no string may hold.
    """
    if not isinstance(value, str) or isinstance(value, Token):
        _refuse(value, column, index)
    if "\x00" in value:
        raise RowError("the string holds U+0000", where=name_cell(index, column.name))
    try:
        value.encode()  # a hundred times as fast as looking at each character
    except UnicodeEncodeError:
        where = name_cell(index, column.name)
        raise RowError("the string holds half of a surrogate pair", where=where) from None
    return str(value)


def _refuse(
    value: Any, column: Column, index: int | None, hint: str = "", why: ValueError | None = None
) -> NoReturn:
    expected = _EXPECTED[column.datatype] if column.moment is None else _EXPECTED_MOMENT[column.moment]
    raise RowError(
        f"expected {expected}, found {describe_value(value)}{'' if why is None else f', which {why}'}",
        where=name_cell(index, column.name),
        hint=hint,
    )


def refuse_unknown(name: str, by_name: dict[str, Column], index: int | None) -> RowError:
    """The error for an unknown column name, with the nearest known one."""
    folded = {known.casefold(): known for known in itertools.islice(by_name, _MOST_COMPARED)}
    near = difflib.get_close_matches(name.casefold()[:200], folded, n=1, cutoff=0.6)
    hint = f"Did you mean {quote(folded[near[0]])}?" if near else f"Columns: {list_columns(by_name)}."
    return RowError(f"unknown name {quote(name)}", where=name_cell(index), hint=hint)


def refuse_batch(count: int | None, max_rows: int) -> BatchTooLargeError:
    """The error for a request of more rows than are taken at once; ``count`` is None if it is not known."""
    found = f"more than {max_rows:,}" if count is None else f"{count:,}"
    return BatchTooLargeError(
        f"{found} rows in one request, at most {max_rows:,} are taken", hint="Send them in parts."
    )


def name_cell(index: int | None, name: str | None = None) -> str:
    """A row and column for a message: ``row 3, "height"``; the only row of a request has no number."""
    row = "" if index is None else f"row {index}"
    column = "" if name is None else quote(name)
    return ", ".join(part for part in (row, column) if part)


def list_columns(by_name: dict[str, Column]) -> str:
    """The first names, for a message."""
    names = list(by_name)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def describe_value(value: Any) -> str:
    """A value of `load_json` in words, cut if it is long."""
    if isinstance(value, Token):
        return str(value)
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, Pairs):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value!r:.80}"


def quote(text: str) -> str:
    """``text`` as JSON, cut if it is long: a message never echoes a whole payload."""
    shown = json.dumps(text[:77] + "..." if len(text) > 80 else text)
    return shown if len(shown) <= 120 else shown[:117] + "..."
