"""Which rows a version has learned from, and how rows are told apart: names, shapes and SQL, no library.

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

SEEN_SCHEMA_VERSION = 1
SEEN_FILE = "seen_rows.parquet"
TEST_ROWS_FILE = "test_rows.parquet"
SEEN_KEY = b"timberline"
# A row that was never seen is taken for one that was in 1 of so many cases.
SEEN_ODDS = 4096

Datatype = Literal["FP64", "INT64", "BOOL", "BYTES"]


class StoredColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of the prepared rows, as model.toml declares it."""

    name: str
    datatype: Datatype


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
    type it is stored in.
    """
    raise NotImplementedError
