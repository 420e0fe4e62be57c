"""Dates and timestamps in the feature language: typed, refused, and computed as DuckDB's own types are."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tests.support.feature_forms import CASES, DATE_CHOICES
from tests.support.feature_parity import COLUMNS, FloatArray, compute_both, compute_in_duckdb, make_rows
from timberline.registry.signature import Column
from timberline.training.features import FeatureError, ValueType, parse_features
from timberline.training.features.dates import DATE_PARTS, TIME_PARTS, render
from timberline.training.features.expressions import LARGEST_DAY

_ROWS = make_rows(2000, seed=11)
_MOMENTS = {"date": "DATE '1970-01-01' + CAST({0} AS INTEGER)", "timestamp": "make_timestamp({0})"}
# What is written with types of DuckDB's own, as anyone would write it.
_PLAIN = (
    *(f for name in (*DATE_PARTS, *TIME_PARTS, "last_day") for f in CASES[name] if "sin(" not in f),
    *CASES["epoch"],
    *CASES["date_trunc"],
    *CASES["date_diff"],
    *(f for f in CASES["to_timestamp"] if "CASE" not in f),
    "CAST(q AS DATE) - d",
    "year(d + 30)",
    "day(1 + d)",
    "dayofweek(e - 1)",
    *DATE_CHOICES,
    "q IS DISTINCT FROM e",
)


def compute_plainly(features: tuple[str, ...]) -> FloatArray:
    """The features as written over real DATE and TIMESTAMP columns."""
    fields = [c for c in COLUMNS if c.moment]
    table = pa.table({c.name: pa.array(_ROWS[c.name], type=pa.int64()) for c in fields})
    columns = ", ".join(f"{_MOMENTS[str(c.moment)].format(c.name)} AS {c.name}" for c in fields)
    items = ", ".join(f"CAST({f} AS FLOAT) AS f{i}" for i, f in enumerate(features))
    with duckdb.connect() as connection:
        connection.register("numbers", table)
        query = f"SELECT {items} FROM (SELECT {columns} FROM numbers) AS raw"
        found = connection.execute(query).fetchnumpy()
    return np.stack([np.ma.filled(values, np.nan) for values in found.values()], axis=1)


def test_dates_mean_what_duckdb_means_by_its_own_types() -> None:
    """The table holds numbers; that they stand for a calendar is ours to keep."""
    items = ", ".join(f"{f} AS f{i}" for i, f in enumerate(_PLAIN))
    found = compute_in_duckdb(parse_features(f"SELECT {items} FROM raw", COLUMNS), _ROWS)
    expected = compute_plainly(_PLAIN)
    for index, feature in enumerate(_PLAIN):
        np.testing.assert_array_equal(found[:, index], expected[:, index], err_msg=feature)


@pytest.mark.parametrize("name", [*DATE_PARTS, *TIME_PARTS])
def test_no_part_leaves_its_bounds_at_the_ends_of_the_days(name: str) -> None:
    """What is known of a value spares guards; a bound that is too narrow would spare one that is needed."""
    low, high = {**DATE_PARTS, **TIME_PARTS}[name]
    days = np.concatenate(
        [np.arange(-LARGEST_DAY, -LARGEST_DAY + 800), np.arange(LARGEST_DAY - 800, LARGEST_DAY)]
    )

    (feature,) = parse_features(f"SELECT {name}(d) AS f FROM raw", COLUMNS).features
    sql = render(feature.expression, ['"day"'])  # type: ignore[arg-type]
    assert sql is not None

    with duckdb.connect() as connection:
        connection.register("t", pa.table({"day": days}))
        row = connection.execute(f"SELECT min({sql}), max({sql}) FROM t").fetchone()
    assert row is not None
    assert low <= row[0] <= row[1] <= high


@pytest.mark.parametrize(
    ("expression", "type", "nullable"),
    [
        ("year(d)", ValueType.BIGINT, False),
        ("year(e)", ValueType.BIGINT, True),
        ("epoch(p)", ValueType.DOUBLE, False),
        ("d - e", ValueType.BIGINT, True),
        ("d < '2013-05-01'", ValueType.BOOLEAN, False),
        ("year(d + 30)", ValueType.BIGINT, False),
        ("year(d + i)", ValueType.BIGINT, True),
        ("hour(e)", ValueType.BIGINT, True),
    ],
)
def test_a_date_expression_has_type_and_nullability(expression: str, type: ValueType, nullable: bool) -> None:
    """A date plus a number that may be huge has no day; a date plus a month has."""
    (feature,) = parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS).features
    assert (feature.expression.type, feature.expression.nullable) == (type, nullable)


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("d", "feature 'f' is a DATE", "year(d)"),
        ("q", "feature 'f' is a TIMESTAMP", "epoch(ts)"),
        ("d + 1", "feature 'f' is a DATE", "year(d)"),
        ("sqrt(d)", "a DATE is no number", "year(d)"),
        ("CAST(q AS BIGINT)", "a TIMESTAMP is no number", "epoch(ts)"),
        ("d AND b", "a DATE is no number and no condition", "year(d)"),
        ("d = 5", "DATE and BIGINT cannot be mixed", "DATE '2013-05-01'"),
        ("d = t", "DATE and text cannot be mixed", "DATE '2013-05-01'"),
        ("d = '2013-02-30'", "names a day that does not exist", ""),
        ("d = '2013-02-03 10:00:00'", "is not a date alone", ""),
        ("q < '2013-02-03 10:00:00+02:00'", "has an offset", "UTC"),
        ("q < '2013-02-03 10:00:00 Europe/Berlin'", "names a time zone", ""),
        ("CAST(t AS DATE) = d", "VARCHAR cannot be cast to DATE", 'type = "date"'),
        ("year(t)", "year takes a date or timestamp, and got text", 'type = "date"'),
        ("year(i)", "year takes a date or timestamp, and got BIGINT", 'type = "date"'),
        ("p - q", "is an INTERVAL", "epoch(a) - epoch(b)"),
        ("year(d + x)", "DATE and DOUBLE have no such operation", "CAST(n AS INTEGER)"),
        ("year(p + 1)", "TIMESTAMP and BIGINT have no such operation", "CAST(ts AS DATE)"),
        ("epoch(date_trunc('decade', d))", "has no unit 'decade'", "year(x) // 10"),
        ("date_part('century', d)", "there is no part 'century'", "year(x) // 100"),
        ("date_diff('fortnight', d, e)", "has no unit 'fortnight'", "week"),
        ("epoch(date_trunc(month, d))", "a unit's name in quotes", ""),
        ("year(d + INTERVAL 1 DAY)", "is not supported", "Write d + 1"),
        ("age(d, e)", "is not supported", "date_diff('day', b, a)"),
        ("date_sub('month', d, e)", "is not supported", "date_diff('month', a, b)"),
        ("current_date - d", "is not supported", "give the moment as a column"),
        ("dayname(d) = 'Monday'", "is not supported", "isodow(d)"),
    ],
)
def test_what_a_date_cannot_do_is_refused_with_what_to_write(
    expression: str, message: str, hint: str
) -> None:
    """A date as a number of days would train, and mean nothing."""
    with pytest.raises(FeatureError, match=message.replace("(", r"\(")) as caught:
        parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    assert hint in caught.value.hint


def test_a_star_over_a_date_says_what_to_leave_out() -> None:
    """``*`` is the shortest features.sql; it may neither drop a date silently nor feed it as a number."""
    with pytest.raises(FeatureError) as caught:
        parse_features("SELECT * EXCLUDE (t, u) FROM raw", COLUMNS)
    assert "feature 'd' is a DATE" in str(caught.value)
    assert "* EXCLUDE (d, e, p, q)" in caught.value.hint
    with pytest.raises(FeatureError) as caught:
        parse_features("SELECT * FROM raw", [Column(name="Date Egg", datatype="INT64", moment="date")])
    assert '* EXCLUDE ("Date Egg")' in caught.value.hint


@pytest.mark.parametrize("unit", ["year", "quarter", "month"])
def test_moments_of_the_same_unit_may_be_days_apart(unit: str) -> None:
    """The difference is 0 then, and a division by it NULL: the graph once gave infinity."""
    sql = f"SELECT 10 // date_diff('{unit}', DATE '2001-01-01', DATE '2001-01-06' + month(d)) AS f FROM raw"
    expected, found = compute_both(sql, _ROWS)
    assert np.isnan(expected).all()
    assert np.isnan(found).all()
