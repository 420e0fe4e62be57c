"""What one window of load says, and when it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.load.settings import DEFAULT_LOAD, LoadSettings
from timberline.benchmarks.load.window import (
    Arrival,
    Ending,
    WindowKey,
    WindowOutcome,
    WindowResult,
    read_arrivals,
    summarize_window,
    write_arrivals,
)
from timberline.registry.runtime.settings import load_settings

OBJECTIVE = msgspec.structs.replace(
    load_settings(DEFAULT_LOAD, LoadSettings).objective, p99_ms=20.0, max_lag_share=0.25
)
KEY = WindowKey(round=1, number=3, arm="candidate", rate_rps=200.0, users=0, observations="window-003.csv.gz")
OUTCOME = WindowOutcome(
    scheduled=1000, is_cut=False, warmup_problem="", elapsed_s=5.0, clock_jump_s=0.0, cpu_share=0.2
)


def arrive(number: int = 0, **changes: Any) -> Arrival:
    """A request that was answered rightly after 2 ms."""
    given = {"number": number, "body": 0, "due_s": number / 200, "lag_ms": 0.1, "latency_ms": 2.0}
    ending: Ending = "right"
    return Arrival(**{**given, "ending": ending, **changes})


def fill(*others: Arrival, count: int = 1000) -> list[Arrival]:
    """``count`` requests, the first of which are ``others``."""
    return [*others, *(arrive(number) for number in range(len(others), count))]


def summarize(arrivals: list[Arrival], **outcome: Any) -> WindowResult:
    """The window's result; ``outcome`` replaces fields."""
    place = KEY if "users" not in outcome else msgspec.structs.replace(KEY, rate_rps=None, users=8)
    outcome.pop("users", None)
    return summarize_window(place, msgspec.structs.replace(OUTCOME, **outcome), arrivals, OBJECTIVE, 459)


def test_percentiles_are_over_all_requests_from_when_they_were_due() -> None:
    """The figures are numpy's over the raw observations, and never Locust's whole milliseconds."""
    latencies = np.random.default_rng(1).gamma(2.0, 1.5, 1000)
    seen = summarize([arrive(n, latency_ms=float(ms)) for n, ms in enumerate(latencies)])
    assert (seen.p50_ms, seen.p95_ms, seen.p99_ms) == tuple(np.quantile(latencies, [0.5, 0.95, 0.99]))
    assert (seen.max_ms, seen.right, seen.requests_per_s) == (latencies.max(), 1000, 200.0)
    assert (seen.result, seen.problem) == ("met", "")


def test_a_late_tail_misses_the_objective() -> None:
    """Two in a hundred too late is not p99 in time."""
    slow = [arrive(number, latency_ms=25.0) for number in range(20)]
    seen = summarize(fill(*slow))
    assert seen.result == "missed"
    assert seen.late_share == pytest.approx(0.02)
    assert summarize(fill(*slow[:5])).result == "met"


def test_a_refusal_misses_the_objective_however_quick_it_was() -> None:
    """503 in half a millisecond must not look like good service."""
    seen = summarize(fill(arrive(latency_ms=0.5, ending="refused", problem="HTTP 503")))
    assert (seen.result, seen.refused, seen.problem) == ("missed", 1, "")
    assert seen.late_share == pytest.approx(0.001)


def test_a_queue_that_outgrows_the_window_misses_the_objective() -> None:
    """What was never sent was not served in time either."""
    seen = summarize(fill(count=300), is_cut=True)
    assert seen.result == "missed"
    assert seen.late_share == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("arrivals", "outcome", "message"),
    [
        (fill(), {"clock_jump_s": 2.0}, "a clock jumped by 2.0 s"),
        (fill(), {"cpu_share": 0.95}, "95% of a core"),
        (fill(count=300), {"scheduled": 300}, "300 requests, expected at least 459"),
        (fill(count=990), {}, "990 of 1000 requests were sent"),
    ],
    ids=["clock", "processor", "few", "not all sent"],
)
def test_a_window_that_the_generator_spoilt_says_nothing(
    arrivals: list[Arrival], outcome: dict[str, Any], message: str
) -> None:
    """Neither good nor bad figures of such a window are the service's."""
    seen = summarize(arrivals, **outcome)
    assert seen.result == "invalid"
    assert message in seen.problem


@pytest.mark.parametrize(
    ("arrivals", "outcome", "message"),
    [
        (fill(arrive(ending="wrong", problem="tiny@2 answered")), {}, "1 wrong answers, the first: tiny@2"),
        (
            [arrive(n, ending="refused", problem="HTTP 503") for n in range(1000)],
            {},
            "no right answer to 1000",
        ),
        ([], {"scheduled": 0}, "no right answer to 0"),
        ([], {"warmup_problem": "refused"}, "before the load: refused"),
    ],
    ids=["wrong answer", "nothing but refusals", "no request at all", "down"],
)
def test_a_broken_service_is_told_from_a_slow_one(
    arrivals: list[Arrival], outcome: dict[str, Any], message: str
) -> None:
    """No load is an excuse for a wrong answer; a sweep may not call it the limit of the rate."""
    seen = summarize(arrivals, **outcome)
    assert seen.result == "broken"
    assert message in seen.problem


@pytest.mark.parametrize(
    ("latency_ms", "lag_ms", "result"),
    [(19.0, 6.0, "met"), (25.0, 6.0, "invalid"), (27.0, 6.0, "missed"), (25.0, 4.0, "missed")],
    ids=["met in spite of it", "cannot be told", "missed by more than it", "no lag to speak of"],
)
def test_a_lag_spoils_the_figures_but_not_every_result(latency_ms: float, lag_ms: float, result: str) -> None:
    """The generator's lag makes latencies longer, and by no more than itself."""
    seen = summarize([arrive(n, latency_ms=latency_ms, lag_ms=lag_ms) for n in range(1000)])
    assert seen.result == result
    assert bool(seen.problem) is (lag_ms > OBJECTIVE.max_lag_ms)
    assert seen.problem in ("", "the load generator lags: p99 6.0 ms, believed are at most 5 ms")


def test_a_queue_delays_by_no_more_than_its_arrivals_are_delayed() -> None:
    """The fact that the judgement above stands on, in a queue of one server that was simulated."""
    chance = np.random.default_rng(1)
    due = np.cumsum(chance.exponential(1.0, 5000))
    work = chance.exponential(0.8, 5000)
    lag = np.zeros(5000)
    for start in chance.integers(0, 4900, 30):  # the generator stalls, and sends what was due at once
        moment = due[start] + chance.uniform(0, 20)
        late = (due >= due[start]) & (due < moment)
        lag[late] = np.maximum(lag[late], moment - due[late])

    def depart(arrivals: np.ndarray) -> np.ndarray:
        ends, end = [], 0.0
        for arrival, seconds in zip(np.maximum.accumulate(arrivals), work, strict=True):
            end = max(end, arrival) + seconds
            ends.append(end)
        return np.array(ends)

    delay = depart(due + lag) - depart(due)
    assert delay.min() >= -1e-9
    assert delay.max() <= lag.max() + 1e-9


def test_a_closed_loop_has_no_lag() -> None:
    """Its requests are due when they are sent, so that the bound on the lag is not for it."""
    late = [arrive(number, lag_ms=9.0) for number in range(1000)]
    assert summarize(late, users=8).result == "met"


SEEN = [
    Arrival(number=1, body=7, due_s=0.25, lag_ms=0.125, latency_ms=0.1 + 0.2, ending="right"),
    Arrival(
        number=0, body=3, due_s=0.1, lag_ms=3.5, latency_ms=9.0, ending="wrong", problem='said "no", twice'
    ),
]


def test_arrivals_survive_their_file(tmp_path: Path) -> None:
    """Floats in full, in the order of the timetable: who doubts a figure can compute it again."""
    path = tmp_path / "window.csv.gz"
    write_arrivals(path, SEEN)
    first, second = read_arrivals(path)
    assert second == SEEN[0]
    assert (first.number, first.problem) == (0, 'said "no", twice')
    again = tmp_path / "again.csv.gz"
    write_arrivals(again, list(reversed(SEEN)))
    assert again.read_bytes() == path.read_bytes()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Half of the observations have other percentiles."""
    path = tmp_path / "window.csv.gz"
    write_arrivals(path, SEEN)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvidenceError, match=r"window\.csv\.gz"):
        read_arrivals(path)
