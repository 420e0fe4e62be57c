"""Which rows train, validate and test, as one SQL expression over the raw table.

A split depends on the configuration and the data alone: not on threads, and not on the version of
DuckDB, whose own ``hash`` may change. Where the rows themselves decide (``hash``), other rows coming
or going move nobody.
"""

from __future__ import annotations

import hashlib

import duckdb

from training.config import HashSplit, HeadSplit, RandomSplit, Split, TimeSplit
from training.database import literal, quote
from training.errors import DatasetError

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")

_MASK = 2**32 - 1
# Separates the parts of a key, so that ("ab", "c") and ("a", "bc") differ; NULL is no text.
_SEPARATOR = "chr(31)"
_NULL_KEY = "chr(0)"


def mix_rows(row: str, seed: int, purpose: str) -> str:
    """A pseudo-random 32-bit number for each row, as SQL; different rows below 2**32 never tie.

    ``row`` is spread by an odd multiplier and an offset taken from the seed, then mixed by the
    finaliser of MurmurHash3 (Appleby, public domain); each step is a bijection on 32 bits.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    factor = int.from_bytes(digest[:4], "little") | 1
    offset = int.from_bytes(digest[4:8], "little")
    mixed = f"((({row} & {_MASK})::UBIGINT * {factor} + {offset}) & {_MASK})"
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = f"((xor({mixed}, {mixed} >> {shift}) * {multiplier}) & {_MASK})"
    return f"xor({mixed}, {mixed} >> 16)"


def key_hash(split: HashSplit) -> str:
    """The 64-bit hash of a row's key columns as SQL: the low half of an MD5 of their text and the seed."""
    parts = ", ".join(f"coalesce(CAST({quote(name)} AS VARCHAR), {_NULL_KEY})" for name in split.key)
    return f"md5_number_lower(concat_ws({_SEPARATOR}, {literal(str(split.seed))}, {parts}))"


def split_rows(
    connection: duckdb.DuckDBPyConnection, split: Split, *, relation: str, class_sql: str, key: str
) -> str:
    """The split of each row of ``relation`` (0 train, 1 validation, 2 test) as an SQL expression.

    Args:
        relation: the raw table; its ``rowid`` is the row number in the source.
        class_sql: the row's class index.
        key: the column with `key_hash`, for a hash split.

    Raises:
        DatasetError: the time column has a NULL.
    """
    match split:
        case HeadSplit():
            inside = f"rowid < {split.rows}"
            drawn = _draw(connection, relation, class_sql, inside, split.seed, (split.validation, 0.0))
            return f"CASE WHEN {inside} THEN {drawn} ELSE {TEST} END"
        case RandomSplit():
            shares = (split.validation, split.test)
            return _draw(connection, relation, class_sql, "true", split.seed, shares)
        case HashSplit():
            first, second = split.test, split.test + split.validation
            return (
                f"CASE WHEN {key} < {_threshold(first)} THEN {TEST} "
                f"WHEN {key} < {_threshold(second)} THEN {VALIDATION} ELSE {TRAIN} END"
            )
        case TimeSplit():
            return _by_time(connection, relation, split)


def _draw(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    class_sql: str,
    inside: str,
    seed: int,
    shares: tuple[float, float],
) -> str:
    """Of each class's rows the ones with the lowest mixed numbers validate, the next ones test."""
    mixed = mix_rows("rowid", seed, "split")
    found = connection.execute(f"""
        SELECT class, any_value(total), max(mixed) FILTER (rank <= round(total * {shares[0]!r})),
            max(mixed) FILTER (rank <= round(total * {shares[0]!r}) + round(total * {shares[1]!r}))
        FROM (
            SELECT class, mixed, row_number() OVER (PARTITION BY class ORDER BY mixed) AS rank,
                count(*) OVER (PARTITION BY class) AS total
            FROM (SELECT {class_sql} AS class, {mixed} AS mixed FROM {relation} WHERE {inside})
        )
        GROUP BY class ORDER BY class
    """).fetchall()
    cases = []
    for index, _, validating, testing in found:
        conditions = [
            f"WHEN {mixed} <= {highest} THEN {chosen}"
            for highest, chosen in ((validating, VALIDATION), (testing, TEST))
            if highest is not None
        ]
        if conditions:
            cases.append(f"WHEN {index} THEN CASE {' '.join(conditions)} ELSE {TRAIN} END")
    return f"CASE {class_sql} {' '.join(cases)} ELSE {TRAIN} END" if cases else str(TRAIN)


def _threshold(share: float) -> str:
    """The upper end of the lowest ``share`` of all 64-bit numbers."""
    return f"{min(round(share * 2**64), 2**64)}::HUGEINT"


def _by_time(connection: duckdb.DuckDBPyConnection, relation: str, split: TimeSplit) -> str:
    """The earliest rows train; rows of one moment stay together, in the later split."""
    column = quote(split.column) if split.column else "rowid"
    total, known = connection.execute(f"SELECT count(*), count({column}) FROM {relation}").fetchall()[0]
    if known < total:
        raise DatasetError(
            f"is NULL in {total - known:,} of {total:,} rows, which have no place in time",
            where=f"column {split.column!r}",
            hint="Split by another column, or fill this one.",
        )
    validating = round(total * (1 - split.test - split.validation))
    testing = round(total * (1 - split.test))
    conditions: list[str] = []
    for position, below in ((validating, TRAIN), (testing, VALIDATION)):
        if position >= total:
            return f"CASE {' '.join(conditions)} ELSE {below} END" if conditions else str(below)
        edge = _value_at(connection, relation, column, position)
        conditions.append(f"WHEN {column} < {edge} THEN {below}")
    return f"CASE {' '.join(conditions)} ELSE {TEST} END"


def _value_at(connection: duckdb.DuckDBPyConnection, relation: str, column: str, position: int) -> str:
    """The value at a 0-based position of the sorted column, as a literal."""
    if column == "rowid":
        return str(position)
    found = connection.execute(
        f"SELECT {column} FROM {relation} ORDER BY {column} LIMIT 1 OFFSET {position}"
    ).fetchall()
    value: str | float | bool = found[0][0]
    return literal(value)
