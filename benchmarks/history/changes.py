"""Which releases changed something: steps that were measured, and levels that moved.

A **step** was measured side by side by the gate that let the release in, with an interval. A **shift**
is seen only in the row of releases: several small steps that no gate alone could prove,
or a quantity (size, log-loss on the test rows) that no gate compares. Only releases that were in
production count; what a gate kept out changed nothing.

Error rates: steps, 1 % a quantity over all releases (Holm). Shifts, at most 5 % a quantity over all
releases; measured on noise of 5 to 50 points by `tests/unit/benchmarks/history`.

Shifts are found by E-divisive means, made deterministic. The split that maximises the energy distance
between its two sides is the candidate; a test decides whether it is one; both sides are searched again. The
permutation test of the original is replaced, as in Hunter, by one that gives the same answer every time.

Own code because no library fits 5 to 50 points. `ruptures` is kept and light, but its penalties have
to be chosen by hand and no split comes with an error rate: with so few points that is the whole
question. Otava, Hunter's successor, pins NumPy to an older version and brings a warehouse client.

Source: Matteson & James, *A nonparametric approach for multiple change point analysis of multivariate
data*, J. Am. Stat. Assoc. 109 (2014), section 2 (statistic and search over both ends); Fleming et al.,
*Hunter: using change point detection to hunt for performance regressions*, arXiv 2301.03034 (t-test,
minimum magnitude).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, ttest_ind_from_stats

from timberline.benchmarks.analysis.statistics import adjust_holm
from timberline.benchmarks.history.releases import PAIRED_LINES, LatencyIndex, Release, standard_error
from timberline.registry.verdict import VerdictLine

Floats = npt.NDArray[np.float64]
# p-value of the claim that points [start, split) and [split, end) have different means.
Test = Callable[[int, int, int], float]
# One point is no level; that a single step is real, the gate's own interval shows.
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


STEP_ALPHA = 0.01
# A t-test at the split that the search liked best is too eager: a level of 1 % gives 1 to 3 % of
# series with a false shift. The walk's test is not: 5 % gives 0 to 5 %.
MEANS_ALPHA = 0.01
WALK_ALPHA = 0.05
_Z95 = 1.9600
# A shift that a step at the same release measured already is not reported again.
_STEP_OF = {"latency": "p50", "accuracy": "accuracy", "log_loss": "log_loss"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """``version`` is the first release at the new level of ``quantity``.

    ``before`` and ``after`` are values (of the two versions for a step, means of the levels for a
    shift). ``difference`` is a difference or, for latencies and sizes, a ratio, as ``is_ratio``
    says; ``low`` and ``high`` its 95 % interval, None where there is none.
    """

    version: int
    kind: Literal["step", "shift"]
    quantity: str
    before: float | None
    after: float | None
    difference: float
    low: float | None = None
    high: float | None = None
    is_ratio: bool = False
    is_worse: bool = False


def find_changes(releases: Sequence[Release]) -> tuple[Change, ...]:
    """Every step and shift of what was in production, by version."""
    promoted = sorted(
        (release for release in releases if release.promoted_at),
        key=lambda release: (release.promoted_at or "", release.version),
    )
    steps = [step for name in PAIRED_LINES for step in _find_steps(promoted, name)]
    shifts = _find_latency_shifts(promoted)
    for quantity, read in _READERS:
        shifts += _find_means_shifts(promoted, quantity, read)
    known = {(step.version, step.quantity) for step in steps}
    unknown = [shift for shift in shifts if (shift.version, _STEP_OF.get(shift.quantity)) not in known]
    return tuple(sorted(steps + unknown, key=lambda change: (change.version, change.kind, change.quantity)))


def _find_steps(promoted: Sequence[Release], name: str) -> list[Change]:
    """Measured differences whose interval excludes none, Holm's level over the releases."""
    lines = [(release.version, line) for release in promoted if (line := release.line(name))]
    steps = [(version, line, *_estimate(line)) for version, line in lines if line.high is not None]
    adjusted = adjust_holm(
        [2 * float(norm.sf(abs(value) / error)) if error else 1.0 for _, _, value, error in steps]
    )
    return [
        _step(version, line, value, error)
        for p_value, (version, line, value, error) in zip(adjusted, steps, strict=True)
        if p_value <= STEP_ALPHA
    ]


def _estimate(line: VerdictLine) -> tuple[float, float]:
    """A line's difference and its standard error; of the logarithm for a ratio."""
    scale = math.log if _is_ratio(line) else float
    value = scale(line.difference or 0.0)
    return value, standard_error(value, scale(line.high or 0.0))


def _is_ratio(line: VerdictLine) -> bool:
    return line.unit.endswith("ratio")


def _step(version: int, line: VerdictLine, value: float, error: float) -> Change:
    back = math.exp if _is_ratio(line) else float
    return Change(
        version=version,
        kind="step",
        quantity=line.name,
        before=line.champion,
        after=line.candidate,
        difference=back(value),
        low=back(value - _Z95 * error),
        high=back(value + _Z95 * error),
        is_ratio=_is_ratio(line),
        is_worse=value < 0 if line.name == "accuracy" else value > 0,
    )


@dataclass(frozen=True)
class _Quantity:
    """What a level is looked for in; ``floor`` is the smallest change worth telling, on ``scale``."""

    name: str
    floor: float
    is_ratio: bool = False

    def scale(self, value: float) -> float:
        return math.log(value) if self.is_ratio else value


# 1 %: the margin of the gate for time in the service as a share of client p50.
_LATENCY = _Quantity("latency", 0.01, is_ratio=True)
# 0.1 % and 0.002 nats: what the gate calls material; 1 % of a file: less is a changed name.
_ACCURACY = _Quantity("accuracy", 0.001)
_LOG_LOSS = _Quantity("log_loss", 0.002)
_SIZE = _Quantity("model_bytes", 0.01, is_ratio=True)
# (test rows, value): values on other rows are another series.
_Reader = Callable[[Release], tuple[str | None, float | None]]
_READERS: tuple[tuple[_Quantity, _Reader], ...] = (
    (
        _ACCURACY,
        lambda release: (release.test_fingerprint, release.accuracy.value if release.accuracy else None),
    ),
    (_LOG_LOSS, lambda release: (release.test_fingerprint, release.log_loss)),
    (_SIZE, lambda release: (None, release.model_bytes)),
)


def _find_means_shifts(promoted: Sequence[Release], quantity: _Quantity, read: _Reader) -> list[Change]:
    known = [(release.version, *read(release)) for release in promoted]
    found = []
    for _, group in itertools.groupby(known, key=lambda entry: entry[1]):
        members = [(version, quantity.scale(value)) for version, _, value in group if value]
        values = [value for _, value in members]
        splits = find_shifts(values, compare_means(values), alpha=MEANS_ALPHA, floor=quantity.floor)
        found += _shifts([version for version, _ in members], values, splits, quantity)
    return found


def _find_latency_shifts(promoted: Sequence[Release]) -> list[Change]:
    linked = [(release.version, release.latency) for release in promoted if release.latency]
    found = []
    for _, group in itertools.groupby(linked, key=lambda pair: pair[1].root):
        members = list(group)
        values = [math.log(index.value) for _, index in members]
        test = compare_walk(values, share_errors([index for _, index in members]))
        splits = find_shifts(values, test, alpha=WALK_ALPHA, floor=_LATENCY.floor)
        found += _shifts([version for version, _ in members], values, splits, _LATENCY)
    return found


def share_errors(indexes: Sequence[LatencyIndex]) -> Floats:
    """Covariance of ln(value) of indexes of one chain: the variances of the links they share."""
    paths = [dict(index.path) for index in indexes]
    return np.asarray(
        [[sum(one[step] for step in one.keys() & other.keys()) for other in paths] for one in paths]
    )


def _shifts(
    versions: Sequence[int], values: Sequence[float], splits: Iterable[int], quantity: _Quantity
) -> list[Change]:
    if not values:
        return []
    edges = [0, *splits, len(values)]
    means = [float(np.mean(values[start:end])) for start, end in itertools.pairwise(edges)]
    back = math.exp if quantity.is_ratio else float
    return [
        Change(
            version=versions[split],
            kind="shift",
            quantity=quantity.name,
            before=back(before),
            after=back(after),
            difference=back(after - before),
            is_ratio=quantity.is_ratio,
            is_worse=after < before if quantity.name == "accuracy" else after > before,
        )
        for split, (before, after) in zip(edges[1:-1], itertools.pairwise(means), strict=True)
    ]
