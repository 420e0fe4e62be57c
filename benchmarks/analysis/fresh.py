"""Versions that learned from different tables, on the same rows: the candidate's test rows, asked afresh.

Row numbers of two tables say nothing about each other. So both graphs answer the candidate's test rows
again, less those that the other version has learned from; truth and slices are the candidate's. The graphs
are asked as the service would ask them. Their answers are kept in files with the columns of an
evaluation.parquet, which are read and checked as such: a verdict on rows of another table can be worked out
again from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timberline.benchmarks.analysis.predictions import Integers, Predictions, read_predictions
from timberline.benchmarks.analysis.raw_rows import (
    RawRows,
    find_refused,
    find_unseen,
    list_stored,
    open_rows,
    read_batches,
    read_seen,
)
from timberline.benchmarks.analysis.statistics import rows_to_prove
from timberline.benchmarks.analysis.verdict import blank_line
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.settings import AccuracySettings
from timberline.registry.manifest import GateLimits, Manifest
from timberline.registry.rows import SeenRows, StoredColumn
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN
from timberline.registry.runtime.logs import NO_TELEMETRY
from timberline.registry.signature import (
    LABEL_OUTPUT,
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    Signature,
)
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store
from timberline.registry.verdict import VerdictLine

os.environ.update(NO_TELEMETRY)


# Of the gate's folder; ``*`` is the arm, or the number of an earlier version.
SCORED_FILES = "scored-*.parquet"
# As the exporter proves a graph; its bounds hold for any number of threads.
_THREADS = 2
_ERRORS_ONLY = 3
Floats = npt.NDArray[np.float32]
Feeds = Mapping[str, npt.NDArray[Any]]
Answer = Callable[[Feeds], tuple[Floats, Integers]]


def name_scored(who: str) -> str:
    """The file's name for an arm, or for the number of an earlier version."""
    return SCORED_FILES.replace("*", who)


def map_classes(signature: Signature, onto: Signature) -> Integers:
    """For each class its index in ``onto``, found by its value; shape (classes,).

    Raises:
        EvidenceError: ``onto`` lacks one.
    """
    places = {label.value: index for index, label in enumerate(onto.classes)}
    missing = [label.value for label in signature.classes if label.value not in places]
    if missing:
        raise EvidenceError(f"the candidate lacks class {', '.join(missing)[:80]}", where="signature")
    return np.array([places[label.value] for label in signature.classes], np.int64)


def score_rows(
    store: Store, manifest: Manifest, rows: RawRows, chosen: Integers | None, onto: Signature, path: Path
) -> None:
    """Write the version's answers to the chosen rows, in the classes of ``onto``.

    Columns: row INT64, class_index and label_index INT16, p_0 to p_{C-1} FLOAT. A class that the version
    does not know has probability 0.

    Args:
        store: where the version is.
        manifest: the version.
        rows: what is asked.
        chosen: row numbers, ascending; None for all.
        onto: whose classes the indexes are of; the rows' own classes are such indexes already.
        path: the file to write.

    Raises:
        EvidenceError: the rows lack a column, the graph cannot be run, or ``onto`` lacks a class.
    """
    places, width = map_classes(manifest.signature, onto), len(onto.classes)
    columns = list_stored(manifest.signature.columns)
    answer = _open_graph(store, manifest)
    schema = pa.schema(
        [("row", pa.int64()), ("class_index", pa.int16()), ("label_index", pa.int16())]
        + [(f"p_{index}", pa.float32()) for index in range(width)]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in read_batches(rows, columns, manifest.version):
            table = pa.Table.from_batches([batch])
            if chosen is not None:
                table = table.filter(pa.array(_is_among(table[ROW_COLUMN].to_numpy(), chosen)))
            if not table.num_rows:
                continue
            probabilities, labels = answer(_make_feeds(table, columns))
            chances = np.zeros((table.num_rows, width), np.float32)
            chances[:, places] = probabilities  # (rows, its classes) → (rows, classes)
            values = [table[ROW_COLUMN], table[CLASS_COLUMN], places[labels], *chances.T]
            arrays = [_as_array(value, field.type) for value, field in zip(values, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def drop_chances(path: Path) -> None:
    """Keep rows, truth and labels of a file of answers."""
    table = pq.read_table(path, columns=["row", "class_index", "label_index"])
    pq.write_table(table, path, compression="zstd")


def _as_array(values: pa.ChunkedArray | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)


def _is_among(numbers: Integers, chosen: Integers) -> npt.NDArray[np.bool_]:
    """Whether each number is one of ``chosen``, which ascends."""
    if not chosen.size:
        return np.zeros(numbers.size, bool)
    places = np.minimum(np.searchsorted(chosen, numbers), chosen.size - 1)
    found: npt.NDArray[np.bool_] = chosen[places] == numbers
    return found


def _make_feeds(table: pa.Table, columns: Sequence[StoredColumn]) -> Feeds:
    """Raw columns → the graph's inputs: `numeric` float64 (rows, n) and `text` str (rows, k)."""
    numeric = [table[column.name] for column in columns if column.datatype != "BYTES"]
    text = [table[column.name] for column in columns if column.datatype == "BYTES"]
    feeds: dict[str, npt.NDArray[Any]] = {}
    if numeric:
        feeds[NUMERIC_INPUT] = np.stack([_as_numbers(values) for values in numeric], axis=1)
    if text:
        filled = [pc.fill_null(values, NULL_TEXT).to_numpy(zero_copy_only=False) for values in text]
        feeds[TEXT_INPUT] = np.stack(filled, axis=1).astype(object)
    return feeds


def _as_numbers(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(rows,); NULL is NaN."""
    if values.type == pa.bool_():
        values = values.cast(pa.uint8())
    numbers: npt.NDArray[np.float64] = values.cast(pa.float64()).to_numpy()
    return numbers


def _open_graph(store: Store, manifest: Manifest) -> Answer:
    """The graph as a function; one that is quantised gets a row at a time, as in the service.

    Raises:
        EvidenceError: ONNX Runtime refuses it.
    """
    where = f"{manifest.model}@{manifest.version}"
    graph = store.open_version(manifest.model, manifest.version).read_file(MODEL_FILE)
    run = _load(graph, manifest, where)
    if manifest.precision != "int8":
        return run

    def run_each(feeds: Feeds) -> tuple[Floats, Integers]:
        count = len(next(iter(feeds.values())))
        parts = [run({name: feed[i : i + 1] for name, feed in feeds.items()}) for i in range(count)]
        return np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts])

    return run_each


def _load(model: bytes, manifest: Manifest, where: str) -> Answer:
    # Imported late: most gates compare stored answers and run no graph themselves.
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    onnxruntime.disable_telemetry_events()
    # They have no base class of their own; ValueError is for inputs of other names.
    refusals = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        ValueError,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if manifest.precision == "int8" else _THREADS
    options.inter_op_num_threads = 1
    # Threads that wait in a loop double the processor time of so small a network.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise EvidenceError(f"ONNX Runtime refuses the graph: {error}", where=where) from error
    width = len(manifest.signature.classes)

    def run(feeds: Feeds) -> tuple[Floats, Integers]:
        try:
            probabilities, labels = session.run([PROBABILITIES_OUTPUT, LABEL_OUTPUT], dict(feeds))
        except refusals as error:
            raise EvidenceError(f"the graph does not answer: {error}", where=where) from error
        if probabilities.shape != (labels.size, width) or not 0 <= labels.min() <= labels.max() < width:
            raise EvidenceError(f"the graph does not answer with its {width} classes", where=where)
        return probabilities, labels

    return run


# Of the rows whose label another machine or release of the runtime may give otherwise.
_OTHER_LABELS = 1e-3
# Two labels are tied when their probabilities differ by less; neither is then above a half by more.
_TIE = 1e-3


def is_same_table(one: Manifest, other: Manifest) -> bool:
    """Whether both have the same rows; for their order, see `is_reordered`."""
    return one.lineage.data_fingerprint == other.lineage.data_fingerprint


def is_reordered(one: Predictions, other: Predictions) -> bool:
    """Whether the same row number means another row: two versions of one table disagree about a truth."""
    _, here, there = np.intersect1d(one.rows, other.rows, assume_unique=True, return_indices=True)
    return not np.array_equal(one.truth[here], other.truth[there])


@dataclass(frozen=True)
class Asked:
    """Another version and the candidate on the rows that the other has not learned from; None without one.

    ``rows`` are the candidate's test rows, ``left_out`` those that the other version has learned from, or
    seems to: ``seen`` holds how often a row that it never saw is taken for one. ``refused`` are others that
    hold NULL where it takes none, so that it has no answer to them.
    """

    other: Predictions | None
    candidate: Predictions | None
    rows: int
    left_out: int
    refused: int
    seen: SeenRows

    @property
    def judged(self) -> int:
        """Rows that both answer."""
        return self.rows - self.left_out - self.refused

    @property
    def by_chance(self) -> float:
        """About how many of the rows left out were never seen: every unseen row has the same chance."""
        rate = self.seen.false_positive_rate
        return (self.rows - self.left_out) * rate / (1 - rate)


class FreshRows:
    """The candidate's test rows, found and answered by the candidate when first needed.

    Args:
        store: where the versions are.
        candidate: whose rows.
        own: its evaluation, with its slices.
        data: the folder in which its table was prepared, if it is here.
        folder: where answers are kept.
    """

    def __init__(
        self, store: Store, candidate: Manifest, own: Predictions, data: Path | None, folder: Path
    ) -> None:
        self._store = store
        self._candidate = candidate
        self._own = own
        self._data = data
        self._folder = folder

    def ask(self, other: Manifest, who: str, *, keeps_labels_only: bool = False) -> Asked:
        """Let another version answer; its answers are kept as ``scored-<who>.parquet``.

        Args:
            other: the version.
            who: its arm, or its number.
            keeps_labels_only: probabilities, nine tenths of the file, are used here and not kept.

        Raises:
            EvidenceError: the rows are not there or are not the candidate's, they lack a column that the
                other version takes or knows rows by, or what it has learned from is not known.
        """
        seen = read_seen(self._store, other)
        unseen = find_unseen(self._rows, seen)
        kept = np.setdiff1d(unseen, find_refused(self._rows, other), assume_unique=True)
        own = self._answers
        counts = own.rows.size, own.rows.size - unseen.size, unseen.size - kept.size
        if not kept.size:
            return Asked(None, None, *counts, seen.about)
        answers = self._score(other, who, kept)
        if keeps_labels_only:
            drop_chances(self._folder / name_scored(who))
        return Asked(answers, own.take(np.isin(own.rows, kept)), *counts, seen.about)

    @cached_property
    def _rows(self) -> RawRows:
        return open_rows(self._store, self._candidate, self._data)

    @cached_property
    def _answers(self) -> Predictions:
        """The candidate's own, of all rows, in the order of its evaluation."""
        scored = self._score(self._candidate, "candidate", None)
        _require_same(self._own, scored, f"{self._candidate.model}@{self._candidate.version}")
        return replace(scored, slices=self._own.slices)

    def _score(self, manifest: Manifest, who: str, chosen: Integers | None) -> Predictions:
        onto, path = self._candidate.signature, self._folder / name_scored(who)
        score_rows(self._store, manifest, self._rows, chosen, onto, path)
        return read_predictions(path, len(onto.classes))


def _require_same(own: Predictions, scored: Predictions, where: str) -> None:
    """Hold the rows and the fresh answers to the version's own evaluation.

    Raises:
        EvidenceError: it is about other rows, or the answers of another graph.
    """
    if not (np.array_equal(own.rows, scored.rows) and np.array_equal(own.truth, scored.truth)):
        raise EvidenceError(f"{EVALUATION_FILE} is not about the test rows", where=where)
    differ = own.label != scored.label
    is_tied = (np.abs(own.confidence - scored.confidence) <= _TIE) & (scored.confidence <= 0.5 + _TIE)
    allowed = _OTHER_LABELS * own.rows.size
    if (differ & ~is_tied).sum() > allowed or differ.sum() > max(1, allowed):
        raise EvidenceError(
            f"{EVALUATION_FILE} is not this graph's: of {own.rows.size:,} rows it answers {differ.sum():,} "
            "with another label",
            where=where,
            hint="Export its run again.",
        )


def describe_asked(asked: Asked, champion: Manifest, candidate: Manifest) -> VerdictLine:
    """The line that names the rows on which the two are judged; INCONCLUSIVE when none is left."""
    judged, refused = asked.judged, asked.refused
    table = "the same rows in another order" if is_same_table(champion, candidate) else "another table"
    parts = [
        f"version {champion.version} learned from {table}; both were asked afresh about the "
        f"{asked.rows:,} test rows of version {candidate.version}",
        f"{asked.left_out:,} left out because version {champion.version} trained or validated on them (about "
        f"{asked.by_chance:,.0f} of them by chance)",
        *([f"{refused:,} because it takes no NULL where they have one"] if refused else []),
        f"{judged:,} are judged" if judged else "none is left to judge",
        *_describe_unlabelled(champion, candidate),
    ]
    return VerdictLine(
        name="held_out_rows",
        candidate=float(judged),
        unit="rows",
        outcome="INFO" if judged else "INCONCLUSIVE",
        reason="; ".join(parts),
        evidence=SCORED_FILES,
    )


def _describe_unlabelled(*versions: Manifest) -> Iterable[str]:
    for manifest in versions:
        if splits := manifest.lineage.unlabelled_splits:
            yield (
                f"version {manifest.version} has seen the features, without labels, of its "
                f"{' and '.join(splits)} rows"
            )


def miss_rows(names: Iterable[str], limits: GateLimits, settings: AccuracySettings) -> list[VerdictLine]:
    """The lines that could not be judged because no row is left, and how many rows it takes at least."""
    margin, text = limits.max_accuracy_drop, ""
    if margin:
        needed = rows_to_prove(margin, margin, alpha=settings.alpha_pass, power=settings.power)
        text = f"; rows needed: {needed:,} at least, there are 0"
    reason = f"no test row is left that the champion has not learned from{text}"
    return [blank_line(name, "INCONCLUSIVE", reason, SCORED_FILES) for name in names]
