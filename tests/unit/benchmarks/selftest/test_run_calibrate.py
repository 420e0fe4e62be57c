"""From restarts of identical processes to the spread that the gate judges by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.gate_rows import build_restart
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.gate.calibration import find_calibration
from timberline.benchmarks.machine import machine_class
from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.selftest.run import (
    FEWEST_RESTARTS,
    SelfTest,
    calibrate,
    count_freedom,
    keep_gates,
    measure_spread,
    summarize,
)
from timberline.benchmarks.selftest.scenarios import NIGHTLY
from timberline.registry.errors import ConfigError


def test_the_spread_is_about_zero_and_counts_the_tails() -> None:
    """Identical processes differ by 0 in truth; taking off their mean, or a tail, would hide how much."""
    assert measure_spread([0.1, 0.1, 0.1]) == pytest.approx(0.1)
    assert measure_spread([0.0, 0.0, 0.0, 0.4]) == pytest.approx(0.2)


def test_a_spread_is_never_nothing() -> None:
    """By a spread of 0 every difference would be proven."""
    assert measure_spread([0.0, 0.0]) > 0


def test_normal_values_count_fully_and_heavy_tails_for_less() -> None:
    """A spread that rests on one wild restart is not known as well as its number of restarts says."""
    chance = np.random.default_rng(0)
    normal, heavy = chance.normal(size=100_000), chance.standard_t(10, size=100_000)
    assert count_freedom(normal) == pytest.approx(100_000, rel=0.05)
    # Excess kurtosis of Student's t with 10 degrees of freedom: 6 / (10 - 4) = 1, so 2 n / 3.
    assert count_freedom(heavy) == pytest.approx(2 * 100_000 / 3, rel=0.1)
    assert 2 < count_freedom([0.01] * 23 + [5.0]) < 2.2


def test_the_freedom_is_that_of_the_mean_squares_spread() -> None:
    """The definition, seen: a chi-square over nu with this nu varies as the mean square does."""
    chance = np.random.default_rng(1)
    draws = chance.laplace(size=(20_000, 50))
    mean_squares = np.square(draws).mean(axis=1)
    seen = 2 * mean_squares.mean() ** 2 / mean_squares.var()
    # Of one long sample, per 50 values; Laplace has a kurtosis of 6.
    assert count_freedom(draws.ravel()) / 20_000 == pytest.approx(seen, rel=0.1)


def test_values_that_are_all_alike_count_as_themselves() -> None:
    """The formula would give them any number up to infinity."""
    assert count_freedom([0.1, -0.1, 0.1, -0.1]) == 4
    assert count_freedom([0.0, 0.0]) == 2


def test_every_contrast_of_the_restarts_is_summed_up(test: SelfTest) -> None:
    """What is stored is what the gate computes of the very same restarts."""
    restarts = [
        build_restart(n, slower_ms=0.01 * (-1) ** n, tail=1.2, work_ms=0.004 * n) for n in range(1, 9)
    ]
    calibration = summarize(test, restarts)
    for name in ("net_p50", "service_p50", "net_p99", "net_tail", "client_p99", "cpu_per_request"):
        values = [getattr(restart.contrasts, name) for restart in restarts]
        assert getattr(calibration, name) == pytest.approx(math.sqrt(np.mean(np.square(values))), rel=1e-5)
    assert (calibration.restarts, calibration.machine_class) == (8, machine_class())
    assert calibration.model == "tiny@1"
    assert calibration.window_s == test.settings.duet.window_s


def test_a_service_that_does_not_tell_its_times_cannot_be_calibrated(test: SelfTest) -> None:
    """A stored spread of nothing would be taken for one of net time."""
    arms = {arm: ArmRun((0.5,), 1.0, 1) for arm in ("champion", "candidate")}
    with pytest.raises(BenchmarkError, match="did not report its times"):
        summarize(test, [Restart(n, 500, arms) for n in range(8)])


def test_too_few_restarts_are_refused_before_anything_is_started(test: SelfTest) -> None:
    """An SD of three restarts is a guess that the gate would be as sure of as of any other."""
    with pytest.raises(ConfigError, match="too few"):
        calibrate(test, FEWEST_RESTARTS - 1)
    assert not find_calibration(test.calibrations, machine_class()).exists()


def test_restarts_of_a_calibration_are_kept_as_gates_of_identical_versions(test: SelfTest) -> None:
    """They are the only gates on most nights, and a machine that has changed shows in them first."""
    first = test.settings.duet.looks[0]
    alike = [build_restart(number) for number in range(1, 2 * first + 1)]
    slower = [build_restart(number, slower_ms=0.2) for number in range(1, first + 1)]
    keep_gates(test, [*alike, *slower, build_restart(1)], seconds=7.0, load_average=1.5)
    rows = test.read_done()
    assert [(row.arm, row.number, row.outcome, row.restarts) for row in rows] == [
        (NIGHTLY, 1, "PASS", first),
        (NIGHTLY, 2, "PASS", first),
        (NIGHTLY, 3, "BLOCK", first),
    ]
    assert {row.seconds for row in rows} == {7.0 * first}
    assert len({row.started_at for row in rows}) == 3
