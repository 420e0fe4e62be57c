"""Matrices of raw values: what is refused, where, and in which words."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tiny_model import MIXED_COLUMNS, NUMERIC_COLUMNS
from timberline.inference.errors import RowError
from timberline.inference.formats.validate import MatrixRules
from timberline.registry.signature import NULL_TEXT

NAN = float("nan")
INF = float("inf")
# height (FP64), rings (INT64), is_wet (BOOL), slope (FP64, may be null)
GOOD = ((12.5, 40.0, 0.0, NAN), (-1e300, 2.0**53 - 1, 1.0, -3.5), (0.0, -0.0, 0.0, 0.0))


@pytest.mark.parametrize("rows", [GOOD, GOOD[1:], GOOD[:0]], ids=["with null", "without null", "no rows"])
def test_values_that_fit_their_columns_pass(rows: tuple[tuple[float, ...], ...]) -> None:
    """The common case must not be refused, by the cheap pass as by the close look."""
    MatrixRules(NUMERIC_COLUMNS).check_numeric(np.array(rows, dtype=np.float64).reshape(-1, 4))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, NAN, '"height": expected a number, found NaN. NaN stands for null'),
        (0, INF, '"height": the number is out of range, expected a finite one'),
        (1, 1.5, '"rings": expected an integer, found 1.5'),
        (1, NAN, '"rings": expected a number, found NaN'),
        (1, -INF, '"rings": the number is out of range, expected a finite one'),
        (1, 2.0**53, '"rings": the integer is not exact, expected at most ±(2^53 - 1)'),
        (1, -(2.0**53), '"rings": the integer is not exact'),
        (2, 2.0, '"is_wet": expected 0 or 1, found 2.0'),
        (2, 0.5, '"is_wet": expected 0 or 1, found 0.5'),
        (2, -1.0, '"is_wet": expected 0 or 1, found -1.0'),
        (3, -INF, '"slope": the number is out of range, expected a finite one'),
    ],
)
@pytest.mark.parametrize("row", [0, 2])
def test_the_first_wrong_value_is_named(column: int, value: float, message: str, row: int) -> None:
    """Somebody has to find it in ten thousand rows; later faults must not hide the first."""
    numeric = np.array(GOOD, dtype=np.float64)
    numeric[row, column] = value
    rest = np.vstack([numeric, np.full((1, 4), INF)])
    with pytest.raises(RowError) as caught:
        MatrixRules(MIXED_COLUMNS).check_numeric(rest)
    assert str(caught.value).startswith(f"row {row}, {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([["clay", "x"], [NULL_TEXT, "x"]], 'row 1, "soil": expected a string, found null'),
        ([["clay", NULL_TEXT], ["a\x00", "x"]], 'row 1, "soil": the string holds U+0000'),
        ([["clay", "\x00\x00"]], 'row 0, "note": the string holds U+0000'),
        ([["clay", "\ud800"]], 'row 0, "note": the string holds half of a surrogate pair'),
        ([["clay", 4]], 'row 0, "note": expected a string, found the number 4'),
    ],
)
def test_the_first_wrong_string_is_named(text: list[list[str]], message: str) -> None:
    """U+0000 is NULL on the graph's side, and half a surrogate pair makes ONNX Runtime fail."""
    with pytest.raises(RowError) as caught:
        MatrixRules(MIXED_COLUMNS).check_text(np.array(text, dtype=object))
    assert str(caught.value) == message


def test_strings_that_fit_their_columns_pass() -> None:
    """NULL is a value of a column that may be null, and nothing else is special."""
    MatrixRules(MIXED_COLUMNS).check_text(np.array([["clay", NULL_TEXT], ["", "ü:7"]], dtype=object))
