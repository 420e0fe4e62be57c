"""Read held-out predictions of versions, and lay them side by side, row by row.

The expected calibration error (ECE) is the row-weighted mean of |confidence - accuracy| over 15
bins that hold equally many rows. Few rows make it too large (bias), for both versions alike; the
difference on the same rows is sharp, and is bounded by a bootstrap.

A bootstrap that draws rows would sort half a million of them again for every resample. Here the
bins stay where the rows put them. Then all that a resample changes is the mean gap of the rows in
each of the 2 x 15 bins, and these 30 means of thousands of bounded numbers are jointly normal with
a covariance that one pass over the rows gives. Rows that cross a moved edge go from one bin to its
neighbour, which changes the sum of the gaps only where their signs differ, that is, where the gaps
are next to nothing. The tests hold this against a bootstrap of rows.

Source: Naeini, Cooper, Hauskrecht, AAAI 2015; bins of equal mass: Nguyen, O'Connor, EMNLP 2015;
percentile bound: Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.benchmarks.analysis.statistics import Bounds, Discordance
from timberline.benchmarks.errors import EvidenceError
from timberline.registry.manifest import BASELINE_PREFIX, SLICE_PREFIX

BINS = 15
# 30 draws lie beyond a level of 0.00075: the bound is good to a twentieth of a standard deviation.
_DRAWS = 40_000
# The same rows give the same verdict.
_SEED = 20260101
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CalibrationChange:
    """Gaps of both versions on the same rows.

    ``champion`` and ``candidate``, shape (15,): sum of confidence minus correctness over a bin's
    rows, divided by all rows; confidence rises from bin to bin. ``covariance``, shape (30, 30): of
    these means, the champion's first.
    """

    champion: Floats
    candidate: Floats
    covariance: Floats

    @property
    def champion_error(self) -> float:
        """The champion's ECE, 0 to 1."""
        return float(np.abs(self.champion).sum())

    @property
    def candidate_error(self) -> float:
        """The candidate's ECE, 0 to 1."""
        return float(np.abs(self.candidate).sum())

    @property
    def difference(self) -> float:
        """Candidate minus champion."""
        return self.candidate_error - self.champion_error


@dataclass(frozen=True)
class Gaps:
    """One version's bins and gaps (confidence minus correctness) by row, shape (rows,)."""

    bins: Integers
    gaps: Floats


def measure_gaps(confidence: Floats, correct: Flags) -> Gaps:
    """The gaps of one version: probability of the label, and whether the label is right; shape (rows,)."""
    return Gaps(assign_bins(confidence), confidence - correct)


def measure_calibration(champion: tuple[Floats, Flags], candidate: tuple[Floats, Flags]) -> CalibrationChange:
    """Gaps of two versions and how they vary together.

    Args:
        champion: probability of the label, and whether the label is right; both shape (rows,).
        candidate: the same, of the same rows in the same order.
    """
    return compare_gaps(measure_gaps(*champion), measure_gaps(*candidate))


def compare_gaps(champion: Gaps, candidate: Gaps) -> CalibrationChange:
    """`measure_calibration` of gaps that are measured already."""
    both, rows = (champion, candidate), champion.bins.size
    means = [np.bincount(one.bins, one.gaps, BINS) / rows for one in both]
    own = [np.diag(np.bincount(one.bins, one.gaps**2, BINS)) for one in both]
    shared = np.bincount(champion.bins * BINS + candidate.bins, champion.gaps * candidate.gaps, BINS**2)
    shared = shared.reshape(BINS, BINS)
    squares = np.block([[own[0], shared], [shared.T, own[1]]]) / rows
    joint = np.concatenate(means)
    return CalibrationChange(means[0], means[1], (squares - np.outer(joint, joint)) / rows)


def assign_bins(confidence: Floats) -> Integers:
    """The bin of every row: 15 of equal mass by confidence, as `training.evaluation.scores` cuts them."""
    bins = np.empty(confidence.size, np.int64)
    for number, rows in enumerate(np.array_split(np.argsort(confidence, kind="stable"), BINS)):
        bins[rows] = number
    return bins


def bound_calibration(change: CalibrationChange, *, alpha_low: float, alpha_high: float) -> Bounds:
    """Percentile bounds of candidate minus champion, and the standard deviation of the resamples.

    Resampling adds its own noise to that of the sample, and so draws the difference towards 0 when
    the champion is the better calibrated: the lower bound errs on the side of the candidate.
    """
    values, vectors = np.linalg.eigh(change.covariance)
    # Rounding leaves eigenvalues a little below 0 where the two versions are one.
    scale = vectors * np.sqrt(np.clip(values, 0.0, None))
    normal = np.random.default_rng(_SEED).standard_normal((_DRAWS, 2 * BINS))
    gaps = np.abs(np.concatenate([change.champion, change.candidate]) + normal @ scale.T)
    drawn = gaps[:, BINS:].sum(axis=1) - gaps[:, :BINS].sum(axis=1)  # (draws, bins) → (draws,)
    low, high = np.quantile(drawn, [alpha_low, 1 - alpha_high])
    return Bounds(change.difference, float(low), float(high), float(drawn.std()), _DRAWS)


# Probabilities are clipped here before the logarithm: float32 cannot tell smaller ones from 0.
_SMALLEST = 1e-7


@dataclass(frozen=True)
class Predictions:
    """One version's answers to the test split, ordered by source row; all arrays have shape (rows,).

    ``truth`` and ``label`` are class indexes, ``loss`` is -ln of the true class's probability,
    ``confidence`` the greatest probability; ``slices`` hold by name which rows are in a slice;
    ``baselines`` are the labels that each of the version's own baselines gives.
    """

    rows: Integers
    truth: Integers
    label: Integers
    loss: Floats
    confidence: Floats
    slices: dict[str, Flags] = field(default_factory=dict)
    baselines: dict[str, Integers] = field(default_factory=dict)

    @property
    def correct(self) -> Flags:
        """Whether the label is the truth, per row."""
        correct: Flags = self.label == self.truth
        return correct

    def take(self, chosen: Flags) -> Predictions:
        """The chosen rows alone."""
        return Predictions(
            self.rows[chosen],
            self.truth[chosen],
            self.label[chosen],
            self.loss[chosen],
            self.confidence[chosen],
            {name: inside[chosen] for name, inside in self.slices.items()},
            {name: labels[chosen] for name, labels in self.baselines.items()},
        )


@dataclass(frozen=True)
class Quality:
    """One version's quality on the test split; ``loss_sd`` is the SD of a row's log-loss."""

    rows: int
    correct: int
    loss: float
    loss_sd: float

    @property
    def accuracy(self) -> float:
        """Share of rows with the right label."""
        return self.correct / self.rows


@dataclass(frozen=True)
class PartChange:
    """Rows of one class or slice; shares that champion and candidate get right, and what changed."""

    label: str
    champion: float
    candidate: float
    pairs: Discordance


Counts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Confusion:
    """Rows by truth (first index) and label (second), counted for both versions; shape (classes, classes)."""

    classes: tuple[str, ...]
    champion: Counts
    candidate: Counts


@dataclass(frozen=True)
class QualityComparison:
    """Champion and candidate on the same rows; losses are candidate minus champion, per row.

    ``recalls`` has the classes that have rows, ``slices`` every slice; ``test_rows`` counts the
    champion's and the candidate's own test rows when only those of both were compared. ``is_fresh``: both
    were asked again, because they learned from different tables.
    """

    champion: Quality
    candidate: Quality
    pairs: Discordance
    recalls: tuple[PartChange, ...]
    slices: tuple[PartChange, ...]
    loss_difference: float
    loss_difference_sd: float
    calibration: CalibrationChange
    confusion: Confusion
    test_rows: tuple[int, int] | None = None
    is_fresh: bool = False


def read_predictions(path: Path, class_count: int, slices: Iterable[str] = ()) -> Predictions:
    """Read an ``evaluation.parquet``, these slices of it, and the answers of whatever baselines it has.

    Raises:
        EvidenceError: it is missing, damaged or empty, names a row twice, or holds values that no
            prediction can have.
    """
    flags = {name: f"{SLICE_PREFIX}{name}" for name in slices}
    names = [f"p_{index}" for index in range(class_count)]
    wanted = ["row", "class_index", "label_index", *names, *flags.values()]
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise EvidenceError(f"held-out predictions lack {', '.join(missing)[:80]}", where=str(path))
            baselines = [name for name in file.schema_arrow.names if name.startswith(BASELINE_PREFIX)]
            table: Any = file.read(columns=[*wanted, *baselines])
    except (OSError, pa.ArrowInvalid) as error:
        raise EvidenceError(f"held-out predictions cannot be read: {error}", where=str(path)) from error
    if table.num_rows == 0 or any(column.null_count for column in table.columns):
        raise EvidenceError("held-out predictions are empty or have gaps", where=str(path))
    columns = {name: table[name].to_numpy() for name in table.column_names}
    order = np.argsort(columns["row"], kind="stable")
    rows, truth, label = (
        columns[name][order].astype(np.int64) for name in ("row", "class_index", "label_index")
    )
    chances = np.stack([columns[name][order] for name in names], axis=1).astype(float)  # (rows, classes)
    _check(rows, truth, label, chances, where=str(path))
    true_chance = np.take_along_axis(chances, truth[:, None], axis=1)[:, 0]
    return Predictions(
        rows,
        truth,
        label,
        loss=-np.log(np.clip(true_chance, _SMALLEST, 1.0)),
        confidence=chances.max(axis=1),
        slices={name: columns[flag][order].astype(bool) for name, flag in flags.items()},
        baselines={
            name.removeprefix(BASELINE_PREFIX): columns[name][order].astype(np.int64) for name in baselines
        },
    )


def _check(rows: Integers, truth: Integers, label: Integers, chances: Floats, *, where: str) -> None:
    classes = chances.shape[1]
    if np.any(np.diff(rows) == 0):
        raise EvidenceError("a row is named twice", where=where)
    for indexes in (truth, label):
        if indexes.min() < 0 or indexes.max() >= classes:
            raise EvidenceError(f"a class index is outside 0 to {classes - 1}", where=where)
    # 1e-3: float32 probabilities of many classes need not sum to exactly 1.
    if not (chances.min() >= 0 and np.all(np.abs(chances.sum(axis=1) - 1) <= 1e-3)):
        raise EvidenceError("probabilities are negative, not finite or do not sum to 1", where=where)


def measure_quality(predictions: Predictions) -> Quality:
    """Accuracy and log-loss of one version."""
    return Quality(
        rows=predictions.rows.size,
        correct=int(predictions.correct.sum()),
        loss=float(predictions.loss.mean()),
        loss_sd=_spread(predictions.loss),
    )


def keep_common(champion: Predictions, candidate: Predictions) -> tuple[Predictions, Predictions]:
    """The rows that both answered, for two splits of one table.

    Raises:
        EvidenceError: there is none.
    """
    before, after = (
        one.take(np.isin(one.rows, other.rows, assume_unique=True))
        for one, other in ((champion, candidate), (candidate, champion))
    )
    if before.rows.size == 0:
        raise EvidenceError(
            "the two versions were tested on different rows and have none in common",
            where="evaluation.parquet",
            hint="Export the champion's run again on the present test split.",
        )
    return before, after


def compare_predictions(
    champion: Predictions, candidate: Predictions, classes: Sequence[str]
) -> QualityComparison:
    """Lay the two side by side.

    Raises:
        EvidenceError: they do not answer the same rows, or disagree about the truth of one.
    """
    if not np.array_equal(champion.rows, candidate.rows):
        shared = np.intersect1d(champion.rows, candidate.rows).size
        raise EvidenceError(
            f"champion answered {champion.rows.size} rows, candidate {candidate.rows.size}, "
            f"only {shared} of them the same",
            where="evaluation.parquet",
            hint="Export both versions with the same test split.",
        )
    if not np.array_equal(champion.truth, candidate.truth):
        row = int(champion.rows[np.flatnonzero(champion.truth != candidate.truth)[0]])
        raise EvidenceError(
            f"the true class of row {row} is not the same in both versions",
            where="evaluation.parquet",
            hint="Labels were revised: export the champion again.",
        )
    difference = candidate.loss - champion.loss
    return QualityComparison(
        champion=measure_quality(champion),
        candidate=measure_quality(candidate),
        pairs=count_change(champion, candidate),
        recalls=tuple(
            _compare_part(champion, candidate, label, champion.truth == index)
            for index, label in enumerate(classes)
            if np.any(champion.truth == index)
        ),
        slices=tuple(
            _compare_part(champion, candidate, name, inside) for name, inside in candidate.slices.items()
        ),
        loss_difference=float(difference.mean()),
        loss_difference_sd=_spread(difference),
        calibration=measure_calibration(
            (champion.confidence, champion.correct), (candidate.confidence, candidate.correct)
        ),
        confusion=Confusion(
            classes=tuple(classes),
            champion=count_confusion(champion, len(classes)),
            candidate=count_confusion(candidate, len(classes)),
        ),
    )


def count_confusion(predictions: Predictions, class_count: int) -> Counts:
    """How many rows of each true class got each label."""
    cells = np.bincount(predictions.truth * class_count + predictions.label, minlength=class_count**2)
    return tuple(tuple(row) for row in cells.reshape(class_count, class_count).tolist())


def _compare_part(champion: Predictions, candidate: Predictions, label: str, chosen: Flags) -> PartChange:
    before, after = champion.take(chosen), candidate.take(chosen)
    rows = max(before.rows.size, 1)
    return PartChange(
        label=label,
        champion=int(before.correct.sum()) / rows,
        candidate=int(after.correct.sum()) / rows,
        pairs=count_change(before, after),
    )


def count_against_baseline(predictions: Predictions, name: str) -> Discordance:
    """The version beside its own baseline: ``lost`` are rows that only the baseline got right."""
    return _count_pairs(predictions.baselines[name] == predictions.truth, predictions.correct)


def count_change(champion: Predictions, candidate: Predictions) -> Discordance:
    """Rows that only one of the two gets right; both answer the same rows."""
    return _count_pairs(champion.correct, candidate.correct)


def _count_pairs(before: Flags, after: Flags) -> Discordance:
    return Discordance(
        rows=before.size, lost=int((before & ~after).sum()), gained=int((~before & after).sum())
    )


def _spread(values: Floats) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else 0.0
