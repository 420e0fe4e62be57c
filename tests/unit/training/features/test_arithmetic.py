"""Operators on bits, casts that may fail, and truths that are never NULL: as DuckDB computes them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.feature_parity import COLUMNS, compute_as_written, compute_in_duckdb, make_rows
from timberline.training.features import parse_features

_ROWS = make_rows(400, seed=13)


@pytest.mark.parametrize(
    "expression",
    [
        "i & 4",
        "n & 3",
        "n & i & 255",
        "i & 6 = 2",
        "i | n",
        "xor(n, 5)",
        "xor(i, j) | 1",
        "~n",
        "(i >> 2) & 1",
        "n >> 1",
        "abs(n) << 3",
        "1 << 3 > i",
        "cbrt(n)",
        "TRY_CAST(x AS INTEGER)",
        "TRY_CAST(y AS BIGINT)",
        "TRY_CAST(c AS INTEGER)",
        "TRY_CAST(n AS DOUBLE)",
        "TRY_CAST(x AS FLOAT)",
        "isinf(x)",
        "isfinite(y)",
        "isnan(x)",
        "n IS DISTINCT FROM i",
        "n IS NOT DISTINCT FROM NULL",
        "u IS DISTINCT FROM 'red'",
        "c IS NOT DISTINCT FROM b",
        "c IS TRUE",
        "c IS NOT FALSE",
        "n IS FALSE",
        "(n > 1) IS NOT TRUE",
    ],
)
def test_an_operator_is_what_duckdb_makes_of_it(expression: str) -> None:
    """What the language computes in DOUBLE is a whole number, a range or a truth of DuckDB's."""
    found = compute_in_duckdb(parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS), _ROWS)
    np.testing.assert_array_equal(found, compute_as_written(expression, _ROWS))


def test_the_cube_root_of_one_is_within_its_bounds() -> None:
    """The lower bound of positive numbers once was above their least root."""
    (feature,) = parse_features("SELECT cbrt(month(d)) AS f FROM raw", COLUMNS).features
    assert 0 < feature.expression.low < 1.0 < 12 ** (1 / 3) < feature.expression.high
