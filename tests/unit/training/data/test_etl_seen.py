"""Which rows a version has learned from: `seen_rows.parquet`, and the fingerprint of its test rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from tests.support.tables import HEADER, SmallTable, rows
from timberline.registry.rows import (
    SEEN_FILE,
    SEEN_KEY,
    SEEN_ODDS,
    SeenRows,
    StoredColumn,
    count_and_sum,
    fingerprint,
    hash_row,
    quote,
)


def read_seen(prepared: Path) -> tuple[SeenRows, list[int]]:
    """What a seen file says of itself, and its hashes."""
    table = pq.read_table(prepared / SEEN_FILE)
    return msgspec.json.decode(table.schema.metadata[SEEN_KEY], type=SeenRows), table["hash"].to_pylist()


def known_by(seen: SeenRows) -> list[StoredColumn]:
    """The columns that a row is known by."""
    return [column for column in seen.columns if column.name != seen.target]


def hash_rows(seen: SeenRows, table: SmallTable, splits: Iterable[str]) -> dict[int, int]:
    """The hash of every row of these splits by its row number, as another version's rows are asked for."""
    what = f"__row__, {hash_row(known_by(seen), seen.span)}"
    return dict(pair for split in splits for pair in table.query(what, split))


def hash_values(columns: dict[str, Any], values: str, span: int = 2**62) -> list[int]:
    """The hashes of rows that stand in SQL."""
    stored = [StoredColumn(name=name, datatype=kind) for name, kind in columns.items()]
    names = ", ".join(map(quote, columns))
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT {hash_row(stored, span)} FROM ({values}) AS t({names})")
        return [value for (value,) in found.fetchall()]


def test_the_file_holds_every_row_that_trains_or_validates(tmp_path: Path) -> None:
    """A row that is missing would be counted for the champion, which knows its label."""
    table = SmallTable(tmp_path, rows(1000))
    table.etl()
    seen, hashes = read_seen(table.prepared)
    learned = hash_rows(seen, table, ("train", "validation"))
    assert seen.rows == len(learned) == 800
    assert seen.span == SEEN_ODDS * 800
    assert hashes == sorted(set(learned.values()))
    assert seen.false_positive_rate == len(hashes) / seen.span
    assert [(column.name, column.datatype) for column in seen.columns] == [
        *(("height", "INT64"), ("weight", "FP64"), ("red", "INT64"), ("blue", "INT64")),
        *(("place", "BYTES"), ("is_old", "BOOL"), ("answer", "BYTES")),
    ]
    assert seen.target == "answer"


def test_rows_with_revised_labels_are_still_found(tmp_path: Path) -> None:
    """A label that was corrected since does not make the row a new one."""
    table = SmallTable(tmp_path / "old", rows(1000))
    table.etl()
    seen, hashes = read_seen(table.prepared)
    revised = [
        f"{line.rpartition(',')[0]},{('absent', 'present')[i % 2]}" for i, line in enumerate(rows(1000))
    ]
    other = SmallTable(tmp_path / "new", revised)
    other.etl()
    found = hash_rows(seen, other, ("train", "validation", "test"))
    learned = hash_rows(seen, table, ("train", "validation"))
    assert {row: value for row, value in found.items() if row in learned} == learned
    assert set(learned.values()) == set(hashes)


def test_an_integer_column_that_becomes_a_number_keeps_its_hashes(tmp_path: Path) -> None:
    """The table of next week may write 7 as 7.0, or hold 7.5 for the first time."""
    table = SmallTable(tmp_path / "old", rows(300))
    table.etl()
    seen, _ = read_seen(table.prepared)
    lines = [f"{line.partition(',')[0]}.0,{line.partition(',')[2]}" for line in rows(300)]
    other = SmallTable(tmp_path / "new", lines)
    model = other.models / "small" / "model.toml"
    model.write_text(model.read_text().replace('type = "integer", range', 'type = "number", range'))
    other.etl()
    every = ("train", "validation", "test")
    assert other.query("DISTINCT typeof(height)") == [("DOUBLE",)]
    assert hash_rows(seen, other, every) == hash_rows(seen, table, every)


def test_a_number_has_one_hash_in_every_type() -> None:
    """-0.0 equals 0.0, and true is written as 1 by some tables; what differs in value differs in hash."""
    types = (
        "TINYINT",
        "INTEGER",
        "BIGINT",
        "UBIGINT",
        "HUGEINT",
        "FLOAT",
        "DOUBLE",
        "DECIMAL(9, 2)",
        "BOOLEAN",
    )
    for value in ("0", "1"):
        found = {hash_values({"a": "FP64"}, f"VALUES ({value}::{kind})")[0] for kind in types}
        assert len(found) == 1
    numbers = (
        "-0.0::DOUBLE",
        "0::DOUBLE",
        "0.5",
        "-1",
        "9007199254740992",
        "9007199254740994",
        "1e300",
        "5e-324",
    )
    hashes = [hash_values({"a": "INT64"}, f"VALUES ({number}::DOUBLE)")[0] for number in numbers]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == len(numbers) - 1


def test_null_is_not_the_empty_text_and_cells_do_not_run_together() -> None:
    """Two rows that differ must not be one."""
    values = "VALUES ('', 'a'), (NULL, 'a'), ('a', ''), ('a', NULL), ('aa', ''), ('NULL', 'a'), (NULL, NULL)"
    assert len(set(hash_values({"a": "BYTES", 'b"': "BYTES"}, values))) == 7


def test_the_hash_is_an_md5_that_no_release_of_duckdb_changes() -> None:
    """The champion's file may be years older than the DuckDB that its candidate's rows are hashed with."""
    text = "\x1f".join(("7", "-0.25", "1", "north", "\0"))
    half = int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")
    columns = {"a": "INT64", "b": "FP64", "c": "BOOL", "d": "BYTES", "e": "BYTES"}
    values = "VALUES (7, -0.25::DOUBLE, true, 'north', NULL)"
    assert hash_values(columns, values, 1_000_003) == [half % 1_000_003]


def test_unseen_rows_are_taken_for_seen_ones_as_rarely_as_the_file_says(tmp_path: Path) -> None:
    """Each such row is left out of a comparison for nothing."""
    table = SmallTable(tmp_path, rows(4000))
    table.etl()
    seen, hashes = read_seen(table.prepared)
    count = 400_000
    values = (
        "SELECT (range % 101)::TINYINT, -range / 8, (range % 2)::TINYINT, 0, 'north', true "
        f"FROM range(1, {count + 1})"
    )
    found = hash_values({c.name: c.datatype for c in known_by(seen)}, values, seen.span)
    known = set(hashes)
    wrong = sum(value in known for value in found)
    expected = count * seen.false_positive_rate
    assert seen.false_positive_rate == pytest.approx(1 / SEEN_ODDS, rel=0.01)
    assert abs(wrong - expected) < 4 * expected**0.5  # a binomial count is outside in 1 of 16,000 tables


@pytest.mark.parametrize("count", [5000, 50_000])
def test_the_file_has_at_most_two_bytes_a_row(tmp_path: Path, count: int) -> None:
    """It travels with every version, and is read by every gate."""
    table = SmallTable(tmp_path, rows(count))
    table.etl()
    seen, _ = read_seen(table.prepared)
    assert (table.prepared / SEEN_FILE).stat().st_size <= 2 * seen.rows
    column = pq.read_metadata(table.prepared / SEEN_FILE).row_group(0).column(0)
    assert (column.encodings, column.compression) == (("DELTA_BINARY_PACKED",), "ZSTD")


def test_keys_of_a_hash_split_keep_their_side_when_the_table_grows(tmp_path: Path) -> None:
    """Otherwise the champion would have learned from the rows that it is asked about."""
    split = 'kind = "hash"\nkey = ["weight"]'
    table = SmallTable(tmp_path / "old", rows(600), split=split)
    grown = SmallTable(tmp_path / "new", rows(400, 600) + rows(600), split=split)  # the new rows stand first
    table.etl()
    grown.etl()
    seen, hashes = read_seen(table.prepared)
    every = ("train", "validation", "test")
    before = {weight: name for name in every for (weight,) in table.query("weight", name)}
    after = {weight: name for name in every for (weight,) in grown.query("weight", name)}
    assert {weight: after[weight] for weight in before} == before
    # Of the new test rows the champion has seen none, but for what the file's odds allow.
    assert sum(value in set(hashes) for value in hash_rows(seen, grown, ["test"]).values()) <= 2


def test_a_time_split_moves_its_window_with_the_table(tmp_path: Path) -> None:
    """The rows that tested the champion train its successor; the newest rows are new to both."""
    split = 'kind = "time"\ncolumn = "weight"\nvalidation = 0.2\ntest = 0.2'
    table = SmallTable(tmp_path / "old", rows(600), split=split)
    grown = SmallTable(tmp_path / "new", rows(750), split=split)
    table.etl()
    grown.etl()
    seen, hashes = read_seen(table.prepared)
    assert [row for (row,) in table.query("__row__", "test")] == list(range(480, 600))
    assert [row for (row,) in grown.query("__row__", "test")] == list(range(600, 750))
    assert sum(value in set(hashes) for value in hash_rows(seen, grown, ["test"]).values()) <= 2
    assert set(hash_rows(seen, table, ["test"])).issubset(hash_rows(seen, grown, ["train", "validation"]))


def test_the_fingerprint_of_the_test_rows_is_that_of_the_file(tmp_path: Path) -> None:
    """The gate reads the file and compares with the manifest: every type has to survive Parquet."""
    lines = [f"{line},{i * 300},{i * 70_000},{i << 40},k{i}" for i, line in enumerate(rows(500))]
    columns = """
        small = { type = "integer", range = [0, 200000] }
        wide = { type = "integer", range = [0, 2000000000] }
        whole = { type = "integer" }
        name = { type = "string", role = "key" }
    """
    table = SmallTable(tmp_path, lines, columns=columns, header=f"{HEADER},small,wide,whole,name")
    table.etl()
    seen, _ = read_seen(table.prepared)
    for split in ("train", "validation", "test"):
        ((count, total),) = table.query(count_and_sum(column.name for column in seen.columns), split)
        assert fingerprint(count, int(total)) == table.profile().fingerprints[split]
