"""Log-loss and calibration → lines."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from timberline.benchmarks.analysis.limits import Limit, limits_in_force
from timberline.benchmarks.analysis.predictions import (
    Predictions,
    QualityComparison,
    bound_calibration,
    compare_predictions,
)
from timberline.benchmarks.analysis.quality import judge_calibration, judge_log_loss
from timberline.benchmarks.analysis.statistics import bound_average
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings().accuracy
LIMITS = GateLimits(max_log_loss_increase=0.002, max_ece_increase=0.005)
IN_FORCE = limits_in_force(LIMITS, None, SETTINGS)


def compare(rows: int, seed: int, *, temperature: float = 1.0, noise: float = 0.0) -> QualityComparison:
    """The candidate's logits are the calibrated champion's, noisy and times ``temperature``."""
    chance = np.random.default_rng(seed)
    logits = 3 * chance.normal(size=rows)
    truth = (chance.random(rows) < 1 / (1 + np.exp(-logits))).astype(int)
    versions = []
    for own in (logits, (logits + noise * chance.normal(size=rows)) * temperature):
        second = np.clip(1 / (1 + np.exp(-own)), 1e-7, 1 - 1e-7)
        loss = -np.log(np.where(truth == 1, second, 1 - second))
        label = (second > 0.5).astype(int)
        versions.append(Predictions(np.arange(rows), truth, label, loss, np.maximum(second, 1 - second)))
    champion, candidate = versions
    return compare_predictions(champion, candidate, ["0", "1"])


def judge(rows: int, seed: int, *, temperature: float = 1.0, noise: float = 0.0) -> dict[str, VerdictLine]:
    """Both lines."""
    comparison = compare(rows, seed, temperature=temperature, noise=noise)
    lines = [f(comparison, IN_FORCE, SETTINGS) for f in (judge_log_loss, judge_calibration)]
    return {line.name: line for line in lines}


def test_an_equal_candidate_passes_with_its_interval() -> None:
    """Both lines block only what is proven; the interval shows how much is known."""
    for line in judge(4_000, 1, noise=0.02).values():
        assert line.outcome == "PASS"
        assert line.low is not None
        assert line.high is not None
        assert line.difference is not None
        assert line.low < line.difference < line.high
        assert "is not proven" in line.reason
        assert line.evidence == "evaluation.parquet"


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_a_model_that_no_longer_knows_how_sure_it_is_blocks(temperature: float) -> None:
    """It is right exactly as often, so that no line on accuracy can see it."""
    lines = judge(20_000, 2, temperature=temperature)
    assert {line.outcome for line in lines.values()} == {"BLOCK"}
    assert "an increase of more than 0.002 nats is proven" in lines["log_loss"].reason
    assert "an increase of more than 0.005 ECE is proven" in lines["calibration"].reason


def test_a_better_candidate_is_no_increase() -> None:
    """The sign decides which way a release goes."""
    champion_is_worse = judge(20_000, 3, noise=0.5)["log_loss"]
    assert champion_is_worse.difference is not None
    assert champion_is_worse.difference > 0
    assert champion_is_worse.candidate == pytest.approx(
        (champion_is_worse.champion or 0) + champion_is_worse.difference
    )


def test_the_level_is_split_between_the_two() -> None:
    """Two lines, one family: 0.15 % in all, 0.075 % each."""
    assert SETTINGS.alpha_probabilities == pytest.approx(0.0015)
    for line in judge(500, 4).values():
        assert "one-sided 99.925% and 95%" in line.reason


def test_log_loss_blocks_as_often_as_stated_by_simulation() -> None:
    """At the margin itself the chance of blocking is the level: here 5 %, to be seen in 400 runs."""
    settings = load_gate_settings(overrides=["accuracy.alpha_probabilities=0.1"]).accuracy
    chance = np.random.default_rng(6)
    ones = np.ones(2_000)
    zeros = np.zeros(2_000, int)
    blocked = 0
    for _ in range(400):
        loss = chance.exponential(0.3, 2_000)
        worse = loss + chance.normal(LIMITS.max_log_loss_increase, 0.1, 2_000)
        champion = Predictions(np.arange(2_000), zeros, zeros, loss, ones)
        comparison = compare_predictions(champion, dataclasses.replace(champion, loss=worse), ["0"])
        blocked += judge_log_loss(comparison, IN_FORCE, settings).outcome == "BLOCK"
    assert 0.02 < blocked / 400 < 0.085


def test_both_lines_are_told_with_their_figures() -> None:
    """Half of the level is each one's lower bound; the upper one, the limit and the power are shown."""
    comparison = compare(3_000, 7, temperature=1.1, noise=0.3)
    loss, calibration = (
        judge(comparison, IN_FORCE, SETTINGS) for judge in (judge_log_loss, judge_calibration)
    )
    mean, sd = comparison.loss_difference, comparison.loss_difference_sd
    low = bound_average(mean, sd, 3_000, alpha=0.00075)[0]
    high = bound_average(mean, sd, 3_000, alpha=0.05)[1]
    assert (loss.candidate, loss.champion) == (comparison.candidate.loss, comparison.champion.loss)
    assert (loss.difference, loss.low, loss.high) == (mean, low, high)
    assert (loss.limit, loss.unit) == (0.002, "nats")
    change = comparison.calibration
    bounds = bound_calibration(change, alpha_low=0.00075, alpha_high=0.05)
    assert (calibration.candidate, calibration.champion) == (change.candidate_error, change.champion_error)
    assert (calibration.difference, calibration.low, calibration.high) == (
        change.difference,
        bounds.low,
        bounds.high,
    )
    assert calibration.limit == 0.005
    # Smallest increase blocked with power 95 %: limit + (z(0.99925) + z(0.95)) standard errors.
    quantiles = norm.isf(0.00075) + norm.ppf(0.95)
    for line, limit, error in ((loss, 0.002, sd / np.sqrt(3_000)), (calibration, 0.005, bounds.sd)):
        found = re.search(r"smallest increase blocked with power 95%: ([\d.]+)$", line.reason)
        assert found is not None
        assert float(found[1]) == pytest.approx(limit + quantiles * error, abs=6e-5)


def test_a_bound_that_touches_the_limit_blocks_nothing() -> None:
    """An increase of more than the limit is what has to be proven."""
    comparison = compare(3_000, 7, temperature=1.6)
    low = judge_log_loss(comparison, IN_FORCE, SETTINGS).low
    ece = judge_calibration(comparison, IN_FORCE, SETTINGS).low
    assert low is not None
    assert ece is not None
    for step, outcome, said in ((0.0, "PASS", "is not proven"), (-1.0, "BLOCK", "is proven")):
        limits = GateLimits(
            max_log_loss_increase=float(np.nextafter(low, low + step)),
            max_ece_increase=float(np.nextafter(ece, ece + step)),
        )
        for judge_line in (judge_log_loss, judge_calibration):
            line = judge_line(comparison, limits_in_force(limits, None, SETTINGS), SETTINGS)
            assert (line.outcome, said in line.reason) == (outcome, True)


@pytest.mark.parametrize(
    ("noise", "outcome", "said"),
    [
        (0.0, "BLOCK", "an increase of more than {limit:.3g}"),
        (1.5, "PASS", "equal runs exceed"),
        (2.5, "INCONCLUSIVE", "too noisy for its test split"),
        (0.5, "BLOCK", "equal runs exceed"),
    ],
)
def test_the_noise_of_training_widens_both_limits(noise: float, outcome: str, said: str) -> None:
    """``noise`` and what is proven are told as shares of the stated limit: 1.2 of it is proven here."""
    comparison = compare(3_000, 7, temperature=1.6)
    for name, judge_line in (("log_loss", judge_log_loss), ("calibration", judge_calibration)):
        low = judge_line(comparison, IN_FORCE, SETTINGS).low
        assert low is not None
        limit = Limit(low / 1.2, noise * low / 1.2, source="runs")
        change: dict[str, Any] = {name: limit}
        line = judge_line(comparison, dataclasses.replace(IN_FORCE, **change), SETTINGS)
        assert line.outcome == outcome
        assert said.format(limit=limit.stated) in line.reason
        assert line.is_marked == (outcome == "PASS")  # proven, and within the limit in force
