"""Dates and timestamps of source files: as whole numbers in ``raw``, and what is refused and why."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tables import HEADER, SmallTable, arrow_rows, rows
from timberline.registry.moments import parse_moment, write_moment
from timberline.registry.signature import Moment
from timberline.training.errors import DatasetError

_START = datetime.datetime(2013, 5, 1, 10, 30, tzinfo=datetime.UTC)
_ISO = {"date": "%Y-%m-%d", "timestamp": "%Y-%m-%dT%H:%M:%SZ"}


def days(count: int, form: str) -> list[str]:
    """``count`` days in a row, at half past ten, as ``strftime`` writes them."""
    return [(_START + datetime.timedelta(days=day)).strftime(form) for day in range(count)]


def add_column(tmp_path: Path, values: list[str], column: str, **options: str) -> SmallTable:
    """The small table with a column ``when``."""
    lines = [f"{line},{value}" for line, value in zip(rows(len(values)), values, strict=True)]
    return SmallTable(tmp_path, lines, header=f"{HEADER},when", columns=f"when = {{ {column} }}", **options)


def add_parquet_column(tmp_path: Path, values: pa.Array, column: str) -> SmallTable:
    """The same as a Parquet file."""
    pq.write_table(arrow_rows(len(values)).append_column("when", values), tmp_path / "table.parquet")
    return SmallTable(tmp_path, columns=f"when = {{ {column} }}", path="table.parquet")


def last(found: list[tuple[Any, ...]]) -> list[Any]:
    """The values of the last column."""
    return [row[-1] for row in found]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("date", "%Y-%m-%d"),
        ("date", "%Y-%m-%d 00:00:00"),
        ("timestamp", "%Y-%m-%dT%H:%M:%SZ"),
        ("timestamp", "%Y-%m-%d %H:%M"),
        ("timestamp", "%Y-%m-%d %H:%M:%S.000+00:00"),
    ],
)
def test_iso_8601_needs_no_format(tmp_path: Path, kind: Moment, form: str) -> None:
    """What most programs write is read as it is."""
    found, refused = add_column(tmp_path, days(60, form), f'type = "{kind}"').read()
    assert refused == []
    assert last(found) == [parse_moment(text, kind) for text in days(60, _ISO[kind])]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("date", "%d.%m.%Y"),
        ("date", "%m/%d/%y"),
        ("date", "%d %b %Y"),
        ("timestamp", "%d/%m/%Y %I:%M %p"),
        ("timestamp", "%Y%m%d %H%M%S"),
    ],
)
def test_another_form_is_named_and_read_when_it_is_set(tmp_path: Path, kind: Moment, form: str) -> None:
    """The hint can be copied: 60 days tell the day from the month."""
    values = days(60, form)
    plain = add_column(tmp_path, values, f'type = "{kind}"')
    hint = r"Say how it is written: .*format = "
    with pytest.raises(
        DatasetError, match=rf'line 2, column \'when\': "{values[0]}" is not a {kind}.*{hint}'
    ):
        plain.etl()
    found, refused = plain.read(f'columns.when.format="{form}"')
    assert refused == []
    assert last(found) == [parse_moment(text, kind) for text in days(60, _ISO[kind])]


def test_columns_of_one_file_may_have_different_forms(tmp_path: Path) -> None:
    """DuckDB's reader has one format for all of them."""
    lines = [
        f"{line},{day},{day[:2]}/{day[2:]}" for line, day in zip(rows(60), days(60, "%y%m%d"), strict=True)
    ]
    table = SmallTable(
        tmp_path,
        lines,
        header=f"{HEADER},first,second",
        columns='first = { type = "date", format = "%y%m%d" }\n'
        'second = { type = "date", format = "%y/%m%d" }',
    )
    found, refused = table.read()
    assert refused == []
    assert (
        [row[-2] for row in found]
        == last(found)
        == [parse_moment(text, "date") for text in days(60, _ISO["date"])]
    )


def test_a_text_that_is_no_date_is_a_rejected_row_with_line_column_and_reason(tmp_path: Path) -> None:
    """As any other cell that is not of its column's type; the other rows and their numbers stay."""
    values = days(60, "%d.%m.%Y")
    values[7], values[20], values[41] = "soon", "31.02.2013", '"\n1.5.2013"'
    table = add_column(tmp_path, values, 'type = "date", format = "%d.%m.%Y", nullable = true')
    found, refused = table.read()
    assert refused == [
        ("table.csv", 9, 1, "when", '"soon" is not a date of the format %d.%m.%Y'),
        ("table.csv", 22, 1, "when", '"31.02.2013" names a day that does not exist'),
    ]
    assert len(found) == 58
    assert last(found)[39] == parse_moment("2013-05-01", "date")
    assert table.etl("etl.max_reject_fraction=0.1")["rejected_lines"] == 2
    assert sorted(table.all_rows()) == list(range(58))


def test_rows_are_rejected_for_all_of_their_cells(tmp_path: Path) -> None:
    """A row that is refused for another column does not make its date unreadable."""
    values = days(60, "%Y-%m-%d")
    values[7] = "soon"
    lines = [f"{line},{value}" for line, value in zip(rows(60), values, strict=True)]
    lines[30] = "tall" + lines[30].removeprefix("30")
    table = SmallTable(tmp_path, lines, header=f"{HEADER},when", columns='when = { type = "date" }')
    _, refused = table.read()
    assert [(line, column) for _, line, _, column, _ in refused] == [(9, "when"), (32, "height")]


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        ("2013-05-01T10:30:00", "date", "is not a date alone: it has a time of day or an offset"),
        ("2013-05-01T10:30 Europe/Berlin", "timestamp", "names a time zone; write its offset, such as"),
        ("1600-01-01", "timestamp", "is beyond ±(2^53 - 1) microseconds from 1970-01-01"),
        ("infinity", "timestamp", "is not a timestamp such as"),
    ],
)
def test_a_moment_that_cannot_be_kept_is_refused_with_the_reason(
    tmp_path: Path, value: str, kind: str, reason: str
) -> None:
    """DuckDB's own cast leaves the time of a date away, and the zone of a timestamp."""
    values = days(60, "%Y-%m-%d")
    values[3] = value
    _, refused = add_column(tmp_path, values, f'type = "{kind}"').read()
    assert [(line, column) for _, line, _, column, _ in refused] == [(5, "when")]
    assert refused[0][-1].startswith(f'"{value}" {reason}')


def test_a_time_of_day_in_a_date_is_told_as_a_timestamp(tmp_path: Path) -> None:
    """The format is right then, and the type is not."""
    table = add_column(tmp_path, days(60, "%Y-%m-%d %H:%M"), 'type = "date"')
    with pytest.raises(DatasetError, match='part of a timestamp: declare the column as type = "timestamp"'):
        table.etl()
    assert table.etl("columns.when.type=timestamp")["rejected_lines"] == 0


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("date", pa.date32()),
        ("date", pa.timestamp("ms")),
        ("timestamp", pa.date32()),
        ("timestamp", pa.timestamp("us")),
        ("timestamp", pa.timestamp("ns")),
        ("timestamp", pa.timestamp("us", tz="Europe/Berlin")),
    ],
)
def test_parquet_columns_of_dates_and_timestamps_are_read(
    tmp_path: Path, kind: Moment, type_: pa.DataType
) -> None:
    """A time zone of the file changes how a timestamp is shown, and not which it is."""
    values = pa.array([datetime.date(2013, 5, 1) + datetime.timedelta(days=day) for day in range(60)])
    found, _ = add_parquet_column(
        tmp_path, values.cast(pa.timestamp("us")).cast(type_), f'type = "{kind}"'
    ).read()
    assert last(found) == [parse_moment(text, kind) for text in days(60, _ISO["date"])]


def test_parquet_text_is_read_by_the_format(tmp_path: Path) -> None:
    """Who writes Parquet with pandas often has dates as text in it."""
    table = add_parquet_column(tmp_path, pa.array(days(60, "%d.%m.%Y")), 'type = "date", format = "%d.%m.%Y"')
    found, _ = table.read()
    assert last(found) == [parse_moment(text, "date") for text in days(60, _ISO["date"])]


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        (
            pa.array([_START] * 60, pa.timestamp("us")),
            "date",
            "row 0 holds '2013-05-01 10:30:00', which is not a date alone",
        ),
        (
            pa.array(["2013-05-01"] * 50 + ["soon"] * 10),
            "date",
            "row 50 holds 'soon', which is not a date such as",
        ),
        (
            pa.array([datetime.date(1600, 1, 1)] * 60),
            "timestamp",
            "row 0 holds '1600-01-01', which is beyond",
        ),
    ],
)
def test_a_parquet_value_that_is_no_such_moment_is_refused_with_row_and_value(
    tmp_path: Path, values: pa.Array, kind: str, told: str
) -> None:
    """A Parquet file has no lines that could be rejected."""
    table = add_parquet_column(tmp_path, values, f'type = "{kind}"')
    with pytest.raises(DatasetError, match=rf"column 'when' is declared {kind}, but {told}"):
        table.read()


def test_a_parquet_number_is_no_date(tmp_path: Path) -> None:
    """Days, seconds, milliseconds: a number alone does not say."""
    table = add_parquet_column(tmp_path, pa.array(range(60)), 'type = "date"')
    with pytest.raises(DatasetError, match="column 'when' is BIGINT, but is declared date"):
        table.read()


def test_a_time_split_goes_by_a_date(tmp_path: Path) -> None:
    """The latest days test, whatever their order in the file; its text has the day first."""
    values = days(100, "%d.%m.%Y")[::-1]
    table = add_column(
        tmp_path,
        values,
        'type = "date", format = "%d.%m.%Y", role = "key"',
        split='kind = "time"\ncolumn = "when"\ntest = 0.2\nvalidation = 0.1',
    )
    table.etl()
    splits = table.all_rows()
    assert {row for row, split in splits.items() if split == "test"} == set(range(20))
    assert {row for row, split in splits.items() if split == "validation"} == set(range(20, 30))


def test_a_key_splits_by_the_day_and_not_by_how_it_is_written(tmp_path: Path) -> None:
    """A file that is written anew in another form leaves every row in its split."""
    split = 'kind = "hash"\nkey = ["when"]'
    first = add_column(tmp_path / "a", days(100, "%Y-%m-%d"), 'type = "date", role = "key"', split=split)
    column = 'type = "date", role = "key", format = "%d.%m.%Y"'
    second = add_column(tmp_path / "b", days(100, "%d.%m.%Y"), column, split=split)
    first.etl()
    second.etl()
    assert first.all_rows() == second.all_rows()
    assert (first.prepared / "seen_rows.parquet").read_bytes() == (
        second.prepared / "seen_rows.parquet"
    ).read_bytes()


def test_a_day_that_is_there_twice_breaks_a_unique_key_and_is_shown_as_a_day(tmp_path: Path) -> None:
    """Nobody knows what day 15826 is."""
    values = days(60, "%d.%m.%Y")
    values[9] = values[0]
    table = add_column(
        tmp_path,
        values,
        'type = "date", format = "%d.%m.%Y"',
        rest='[checks]\nunique_key = ["when"]',
    )
    with pytest.raises(
        DatasetError, match=r"rule unique_key .* first row 0 \(2013-05-01\); row 9 \(2013-05-01\)"
    ):
        table.etl()


@pytest.mark.parametrize(
    ("kind", "bounds", "shown"),
    [
        ("date", '["2013-05-01", "2013-06-15"]', r"2013-05-01 to 2013-06-15.*row 46 \(2013-06-16\)"),
        (
            "timestamp",
            '["2013-05-01", "2013-06-15T12:00+02:00"]',
            r"2013-05-01T00:00:00Z to 2013-06-15T10:00:00Z.*row 45 \(2013-06-15 10:30:00\)",
        ),
    ],
)
def test_a_range_of_days_is_checked(tmp_path: Path, kind: str, bounds: str, shown: str) -> None:
    """A year that was mistyped is found where it is declared what years there are."""
    values = days(60, _ISO[kind])
    table = add_column(tmp_path, values, f'type = "{kind}", range = {bounds}')
    with pytest.raises(DatasetError, match=rf"when: rule range \({shown}"):
        table.etl()


@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_a_profile_has_moments_as_numbers(tmp_path: Path, kind: Moment) -> None:
    """Drift, model card and the fillings of a network read it as that of any whole number."""
    values = days(100, _ISO[kind])
    values[3] = ""
    table = add_column(tmp_path, values, f'type = "{kind}", nullable = true')
    table.etl()
    column = table.profile().columns["when"]
    trained = [value for (value,) in table.query('"when"') if value is not None]
    assert column.dtype == kind
    assert (column.minimum, column.maximum) == (min(trained), max(trained))
    assert sum(column.histogram.counts) == len(trained)
    assert column.quantiles is not None
    assert column.quantiles["0.5"] == sorted(trained)[(len(trained) - 1) // 2]
    assert column.mean == pytest.approx(sum(trained) / len(trained), rel=1e-12)
    declared = next(one for one in table.profile().input_columns if one.name == "when")
    assert (declared.datatype, declared.moment, declared.minimum) == ("INT64", kind, min(trained))
    assert write_moment(int(declared.minimum or 0), kind).startswith("2013-05-0")


def test_days_of_two_splits_are_the_same_input(tmp_path: Path) -> None:
    """Duplicates are found by the day as well."""
    values = [*days(50, "%Y-%m-%d"), *days(50, "%Y-%m-%d")]
    lines = [f"{line},{value}" for line, value in zip([*rows(50), *rows(50)], values, strict=True)]
    table = SmallTable(
        tmp_path,
        lines,
        header=f"{HEADER},when",
        columns='when = { type = "date" }',
        split='kind = "head"\nrows = 50',
    )
    table.etl()
    assert table.profile().duplicates.rows["test"] == 50


def test_a_day_that_stands_for_no_end_still_has_a_profile(tmp_path: Path) -> None:
    """Beyond 2^52 microseconds there is no number half way between two, which an edge of a bin would be."""
    table = add_column(tmp_path, ["2200-01-01"] * 60, 'type = "timestamp"')
    table.etl()
    column = table.profile().columns["when"]
    assert column.minimum == column.maximum == column.mean == parse_moment("2200-01-01", "timestamp")
    assert column.std == 0
    assert column.histogram.counts == (table.profile().rows["train"],)
    assert column.histogram.edges is not None
    assert column.histogram.edges[0] <= column.minimum <= column.histogram.edges[1]
    assert column.histogram.edges[0] < column.histogram.edges[1]
