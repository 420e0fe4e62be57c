"""Calibration errors beside a second implementation and a bootstrap that draws rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from timberline.benchmarks.analysis.predictions import (
    BINS,
    CalibrationChange,
    assign_bins,
    bound_calibration,
    measure_calibration,
)
from timberline.training.evaluation.scores import CALIBRATION_BINS, expected_calibration_error

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Scores = tuple[Floats, Flags]


def draw(
    rows: int, seed: int, *, temperature: float = 1.0, noise: float = 0.0
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Probabilities of a perfectly calibrated champion, of a candidate that is off, and the truth."""
    chance = np.random.default_rng(seed)
    logits = 2 * chance.normal(size=(rows, 4))
    champion = _soften(logits)
    truth = (champion.cumsum(axis=1) > chance.random((rows, 1))).argmax(axis=1)
    return champion, _soften((logits + noise * chance.normal(size=logits.shape)) * temperature), truth


def _soften(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    softened: Floats = powers / powers.sum(axis=1, keepdims=True)
    return softened


def score(probabilities: Floats, truth: npt.NDArray[np.int64]) -> Scores:
    """Confidence, and whether the label is right."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == truth


def change(rows: int, seed: int, *, temperature: float = 1.0, noise: float = 0.0) -> CalibrationChange:
    """The measured change of one drawn test split."""
    champion, candidate, truth = draw(rows, seed, temperature=temperature, noise=noise)
    return measure_calibration(score(champion, truth), score(candidate, truth))


@pytest.mark.parametrize("rows", [1, 7, 15, 16, 400, 10_001])
def test_errors_are_those_of_the_evaluation(rows: int) -> None:
    """The manifest's ECE and the gate's must be one figure, also where rows do not divide by 15."""
    champion, candidate, truth = draw(rows, 1, temperature=1.3)
    found = measure_calibration(score(champion, truth), score(candidate, truth))
    assert found.champion_error == pytest.approx(expected_calibration_error(champion, truth))
    assert found.candidate_error == pytest.approx(expected_calibration_error(candidate, truth))
    assert BINS == CALIBRATION_BINS


def test_error_equals_a_worked_example() -> None:
    """Thirty rows, two a bin: confidence 0.6 right half of the time is off by 0.1 in every bin."""
    confidence = np.full(30, 0.6)
    right = np.arange(30) % 2 == 0
    assert measure_calibration((confidence, right), (confidence, right)).champion_error == pytest.approx(0.1)


def test_bins_have_equal_mass_and_rise_with_confidence() -> None:
    """A bin of other rows than its neighbours' would weigh otherwise."""
    confidence = np.random.default_rng(0).random(301)
    bins = assign_bins(confidence)
    assert set(np.bincount(bins)) == {20, 21}
    assert all(confidence[bins == n].max() <= confidence[bins == n + 1].min() for n in range(14))


@pytest.mark.parametrize(
    ("rows", "temperature", "noise"), [(1_500, 1.25, 0.0), (6_000, 1.1, 0.0), (6_000, 1.0, 0.4)]
)
def test_bounds_agree_with_a_bootstrap_that_draws_rows(rows: int, temperature: float, noise: float) -> None:
    """The shortcut leaves the bins in place; here every resample of the rows is sorted and binned anew."""
    champion, candidate, truth = draw(rows, 3, temperature=temperature, noise=noise)
    before, after = score(champion, truth), score(candidate, truth)
    bounds = bound_calibration(measure_calibration(before, after), alpha_low=0.05, alpha_high=0.05)

    chance = np.random.default_rng(9)
    drawn = []
    for _ in range(600):
        chosen = chance.integers(0, rows, rows)
        again = measure_calibration(*((c[chosen], right[chosen]) for c, right in (before, after)))
        drawn.append(again.difference)

    assert bounds.sd == pytest.approx(np.std(drawn), rel=0.12)
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert bounds.low == pytest.approx(low, abs=0.6 * bounds.sd)
    assert bounds.high == pytest.approx(high, abs=0.6 * bounds.sd)


def test_a_version_beside_itself_differs_by_nothing() -> None:
    """An A/A run must not depend on which resamples were drawn."""
    bounds = bound_calibration(change(2_000, 5), alpha_low=0.00075, alpha_high=0.05)
    assert (bounds.low, bounds.high, bounds.sd) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


def test_the_same_rows_give_the_same_bounds() -> None:
    """A verdict that changes with the seed would be earned by trying again."""
    both = [bound_calibration(change(900, 5, temperature=2), alpha_low=0.01, alpha_high=0.05) for _ in "ab"]
    assert both[0] == both[1]


def test_equal_candidates_are_hardly_ever_proven_worse_and_bad_ones_are() -> None:
    """Simulated: other noise on the logits is no worse by 0.005; a temperature of 1.4 is by 0.06."""
    levels = {"alpha_low": 0.00075, "alpha_high": 0.05}
    equal = [bound_calibration(change(6_000, seed, noise=0.1), **levels).low for seed in range(6)]
    worse = [bound_calibration(change(6_000, seed, temperature=1.4), **levels).low for seed in range(6)]
    assert sum(low > 0.005 for low in equal) == 0
    assert sum(low > 0.005 for low in worse) >= 5


def test_gaps_vary_as_those_of_the_rows() -> None:
    """The bounds rest on this covariance; here each row adds its gap to one bin of each version."""
    rows = 700
    champion, candidate, truth = draw(rows, 4, temperature=1.3, noise=0.5)
    before, after = score(champion, truth), score(candidate, truth)
    parts = np.zeros((rows, 2 * BINS))
    for first, (confidence, right) in zip((0, BINS), (before, after), strict=True):
        parts[np.arange(rows), first + assign_bins(confidence)] = confidence - right
    found = measure_calibration(before, after)
    assert np.concatenate([found.champion, found.candidate]) == pytest.approx(parts.mean(axis=0))
    assert found.covariance == pytest.approx(np.cov(parts.T, bias=True) / rows, abs=1e-15)


def test_each_bound_has_its_own_level() -> None:
    """The lower one decides and is far out; the upper one is shown. Without noise both are the difference."""
    one = change(2_000, 5, temperature=1.5)
    wide = bound_calibration(one, alpha_low=0.001, alpha_high=0.2)
    narrow = bound_calibration(one, alpha_low=0.2, alpha_high=0.001)
    assert wide.low < narrow.low < narrow.high
    assert wide.high < narrow.high
    still = CalibrationChange(one.champion, one.candidate, np.zeros((2 * BINS, 2 * BINS)))
    bounds = bound_calibration(still, alpha_low=0.001, alpha_high=0.2)
    assert (bounds.low, bounds.high) == pytest.approx((one.difference, one.difference), abs=1e-12)
    assert one.difference == one.candidate_error - one.champion_error > 0.01


def test_rows_of_equal_confidence_stay_in_their_order() -> None:
    """A sort that mixes them would give another calibration error on another machine."""
    assert assign_bins(np.full(45, 0.7)).tolist() == [number for number in range(15) for _ in range(3)]
