"""The test split in bounded chunks: raw rows as the graph takes them, features as DuckDB computes them.

Also what a version keeps of it: the graph's predictions and, if the model asks for it, the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timberline.exporter.errors import ExportError
from timberline.exporter.parity.compare import FloatArray, IntArray
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import BASELINE_PREFIX, SLICE_PREFIX
from timberline.registry.rows import SeenRows
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN
from timberline.registry.signature import NULL_TEXT, NUMERIC_INPUT, TEXT_INPUT, Column
from timberline.training.features import FeatureProgram

# Embeddings hold some 10 kB a row and operator, in Keras and again in ONNX Runtime: 4,096 rows stay
# below 300 MB. In smaller chunks planning the query would lead (50 ms for 90 features).
CHUNK_ROWS = 4096
# Of a row group of test rows: 64 MB of numbers.
_GROUP_ROWS = 65_536
_GROUP_CELLS = 2**23
RawValue = float | int | bool | str | None


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the test split.

    ``rows``: source row numbers; ``classes``: indexes of the true classes; ``raw``: the raw columns
    as they stand in the file; ``feeds``: the same as the graph's inputs; ``features``: float32
    (rows, F) by DuckDB, NULL as NaN; ``slices``: by column name, which rows are in the slice.
    """

    rows: IntArray
    classes: IntArray
    raw: pa.Table
    feeds: dict[str, npt.NDArray[Any]]
    features: FloatArray
    slices: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    def take(self, index: int) -> tuple[RawValue, ...]:
        """The raw values of one row as a client would send them; NULL and NaN are None."""
        values = [column[index].as_py() for column in self.raw.itercolumns()]
        return tuple(None if isinstance(value, float) and math.isnan(value) else value for value in values)


def count_rows(path: Path) -> int:
    """Rows of a Parquet file, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def check_slices(path: Path, slices: FeatureProgram) -> None:
    """Count the file's rows in every slice of ``[gate]``; a second for a million rows.

    Raises:
        ConfigError: a slice has no row, so that the gate has nothing to judge.
        ExportError: a raw column is missing.
    """
    names = [ROW_COLUMN, *_list_read(slices)]
    counts = dict.fromkeys(slices.names, 0)
    with duckdb.connect(config={"threads": 1}) as connection:
        _prepare(connection, slices)
        for batch in _open(path, names).iter_batches(columns=names) if counts else ():
            connection.register("raw", batch)
            for name, inside in _read_slices(connection, slices).items():
                counts[name] += int(inside.sum())
    for name, rows in counts.items():
        if not rows:
            raise ConfigError(
                f"holds none of the {count_rows(path):,} test rows",
                where=f"gate.slices.{name.removeprefix(SLICE_PREFIX)}",
                hint="Correct the condition, or leave the slice out.",
            )


def _list_read(program: FeatureProgram) -> list[str]:
    """The names of the columns that it reads, in their order."""
    return [column.name for column in program.narrow().columns]


def _open(path: Path, names: Iterable[str]) -> pq.ParquetFile:
    file = pq.ParquetFile(path)
    missing = sorted(set(names) - set(file.schema_arrow.names))
    if missing:
        raise ExportError(
            f"has no column {', '.join(missing)}",
            where=str(path),
            hint="Run `timberline etl`, then `timberline train` again.",
        )
    return file


def read_chunks(
    path: Path,
    program: FeatureProgram,
    *,
    slices: FeatureProgram | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Chunk]:
    """Yield the file's rows in file order, at most ``chunk_rows`` at a time.

    Args:
        path: the test split, raw columns and all.
        program: the features to compute.
        slices: of ``[gate]``; they may read columns that the program does not have.
        chunk_rows: the most rows of a chunk.

    Raises:
        ExportError: a raw column of the program or of a slice is missing.
    """
    names = [column.name for column in program.columns]
    more = [name for name in (_list_read(slices) if slices else ()) if name not in names]
    wanted = [ROW_COLUMN, CLASS_COLUMN, *names, *more]
    file = _open(path, wanted)
    query = program.select_sql("raw", order=ROW_COLUMN)
    # One thread: a chunk is small, and its rows come back in the order they went in.
    with duckdb.connect(config={"threads": 1}) as connection:
        _prepare(connection, program, slices)
        for batch in file.iter_batches(chunk_rows, columns=wanted):
            table = pa.Table.from_batches([batch])
            raw = table.select(names)
            connection.register("raw", table.select([ROW_COLUMN, *names, *more]))
            features = connection.sql(query).to_arrow_table()
            yield Chunk(
                rows=table[ROW_COLUMN].to_numpy(),
                classes=table[CLASS_COLUMN].to_numpy(),
                raw=raw,
                feeds=make_feeds(raw, program.columns),
                features=_matrix(features, np.float32),
                slices=_read_slices(connection, slices),
            )


def _prepare(connection: duckdb.DuckDBPyConnection, *programs: FeatureProgram | None) -> None:
    for program in programs:
        for statement in program.prepare_sql if program else ():
            connection.execute(statement)


def _read_slices(
    connection: duckdb.DuckDBPyConnection, slices: FeatureProgram | None
) -> dict[str, npt.NDArray[np.bool_]]:
    if slices is None or not slices.features:
        return {}
    found = connection.sql(slices.select_sql("raw", order=ROW_COLUMN)).to_arrow_table()
    # NULL is neither inside nor outside; a row is judged in a slice only when it is surely inside.
    return {name: found[name].fill_null(0).to_numpy() == 1 for name in slices.names}


def make_feeds(raw: pa.Table, columns: Sequence[Column]) -> dict[str, npt.NDArray[Any]]:
    """Raw columns → the graph's inputs: `numeric` float64 (rows, n) and `text` str (rows, k)."""
    feeds: dict[str, npt.NDArray[Any]] = {}
    numeric = [column.name for column in columns if column.datatype != "BYTES"]
    text = [column.name for column in columns if column.datatype == "BYTES"]
    if numeric:
        feeds[NUMERIC_INPUT] = _matrix(raw.select(numeric), np.float64)
    if text:
        filled = [pc.fill_null(raw[name], NULL_TEXT).to_numpy(zero_copy_only=False) for name in text]
        feeds[TEXT_INPUT] = np.stack(filled, axis=1).astype(object)
    return feeds


def _matrix(table: pa.Table, dtype: type[np.floating[Any]]) -> FloatArray:
    """Columns side by side, (rows, columns); NULL as NaN."""
    matrix = np.empty((table.num_rows, table.num_columns), dtype)
    for index, column in enumerate(table.itercolumns()):
        number = column.cast(pa.uint8()) if column.type == pa.bool_() else column
        matrix[:, index] = number.cast(pa.from_numpy_dtype(dtype)).to_numpy()
    return matrix


def rows_to_feeds(
    rows: Sequence[Sequence[RawValue]], columns: Sequence[Column]
) -> dict[str, npt.NDArray[Any]]:
    """Raw values in column order, None for NULL → the graph's inputs, as `make_feeds`."""
    by_type: dict[str, list[int]] = {NUMERIC_INPUT: [], TEXT_INPUT: []}
    for index, column in enumerate(columns):
        by_type[TEXT_INPUT if column.datatype == "BYTES" else NUMERIC_INPUT].append(index)
    numeric = [[np.nan if row[i] is None else row[i] for i in by_type[NUMERIC_INPUT]] for row in rows]
    text = [[NULL_TEXT if row[i] is None else row[i] for i in by_type[TEXT_INPUT]] for row in rows]
    feeds = {NUMERIC_INPUT: np.array(numeric, np.float64), TEXT_INPUT: np.array(text, object)}
    return {name: feed for name, feed in feeds.items() if by_type[name]}


class EvaluationWriter:
    """Write the graph's held-out predictions chunk by chunk; use as a context manager.

    Columns: row INT64 (source row), class_index INT16 (truth), label_index INT16, p_0 to p_{C-1}
    FLOAT, of each slice slice_<name> BOOLEAN (whether the row is in it), and of each baseline
    baseline_<name> INT16 (its label); in source order.

    Args:
        path: the file to write.
        class_count: C.
        slices: names of columns that every chunk has.
        baselines: labels of all rows, (rows,), by the baseline's name.
    """

    def __init__(
        self,
        path: Path,
        class_count: int,
        slices: Sequence[str] = (),
        baselines: Mapping[str, IntArray] | None = None,
    ) -> None:
        self._slices = slices
        self._baselines = baselines or {}
        self._schema = pa.schema(
            [("row", pa.int64()), ("class_index", pa.int16()), ("label_index", pa.int16())]
            + [(f"p_{index}", pa.float32()) for index in range(class_count)]
            + [(name, pa.bool_()) for name in slices]
            + [(f"{BASELINE_PREFIX}{name}", pa.int16()) for name in self._baselines]
        )
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self.rows = 0
        self._correct = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, chunk: Chunk, probabilities: FloatArray, labels: IntArray) -> None:
        """Append a chunk: ``probabilities`` float32 (rows, C), ``labels`` (rows,)."""
        inside = [chunk.slices[name] for name in self._slices]
        here = slice(self.rows, self.rows + len(labels))
        answers = [of_all[here] for of_all in self._baselines.values()]
        columns = [chunk.rows, chunk.classes, labels, *probabilities.T, *inside, *answers]
        arrays = [pa.array(values, entry.type) for values, entry in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self.rows += len(labels)
        self._correct += int((labels == chunk.classes).sum())

    @property
    def accuracy(self) -> float:
        """Share of the rows written so far whose label is the true class."""
        return self._correct / self.rows if self.rows else 0.0


def write_test_rows(test_parquet: Path, seen: SeenRows, path: Path) -> None:
    """Write `registry.rows.TEST_ROWS_FILE`: row number, class and stored columns of every test row, in order.

    Without computed features: the graph computes them.
    """
    source = pq.ParquetFile(test_parquet)
    names = [ROW_COLUMN, CLASS_COLUMN, *(column.name for column in seen.columns)]
    rows = min(_GROUP_ROWS, max(_GROUP_CELLS // len(names), 1))
    with pq.ParquetWriter(
        path, pa.schema([source.schema_arrow.field(name) for name in names]), compression="zstd"
    ) as writer:
        for batch in source.iter_batches(rows, columns=names):
            writer.write_batch(batch.select(names))
