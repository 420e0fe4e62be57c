"""Splits hold for any rows: exact shares, no row lost, and nobody moves without a reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timberline.training.config import HashSplit, HeadSplit, RandomSplit, Split, TimeSplit
from timberline.training.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    draw_number,
    key_hash,
    mix_rows,
    split_rows,
)
from timberline.training.errors import DatasetError

MASK = 2**32 - 1
shares = st.floats(0, 0.49)
seeds = st.integers(0, 2**63 - 1)
classes = st.lists(st.integers(0, 3), min_size=1, max_size=300)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """One database for all examples; each makes its own table."""
    with duckdb.connect(":memory:", config={"threads": 2}) as opened:
        yield opened


def split_table(
    connection: duckdb.DuckDBPyConnection,
    split: Split,
    found: Sequence[int],
    keys: Sequence[str | int | None] = (),
) -> list[int]:
    """The split of each row of a table with these classes and keys."""
    keys = keys or [None] * len(found)
    kind = "VARCHAR" if any(isinstance(key, str) for key in keys) else "BIGINT"
    connection.execute(f"CREATE OR REPLACE TABLE raw (class SMALLINT, key {kind})")
    connection.executemany("INSERT INTO raw VALUES (?, ?)", list(zip(found, keys, strict=True)))
    hashed = key_hash(split) if isinstance(split, HashSplit) else "0"
    relation = (
        f"(SELECT class AS __class__, {draw_number(split)} AS __draw__, {hashed} AS __key__, * "
        f"FROM (SELECT rowid AS __row__, * FROM raw))"
    )
    chosen = split_rows(connection, split, relation)
    rows = connection.execute(f"SELECT {chosen} FROM {relation} ORDER BY __row__").fetchall()
    return [value for (value,) in rows]


@given(found=classes, validation=shares, test=shares, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_random_split_takes_the_exact_share_of_every_class(
    connection: duckdb.DuckDBPyConnection, found: list[int], validation: float, test: float, seed: int
) -> None:
    """A rare class must not be missing from a split by bad luck."""
    chosen = split_table(connection, RandomSplit(validation=validation, test=test, seed=seed), found)
    total = Counter(found)
    counts = Counter(zip(found, chosen, strict=True))
    for index, rows in total.items():
        assert abs(counts[index, VALIDATION] - validation * rows) <= 1
        assert abs(counts[index, TEST] - test * rows) <= 1
        assert sum(counts[index, split] for split in (TRAIN, VALIDATION, TEST)) == rows


@given(found=classes, rows=st.integers(1, 300), validation=shares, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_head_split_trains_and_validates_inside_the_first_rows_only(
    connection: duckdb.DuckDBPyConnection, found: list[int], rows: int, validation: float, seed: int
) -> None:
    """The rows behind the head are another party's test set."""
    chosen = split_table(connection, HeadSplit(rows=rows, validation=validation, seed=seed), found)
    assert all((split == TEST) == (row >= rows) for row, split in enumerate(chosen))
    for index, count in Counter(found[:rows]).items():
        validating = sum(
            c == index and s == VALIDATION for c, s in zip(found[:rows], chosen[:rows], strict=True)
        )
        assert abs(validating - validation * count) <= 1


@given(
    keys=st.lists(st.text(max_size=5) | st.none(), min_size=1, max_size=60),
    others=st.lists(st.text(max_size=5) | st.none(), max_size=60),
    validation=shares,
    test=shares,
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_hash_split_of_a_row_depends_on_its_key_alone(
    connection: duckdb.DuckDBPyConnection,
    keys: list[str | None],
    others: list[str | None],
    validation: float,
    test: float,
    seed: int,
) -> None:
    """When rows are added next month, no test row may become a training row."""
    keys, others = ([key and key.replace("\0", "") for key in some] for some in (keys, others))
    split = HashSplit(key=("key",), validation=validation, test=test, seed=seed)
    alone = split_table(connection, split, [0] * len(keys), keys)
    among = split_table(connection, split, [1] * (len(others) + len(keys)), [*others, *keys])
    assert among[len(others) :] == alone


@given(times=st.lists(st.integers(-5, 5), min_size=1, max_size=100), validation=shares, test=shares)
@settings(max_examples=40, deadline=None)
def test_time_split_never_trains_on_what_comes_later_and_keeps_moments_whole(
    connection: duckdb.DuckDBPyConnection, times: list[int], validation: float, test: float
) -> None:
    """Rows of one moment on both sides would tell the test what training saw."""
    split = TimeSplit(column="key", validation=validation, test=test)
    chosen = split_table(connection, split, [0] * len(times), times)
    moments = {split: {t for t, s in zip(times, chosen, strict=True) if s == split} for split in range(3)}
    for earlier, later in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        assert max(moments[earlier], default=-9) < min(moments[later], default=9)


@given(count=st.integers(1, 100), validation=shares, test=shares)
@settings(max_examples=20, deadline=None)
def test_time_split_without_a_column_cuts_the_source_order_by_shares(
    connection: duckdb.DuckDBPyConnection, count: int, validation: float, test: float
) -> None:
    """A file that is in the order of time needs no column for it."""
    chosen = split_table(connection, TimeSplit(validation=validation, test=test), [0] * count)
    assert chosen == sorted(chosen)
    assert abs(chosen.count(VALIDATION) - validation * count) <= 1
    assert abs(chosen.count(TEST) - test * count) <= 1


def test_time_split_refuses_rows_without_a_time(connection: duckdb.DuckDBPyConnection) -> None:
    """A row that has no place in time could land in training from the future."""
    with pytest.raises(DatasetError, match=r"'key'.*NULL in 1 of 3 rows"):
        split_table(connection, TimeSplit(column="key"), [0, 0, 0], [1, None, 3])


def test_hash_split_shares_are_near_the_ones_asked_for(connection: duckdb.DuckDBPyConnection) -> None:
    """Shares by hash hold on average: within five standard deviations over 20,000 keys."""
    split = HashSplit(key=("key",), validation=0.16, test=0.2)
    relation = f"(SELECT {key_hash(split)} AS __key__ FROM range(20000) AS t(key))"
    chosen = split_rows(connection, split, relation)
    found = dict(connection.execute(f"SELECT {chosen} AS s, count(*) FROM {relation} GROUP BY s").fetchall())
    assert found[TEST] == pytest.approx(4000, abs=5 * (20000 * 0.2 * 0.8) ** 0.5)
    assert found[VALIDATION] == pytest.approx(3200, abs=5 * (20000 * 0.16 * 0.84) ** 0.5)


def test_hash_split_stays_as_it_was_released(connection: duckdb.DuckDBPyConnection) -> None:
    """A change of the hash would move test rows into training without anybody noticing."""
    split = HashSplit(key=("key",), validation=0.3, test=0.3, seed=1)
    keys = ["a", "b", "c", "d", "e", "f", "g", "h"]
    assert split_table(connection, split, [0] * 8, keys) == [2, 1, 2, 2, 0, 0, 0, 0]


@given(seed=seeds, rows=st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_mixing_in_sql_is_the_published_finaliser(
    connection: duckdb.DuckDBPyConnection, seed: int, rows: list[int]
) -> None:
    """The same rows must be drawn by every version of DuckDB, so the formula is ours and is pinned here."""
    listed = ", ".join(f"({row}::BIGINT)" for row in rows)
    sql = mix_rows("row", seed, "split")
    start = mix_rows("(0::BIGINT)", seed, "split")
    found = connection.execute(f"SELECT {sql} FROM (VALUES {listed}) AS t(row)").fetchall()
    factor, offset = _spread(seed)
    assert [value for (value,) in found] == [_finalise((row * factor + offset) & MASK) for row in rows]
    assert connection.execute(f"SELECT {start}").fetchall() == [(_finalise(offset),)]


def _spread(seed: int) -> tuple[int, int]:
    digest = hashlib.sha256(f"split:{seed}".encode()).digest()
    return int.from_bytes(digest[:4], "little") | 1, int.from_bytes(digest[4:8], "little")


def _finalise(value: int) -> int:
    """MurmurHash3's fmix32, as published."""
    value ^= value >> 16
    value = value * 0x85EBCA6B & MASK
    value ^= value >> 13
    value = value * 0xC2B2AE35 & MASK
    return value ^ value >> 16
