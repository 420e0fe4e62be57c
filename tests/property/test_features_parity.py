"""Any choice by one column means the same in the table and in the graph, whatever its form."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.feature_parity import COLUMNS, compute_both, make_rows
from timberline.training.features import FeatureError, parse_features

_ROWS = make_rows(200, seed=7)
_WORDS = ["'red'", "'blue'", "''", "'it''s'", "'no such'"]


def _join(*parts: st.SearchStrategy[str] | str) -> st.SearchStrategy[str]:
    strategies = [st.just(part) if isinstance(part, str) else part for part in parts]
    return st.tuples(*strategies).map("".join)


def _choices(column: str, tests: st.SearchStrategy[str], depth: int) -> st.SearchStrategy[str]:
    """SQL that only chooses between constants, or the column itself, by ``tests`` of one column."""
    constant = st.sampled_from(["0", "1", "2", "-1.5", "NULL", "CAST(0.1 AS FLOAT)"])
    value = constant if column in {"t", "u"} else st.one_of(constant, st.just(column))
    truth = st.sampled_from(["true", "false", "NULL"])
    null_test = st.sampled_from([f"({column} IS NULL)", f"({column} IS NOT NULL)"])
    conditions = st.one_of(tests, null_test)
    for _ in range(depth):
        inner = conditions
        conditions = st.one_of(
            inner,
            _join("coalesce(", inner, ", ", st.one_of(truth, inner), ")"),
            _join("(", inner, st.sampled_from([" AND ", " OR "]), inner, ")"),
            _join("(NOT ", inner, ")"),
            _join("(", inner, " IS NULL)"),
            _join("CASE WHEN ", inner, " THEN ", truth, " ELSE ", st.one_of(truth, inner), " END"),
            _join("(CAST(", inner, " AS INTEGER) = ", st.sampled_from(["0", "1"]), ")"),
        )
    for _ in range(depth):
        inner_value = value
        value = st.one_of(
            inner_value,
            _join("CAST(", conditions, " AS ", st.sampled_from(["DOUBLE", "FLOAT", "INTEGER"]), ")"),
            _join("if(", conditions, ", ", inner_value, ", ", inner_value, ")"),
            _join("CASE WHEN ", conditions, " THEN ", inner_value, " ELSE ", inner_value, " END"),
            _join("CASE WHEN ", conditions, " THEN 1 WHEN ", conditions, " THEN ", inner_value, " END"),
            _join("coalesce(", inner_value, ", ", inner_value, ")"),
            _join("nullif(", inner_value, ", ", constant, ")"),
            _join("CAST(", inner_value, " AS ", st.sampled_from(["DOUBLE", "FLOAT", "BIGINT"]), ")"),
        )
    return st.one_of(conditions, value)


def _tests(column: str) -> st.SearchStrategy[str]:
    """Comparisons of one column of `COLUMNS` with constants."""
    if column in {"b", "c"}:
        return st.sampled_from([column, f"({column} = 1)", f"({column} <> true)", f"({column} < 1)"])
    is_text = column in {"t", "u"}
    constant = st.sampled_from(_WORDS if is_text else ["0", "1", "2", "-3", "0.5", "-0.75", "1e10", "NULL"])
    compare = st.sampled_from(["=", "<>"] if is_text else ["=", "<>", "<", "<=", ">", ">="])
    membership = st.sampled_from([" IN (", " NOT IN ("])
    tests = [
        _join("(", column, " ", compare, " ", constant, ")"),
        _join("(", column, membership, constant, ", ", constant, ", ", constant, "))"),
        _join("(coalesce(", column, ", ", constant, ") ", compare, " ", constant, ")"),
    ]
    if not is_text:
        tests.append(_join("(", column, " BETWEEN ", constant, " AND ", constant, ")"))
    return st.one_of(*tests)


_CHOICES = st.lists(
    st.one_of(*(_choices(name, _tests(name), 2) for name in ("n", "y", "x", "i", "b", "c", "t", "u"))),
    min_size=1,
    max_size=6,
)


def _select(expressions: list[str]) -> str | None:
    """A SELECT of those expressions that are features: not constants, not ill-typed mixtures."""
    kept: list[str] = []
    for expression in expressions:
        try:
            parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
        except FeatureError:
            continue
        kept.append(f"{expression} AS f{len(kept)}")
    return f"SELECT {', '.join(kept)} FROM raw" if kept else None


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(_CHOICES)
def test_random_choices_by_one_column_are_equal_in_duckdb_and_in_the_graph(expressions: list[str]) -> None:
    """The compiler sees through their form to a table; NULL is where a form and its table could part."""
    sql = _select(expressions)
    if sql is not None:
        expected, found = compute_both(sql, _ROWS)
        np.testing.assert_array_equal(found, expected, err_msg=sql)
