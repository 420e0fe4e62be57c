"""Lists and maps of constants: what is looked up is what DuckDB finds, and everything else is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.feature_forms import CASES
from tests.support.feature_parity import COLUMNS, compute_as_written, compute_in_duckdb, make_rows
from timberline.training.features import FeatureError, parse_features

_ROWS = make_rows(200, seed=5)
# DuckDB fails where a DOUBLE does not fit an INTEGER; in the language every whole number is a BIGINT.
_WRITTEN = [form for form in CASES["lookup"] if "AS INTEGER" not in form]


@pytest.mark.parametrize("expression", [*_WRITTEN, "[7, 8][-2 + i * 0]", "[7, 8, 9][CAST(n AS BIGINT)]"])
def test_look_up_is_what_duckdb_finds(expression: str) -> None:
    """A code table is data, and reads the same in DuckDB: places from 1, from the end, and beyond either."""
    program = parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    expected = compute_as_written(expression, _ROWS)
    np.testing.assert_array_equal(compute_in_duckdb(program, _ROWS), expected)


@pytest.mark.parametrize(
    ("expression", "what", "hint"),
    [
        ("map {'a': 1}", "a map is no value", "map {'a': 1}[x]"),
        ("map {'a': 1, 'a': 2}[t]", "NULL or there twice", ""),
        ("map {NULL: 1, 'a': 2}[t]", "NULL or there twice", ""),
        ("map {'a': 1, 2: 3}[t]", "a map holds texts or numbers, and not both", ""),
        ("map {'a': 1, 'b': 'c'}[t]", "a map holds texts or numbers, and not both", ""),
        ("map {'a': NULL}[t]", "a map holds texts or numbers", ""),
        ("map {}[t]", "a map holds texts or numbers", ""),
        ("map {'a': i}[t]", "a map holds constants only", "CASE"),
        ("map(['a'], [1, 2])[t]", "1 keys and 2 values", ""),
        ("map {'a': 1}[i]", "the keys of the map are texts, and BIGINT is looked up", ""),
        ("map {1: 1}[t]", "the keys of the map are numbers, and VARCHAR is looked up", ""),
        ("[1, 2][x]", "the index of a list is a whole number", "CAST(x AS BIGINT)"),
        ("[i, j][1]", "a list holds constants only", "CASE"),
        ("[][i]", "a list holds texts or numbers", ""),
        ("[1, 2]", "is not supported", ""),
        ("t[1]", "is not supported", "map {'a': 1}[x]"),
        ("{'a': 1}[t]", "is not supported", "map {'a': 1}[x]"),
        ("element_at(map {'a': 1}, t)", "is not supported", "map {'a': 1}[x]"),
        ("map_extract(map {'a': 1}, t)", "is not supported", "map {'a': 1}[x]"),
        ("list_extract(t, 1)", "the first argument is a list of constants", "[10, 20, 30][i]"),
        ("map_extract_value(t, 'a')", "the first argument is a map of constants", "map {'a': 1}[x]"),
        ("list_extract([1, 2])", "takes 2 arguments", ""),
    ],
)
def test_what_is_no_table_of_constants_is_refused(expression: str, what: str, hint: str) -> None:
    """A table is laid out in the graph before a row is known."""
    with pytest.raises(FeatureError) as caught:
        parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    assert what in caught.value.what
    assert hint in caught.value.hint
