"""Whole matrices of raw values, as binary and CSV bodies bring them: does every value fit its column?

The rules are those of `inference.formats.strict_json`, in its words, for values that are tensors already. One
cheap pass over the whole matrix answers for nearly every request; which value is wrong is only
looked for when that pass could not say that none is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from timberline.inference.errors import RowError
from timberline.inference.formats.strict_json import (
    LARGEST_INTEGER,
    fill_default,
    name_cell,
    read_number,
    read_text,
)
from timberline.inference.session import Feed
from timberline.registry.signature import NULL_TEXT, Column

# Bounds that hold every value of a column; outside of the first are the infinities alone.
_LARGEST = float(np.finfo(np.float64).max)
_BOUNDS = {"FP64": (-_LARGEST, _LARGEST), "INT64": (-LARGEST_INTEGER, LARGEST_INTEGER), "BOOL": (0.0, 1.0)}
# With more runs of columns of one datatype than this, looking at each costs more than the close look.
_MOST_RUNS = 8
_STEP = 64  # strings that are looked at together


class MatrixRules:
    """What the values of one signature must be.

    Args:
        columns: the signature's, in order.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.numeric = tuple(column for column in columns if column.datatype != "BYTES")
        self.text = tuple(column for column in columns if column.datatype == "BYTES")
        bounds = [_BOUNDS[column.datatype] for column in self.numeric]
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
        for columns, datatype in self._runs:
            block = numeric[:, columns]
            lowest, highest = _BOUNDS[datatype]
            # A NaN is its block's least and greatest value, and within no bounds. Over the whole
            # block and not by column: five times as fast.
            if not (
                lowest
                <= np.minimum.reduce(block, axis=None)
                <= np.maximum.reduce(block, axis=None)
                <= highest
            ):
                return False
            if datatype != "FP64" and not (np.rint(block) == block).all():
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


def _find_runs(columns: Sequence[Column]) -> tuple[tuple[slice, str], ...]:
    """Columns of one datatype that stand side by side."""
    runs: list[tuple[slice, str]] = []
    for datatype, group in itertools.groupby(column.datatype for column in columns):
        start = runs[-1][0].stop if runs else 0
        runs.append((slice(start, start + len(list(group))), datatype))
    return tuple(runs)


def _refuse_number(value: float, column: Column, row: int) -> None:
    """Raise the error for a number that is known to be wrong."""
    if np.isnan(value):
        raise RowError(
            "expected a number, found NaN",
            where=name_cell(row, column.name),
            hint="NaN stands for null, which this column does not take.",
        )
    if column.datatype == "BOOL":
        raise RowError(f"expected 0 or 1, found {value!r:.80}", where=name_cell(row, column.name))
    read_number(value, column, row)
