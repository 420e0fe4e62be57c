"""Percentiles and moderated bounds on recorded numbers; nothing is timed here."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.errors import EvidenceError
from benchmarks.judge.measure import (
    ArmRun,
    Restart,
    average_slowest,
    bound_mean,
    moderate_sd,
    pool_latencies,
    summarize_latencies,
)

LATENCIES = st.lists(st.floats(0.01, 1e5, allow_nan=False), min_size=1, max_size=200)


@given(LATENCIES)
def test_percentiles_agree_with_numpy(values: list[float]) -> None:
    """One definition of a percentile in the house, and a well-known one."""
    seen = summarize_latencies(values)
    assert (seen.p50_ms, seen.p95_ms, seen.p99_ms) == pytest.approx(
        tuple(np.percentile(values, [50, 95, 99]))
    )
    assert seen.count == len(values)
    assert seen.max_ms == max(values)


def test_fractions_of_a_millisecond_are_kept() -> None:
    """Locust's own table prints 0.36 ms as 0, which no 10 % change can be seen in."""
    assert summarize_latencies([0.36, 0.36, 0.37]).p50_ms == 0.36


@pytest.mark.parametrize("values", [[], [0.0], [-1.0, 2.0], [math.nan], [math.inf]])
def test_what_is_no_latency_is_refused(values: list[float]) -> None:
    """A stalled or broken run must not turn into a fast one."""
    with pytest.raises(EvidenceError):
        summarize_latencies(values)


def test_the_stored_spread_counts_as_ten_degrees_of_freedom() -> None:
    """Four restarts that happen to agree must not promise more than the machine can keep."""
    sd, freedom = moderate_sd([0.02, 0.02, 0.02, 0.02], s0=0.05, nu0=10)
    assert freedom == 13
    assert sd == pytest.approx(math.sqrt(10 * 0.05**2 / 13))


def test_bounds_follow_the_formula() -> None:
    """Computed a second time with quantiles from a table: t(0.95; 13) = 1.771, t(0.999; 13) = 3.852."""
    values = [0.01, 0.03, -0.02, 0.06]
    bounds = bound_mean(values, s0=0.05, nu0=10, alpha_low=0.001, alpha_high=0.05)
    spread = sum((v - 0.02) ** 2 for v in values) / 3
    error = math.sqrt((10 * 0.05**2 + 3 * spread) / 13) / 2
    assert bounds.mean == pytest.approx(0.02)
    assert bounds.low == pytest.approx(0.02 - 3.852 * error, abs=1e-4)
    assert bounds.high == pytest.approx(0.02 + 1.771 * error, abs=1e-4)


def test_a_missing_restart_is_refused() -> None:
    """A NaN in a mean would compare as neither slower nor faster."""
    with pytest.raises(EvidenceError):
        bound_mean([0.1, math.nan], s0=0.05, nu0=10, alpha_low=0.01, alpha_high=0.05)


def test_percentiles_are_taken_over_pooled_requests() -> None:
    """The average of two restarts' p99 is the p99 of nothing."""
    restarts = [
        Restart(number=n, pairs=len(ms), arms={"candidate": ArmRun(ms, 1.0, 1)})
        for n, ms in enumerate([(1.0,) * 98, (100.0, 100.0)])
    ]
    assert pool_latencies(restarts, "candidate").p95_ms == 1.0


def shuffle(values: Iterable[float]) -> tuple[float, ...]:
    """The same values in an order that says nothing."""
    return tuple(np.random.default_rng(1).permutation(list(values)).tolist())


@pytest.mark.parametrize(
    ("count", "slowest"),
    [(1, 1), (19, 1), (20, 1), (39, 1), (40, 2), (200, 10), (1000, 50)],
)
def test_the_tail_is_the_mean_of_the_slowest_twentieth(count: int, slowest: int) -> None:
    """Of 1 ms to ``count`` ms: the share is stated in docs/gate.md, and the spreads were measured with it."""
    known = sum(range(count - slowest + 1, count + 1)) / slowest
    assert average_slowest(shuffle(range(1, count + 1))) == known


def test_a_restart_says_how_the_slowest_twentieths_differ() -> None:
    """ln of the candidate's mean over the champion's, of the slowest 10 requests of 200."""
    arms = {
        arm: ArmRun((9.0,) * 200, 1.0, 1, net_ms=shuffle([1.0] * 190 + slow), client_net_ms=(8.0,) * 200)
        for arm, slow in (("champion", [2.0] * 10), ("candidate", [2.0] * 5 + [3.0] * 5))
    }
    assert Restart(1, 200, arms).contrasts.net_tail == pytest.approx(math.log(2.5 / 2.0), rel=1e-12)
