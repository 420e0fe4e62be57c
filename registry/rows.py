"""Which rows a version has learned from, and how rows are distinguished: names, shapes and SQL, no library.

The ETL writes `SEEN_FILE` beside the prepared splits, the exporter publishes it, and the gate leaves these
rows out when it asks a version about rows of another table. Row numbers mean nothing there: a row is
known by its values.

`SEEN_FILE` has one column ``hash`` (INT64, ascending, no value twice) and a `SeenRows` as JSON under
`SEEN_KEY` in its Parquet metadata. `TEST_ROWS_FILE` has ``__row__``, ``__class__`` and the stored columns
of every test row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from timberline.registry.runtime.files import digest_bytes
from timberline.registry.signature import Moment

# Also changes with the way to hash a row: hashes of two ways cannot be compared.
SEEN_SCHEMA_VERSION = 1
SEEN_FILE = "seen_rows.parquet"
TEST_ROWS_FILE = "test_rows.parquet"
SEEN_KEY = b"timberline"
# One in so many rows that were never seen is taken for a seen one. At 4,096 a version of 54 columns and
# 15,120 rows took more than two bytes a row.
SEEN_ODDS = 1024

# Separates the values of a row, so that ("ab", "c") and ("a", "bc") differ; NULL is no text.
_SEPARATOR = "chr(31)"
_NULL_TEXT = "chr(0)"

Datatype = Literal["FP64", "INT64", "BOOL", "BYTES"]


class StoredColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column of the prepared rows, as model.toml declares it."""

    name: str
    datatype: Datatype
    moment: Moment | None = None


class SeenRows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the hashes of a `SEEN_FILE` are of.

    ``columns`` are the stored columns in declared order, ``target`` among them; a row is known by all but
    the target. ``rows`` counts the training and validation rows; hashes are taken modulo ``span``.
    ``false_positive_rate`` is the chance that a row that was never seen has the hash of one that was.
    """

    schema_version: int
    columns: tuple[StoredColumn, ...]
    target: str
    rows: Annotated[int, msgspec.Meta(ge=1)]
    span: Annotated[int, msgspec.Meta(ge=1)]
    false_positive_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]


def hash_row(columns: Iterable[StoredColumn], span: int) -> str:
    """A row's hash as SQL, BIGINT from 0 to ``span`` - 1: half an MD5 of the text of these columns.

    No hash of DuckDB's own, which may be another in the next release. A number has one text, whatever
    type it is stored in, and NULL is no text. ``span`` is below 2**63.

    A column of numbers that holds text which is none makes the statement fail.
    """
    parts = ", ".join(f"coalesce({_write_value(column)}, {_NULL_TEXT})" for column in columns)
    return f"CAST(md5_number_lower(concat_ws({_SEPARATOR}, {parts})) % {span} AS BIGINT)"


def count_and_sum(columns: Iterable[str]) -> str:
    """The two aggregates of `fingerprint` as SQL: the number of rows, and the sum of their hashes.

    A sum does not know the order of its terms, and unlike exclusive or it does not lose a row that is
    there twice. The sum of 64-bit hashes cannot overflow 128 bits below 2**63 rows. The sum of no row is
    NULL. DuckDB's own ``hash`` is fast, and may be another in its next release; it depends on the type
    in which a value is stored, which Parquet keeps.
    """
    return f"count(*), sum({hash_fast(columns)})"


def hash_fast(columns: Iterable[str]) -> str:
    """DuckDB's own hash of these columns as SQL, to be compared with others of the same release only."""
    return f"hash({', '.join(map(quote, columns))})"


def fingerprint(rows: int, total: int) -> str:
    """What identifies a set of rows: SHA-256 of their number and the sum of their hashes (`count_and_sum`).

    Comparable between runs of the same DuckDB.
    """
    return digest_bytes(f"{rows} {total}".encode())


def _write_value(column: StoredColumn) -> str:
    """The value as text.

    Whole numbers that a DOUBLE holds exactly are written as such, which takes half the time of writing
    a DOUBLE and is the same for -0.0 and 0.
    """
    name = quote(column.name)
    if column.datatype == "BYTES":
        return f"CAST({name} AS VARCHAR)"
    number = f"CAST({name} AS DOUBLE)"
    is_whole = f"{number} = trunc({number}) AND abs({number}) <= {2**53}"
    whole = f"CAST(CAST({number} AS BIGINT) AS VARCHAR)"
    return f"CASE WHEN {is_whole} THEN {whole} ELSE CAST({number} AS VARCHAR) END"


def quote(name: str) -> str:
    """A name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
