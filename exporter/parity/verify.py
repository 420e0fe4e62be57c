"""Run every test row through the graph and through what it was made from, and compare.

Truth is DuckDB's features (the same SQL over the same raw columns) and Keras on those features;
on trial is the graph on the raw rows: first its inner feature tensor, then its answers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from timberline.exporter.errors import ParityInputError
from timberline.exporter.graph.compose import serialise
from timberline.exporter.graph.graphs import cut_graph
from timberline.exporter.graph.runtime import open_session
from timberline.exporter.package import EvaluationWriter
from timberline.exporter.parity.compare import (
    FloatArray,
    IntArray,
    ParityReport,
    Tolerances,
    compare_outputs,
    label_choice,
    merge_reports,
)
from timberline.exporter.parity.golden import GoldenPicker
from timberline.exporter.parity.rows import Chunk, count_rows, read_chunks, rows_to_feeds
from timberline.registry.manifest import Golden, Precision
from timberline.registry.runtime.stages import Progress
from timberline.registry.signature import FEATURES, LABEL_OUTPUT, PROBABILITIES_OUTPUT, Column
from timberline.training.features import FeatureProgram

log = logging.getLogger("exporter.parity.verify")

# The bounds hold for any number of threads (tolerances.toml); two keep the proof under a minute.
_THREADS = 2


class Network(Protocol):
    """What was trained: float32 features (rows, F) → float32 probabilities (rows, C)."""

    def predict(self, features: FloatArray) -> FloatArray:
        """Class probabilities for ``features``."""


@dataclass(frozen=True)
class Proof:
    """What the test split showed: parity by tensor, the graph's accuracy, golden rows."""

    report: ParityReport
    rows: int
    accuracy: float
    golden: Golden


class GraphUnderTrial:
    """The graph as published, and beside it the part of it that computes the features.

    A quantised graph (``precision`` int8) is asked row by row, as the service asks it.
    """

    def __init__(
        self, model: onnx.ModelProto, *, threads: int = _THREADS, precision: Precision = "float32"
    ) -> None:
        self._is_row_by_row = precision == "int8"
        self._graph = open_session(serialise(model), threads=1 if self._is_row_by_row else threads)
        self._features = open_session(serialise(cut_graph(model, FEATURES)), threads=threads)

    def run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> tuple[FloatArray, IntArray]:
        """Probabilities float32 (rows, C) and labels int64 (rows,)."""
        if not self._is_row_by_row:
            return self._run(feeds)
        count = len(next(iter(feeds.values())))
        parts = [self._run({name: feed[i : i + 1] for name, feed in feeds.items()}) for i in range(count)]
        return np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts])

    def _run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> tuple[FloatArray, IntArray]:
        probabilities, labels = self._graph.run([PROBABILITIES_OUTPUT, LABEL_OUTPUT], feeds)
        return probabilities, labels

    def features(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> FloatArray:
        """The inner feature tensor, float32 (rows, F)."""
        features: FloatArray = self._features.run([FEATURES], feeds)[0]
        return features


def prove(
    model: onnx.ModelProto,
    network: Network,
    program: FeatureProgram,
    test_parquet: Path,
    evaluation: Path,
    *,
    tolerances: Tolerances,
    class_count: int,
    golden_rows: int,
    precision: Precision = "float32",
    slices: FeatureProgram | None = None,
    baselines: Mapping[str, IntArray] | None = None,
) -> Proof:
    """Compare on all rows of ``test_parquet`` and write the graph's predictions to ``evaluation``.

    ``slices`` and ``baselines`` are written beside the predictions and play no part in the comparison.

    Memory is bounded by the chunk, not by the number of rows.

    Raises:
        ParityInputError: the two sides cannot be compared at all, a feature is not finite in some row, or
            the network's answer is not.
    """
    graph = GraphUnderTrial(model, precision=precision)
    names = {
        FEATURES: [feature.name for feature in program.features],
        PROBABILITIES_OUTPUT: [f"p_{index}" for index in range(class_count)],
        LABEL_OUTPUT: ["probability of the chosen class"],
    }
    golden = GoldenPicker(golden_rows, class_count)
    report: ParityReport = {}
    with (
        EvaluationWriter(evaluation, class_count, slices.names if slices else (), baselines) as writer,
        Progress("parity", count_rows(test_parquet), "rows", logger=log) as progress,
    ):
        for chunk in read_chunks(test_parquet, program, slices=slices):
            probabilities, labels = graph.run(chunk.feeds)
            part = _compare_chunk(chunk, graph, network, probabilities, labels, tolerances, names)
            report = merge_reports(report, part) if report else part
            writer.write(chunk, probabilities, labels)
            golden.offer(chunk, probabilities)
            progress.advance(len(chunk.rows))
    if not report:
        raise ParityInputError("the test split has no rows", where=str(test_parquet), hint="See [split].")
    picked = golden.pick()
    if precision == "int8":
        picked = msgspec.structs.replace(picked, atol=tolerances.int8.golden_atol)
    return Proof(report=report, rows=writer.rows, accuracy=writer.accuracy, golden=picked)


def _compare_chunk(
    chunk: Chunk,
    graph: GraphUnderTrial,
    network: Network,
    probabilities: FloatArray,
    labels: IntArray,
    tolerances: Tolerances,
    names: Mapping[str, Sequence[str]],
) -> ParityReport:
    _require_finite_features(chunk, names[FEATURES])
    truth = network.predict(chunk.features)
    undefined = np.flatnonzero(~np.isfinite(truth).all(axis=1))
    if len(undefined):
        raise ParityInputError(
            f"the network answers NaN for {len(undefined):,} rows of a chunk, whose features are all finite",
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


def _require_finite_features(chunk: Chunk, names: Sequence[str]) -> None:
    """Refuse NULL and infinity in front of the network, whatever this processor's kernels make of them."""
    is_finite = np.isfinite(chunk.features)  # (rows, F)
    if is_finite.all():
        return
    index, feature = divmod(int(np.argmin(is_finite)), is_finite.shape[1])
    value = chunk.features[index, feature]
    raise ParityInputError(
        f"is {'NULL' if np.isnan(value) else value} here, and not a finite number in "
        f"{int((~is_finite[:, feature]).sum()):,} rows of a chunk",
        where=f"feature {names[feature]!r}, source row {chunk.rows[index]}",
        hint="Say what it is there in features.sql, for example `coalesce(…, 0)`; then `make etl train`.",
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
