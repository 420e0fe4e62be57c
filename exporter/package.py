"""What goes into a version beside the graph: held-out predictions, what rows it knows, and the manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from timberline import __version__
from timberline.exporter.errors import ExportError
from timberline.exporter.graph.runtime import find_minimum_runtime
from timberline.exporter.parity.compare import FloatArray, IntArray
from timberline.exporter.parity.rows import Chunk
from timberline.registry.manifest import (
    BASELINE_PREFIX,
    SCHEMA_VERSION,
    FileDigest,
    GateLimits,
    Golden,
    Lineage,
    Manifest,
    Metrics,
    ParityTensor,
    Precision,
)
from timberline.registry.rows import SEEN_KEY, SEEN_SCHEMA_VERSION, SeenRows
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN, RunRecord
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.signature import Column, SourceTable, UnreadRole, build_signature

# The evaluator scores Keras, this file the graph: rows within the label's tolerance may differ.
_ACCURACY_SLACK = 1e-3
# Of a row group of test rows: 64 MB of numbers.
_GROUP_ROWS = 65_536
_GROUP_CELLS = 2**23


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


def read_baselines(path: Path, rows: int) -> dict[str, IntArray]:
    """What each baseline answers for the test rows, in their order; class indexes (rows,) by name.

    Raises:
        ExportError: the file is missing or damaged, or is about other rows.
    """
    hint = "Run `make evaluate` again."
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ExportError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    if table.num_rows != rows:
        raise ExportError(f"is about {table.num_rows:,} rows, not {rows:,}", where=str(path), hint=hint)
    return {name: table[name].to_numpy() for name in table.column_names}


def read_seen(path: Path) -> SeenRows:
    """What the hashes in ``path`` are of.

    Raises:
        ExportError: the file is missing or damaged, or was written by another release.
    """
    hint = "Run `make etl train` again."
    try:
        text = (pq.read_metadata(path).metadata or {})[SEEN_KEY]
        seen = decode_json(text, SeenRows)
    except FileNotFoundError:
        raise ExportError("is missing: prepared by an earlier release", where=str(path), hint=hint) from None
    except (OSError, pa.ArrowInvalid, KeyError, msgspec.DecodeError) as error:
        raise ExportError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    if seen.schema_version != SEEN_SCHEMA_VERSION:
        raise ExportError(
            f"schema_version is {seen.schema_version}, this program reads {SEEN_SCHEMA_VERSION}",
            where=str(path),
            hint=hint,
        )
    return seen


def write_test_rows(test_parquet: Path, seen: SeenRows, path: Path) -> None:
    """Write `registry.rows.TEST_ROWS_FILE`: row number, class and stored columns of every test row, in order.

    Computed features stay behind: whoever has the graph can compute them.
    """
    source = pq.ParquetFile(test_parquet)
    names = [ROW_COLUMN, CLASS_COLUMN, *(column.name for column in seen.columns)]
    rows = min(_GROUP_ROWS, max(_GROUP_CELLS // len(names), 1))
    with pq.ParquetWriter(
        path, pa.schema([source.schema_arrow.field(name) for name in names]), compression="zstd"
    ) as writer:
        for batch in source.iter_batches(rows, columns=names):
            writer.write_batch(batch.select(names))


def require_accuracy(rows: int, accuracy: float, metrics: Metrics) -> None:
    """Hold the graph's predictions to the figure that the manifest will claim.

    Raises:
        ExportError: other rows, or an accuracy further off than the label's tolerance explains.
    """
    claimed = metrics.accuracy.value
    if metrics.rows != rows or abs(claimed - accuracy) > _ACCURACY_SLACK:
        raise ExportError(
            f"says accuracy {claimed:.4f} on {metrics.rows:,} rows, the graph has {accuracy:.4f} on {rows:,}",
            where="metrics.json",
            hint="The figures belong to other data or another run; run `make evaluate` again.",
        )


@dataclass(frozen=True)
class Evidence:
    """What an export found out about a graph, which takes ``columns``, for its manifest."""

    run: RunRecord
    columns: tuple[Column, ...]
    run_digest: str
    opset: int
    precision: Precision
    gate: GateLimits
    metrics: Metrics
    parity: dict[str, ParityTensor]
    golden: Golden
    producers: dict[str, str]


def describe_version(
    evidence: Evidence, created_at: Callable[[], str]
) -> Callable[[int, dict[str, FileDigest]], Manifest]:
    """The function that `Store.publish` calls for the manifest; ``created_at`` gives ISO 8601, UTC."""
    run, names = evidence.run, {column.name for column in evidence.columns}

    def describe(version: int, files: dict[str, FileDigest]) -> Manifest:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            model=run.model,
            version=version,
            created_at=created_at(),
            title=run.title,
            description=run.description,
            files=files,
            signature=build_signature(evidence.columns, run.classes),
            opset=evidence.opset,
            minimum_onnxruntime=find_minimum_runtime(evidence.opset),
            precision=evidence.precision,
            producers={**run.producers, **evidence.producers, "timberline": __version__},
            lineage=_lineage(evidence),
            prior=run.prior,
            metrics=evidence.metrics,
            parity=evidence.parity,
            histograms={name: histogram for name, histogram in run.histograms.items() if name in names},
            golden=evidence.golden,
            gate=evidence.gate,
            table=_describe_table(run, names),
        )

    return describe


def _describe_table(run: RunRecord, names: Collection[str]) -> SourceTable:
    """The source's table with all the columns in it that are not among ``names``."""
    unread: dict[str, UnreadRole] = {c.name: "input" for c in run.columns if c.name not in names}
    return msgspec.structs.replace(run.table, unread={**run.table.unread, **unread})


def _lineage(evidence: Evidence) -> Lineage:
    run = evidence.run
    return Lineage(
        run_id=run.run_id,
        run_digest=evidence.run_digest,
        data_fingerprint=run.data_fingerprint,
        test_fingerprint=run.test_fingerprint,
        features_digest=digest_bytes(run.features_sql.encode()),
        config_digest=run.config_digest,
        git_commit=run.git_commit,
        seed=run.seed,
        attribution=run.attribution,
        unlabelled_splits=run.unlabelled_splits,
        recipe_digest=run.recipe_digest,
    )
