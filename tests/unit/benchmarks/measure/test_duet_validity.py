"""When a restart is believed, and what is said when it is not."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from timberline.benchmarks.measure.duet import build_arm, find_problem, find_standstill
from timberline.benchmarks.measure.records import Observation, Outcome
from timberline.benchmarks.settings import load_gate_settings

ARMS = ("candidate", "champion")
SETTINGS = msgspec.structs.replace(load_gate_settings().duet, min_pairs=2, window_s=1.0)


def outcome(**changes: Any) -> Outcome:
    """A run of two pairs in which nothing went wrong."""
    known = {"cycles": 2, "failures": 0, "first_failure": "", "elapsed_s": 1.0}
    return Outcome(**{**known, "clock_jump_s": 0.0, "cpu_share": 0.4, **changes})


def observe(pair: int, arm: str, **changes: Any) -> Observation:
    """One request of a pair, sent 10 ms after the one before it."""
    known = {"pair": pair, "position": 0, "arm": arm, "body": 3, "latency_ms": 0.4, "problem": ""}
    times = {"handler_ms": 0.12, "cpu_ms": 0.1, "wait_ms": 0.01, "wake_ms": 0.0, "queue_ms": 0.0}
    sent_s = (2 * pair + ARMS.index(arm)) / 100
    return Observation(**{**known, **times, "sent_s": sent_s, **changes})


def judge(told: Outcome, seen: list[Observation], arms: tuple[str, ...] = ARMS) -> str:
    """What is wrong with a restart that was seen so."""
    runs = {arm: build_arm([one for one in seen if one.arm == arm], 1.0, 1) for arm in arms}
    return find_problem(told, seen, runs, SETTINGS)


SEEN = [observe(pair, arm) for pair in range(2) for arm in ARMS]


def test_a_clean_restart_is_believed() -> None:
    """Otherwise there would be no verdict but INVALID."""
    assert judge(outcome(), SEEN) == ""


def test_a_first_version_is_believed_alone() -> None:
    """It has nobody to be compared with."""
    assert judge(outcome(), [one for one in SEEN if one.arm == "candidate"], ("candidate",)) == ""


@pytest.mark.parametrize(
    ("changes", "seen", "message"),
    [
        ({"failures": 1, "first_failure": "candidate: HTTP 500"}, SEEN, "HTTP 500"),
        ({"cycles": 1}, SEEN[:2], "1 pairs, expected at least 2"),
        ({"cycles": 0}, [], "0 pairs"),
        ({"clock_jump_s": 3600.0}, SEEN, "clock jumped"),
        ({}, SEEN[:3], "unequal shares"),
        ({}, [one for one in SEEN if one.arm == "champion"], "unequal shares"),
        ({}, [*SEEN[:3], observe(1, "champion", sent_s=0.5)], "nothing came or went for 0.48 s"),
        ({}, [*SEEN[:3], observe(1, "champion", latency_ms=400.0)], "nothing came or went for 0.40 s"),
        ({}, [*SEEN[:3], observe(1, "champion", latency_ms=100.0)], "the champion was starved"),
        ({}, [SEEN[0], observe(0, "champion", wait_ms=0.11), *SEEN[2:]], ""),
    ],
    ids=[
        "a failure",
        "too few pairs",
        "no pair",
        "a clock was set",
        "half a pair",
        "one arm",
        "the load generator stood still",
        "the machine stood still",
        "an arm had no processor",
        "a wait within the handler",
    ],
)
def test_an_unsound_restart_is_not_believed(
    changes: dict[str, Any], seen: list[Observation], message: str
) -> None:
    """Each of these once made somebody's benchmark pass."""
    problem = judge(outcome(**changes), seen)
    assert message in problem
    assert bool(message) == bool(problem)


def test_a_slow_handler_is_no_standstill() -> None:
    """A version that takes half a second works, and is to be judged for it."""
    slow = observe(0, "candidate", latency_ms=500.0, handler_ms=499.0)
    assert find_standstill([slow]) == pytest.approx(0.001)
    assert find_standstill([msgspec.structs.replace(slow, handler_ms=math.nan)]) == pytest.approx(0.5)
    assert find_standstill([]) == 0.0


def test_a_standstill_is_the_longest_time_of_nothing() -> None:
    """Worked by hand: between an answer and the next request, or in a request beyond the handler's time."""
    seen = [
        observe(0, "candidate", sent_s=0.0, latency_ms=100.0, handler_ms=90.0),
        observe(0, "champion", sent_s=0.3, latency_ms=50.0, handler_ms=10.0),
        observe(1, "champion", sent_s=0.36, latency_ms=70.0, handler_ms=50.0),
    ]
    assert find_standstill(seen) == pytest.approx(0.2)
    assert find_standstill(seen[1:]) == pytest.approx(0.04)
    assert find_standstill(seen[:1]) == pytest.approx(0.01)
    assert find_standstill([observe(0, "champion", latency_ms=1.0, handler_ms=1.5)]) == 0.0


@pytest.mark.parametrize(
    ("changes", "settings", "problem"),
    [
        ({"cycles": 2}, {"min_pairs": 2}, ""),
        ({"cycles": 2}, {"min_pairs": 3}, "2 pairs, expected at least 3"),
        ({"clock_jump_s": 1.0}, {"max_clock_jump_s": 1.0}, ""),
        ({"clock_jump_s": 1.1}, {"max_clock_jump_s": 1.0}, "a clock jumped by 1.1 s"),
        ({"failures": 3, "first_failure": "x"}, {}, "3 failed requests, the first: x"),
    ],
)
def test_each_bound_is_what_may_still_be(
    changes: dict[str, Any], settings: dict[str, Any], problem: str
) -> None:
    """On the bound a restart is believed, beyond it the number is in the sentence."""
    runs = {arm: build_arm([one for one in SEEN if one.arm == arm], 1.0, 1) for arm in ARMS}
    bounds = msgspec.structs.replace(SETTINGS, **settings)
    assert find_problem(outcome(**changes), SEEN, runs, bounds) == problem


def test_a_standstill_is_a_share_of_the_window() -> None:
    """A fifth of a window of ten seconds is two; of one that lasts one, it is 0.2."""
    seen = [*SEEN[:3], observe(1, "champion", sent_s=0.0204 + 1.5)]
    runs = {arm: build_arm([one for one in seen if one.arm == arm], 1.0, 1) for arm in ARMS}
    for window_s, share, is_believed in ((10.0, 0.2, True), (1.0, 0.2, False), (10.0, 0.1, False)):
        bounds = msgspec.structs.replace(SETTINGS, window_s=window_s, max_standstill_share=share)
        problem = find_problem(outcome(), seen, runs, bounds)
        assert (problem == "") == is_believed
        if problem:
            assert problem == f"nothing came or went for 1.50 s of a window of {window_s:g} s"
