"""Both arms must have had the machine alike: a starved one makes the other look fast."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest

from timberline.benchmarks.analysis.statistics import bound_mean
from timberline.benchmarks.analysis.validity import judge_fairness
from timberline.benchmarks.measure.duet import find_starved, mean_outside_ms
from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.settings import GateSettings, load_gate_settings


def run_arm(outside_ms: float, net_ms: float = 0.2) -> ArmRun:
    """Two requests with this mean outside of the service."""
    return ArmRun((net_ms + outside_ms / 2, net_ms + outside_ms * 1.5), 1.0, 1, (net_ms, net_ms))


def run_restart(candidate: float, champion: float) -> Restart:
    """One restart with these means outside of the services."""
    return Restart(number=1, pairs=2, arms={"candidate": run_arm(candidate), "champion": run_arm(champion)})


@pytest.fixture(scope="module")
def settings() -> GateSettings:
    """The committed ones."""
    return load_gate_settings()


def test_the_services_own_work_is_not_counted() -> None:
    """A slow model must be blocked for its slowness, not excused as starved."""
    assert mean_outside_ms(run_arm(0.4, net_ms=0.2)) == pytest.approx(0.4)
    assert mean_outside_ms(run_arm(0.4, net_ms=50.0)) == pytest.approx(0.4)


@pytest.mark.parametrize("starved", ["candidate", "champion"])
def test_the_starved_arm_of_one_restart_is_named(starved: str) -> None:
    """Whoever runs the gate has to know which process had no processor."""
    outside = {"candidate": 1.0, "champion": 1.0, starved: 4.5}
    restart = run_restart(**outside)
    assert f"the {starved} was starved: 4.50 ms" in find_starved(restart.arms, max_ratio=4.0)
    assert find_starved(restart.arms, max_ratio=5.0) == ""


def test_one_arm_alone_is_compared_with_none() -> None:
    """A first version has no champion."""
    assert find_starved({"candidate": run_arm(9.0)}, 2.0) == ""


@pytest.mark.parametrize("starved", ["candidate", "champion"])
def test_an_arm_that_waits_a_little_longer_every_time_is_found(settings: GateSettings, starved: str) -> None:
    """No restart alone shows it, and all together would let a slow candidate pass."""
    restarts = [run_restart(**{"candidate": 1.0, "champion": 1.0, starved: 1.6})] * 8
    assert all(find_starved(r.arms, settings.duet.max_outside_ratio) == "" for r in restarts)
    line = judge_fairness(restarts, settings)
    assert line.outcome == "INVALID"
    assert starved in line.reason


def pause(restart: Restart, arm: str) -> Restart:
    """The same with 100 requests an arm, all of it waits but 0.2 ms; ``arm`` was stopped for 3 ms in two."""
    arms = {}
    for name in restart.arms:
        away = [0.2] * 98 + ([3.2] * 2 if name == arm else [0.2] * 2)
        latencies = tuple(5.0 + ms for ms in away)
        arms[name] = ArmRun(latencies, 1.0, 1, (0.2,) * 100, tuple(0.2 + ms for ms in away))
    return dataclasses.replace(restart, arms=arms)


@pytest.mark.parametrize("stopped", ["candidate", "champion"])
def test_an_arm_that_is_stopped_now_and_then_is_found(settings: GateSettings, stopped: str) -> None:
    """On a busy machine the waits of both arms hide it, and only what is no wait tells."""
    restarts = [pause(run_restart(1.0, 1.0), stopped)] * 4
    line = judge_fairness(restarts, settings)
    assert line.outcome == "INVALID"
    assert stopped in line.reason
    assert line.difference == pytest.approx(1.0, abs=0.05)
    assert judge_fairness([pause(run_restart(1.0, 1.0), "")] * 4, settings).outcome == "PASS"


def test_waits_that_fill_all_of_it_prove_no_pause(settings: GateSettings) -> None:
    """They are taken for a little more than they were, and less than nothing has no ratio."""
    arms = {arm: ArmRun((1.0, 2.0), 1.0, 1, (0.2, 0.2), (0.1, 0.1)) for arm in ("candidate", "champion")}
    assert judge_fairness([Restart(number=1, pairs=2, arms=arms)], settings).outcome == "PASS"


def test_arms_that_take_turns_at_waiting_are_fair(settings: GateSettings) -> None:
    """Where a process ends up on a machine is chance, and so is what it waits there."""
    restarts = [run_restart(2.0, 1.0), run_restart(1.0, 2.0)] * 4
    line = judge_fairness(restarts, settings)
    assert line.outcome == "PASS"
    assert line.difference == pytest.approx(1.0)
    assert line.low is not None
    assert line.high is not None
    assert line.low < 1 < line.high
    assert math.log(line.high) == pytest.approx(-math.log(line.low))


def test_how_much_is_fair_is_in_the_settings(settings: GateSettings) -> None:
    """The numbers that decide a release are committed, with their reasons."""
    lenient = msgspec.structs.replace(
        settings, validity=msgspec.structs.replace(settings.validity, max_mean_outside_ratio=2.0)
    )
    restarts = [run_restart(1.6, 1.0)] * 8
    assert judge_fairness(restarts, settings).outcome == "INVALID"
    assert judge_fairness(restarts, lenient).outcome == "PASS"


def test_the_line_is_told_with_its_figures(settings: GateSettings) -> None:
    """Medians of both arms, and the ratio with its bounds at one level each."""
    restarts = [run_restart(1.0, 1.1), run_restart(1.2, 1.0), run_restart(1.4, 1.3), run_restart(1.3, 1.5)]
    line = judge_fairness(restarts, settings)
    values = [math.log(ratio) for ratio in (1.0 / 1.1, 1.2, 1.4 / 1.3, 1.3 / 1.5)]
    bounds = bound_mean(values, s0=0.05, nu0=10, alpha_low=0.001, alpha_high=0.001)
    assert (line.candidate, line.champion) == pytest.approx((1.25, 1.2))
    assert (line.difference, line.low, line.high) == pytest.approx(
        tuple(math.exp(value) for value in (bounds.mean, bounds.low, bounds.high))
    )
    assert (line.name, line.outcome, line.limit) == ("fairness", "PASS", 1.25)
    assert (line.unit, line.evidence) == ("ms outside the service, ratio", "restart-*.csv.gz")


def test_a_ratio_within_the_limit_is_no_starving() -> None:
    """The setting is a ratio, whatever the times are, and for either arm."""
    for arms in ((1.0, 0.5), (0.5, 1.0)):
        assert find_starved(run_restart(*arms).arms, max_ratio=2.01) == ""
        assert "1.00 ms of a request" in find_starved(run_restart(*arms).arms, max_ratio=1.99)


def test_the_other_arm_is_named_with_its_time() -> None:
    """Both figures tell how far the two were apart."""
    found = find_starved(run_restart(1.0, 4.0).arms, max_ratio=2.0)
    assert found == (
        "the champion was starved: 4.00 ms of a request were not its own work, 1.00 ms of the candidate's"
    )


def test_short_pauses_are_judged_by_their_own_limit_and_spread(settings: GateSettings) -> None:
    """Stopped for as long as the setting allows, 1.5 times, an arm is fair; for longer it is not."""

    def judge(away_ms: float, spread: float = 0.03) -> str:
        arms = {}
        for arm, ms in (("candidate", away_ms), ("champion", 0.2)):
            # All alike, so that the p99 is each; the waits make the means alike.
            arms[arm] = ArmRun((5.0,) * 100, 1.0, 1, (0.2,) * 100, (0.2 + ms,) * 100)
        validity = msgspec.structs.replace(settings.validity, s0_outside_p99=spread)
        return judge_fairness(
            [Restart(1, 100, arms)] * 4, msgspec.structs.replace(settings, validity=validity)
        ).outcome

    assert judge(0.2 * 1.5) == "PASS"
    # 1.5 exp(t(0.999; 13) 0.03 sqrt(10/13) / sqrt(4)) = 1.5 x 1.052
    assert judge(0.2 * 1.5 * 1.045) == "PASS"
    assert judge(0.2 * 1.5 * 1.060) == "INVALID"
    assert judge(0.2 * 1.5 * 1.060, spread=0.05) == "PASS"


def test_pauses_of_restarts_that_do_not_tell_are_left_out(settings: GateSettings) -> None:
    """One restart without the kernel's times must not hide what the others show."""
    paused = [pause(run_restart(1.0, 1.0), "candidate")] * 4
    silent = [run_restart(1.0, 1.0)]
    assert judge_fairness([*paused, *silent], settings).outcome == "INVALID"
    assert judge_fairness([*silent, *paused], settings).outcome == "INVALID"


@pytest.mark.parametrize("busy", ["candidate", "champion"])
def test_waits_that_fill_all_of_one_arm_prove_no_pause(settings: GateSettings, busy: str) -> None:
    """One number below zero is enough to leave a restart without a ratio."""
    arms = {}
    for arm in ("candidate", "champion"):
        client = (0.1, 0.1) if arm == busy else (0.4, 0.4)
        arms[arm] = ArmRun((1.0, 2.0), 1.0, 1, (0.2, 0.2), client)
    assert judge_fairness([Restart(1, 2, arms)] * 4, settings).outcome == "PASS"
