"""Stated limits and runs of one recipe → limits in force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from timberline.benchmarks.analysis.limits import Limit, limits_in_force, measure_noise, moderate_variances
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.runs import NOISE_SCHEMA_VERSION, RunQuality, TrainingNoise

SETTINGS = load_gate_settings().accuracy


def make_noise(accuracies: list[float], recalls: dict[str, list[float]] | None = None) -> TrainingNoise:
    """Runs with these accuracies; log-loss and ECE do not differ."""
    runs = tuple(
        RunQuality(
            seed=seed,
            accuracy=accuracy,
            log_loss=0.5,
            ece=0.01,
            recalls={value: found[seed] for value, found in (recalls or {}).items()},
        )
        for seed, accuracy in enumerate(accuracies)
    )
    return TrainingNoise(
        schema_version=NOISE_SCHEMA_VERSION,
        model="wood",
        version=3,
        recipe="0" * 64,
        test_fingerprint="1" * 64,
        rows=10_000,
        measured_at="2026-01-01T00:00:00+00:00",
        runs=runs,
    )


def test_a_stated_limit_stands_where_no_noise_is_known() -> None:
    """Most models are never calibrated; nothing changes for them."""
    judged = limits_in_force(GateLimits(max_accuracy_drop=0.01), None, SETTINGS)
    assert judged.accuracy == Limit(0.01)
    assert (judged.accuracy.block_above, judged.accuracy.pass_below) == (0.01, 0.01)
    assert judged.accuracy.describe() == ""
    assert judged.total.stated == 0.01
    assert judged.of_class("any").stated == GateLimits().max_recall_drop


def test_the_total_limit_is_its_own_where_it_is_stated() -> None:
    """A model may allow more over a year than in one release."""
    limits = GateLimits(max_accuracy_drop=0.01, max_accuracy_drop_total=0.03)
    assert limits_in_force(limits, None, SETTINGS).total.stated == 0.03


def test_equal_runs_exceed_what_is_measured_as_often_as_stated() -> None:
    """The promise itself: of two more runs, one is the worse by more in alpha / 4 of the cases."""
    chance = np.random.default_rng(3)
    alpha, exceeded, trials = 0.4, 0, 4_000
    for _ in range(trials):
        *known, first, second = chance.normal(0.8, 0.01, 7).tolist()
        exceeded += first - second > measure_noise(make_noise(known), alpha).accuracy
    # Expected 10 %; the SD of the count is 19.
    assert 0.08 < exceeded / trials < 0.12


def test_the_quantile_is_students_of_two_runs() -> None:
    """Five runs: four degrees of freedom; the difference of two has twice the variance of one."""
    accuracies = [0.80, 0.81, 0.79, 0.80, 0.80]
    expected = math.sqrt(2 * np.var(accuracies, ddof=1)) * t.isf(0.01 / 4, 4)
    assert measure_noise(make_noise(accuracies), 0.01).accuracy == pytest.approx(expected)
    assert measure_noise(make_noise(accuracies), 0.01).log_loss == 0


@pytest.mark.parametrize(
    ("noise", "in_force", "is_too_noisy", "block_above", "pass_below"),
    [
        (0.002, 0.005, False, 0.005, 0.005),
        (0.008, 0.008, False, 0.008, 0.008),
        (0.01, 0.01, False, 0.01, 0.01),
        (0.02, 0.01, True, 0.02, 0.005),
    ],
)
def test_noise_counts_for_up_to_twice_the_stated_limit(
    noise: float, in_force: float, is_too_noisy: bool, block_above: float, pass_below: float
) -> None:
    """Beyond, nothing passes that the stated limit does not let pass; nothing blocks that equals exceed."""
    limit = Limit(0.005, noise)
    assert (limit.in_force, limit.is_too_noisy) == (in_force, is_too_noisy)
    assert (limit.block_above, limit.pass_below) == (block_above, pass_below)
    assert ("0.50%" in limit.describe()) == bool(limit.describe())


def test_each_class_has_the_limit_of_its_own_noise() -> None:
    """A class of few rows differs more between runs; the frequent ones keep their limit."""
    chance = np.random.default_rng(5)
    spreads = {"a": 0.001, "b": 0.002, "c": 0.002, "rare": 0.04}
    recalls = {value: chance.normal(0.7, sd, 5).tolist() for value, sd in spreads.items()}
    judged = limits_in_force(GateLimits(), make_noise([0.8] * 5, recalls), SETTINGS, source="5 runs")
    assert judged.of_class("a").in_force == GateLimits().max_recall_drop
    assert judged.of_class("rare").noise > judged.of_class("a").noise
    assert judged.accuracy.source == "5 runs"


def test_variances_that_differ_as_chance_has_it_become_one() -> None:
    """Smyth's moments: nothing but chance between them, so that all of it is known of every one."""
    chance = np.random.default_rng(1)
    found = [float(np.var(chance.normal(0, 2, 5), ddof=1)) for _ in range(2_000)]
    spreads, freedom = moderate_variances(found, 4)
    assert freedom > 100
    assert np.std(np.log(spreads)) < 0.1 < np.std(np.log(found))
    assert np.mean(spreads) == pytest.approx(4, rel=0.05)


def test_variances_of_a_known_prior_give_its_degrees_of_freedom_back() -> None:
    """sigma^2 from a scaled inverse chi-square of 6 degrees of freedom: what the moments have to find."""
    chance = np.random.default_rng(2)
    true = 6 * 0.5 / chance.chisquare(6, 4_000)
    found = (true * chance.chisquare(4, 4_000) / 4).tolist()
    spreads, freedom = moderate_variances(found, 4)
    assert freedom == pytest.approx(4 + 6, rel=0.15)
    common = (spreads[0] * freedom - 4 * found[0]) / (freedom - 4)
    assert common == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("variances", [[0.1], [0.1, 0.4]])
def test_one_or_two_variances_stay_as_they_are(variances: list[float]) -> None:
    """Of two classes nothing is known of how variances differ."""
    assert moderate_variances(variances, 4) == (variances, 4)


def test_classes_that_never_differ_have_no_noise_and_break_nothing() -> None:
    """The logarithm of nothing."""
    recalls = {value: [0.5] * 5 for value in "abc"}
    exceeded = measure_noise(make_noise([0.8] * 5, recalls), 0.01)
    assert all(value < 1e-9 for value in exceeded.recalls.values())
