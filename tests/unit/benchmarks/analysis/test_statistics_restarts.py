"""Percentiles and moderated bounds on recorded numbers; nothing is timed here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timberline.benchmarks.analysis.statistics import bound_mean, moderate_sd
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.measure.records import (
    ArmRun,
    Restart,
    average_slowest,
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


@pytest.mark.parametrize(
    "values", [[], [0.0], [-1.0, 2.0], [math.nan], [math.inf], [1.0, math.nan], [math.inf, 1.0]]
)
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
    """Of 1 ms to ``count`` ms: the share is stated in the docs; the spreads were measured with it."""
    known = sum(range(count - slowest + 1, count + 1)) / slowest
    assert average_slowest(shuffle(range(1, count + 1))) == known


def test_a_restart_says_how_the_slowest_twentieths_differ() -> None:
    """ln of the candidate's mean over the champion's, of the slowest 10 requests of 200."""
    arms = {
        arm: ArmRun((9.0,) * 200, 1.0, 1, net_ms=shuffle([1.0] * 190 + slow), client_net_ms=(8.0,) * 200)
        for arm, slow in (("champion", [2.0] * 10), ("candidate", [2.0] * 5 + [3.0] * 5))
    }
    assert Restart(1, 200, arms).contrasts.net_tail == pytest.approx(math.log(2.5 / 2.0), rel=1e-12)


def test_a_restarts_contrasts_are_those_of_its_times() -> None:
    """Worked by hand; a net median is a share of the client's, which is net of all waits where it can be."""
    champion, candidate = (
        ArmRun(latencies, 1.0, 1, net_ms=net, client_net_ms=client, cpu_s=cpu_s)
        for latencies, net, client, cpu_s in (
            ((4.0, 4.0, 10.0), (1.0, 2.0, 6.0), (2.0, 5.0, 8.0), 0.012),
            ((5.0, 5.0, 9.0), (1.0, 3.0, 9.0), (2.0, 5.0, 16.0), 0.015),
        )
    )
    found = Restart(1, 3, {"champion": champion, "candidate": candidate}).contrasts
    assert found.net_p50 == pytest.approx((3.0 - 2.0) / 5.0)
    # The p99 of three lies 0.98 of the way from the second to the third.
    assert found.net_p99 == pytest.approx(math.log((3.0 + 0.98 * 6.0) / (2.0 + 0.98 * 4.0)))
    assert found.client_p99 == pytest.approx(math.log((5.0 + 0.98 * 11.0) / (5.0 + 0.98 * 3.0)))
    assert found.net_tail == pytest.approx(math.log(9.0 / 6.0))
    assert found.client_p50 == pytest.approx(math.log(5.0 / 4.0))
    assert found.service_p50 == pytest.approx(math.log(3.0 / 2.0))
    assert (champion.cpu_ms, candidate.cpu_ms) == pytest.approx((4.0, 5.0))
    assert found.cpu_per_request == pytest.approx(math.log(5.0 / 4.0))


@pytest.mark.parametrize("unread", [math.nan, 0.0], ids=["unknown", "below one tick"])
@pytest.mark.parametrize("silent", ["champion", "candidate"])
def test_processor_time_that_could_not_be_read_is_in_no_contrast(silent: str, unread: float) -> None:
    """A process of which nothing was read did not work for nothing."""
    arms = {
        arm: ArmRun((4.0,), 1.0, 1, net_ms=(1.0,), cpu_s=unread if arm == silent else 0.01)
        for arm in ("champion", "candidate")
    }
    found = Restart(1, 1, arms).contrasts
    assert (found.cpu_per_request, found.service_p50) == (None, 0.0)


@pytest.mark.parametrize("silent", ["champion", "candidate"])
def test_net_times_below_one_tick_of_a_coarse_clock_have_no_ratio(silent: str) -> None:
    """Where a thread's clock moves every 15 ms most requests take nothing, and nothing has no logarithm."""
    arms = {
        arm: ArmRun((4.0,), 1.0, 1, net_ms=(0.0, 0.0, 0.0, 16.0) if arm == silent else (1.0,) * 4)
        for arm in ("champion", "candidate")
    }
    found = Restart(1, 1, arms).contrasts
    assert found.service_p50 is None
    assert found.net_p50 == pytest.approx(0.25 if silent == "champion" else -0.25)


@pytest.mark.parametrize("silent", ["champion", "candidate"])
@pytest.mark.parametrize("told", ["net_ms", "client_net_ms"])
def test_what_one_arm_does_not_tell_is_in_no_contrast(silent: str, told: str) -> None:
    """A ratio takes two; and without the kernel's waits the share is one of the client's plain p50."""
    times: dict[str, Any] = {"net_ms": (1.0, 2.0, 6.0), "client_net_ms": (2.0, 5.0, 8.0)}
    arms = {
        arm: ArmRun((4.0, 4.0, 10.0), 1.0, 1, **{**times, **({told: ()} if arm == silent else {})})
        for arm in ("champion", "candidate")
    }
    found = Restart(1, 3, arms).contrasts
    of_net = {found.net_p50, found.service_p50, found.net_p99, found.net_tail}
    assert of_net == ({None} if told == "net_ms" else {0.0})
    assert found.client_p99 == (None if told == "client_net_ms" else 0.0)
    slower = ArmRun((4.0, 4.0, 10.0), 1.0, 1, net_ms=(1.0, 3.0, 6.0))
    plain = Restart(1, 3, {"champion": arms["champion"], "candidate": slower}).contrasts.net_p50
    assert plain == (None if (silent, told) == ("champion", "net_ms") else pytest.approx(1.0 / 4.0))


def test_a_summary_holds_every_figure() -> None:
    """Count and extreme stand in the report beside the percentiles."""
    seen = summarize_latencies([4.0, 1.0, 2.0, 3.0])
    assert (seen.count, seen.p50_ms, seen.max_ms) == (4, 2.5, 4.0)
    assert (seen.p95_ms, seen.p99_ms) == pytest.approx((3.85, 3.97))


def test_one_restart_has_the_stored_spread() -> None:
    """K = 1: its own SD is none, and the freedom is the stored one's."""
    sd, freedom = moderate_sd([0.3], s0=0.05, nu0=10)
    assert (sd, freedom) == pytest.approx((0.05, 10))
    sd, freedom = moderate_sd([0.1, 0.3], s0=0.05, nu0=10)
    assert (sd, freedom) == pytest.approx((math.sqrt((10 * 0.05**2 + 0.02) / 11), 11))


@pytest.mark.parametrize("values", [[], [math.inf], [math.nan, 0.1]])
def test_bounds_of_nothing_are_refused(values: list[float]) -> None:
    """As a restart that is missing."""
    with pytest.raises(EvidenceError, match="a restart has no usable value"):
        bound_mean(values, s0=0.05, nu0=10, alpha_low=0.01, alpha_high=0.05)


def test_a_pool_is_of_one_arm() -> None:
    """All restarts', and of the arm that is asked for alone."""
    restarts = [
        Restart(n, 2, {"candidate": ArmRun((1.0 * n, 2.0 * n), 1.0, 1), "champion": ArmRun((50.0,), 1.0, 1)})
        for n in (1, 2, 3)
    ]
    pooled = pool_latencies(restarts, "candidate")
    assert (pooled.count, pooled.max_ms, pooled.p50_ms) == (6, 6.0, 2.5)


def test_a_restart_that_never_was_has_nothing() -> None:
    """Why it cannot be believed is told, and nothing beside that is made up."""
    gone = Restart(3, 0, {}, "tiny@2: ended with exit code 1")
    assert (gone.cpu_share, gone.recorded) == (0.0, None)
    run = ArmRun((1.0,), 2.0, 3)
    assert (run.net_ms, run.client_net_ms, run.lost_share) == ((), (), 0.0)
    assert (run.request_count, run.failure_count) == (0, 0)
