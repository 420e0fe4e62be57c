"""Run every test row through the graph and through the network that it is made from, and compare.

The truth is DuckDB's features (the same SQL over the same raw columns) and Keras on those features.
Compared with it is the graph on the raw rows: first its inner feature tensor, then its outputs. The same
pass chooses a few golden rows: rows with known answers, for warm-up and for the check after loading.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from timberline.exporter.errors import ParityInputError
from timberline.exporter.graph.compose import serialise
from timberline.exporter.graph.graphs import cut_graph
from timberline.exporter.graph.runtime import open_session
from timberline.exporter.inputs import ExportInputs, read_baselines
from timberline.exporter.parity.compare import (
    FloatArray,
    IntArray,
    ParityReport,
    Tolerances,
    compare_outputs,
    label_choice,
    merge_reports,
)
from timberline.exporter.parity.rows import (
    Chunk,
    EvaluationWriter,
    RawValue,
    count_rows,
    read_chunks,
    rows_to_feeds,
)
from timberline.registry.manifest import Golden, Precision
from timberline.registry.runtime.progress import Progress
from timberline.registry.signature import FEATURES, LABEL_OUTPUT, PROBABILITIES_OUTPUT, Column
from timberline.training.features import FeatureProgram, parse_slices

log = logging.getLogger("exporter.parity.verify")

# The bounds hold for any number of threads (tolerances.toml); two keep the comparison under a minute.
_THREADS = 2


class Network(Protocol):
    """The trained network: float32 features (rows, F) → float32 probabilities (rows, C)."""

    def predict(self, features: FloatArray) -> FloatArray:
        """Class probabilities for ``features``."""


@dataclass(frozen=True)
class ParityResult:
    """The result on the test split: parity by tensor, the graph's accuracy, golden rows."""

    report: ParityReport
    rows: int
    accuracy: float
    golden: Golden


class ExportedGraph:
    """The graph as it is published, and the part of it that computes the features.

    A quantised graph (``precision`` int8) runs row by row, as in the service.
    """

    def __init__(
        self, model: onnx.ModelProto, *, threads: int = _THREADS, precision: Precision = "float32"
    ) -> None:
        self._is_row_by_row = precision == "int8"
        self._graph = open_session(serialise(model), threads=1 if self._is_row_by_row else threads)
        self._features = open_session(serialise(cut_graph(model, FEATURES)), threads=threads)

    def run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> tuple[FloatArray, IntArray]:
        """Probabilities float32 (rows, C) and labels int64 (rows,)."""
        count, outputs = len(next(iter(feeds.values()))), [PROBABILITIES_OUTPUT, LABEL_OUTPUT]
        size = 1 if self._is_row_by_row else max(count, 1)
        parts = [
            self._graph.run(outputs, {name: feed[start : start + size] for name, feed in feeds.items()})
            for start in range(0, max(count, 1), size)
        ]
        probabilities, labels = map(np.concatenate, zip(*parts, strict=True))
        return probabilities, labels

    def features(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> FloatArray:
        """The inner feature tensor, float32 (rows, F)."""
        features: FloatArray = self._features.run([FEATURES], feeds)[0]
        return features


def verify_parity(
    model: onnx.ModelProto,
    network: Network,
    program: FeatureProgram,
    inputs: ExportInputs,
    evaluation: Path,
    tolerances: Tolerances,
) -> ParityResult:
    """Compare on all rows of the test split and write the graph's predictions to ``evaluation``.

    The slices and baselines of ``inputs`` are written beside the predictions and play no part in the
    comparison. Memory is bounded by the chunk, not by the number of rows.

    Args:
        network: what was trained; the truth.
        program: the features, over the columns that ``model`` takes.
        tolerances: those of the graph's precision.

    Raises:
        ParityInputError: the two sides cannot be compared at all, a feature is not finite in some row, or
            the network's answer is not.
        ExportError: the baselines are damaged, or about other rows.
    """
    precision, class_count = inputs.export.precision, len(inputs.run.classes)
    slices = parse_slices(inputs.gate.slices, inputs.run.columns)
    baselines = read_baselines(inputs.baselines, inputs.metrics.rows)
    graph = ExportedGraph(model, precision=precision)
    names = {
        FEATURES: [feature.name for feature in program.features],
        PROBABILITIES_OUTPUT: [f"p_{index}" for index in range(class_count)],
        LABEL_OUTPUT: ["probability of the chosen class"],
    }
    golden = GoldenPicker(inputs.export.golden_rows, class_count)
    report: ParityReport = {}
    with (
        EvaluationWriter(evaluation, class_count, slices.names, baselines) as writer,
        Progress("parity", count_rows(inputs.test_parquet), "rows", logger=log) as progress,
    ):
        for chunk in read_chunks(inputs.test_parquet, program, slices=slices):
            probabilities, labels = graph.run(chunk.feeds)
            part = _compare_chunk(
                chunk, graph, network, probabilities, labels, tolerances, names, program.nullable
            )
            report = merge_reports(report, part) if report else part
            writer.write(chunk, probabilities, labels)
            golden.offer(chunk, probabilities)
            progress.advance(len(chunk.rows))
    if not report:
        where = str(inputs.test_parquet)
        raise ParityInputError("the test split has no rows", where=where, hint="See [split].")
    picked = golden.pick()
    if precision == "int8":
        picked = msgspec.structs.replace(picked, atol=tolerances.int8.golden_atol)
    return ParityResult(report=report, rows=writer.rows, accuracy=writer.accuracy, golden=picked)


def _compare_chunk(
    chunk: Chunk,
    graph: ExportedGraph,
    network: Network,
    probabilities: FloatArray,
    labels: IntArray,
    tolerances: Tolerances,
    names: Mapping[str, Sequence[str]],
    nullable: Sequence[bool],
) -> ParityReport:
    _require_usable_features(chunk, names[FEATURES], nullable)
    truth = network.predict(chunk.features)
    undefined = np.flatnonzero(~np.isfinite(truth).all(axis=1))
    if len(undefined):
        raise ParityInputError(
            f"the network answers NaN for {len(undefined):,} rows of a chunk, whose features are all usable",
            where=f"{PROBABILITIES_OUTPUT}, source row {chunk.rows[undefined[0]]}",
            hint="Its weights are not finite, or a feature is far outside of the others; train again.",
        )
    best, chosen = label_choice(truth, labels)
    return compare_outputs(
        {FEATURES: chunk.features, PROBABILITIES_OUTPUT: truth, LABEL_OUTPUT: best},
        {FEATURES: graph.features(chunk.feeds), PROBABILITIES_OUTPUT: probabilities, LABEL_OUTPUT: chosen},
        tolerances.by_tensor(),
        rows=chunk.rows,
        columns=names,
    )


def _require_usable_features(chunk: Chunk, names: Sequence[str], nullable: Sequence[bool]) -> None:
    """Refuse infinity, and NULL where the network does not fill it, whatever the kernels compute of them."""
    is_finite = np.isfinite(chunk.features) | (np.isnan(chunk.features) & np.asarray(nullable))  # (rows, F)
    if is_finite.all():
        return
    index, feature = divmod(int(np.argmin(is_finite)), is_finite.shape[1])
    value = chunk.features[index, feature]
    raise ParityInputError(
        f"is {'NULL' if np.isnan(value) else value} here, and not a finite number in "
        f"{int((~is_finite[:, feature]).sum()):,} rows of a chunk",
        where=f"feature {names[feature]!r}, source row {chunk.rows[index]}",
        hint="Give it a value in features.sql, for example `coalesce(…, 0)`, and run etl and train again.",
    )


def replay_golden(model: onnx.ModelProto, golden: Golden, columns: Sequence[Column]) -> float:
    """The worst absolute error when the golden rows run as a service runs them: one thread, row by row.

    Raises:
        ParityInputError: it is greater than ``golden.atol``, or not a number.
    """
    session = open_session(serialise(model), threads=1)
    worst = 0.0
    for index, (row, expected) in enumerate(zip(golden.rows, golden.probabilities, strict=True)):
        answer = session.run([PROBABILITIES_OUTPUT], rows_to_feeds([row], columns))[0][0]
        error = float(np.abs(answer - np.asarray(expected)).max())
        if not error <= golden.atol:
            raise ParityInputError(
                f"alone on one thread it differs by {error:.3g} from its answer in a batch, "
                f"at most {golden.atol:.3g} is allowed",
                where=f"golden row {index}",
            )
        worst = max(worst, error)
    return worst


class _Candidate(NamedTuple):
    """A row that may become golden; the smallest ``key`` is wanted most, of equal ones the first row."""

    key: float
    row: int
    values: tuple[RawValue, ...]
    class_index: int
    probabilities: tuple[float, ...]


class GoldenPicker:
    """Choose ``count`` golden rows in one pass over the test split, the same ones every time.

    For each true class it wants rows by turns: the one whose two best probabilities are closest
    (where a small drift shows first), then one from anywhere (by a hash of its row number).
    """

    def __init__(self, count: int, class_count: int) -> None:
        self._count = count
        self._near: list[list[_Candidate]] = [[] for _ in range(class_count)]
        self._anywhere: list[list[_Candidate]] = [[] for _ in range(class_count)]

    def offer(self, chunk: Chunk, probabilities: FloatArray) -> None:
        """Consider the rows of a chunk; ``probabilities`` are the graph's, float32 (rows, C)."""
        ordered = np.sort(probabilities, axis=1)
        margins = (ordered[:, -1] - ordered[:, -2]).astype(np.float64)  # (rows,)
        for wanted, keys in ((self._near, margins), (self._anywhere, _hash_rows(chunk.rows))):
            for class_index, kept in enumerate(wanted):
                members = np.flatnonzero(chunk.classes == class_index)
                if len(kept) == self._count:
                    members = members[keys[members] < kept[-1].key]
                best = members[np.argsort(keys[members], kind="stable")][: self._count]
                kept += [
                    _Candidate(
                        key=float(keys[index]),
                        row=int(chunk.rows[index]),
                        values=chunk.take(index),
                        class_index=class_index,
                        probabilities=tuple(map(float, probabilities[index])),
                    )
                    for index in best.tolist()
                ]
                kept.sort()
                del kept[self._count :]

    def pick(self) -> Golden:
        """The chosen rows in source order; as even over the classes as there are rows for it."""
        queues = [_interleave(*pair) for pair in zip(self._near, self._anywhere, strict=True)]
        chosen: dict[int, _Candidate] = {}
        while len(chosen) < self._count and any(queues):
            for queue in queues:
                if queue and len(chosen) < self._count:
                    candidate = queue.pop(0)
                    chosen[candidate.row] = candidate
        golden = [chosen[row] for row in sorted(chosen)]
        return Golden(
            rows=tuple(candidate.values for candidate in golden),
            class_indexes=tuple(candidate.class_index for candidate in golden),
            probabilities=tuple(candidate.probabilities for candidate in golden),
        )


def _interleave(near: list[_Candidate], anywhere: list[_Candidate]) -> list[_Candidate]:
    """One of each by turns, each row once."""
    mixed = [candidate for pair in zip(near, anywhere, strict=True) for candidate in pair]
    return list({candidate.row: candidate for candidate in mixed}.values())


def _hash_rows(rows: IntArray) -> FloatArray:
    """A fixed pseudo-random number in [0, 1) for each row number.

    Source: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    mixed = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    share: FloatArray = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return share
