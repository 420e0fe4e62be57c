"""Functions of text: what a graph can compute is taken, and everything else is answered with what can be."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.feature_forms import CASES
from tests.support.feature_parity import COLUMNS, compute_as_written, compute_in_duckdb, make_rows
from timberline.training.features import FeatureError, ValueType, parse_features
from timberline.training.features.texts import CUTS, TESTS

_ROWS = make_rows(200, seed=9)
_WRITTEN = [form for operator in sorted(CUTS | TESTS | {"concat", "length"}) for form in CASES[operator]]


@pytest.mark.parametrize("expression", _WRITTEN)
def test_function_of_text_is_what_duckdb_makes_of_the_text_as_written(expression: str) -> None:
    """Patterns are rewritten, and aliases of functions brought to one; none of it may change a row."""
    program = parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    expected = compute_as_written(expression, _ROWS)
    np.testing.assert_array_equal(compute_in_duckdb(program, _ROWS), expected)


@pytest.mark.parametrize(
    ("expression", "type", "nullable"),
    [
        ("lower(t)", ValueType.VARCHAR, False),
        ("t || u", ValueType.VARCHAR, True),
        ("concat(t, u)", ValueType.VARCHAR, False),
        ("length(u)", ValueType.BIGINT, True),
        ("t LIKE 'a%'", ValueType.BOOLEAN, False),
        ("u NOT ILIKE 'a%'", ValueType.BOOLEAN, True),
    ],
)
def test_function_of_text_has_type_and_nullability(expression: str, type: ValueType, nullable: bool) -> None:
    """What is text is a category, which a number is not."""
    (feature,) = parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS).features
    assert (feature.expression.type, feature.expression.nullable) == (type, nullable)


@pytest.mark.parametrize(
    ("expression", "what", "hint"),
    [
        ("lower(i)", "lower takes text, and got BIGINT", ""),
        ("lower('A')", "lower() of a constant", "Write what it is."),
        ("trim(lower(trim(t)))", "trim of trim cannot be computed", "One of the two can be"),
        ("split_part(trim(t), ',', 1)", "split_part of trim cannot be computed", "trim of split_part"),
        ("trim(t) LIKE 'a%'", "LIKE of trim() cannot be computed", "Compare it with =, IN or CASE."),
        ("lower(map {'a': 'b'}[t])", "lower takes a column", "inside of CASE or coalesce"),
        ("lower(t) || 'x' = 'ax'", "|| joins columns and constants", "Join first"),
        ("t || i = 'a1'", "|| takes text, and got BIGINT", "name them with CASE"),
        ("t LIKE u", "LIKE takes a constant text as its pattern", ""),
        ("t LIKE 'a!' ESCAPE '!'", "ends with its escape character", ""),
        ("t LIKE 'a' ESCAPE '!!'", "ESCAPE takes one character", ""),
        ("i LIKE '1%'", "LIKE takes text, and got BIGINT", ""),
        ("t ~ 'a'", "~ means different things in DuckDB's versions", "regexp_matches"),
        ("t SIMILAR TO 'a'", "is not supported", ""),
        ("t GLOB 'a*'", "is not supported", ""),
        ("regexp_matches(t, u)", "regexp_matches takes a constant", ""),
        ("regexp_matches(lower(t), 'a')", "takes a column, and got lower()", "(?i)"),
        ("regexp_matches(t, 'a', 'g')", "takes the options 'i', 's' and 'c'", ""),
        ("regexp_matches(t, '(a')", "'(a' is no regular expression", ""),
        ("regexp_matches(t, 'a)')", "'a)' is no regular expression", ""),
        ("regexp_matches(t, '*a')", "'*a' is no regular expression", ""),
        ("regexp_matches(t, '[z-a]')", "'[z-a]' is no regular expression", ""),
        ("regexp_matches(t, 'a{1001}')", "at most 1,000 times", ""),
        ("regexp_matches(t, 'b((a{2,40}|c)x){3}{9}')", "'{3}{9}' is not supported", ""),
        ("regexp_matches(t, 'b((a{2,40}|c{9})x){30}')", "at most 1,000 times", ""),
        ("regexp_matches(t, 'a(?=b)')", "'(?=b)' is not supported", "Groups, classes"),
        ("regexp_matches(t, '\\pL')", "is not supported", "[[:alpha:]]"),
        ("regexp_matches(t, '(a)\\1')", "is not supported", "Groups, classes"),
        ("regexp_matches(t, '(?<n>a)')", "is not supported", "Groups, classes"),
        ("regexp_matches(t, 'a++')", "'++' is not supported", ""),
        ("regexp_matches(t, '\\Qa\\E')", "is not supported", "Groups, classes"),
        ("trim(t, 'x') = 'a'", "trim takes one text", "trim(x)"),
        ("left(t, i) = 'a'", "left takes a whole constant up to 1,000", ""),
        ("left(t, -1) = 'a'", "left takes a whole constant up to 1,000", ""),
        ("right(t, 0) = 'a'", "and not 0", ""),
        ("split_part(t, ', ', 1) = 'a'", "split_part takes one character", "split_part(x, ',', 1)"),
        ("split_part(t, ',', 0) = 'a'", "and not 0", ""),
        ("substr(t, 2, 1) = 'a'", "from the first character on", "left(x, 3)"),
        ("length(trim(t))", "length takes a column", ""),
        ("length(i)", "length takes text, and got BIGINT", ""),
        ("lower(t) = u", "can be compared with constants only", ""),
        ("reverse(t) = 'a'", "reverse() is not supported", "ends_with"),
        ("replace(t, 'a', 'b') = 'b'", "replace() is not supported", "contains(x, 'part')"),
        ("strip_accents(t) = 'e'", "strip_accents() is not supported", "map {"),
        ("strlen(t)", "strlen() is not supported", "length(x)"),
    ],
)
def test_what_cannot_be_exact_is_refused_with_the_nearest_that_is(
    expression: str, what: str, hint: str
) -> None:
    """A category that is another one in the graph than in the table is worse than none."""
    with pytest.raises(FeatureError) as caught:
        parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-z]{1,40}@[a-z]{1,40}\.[a-z]{2,3}",
        r"(?i)^(mrs?|dr)\.? ",
        r"[^[:alpha:]\d_-]+",
        r"(?:a{10}){100}",
        r"[]a]|[^]a]",
        r"(?P<year>\d{4})-\d\d",
        r"\.\*\(",
        r"(?s:.)*?a+?$",
        r"ö|日",
        r"",
        r"a||b",
    ],
)
def test_pattern_that_is_taken_is_one_of_duckdb_s(pattern: str) -> None:
    """What is taken here and refused there would end the ETL with a traceback."""
    form = f"regexp_matches(t, '{pattern}')"
    program = parse_features(f"SELECT {form} AS f FROM raw", COLUMNS)
    np.testing.assert_array_equal(compute_in_duckdb(program, _ROWS), compute_as_written(form, _ROWS))
