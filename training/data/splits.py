"""Which rows train, validate and test, as one SQL expression over the raw table.

A split depends on the configuration and the data alone: not on threads, and not on the version of
DuckDB, whose own ``hash`` may change. Where a key decides (``hash``), a row stays in its split when
others are added or removed.
"""

from __future__ import annotations

import hashlib

from timberline.registry.rows import quote
from timberline.registry.runs import ROW_COLUMN
from timberline.training.config import HashSplit, HeadSplit, RandomSplit, Split, TimeSplit
from timberline.training.data.database import Connection, literal
from timberline.training.errors import DatasetError

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


def draw_number(split: Split) -> str:
    """The number by which a row is drawn for its split, as SQL over ``raw``."""
    return mix_rows(ROW_COLUMN, getattr(split, "seed", 0), "split")


def split_rows(connection: Connection, split: Split, relation: str) -> str:
    """The split of each row of ``relation`` (0 train, 1 validation, 2 test) as an SQL expression.

    ``relation`` is ``raw`` (`read_source`) with ``__class__`` and ``__draw__`` (`draw_number`) beside.

    Raises:
        DatasetError: the time column has a NULL.
    """
    match split:
        case HeadSplit():
            inside = f"__row__ < {split.rows}"
            drawn = _draw(connection, relation, inside, (split.validation, 0.0))
            return f"CASE WHEN {inside} THEN {drawn} ELSE {TEST} END"
        case RandomSplit():
            return _draw(connection, relation, "true", (split.validation, split.test))
        case HashSplit():
            first, second = split.test, split.test + split.validation
            return (
                f"CASE WHEN __key__ < {_threshold(first)} THEN {TEST} "
                f"WHEN __key__ < {_threshold(second)} THEN {VALIDATION} ELSE {TRAIN} END"
            )
        case TimeSplit():
            return _by_time(connection, relation, split)


def _draw(connection: Connection, relation: str, inside: str, shares: tuple[float, float]) -> str:
    """Of each class's rows the ones drawn lowest validate, the next ones test, exact to a row."""
    found = connection.execute(f"""
        SELECT __class__, max(__draw__) FILTER (rank <= round(total * {shares[0]!r})),
            max(__draw__) FILTER (rank <= round(total * {shares[0]!r}) + round(total * {shares[1]!r}))
        FROM (
            SELECT __class__, __draw__, row_number() OVER (PARTITION BY __class__ ORDER BY __draw__) AS rank,
                count(*) OVER (PARTITION BY __class__) AS total
            FROM {relation} WHERE {inside}
        )
        GROUP BY __class__ ORDER BY __class__
    """).fetchall()
    cases = []
    for index, validating, testing in found:
        conditions = [
            f"WHEN __draw__ <= {highest} THEN {chosen}"
            for highest, chosen in ((validating, VALIDATION), (testing, TEST))
            if highest is not None
        ]
        if conditions:
            cases.append(f"WHEN {index} THEN CASE {' '.join(conditions)} ELSE {TRAIN} END")
    return f"CASE __class__ {' '.join(cases)} ELSE {TRAIN} END" if cases else str(TRAIN)


def _threshold(share: float) -> str:
    """The upper end of the lowest ``share`` of all 64-bit numbers."""
    return f"{min(round(share * 2**64), 2**64)}::HUGEINT"


def _by_time(connection: Connection, relation: str, split: TimeSplit) -> str:
    """The earliest rows train; rows of one moment stay together, in the later split."""
    column = quote(split.column) if split.column else "__row__"
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


def _value_at(connection: Connection, relation: str, column: str, position: int) -> str:
    """The value at a 0-based position of the sorted column, as a literal."""
    if column == "__row__":
        return str(position)
    found = connection.execute(
        f"SELECT {column} FROM {relation} ORDER BY {column} LIMIT 1 OFFSET {position}"
    ).fetchall()
    value: str | float | bool = found[0][0]
    return literal(value)
