"""Where a short series changes its level: E-divisive means, made deterministic.

The split that maximises the energy distance between its two sides is the candidate; a test says
whether to believe it; both sides are searched again. The permutation test of the original is
replaced, as in Hunter, by one that gives the same answer every time.

Own code because no library fits 5 to 50 points. `ruptures` is kept and light, but its penalties have
to be chosen by hand and no split comes with an error rate: with so few points that is the whole
question. Otava, Hunter's successor, pins NumPy to an older version and brings a warehouse client.

Source: Matteson & James, *A nonparametric approach for multiple change point analysis of multivariate
data*, J. Am. Stat. Assoc. 109 (2014), section 2 (statistic and search over both ends); Fleming et al.,
*Hunter: using change point detection to hunt for performance regressions*, arXiv 2301.03034 (t-test,
minimum magnitude).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, ttest_ind_from_stats

Floats = npt.NDArray[np.float64]
# p-value of the claim that points [start, split) and [split, end) have different means.
Test = Callable[[int, int, int], float]

# One point is no level; that a single step is real, the gate's own interval tells.
MIN_POINTS = 2


def find_shifts(values: Sequence[float], test: Test, *, alpha: float, floor: float = 0.0) -> list[int]:
    """Indexes at which a new level starts, ascending.

    Args:
        values: one a release, in order.
        test: judges a split; see `compare_means` and `compare_walk`.
        alpha: level for the whole series, divided over all the splits that are looked at.
        floor: a difference of the means below this is not worth telling.
    """
    series = np.asarray(values, dtype=float)
    distances = np.abs(series[:, None] - series[None, :])  # (points, points)
    # Sums of every rectangle [0, i) x [0, j), so that a block costs four reads.
    sums = np.pad(distances.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # (points + 1, points + 1)
    found: list[int] = []
    intervals = [(0, series.size)]
    while intervals:
        start, end = intervals.pop()
        best = _best_split(sums, start, end)
        if best is None:
            continue
        split, until = best
        change = abs(float(series[split:until].mean() - series[start:split].mean()))
        if change >= floor and test(start, split, until) * _splits(series.size) <= alpha:
            found.append(split)
            intervals += [(start, split), (split, end)]
    return sorted(found)


def _splits(points: int) -> int:
    """How many places a split of the whole series may have (Bonferroni's divisor)."""
    return max(1, points - 2 * MIN_POINTS + 1)


def _best_split(sums: Floats, start: int, end: int) -> tuple[int, int] | None:
    """The split and the end of its right side that lie furthest apart, or None for too few points.

    The right side may end early: a level that comes and goes again would otherwise be diluted by
    what follows it.
    """
    splits = [
        (split, until)
        for split in range(start + MIN_POINTS, end - MIN_POINTS + 1)
        for until in range(split + MIN_POINTS, end + 1)
    ]
    if not splits:
        return None
    return max(splits, key=lambda ends: (_energy(sums, start, *ends), ends[1]))


def _energy(sums: Floats, start: int, split: int, end: int) -> float:
    """Q = mn / (m + n) x (2 mean|x - y| - mean|x - x'| - mean|y - y'|), the means over pairs."""
    left, right = split - start, end - split
    between = _block(sums, start, split, split, end) / (left * right)
    within_left = _block(sums, start, split, start, split) / (left * (left - 1))
    within_right = _block(sums, split, end, split, end) / (right * (right - 1))
    return left * right / (left + right) * (2 * between - within_left - within_right)


def _block(sums: Floats, top: int, bottom: int, left: int, right: int) -> float:
    """Sum of the distances in rows [top, bottom) and columns [left, right)."""
    return float(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])


def compare_means(values: Sequence[float]) -> Test:
    """Student's two-sided t-test with a pooled variance, for points with independent errors."""
    series = np.asarray(values, dtype=float)

    def test(start: int, split: int, end: int) -> float:
        left, right = series[start:split], series[split:end]
        if np.ptp(left) == 0 and np.ptp(right) == 0:  # file sizes: no error at all, so no t
            return 0.0 if left[0] != right[0] else 1.0
        sides = [(side.mean(), side.std(ddof=1), side.size) for side in (left, right)]
        return float(ttest_ind_from_stats(*sides[0], *sides[1]).pvalue)

    return test


def compare_walk(values: Sequence[float], covariance: Floats) -> Test:
    """A z-test for points whose errors are known and shared, as those of a chained index are.

    Its errors are a random walk: every point carries the errors of all the links before it. A
    t-test takes such a walk for levels and finds changes in pure noise.

    Args:
        covariance: of the points' errors, shape (points, points).
    """
    series = np.asarray(values, dtype=float)

    def test(start: int, split: int, end: int) -> float:
        weights = np.zeros(series.size)
        weights[start:split] = -1 / (split - start)
        weights[split:end] = 1 / (end - split)
        error = float(np.sqrt(weights @ covariance @ weights))
        change = abs(float(weights @ series))
        if error == 0:
            return 0.0 if change > 0 else 1.0
        return float(2 * norm.sf(change / error))

    return test
