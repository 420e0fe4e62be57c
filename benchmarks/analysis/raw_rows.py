"""A version's test rows as they stand in the table, and which of them another version has learned from.

The rows are those that the version published, or the prepared ones of the training's DATA; either way they
are checked against the fingerprint in its manifest. Numbers and hashes are held of all rows, values of a
batch.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.benchmarks.errors import EvidenceError
from timberline.registry.manifest import Manifest
from timberline.registry.rows import (
    SEEN_FILE,
    SEEN_KEY,
    SEEN_SCHEMA_VERSION,
    TEST_ROWS_FILE,
    SeenRows,
    StoredColumn,
    count_and_sum,
    fingerprint,
    hash_row,
    quote,
)
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.working_copy import bring, name_path
from timberline.registry.signature import Column
from timberline.registry.store import Store

# As the exporter does: embeddings hold some 10 kB a row and operator, so that a batch stays below 300 MB.
BATCH_ROWS = 4096
_MEMORY = "1GB"

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawRows:
    """Where the rows are, and the columns of the table, the target not among them."""

    path: Path
    where: str
    columns: dict[str, StoredColumn]


@dataclass(frozen=True)
class Seen:
    """What a version has learned from: hashes in a file, and what they are of."""

    path: Path
    about: SeenRows
    version: int

    @property
    def columns(self) -> tuple[StoredColumn, ...]:
        """The columns that a row is known by: all but the target, whose values may be revised."""
        return tuple(column for column in self.about.columns if column.name != self.about.target)


def open_rows(store: Store, candidate: Manifest, data: Path | None) -> RawRows:
    """Find the candidate's test rows and make sure that they are the ones it was tested on.

    Args:
        store: where the version is; its own rows come first.
        candidate: the version.
        data: the folder in which the table was prepared, if it is here.

    Raises:
        EvidenceError: they are not there, cannot be read, or are other ones.
    """
    about = read_seen(store, candidate).about
    path = _find_rows(store, candidate, data)
    found = _fingerprint(path, about.columns)
    if found != candidate.lineage.test_fingerprint:
        raise EvidenceError(
            f"the test rows have the fingerprint {found[:16]}, version {candidate.version} was tested on "
            f"{candidate.lineage.test_fingerprint[:16]}",
            where=name_path(path),
            hint="Prepare its table again (`timberline etl`), or let its rows travel with it: "
            "`test_rows = true` in [export].",
        )
    columns = {column.name: column for column in about.columns if column.name != about.target}
    return RawRows(path, name_path(path), columns)


def read_seen(store: Store, manifest: Manifest) -> Seen:
    """What the version has learned from; its file is read by those who need the hashes.

    Raises:
        EvidenceError: it has no such file, or one that cannot be read.
    """
    where = f"{manifest.model}@{manifest.version}"
    if SEEN_FILE not in manifest.files:
        raise EvidenceError(
            f"has no {SEEN_FILE}, so which rows it has learned from is not known; an earlier release of "
            "this program made it",
            where=where,
            hint="Export or train it again before its table changes, and release that version; or move "
            "production once by `promote --force`.",
        )
    path = store.open_file(manifest, SEEN_FILE)
    try:
        metadata = pq.read_metadata(path).metadata or {}
        about = decode_json(metadata.get(SEEN_KEY, b""), SeenRows)
    except (OSError, pa.ArrowInvalid, msgspec.DecodeError) as error:
        raise EvidenceError(f"{SEEN_FILE} cannot be read: {error}", where=where) from error
    if about.schema_version != SEEN_SCHEMA_VERSION:
        raise EvidenceError(
            f"{SEEN_FILE} has schema_version {about.schema_version}, this program reads "
            f"{SEEN_SCHEMA_VERSION}",
            where=where,
            hint="Upgrade timberline.",
        )
    return Seen(path, about, manifest.version)


def find_unseen(rows: RawRows, seen: Seen) -> Integers:
    """Numbers of the rows that the version has not learned from, ascending.

    Raises:
        EvidenceError: the rows lack a column by which it knows rows, or have one of another type.
    """
    source = _select(rows, seen.columns, seen.version)
    sql = (
        f"SELECT {ROW_COLUMN} FROM (SELECT {ROW_COLUMN}, {hash_row(seen.columns, seen.about.span)} AS hash "
        f"FROM ({source})) ANTI JOIN (SELECT hash FROM {_read(seen.path)}) USING (hash) ORDER BY 1"
    )
    return _list_numbers(rows, sql)


def find_refused(rows: RawRows, manifest: Manifest) -> Integers:
    """Numbers of the rows that the version's service refuses, ascending: NULL where it takes none.

    Raises:
        EvidenceError: a column that the version takes is missing, or of another type.
    """
    strict = [column for column in manifest.signature.columns if not column.is_nullable]
    if not strict:
        return np.empty(0, np.int64)
    source = _select(rows, list_stored(strict), manifest.version)
    is_null = " OR ".join(f"{quote(column.name)} IS NULL" for column in strict)
    return _list_numbers(rows, f"SELECT {ROW_COLUMN} FROM ({source}) WHERE {is_null} ORDER BY 1")


def _list_numbers(rows: RawRows, sql: str) -> Integers:
    with _connect(rows.where) as connection:
        numbers: Integers = connection.sql(sql).to_arrow_table()[ROW_COLUMN].to_numpy()
    return numbers


def list_stored(columns: Iterable[Column]) -> list[StoredColumn]:
    """A signature's columns as those of a table."""
    return [StoredColumn(name=c.name, datatype=c.datatype, moment=c.moment) for c in columns]


def read_batches(rows: RawRows, columns: Sequence[StoredColumn], version: int) -> Iterator[pa.RecordBatch]:
    """The rows in their order: number, class and ``columns``, numbers as DOUBLE, `BATCH_ROWS` at once.

    Raises:
        EvidenceError: a column that ``version`` takes is missing, or of another type.
    """
    with _connect(rows.where) as connection:
        yield from connection.sql(_select(rows, columns, version)).to_arrow_reader(BATCH_ROWS)


def _find_rows(store: Store, candidate: Manifest, data: Path | None) -> Path:
    if TEST_ROWS_FILE in candidate.files:
        return store.open_file(candidate, TEST_ROWS_FILE)
    prepared = None if data is None else data / "prepared" / candidate.model / "test.parquet"
    if prepared is not None:
        bring(prepared.parent, prepared.name)
    if prepared is None or not prepared.is_file():
        raise EvidenceError(
            f"the test rows of version {candidate.version} are not here",
            where=name_path(prepared) if prepared else candidate.model,
            hint="Give --data the folder of `timberline etl`, or let the rows travel with the version: "
            "`test_rows = true` in [export].",
        )
    return prepared


def _select(rows: RawRows, columns: Iterable[StoredColumn], version: int) -> str:
    """The rows with these columns, in the types that ``version`` knows, as SQL.

    Raises:
        EvidenceError: one is missing, or cannot be of its type.
    """
    columns = list(columns)
    missing = [column.name for column in columns if column.name not in rows.columns]
    if missing:
        raise EvidenceError(
            f"the candidate's rows lack {_name(missing)}, which version {version} knows",
            where=rows.where,
            hint="Declare the column again in model.toml (no feature has to read it; an ignored one is not "
            "kept), or release without the comparison by `promote --force`.",
        )
    changed = [c for c in columns if _find_type(rows.columns[c.name]) != _find_type(c)]
    if changed:
        _require_casts(rows, changed, version)
    values = ", ".join(
        f"CAST({quote(column.name)} AS {_TYPES[column.datatype]}) AS {quote(column.name)}"
        for column in columns
    )
    return f"SELECT {', '.join([ROW_COLUMN, CLASS_COLUMN, *filter(None, [values])])} FROM {_read(rows.path)}"


_TYPES = {"FP64": "DOUBLE", "INT64": "DOUBLE", "BOOL": "BOOLEAN", "BYTES": "VARCHAR"}


def _find_type(column: StoredColumn) -> tuple[str, str | None]:
    return _TYPES[column.datatype], column.moment


def _require_casts(rows: RawRows, columns: Sequence[StoredColumn], version: int) -> None:
    """Whether every value of these columns, which are of another type now, can be what it was.

    Raises:
        EvidenceError: one cannot. Nor can what was text: a number has many.
    """
    casts = [c for c in columns if c.datatype != "BYTES" and c.moment == rows.columns[c.name].moment]
    broken = [column.name for column in columns if column not in casts]
    if casts:
        checks = ", ".join(map(_count_lost, casts))
        with _connect(rows.where) as connection:
            ((*lost,),) = connection.execute(f"SELECT {checks} FROM {_read(rows.path)}").fetchall()
        broken += [column.name for column, count in zip(casts, lost, strict=True) if count]
    if broken:
        raise EvidenceError(
            f"{_name(broken)} of the candidate's rows is not of the type that version {version} knows",
            where=rows.where,
            hint="Declare it with the type that it had.",
        )


def _count_lost(column: StoredColumn) -> str:
    name, kind = quote(column.name), _TYPES[column.datatype]
    return f"count_if({name} IS NOT NULL AND TRY_CAST({name} AS {kind}) IS NULL)"


def _fingerprint(path: Path, columns: Sequence[StoredColumn]) -> str:
    names = {column.name for column in columns}
    try:
        missing = sorted({ROW_COLUMN, CLASS_COLUMN, *names} - set(pq.read_schema(path).names))
    except (OSError, pa.ArrowInvalid) as error:
        raise EvidenceError(f"the test rows cannot be read: {error}", where=str(path)) from error
    if missing:
        raise EvidenceError(f"the test rows lack {_name(missing)}", where=str(path))
    sql = f"SELECT {count_and_sum(column.name for column in columns)} FROM {_read(path)}"
    with _connect(str(path)) as connection:
        ((rows, total),) = connection.execute(sql).fetchall()
    return fingerprint(rows, int(total or 0))


@contextlib.contextmanager
def _connect(where: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that spills to a folder of its own and asks no network for anything.

    Raises:
        EvidenceError: inside the block the rows could not be read.
    """
    with tempfile.TemporaryDirectory(prefix="timberline-") as spill:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _MEMORY,
            "temp_directory": spill,
            "preserve_insertion_order": True,  # a file's rows come in its order
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        }
        try:
            with duckdb.connect(":memory:", config=settings) as connection:
                yield connection
        except duckdb.Error as error:
            raise EvidenceError(f"the rows cannot be read: {str(error)[:200]}", where=where) from error


def _read(path: Path) -> str:
    # A folder called a=7 in the path would otherwise stand for column a.
    text = str(path).replace("'", "''")
    return f"read_parquet('{text}', hive_partitioning=false)"


def _name(names: Sequence[str]) -> str:
    shown = ", ".join(names)
    return f"column {shown[:80]}" if len(names) == 1 else f"columns {shown[:80]}"
