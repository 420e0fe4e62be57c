"""rows.py: raw rows become the graph's inputs, features become float32, in file order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timberline.exporter.errors import ExportError
from timberline.exporter.parity.rows import check_slices, count_rows, make_feeds, read_chunks, rows_to_feeds
from timberline.registry.errors import ConfigError
from timberline.registry.signature import NULL_TEXT, Column
from timberline.training.features import parse_features, parse_slices

COLUMNS = (
    Column(name="colour", datatype="BYTES", is_nullable=True),
    Column(name="height", datatype="FP64", is_nullable=True),
    Column(name="is_wet", datatype="BOOL", is_nullable=True),
    Column(name="count", datatype="INT64", is_nullable=True),
)
RAW = pa.table(
    {
        "colour": pa.array(["red", None, ""]),
        "height": pa.array([1.5, None, float("nan")]),
        "is_wet": pa.array([True, False, None]),
        "count": pa.array([7, None, -3], pa.int16()),
    }
)


def write(path: Path, raw: pa.Table, *, copies: int = 1) -> Path:
    table = pa.concat_tables([raw] * copies)
    rows = pa.array(np.arange(table.num_rows) * 10, pa.int64())
    classes = pa.array(np.arange(table.num_rows) % 3, pa.int16())
    table = table.add_column(0, "__class__", classes).add_column(0, "__row__", rows)
    pq.write_table(table, path)
    return path


def test_null_is_nan_among_numbers_and_a_mark_among_text() -> None:
    """The graph has no NULL; both sides of the wire agree on these two stand-ins."""
    feeds = make_feeds(RAW, COLUMNS)

    expected = [[1.5, 1, 7], [np.nan, 0, np.nan], [np.nan, np.nan, -3]]
    np.testing.assert_array_equal(feeds["numeric"], expected)
    assert feeds["numeric"].dtype == np.float64
    assert feeds["text"].tolist() == [["red"], [NULL_TEXT], [""]]


def test_golden_values_feed_the_graph_as_the_table_does(tmp_path: Path) -> None:
    """Golden rows are kept as plain values; replayed, they have to be the very same inputs."""
    program = parse_features("SELECT height FROM raw", COLUMNS)
    (chunk,) = read_chunks(write(tmp_path / "test.parquet", RAW), program)

    values = [chunk.take(index) for index in range(3)]
    feeds = rows_to_feeds(values, COLUMNS)

    assert values == [("red", 1.5, True, 7), (None, None, False, None), ("", None, None, -3)]
    assert feeds.keys() == chunk.feeds.keys()
    np.testing.assert_array_equal(feeds["numeric"], chunk.feeds["numeric"])
    assert feeds["text"].tolist() == chunk.feeds["text"].tolist()


def test_table_without_text_feeds_one_tensor() -> None:
    """A tensor with no column is no input of the graph."""
    assert set(make_feeds(RAW.select(["height"]), COLUMNS[1:2])) == {"numeric"}
    assert set(rows_to_feeds([(1.0,)], COLUMNS[1:2])) == {"numeric"}


def test_chunks_hold_every_row_once_and_in_file_order(tmp_path: Path) -> None:
    """A row lost or swapped between file, DuckDB and graph would compare the wrong rows."""
    program = parse_features("SELECT coalesce(count, 0) * 2 AS double_count, height FROM raw", COLUMNS)
    path = write(tmp_path / "test.parquet", RAW, copies=100)

    chunks = list(read_chunks(path, program, chunk_rows=64))

    assert [len(chunk.rows) for chunk in chunks] == [64, 64, 64, 64, 44]
    assert count_rows(path) == 300
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == [10 * i for i in range(300)]
    features = np.concatenate([chunk.features for chunk in chunks])
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[:, 0], [14, 0, -6] * 100)
    np.testing.assert_array_equal(features[:, 1], [1.5, np.nan, np.nan] * 100)


def test_missing_column_is_named(tmp_path: Path) -> None:
    """Prepared data of another config is told before anything is compared."""
    program = parse_features("SELECT height FROM raw", COLUMNS)
    path = write(tmp_path / "test.parquet", RAW.drop_columns(["is_wet"]))

    with pytest.raises(ExportError, match="has no column is_wet"):
        list(read_chunks(path, program))


def test_a_row_is_in_a_slice_only_when_its_condition_is_true(tmp_path: Path) -> None:
    """NULL compares as neither; a row of unknown height would dilute the slice of the tall."""
    program = parse_features("SELECT height FROM raw", COLUMNS)
    slices = parse_slices({"tall": "height > 1", "not_red": "colour <> 'red'"}, COLUMNS)
    path = write(tmp_path / "test.parquet", RAW, copies=2)

    chunks = list(read_chunks(path, program, slices=slices, chunk_rows=4))

    inside = {name: [flag for c in chunks for flag in c.slices[name].tolist()] for name in slices.names}
    assert inside == {"slice_tall": [True, False, False] * 2, "slice_not_red": [False, False, True] * 2}
    check_slices(path, slices)


def test_a_slice_without_rows_is_refused_with_its_key(tmp_path: Path) -> None:
    """It could never block anything, and would look as if it had been judged."""
    slices = parse_slices({"tall": "height > 1", "giant": "height > 99"}, COLUMNS)
    with pytest.raises(ConfigError, match=r"gate\.slices\.giant: holds none of the 3 test rows"):
        check_slices(write(tmp_path / "test.parquet", RAW), slices)


def test_the_graph_is_fed_what_features_read_and_slices_may_read_more(tmp_path: Path) -> None:
    """A column that no feature reads is not asked of clients; the gate's slices are computed here."""
    path = write(tmp_path / "test.parquet", RAW)
    program = parse_features("SELECT height * 2 AS twice, coalesce(count, 0) AS n FROM raw", COLUMNS).narrow()
    slices = parse_slices({"red": "colour = 'red'", "wet": "is_wet AND height > 0"}, COLUMNS)

    check_slices(path, slices)
    (chunk,) = read_chunks(path, program, slices=slices)

    assert [column.name for column in program.columns] == ["height", "count"]
    np.testing.assert_array_equal(chunk.feeds["numeric"], [[1.5, 7], [np.nan, np.nan], [np.nan, -3]])
    assert list(chunk.feeds) == ["numeric"]
    assert chunk.take(0) == (1.5, 7)
    assert {name: inside.tolist() for name, inside in chunk.slices.items()} == {
        "slice_red": [True, False, False],
        "slice_wet": [True, False, False],
    }
