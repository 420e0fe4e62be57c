"""Is the candidate worse calibrated? The difference of two calibration errors, bounded by a bootstrap.

The expected calibration error (ECE) is the row-weighted mean of |confidence - accuracy| over 15
bins that hold equally many rows. Few rows make it too large (bias), for both versions alike; the
difference on the same rows is sharp.

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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
class CalibrationBounds:
    """One-sided bounds of the difference and the standard deviation of its resamples."""

    low: float
    high: float
    sd: float


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


def bound_calibration(change: CalibrationChange, *, alpha_low: float, alpha_high: float) -> CalibrationBounds:
    """Percentile bounds of candidate minus champion.

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
    return CalibrationBounds(float(low), float(high), float(drawn.std()))
