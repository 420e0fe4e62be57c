"""One window of load: its plan, its raw observations, its figures, and whether they can be believed.

The plan and the outcome are the only interface between `benchmarks load` and its Locust process. No import
of Locust or gevent here.

Three things can be wrong: the service is broken (it answered wrongly or not at all, for which no load is an
excuse), the machine or the data are doubtful, or the load generator sent late. Figures of a window of the
last kind are not the service's. But its lag errs to one side and by no more than itself: in a queue that is
served in order, requests that arrive at most ``lag`` later are answered no earlier and at most ``lag``
later. So a window that met the objective in spite of its lag has met it, and one that missed it by more
than its lag has missed it.

Source: the departures of a queue are a (max, +) linear, hence monotonic and nonexpansive, function of its
arrivals; Baccelli, Cohen, Olsder & Quadrat, *Synchronization and Linearity* (1992), chapters 1 and 8;
Lindley's recursion for one server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from timberline.benchmarks.load.settings import Objective
from timberline.benchmarks.measure.records import Body, Target, read_rows, write_rows

# How a request ended: answered rightly; refused for want of time or room (503, 504, silence), which is
# what overload looks like; or anything else: something is broken.
Ending = Literal["right", "refused", "wrong"]


# As for a restart of the gate: clocks part by more only when somebody sets one or the machine sleeps.
_MAX_CLOCK_JUMP_S = 1.0
Result = Literal["met", "missed", "invalid", "broken"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the messages between the two processes."""


class WindowPlan(_Message, frozen=True, kw_only=True):
    """Golden rows, warm-up, then ``window_s`` of load on one service.

    - ``rate_rps``: open loop, Poisson arrivals at this rate; None is a closed loop of ``users``.
    - ``seed``: of the arrivals and the bodies; equal seeds at equal rates are equal loads.
    - ``max_in_flight``: an open window ends early when so many requests wait for answers.
    - ``max_lag_ms``: it ends early when more than 1 % of its requests were sent later than this.
    - ``observations``: the file for the raw observations.
    """

    target: Target
    bodies: tuple[Body, ...]
    window_s: float
    rate_rps: float | None
    users: int
    warmup_requests: int
    seed: str
    request_timeout_s: float
    max_in_flight: int
    max_lag_ms: float
    observations: str


class WindowOutcome(_Message, frozen=True, kw_only=True):
    """The outcome of a window.

    - ``scheduled``: requests of the timetable; those sent, in a closed loop.
    - ``is_cut``: it ended early, with as many in flight as are allowed.
    - ``warmup_problem``: the first wrong answer to a golden row or in the warm-up.
    - ``elapsed_s``: from the window's begin to the last answer.
    - ``clock_jump_s``, ``cpu_share``: as in `benchmarks.measure.records.Outcome`.
    """

    scheduled: int
    is_cut: bool
    warmup_problem: str
    elapsed_s: float
    clock_jump_s: float
    cpu_share: float


class Arrival(_Message, frozen=True, kw_only=True):
    """One request that was sent.

    - ``due_s``: when it was due, in seconds from the window's begin; in a closed loop, when it was sent.
    - ``lag_ms``: from then until it was really sent. The load generator's fault, not the service's.
    - ``latency_ms``: from when it was due, so with the lag, until its answer was whole.
    """

    number: int
    body: int
    due_s: float
    lag_ms: float
    latency_ms: float
    ending: Ending
    problem: str = ""


def write_arrivals(path: Path, arrivals: list[Arrival]) -> None:
    """Write compressed CSV, in the order of the timetable; equal observations give equal bytes."""
    write_rows(path, Arrival, sorted(arrivals, key=lambda arrival: arrival.number))


def read_arrivals(path: Path) -> list[Arrival]:
    """Read what `write_arrivals` wrote.

    Raises:
        EvidenceError: the file is missing, damaged or cut short.
    """
    return read_rows(path, Arrival)


def find_failure(outcome: WindowOutcome, arrivals: Sequence[Arrival]) -> str:
    """Why the service is broken; "" when it is not. Refusals are answers: they show its limit."""
    if outcome.warmup_problem:
        return f"before the load: {outcome.warmup_problem}"
    wrong = [arrival.problem for arrival in arrivals if arrival.ending == "wrong"]
    if wrong:
        return f"{len(wrong)} wrong answers, the first: {wrong[0]}"
    if not any(arrival.ending == "right" for arrival in arrivals):
        return f"no right answer to {len(arrivals)} requests"
    return ""


def find_lag(arrivals: Sequence[Arrival], objective: Objective) -> str:
    """That the load generator kept its timetable too badly; "" when it did not, or sent nothing."""
    lag = float(np.quantile([arrival.lag_ms for arrival in arrivals] or [0.0], 0.99))
    if lag <= objective.max_lag_ms:
        return ""
    return f"the load generator lags: p99 {lag:.1f} ms, believed are at most {objective.max_lag_ms:g} ms"


def find_doubt(
    outcome: WindowOutcome, arrivals: Sequence[Arrival], objective: Objective, min_requests: int
) -> str:
    """Why the window is not valid; "" when it is."""
    if outcome.clock_jump_s > _MAX_CLOCK_JUMP_S:
        return f"a clock jumped by {outcome.clock_jump_s:.1f} s"
    if outcome.cpu_share > objective.max_cpu_share:
        return f"the load generator is at {outcome.cpu_share:.0%} of a core"
    if outcome.scheduled < min_requests:
        return f"{outcome.scheduled} requests, expected at least {min_requests}"
    if len(arrivals) < outcome.scheduled and not outcome.is_cut:
        return f"{len(arrivals)} of {outcome.scheduled} requests were sent"
    return ""


def decide(outcome: WindowOutcome, arrivals: Sequence[Arrival], objective: Objective, lag: str) -> Result:
    """Whether the objective was met: p99 from the due time within it, and nothing refused or left out.

    Args:
        outcome: of a window that is neither broken nor doubtful.
        arrivals: at least one.
        objective: what has to be kept.
        lag: the result of `find_lag`.
    """
    p99 = float(np.quantile([arrival.latency_ms for arrival in arrivals], 0.99))
    is_whole = not outcome.is_cut and all(arrival.ending == "right" for arrival in arrivals)
    if is_whole and p99 <= objective.p99_ms:
        return "met"
    if lag and p99 - max(arrival.lag_ms for arrival in arrivals) <= objective.p99_ms:
        return "invalid"
    return "missed"


class WindowKey(msgspec.Struct, frozen=True, kw_only=True):
    """Which window it is.

    - ``number``: in the order of time, over all rounds.
    - ``rate_rps``: of an open loop's timetable; None in a closed loop of ``users``.
    - ``observations``: the file with every request.
    """

    round: int
    number: int
    arm: str
    rate_rps: float | None
    users: int
    observations: str


class WindowResult(WindowKey, frozen=True, kw_only=True):
    """What one arm did in one window.

    - ``scheduled``, ``right``, ``refused``: requests of the timetable, answered rightly, turned away.
    - ``requests_per_s``: right answers.
    - ``p50_ms`` ... ``max_ms``: from the due time, over all requests that were sent, with refusals.
    - ``late_share``: of the scheduled requests, those not answered rightly within the objective.
    - ``lag_p50_ms``, ``lag_p99_ms``: how late the load generator itself sent.
    - ``cpu_share``: of one core, the load generator's.
    - ``problem``: why the figures are not the service's; "" when they are.
    """

    result: Result
    problem: str
    scheduled: int
    right: int
    refused: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    late_share: float
    lag_p50_ms: float
    lag_p99_ms: float
    cpu_share: float


def summarize_window(
    key: WindowKey,
    outcome: WindowOutcome,
    arrivals: Sequence[Arrival],
    objective: Objective,
    min_requests: int,
) -> WindowResult:
    """The figures of a window, and its result under the objective; see `benchmarks.load.window`."""
    lag = find_lag(arrivals, objective) if key.rate_rps is not None else ""
    failure = find_failure(outcome, arrivals)
    doubt = find_doubt(outcome, arrivals, objective, min_requests)
    result: Result = (
        "broken" if failure else "invalid" if doubt else decide(outcome, arrivals, objective, lag)
    )
    latencies = [arrival.latency_ms for arrival in arrivals] or [0.0]
    lags = [arrival.lag_ms for arrival in arrivals] or [0.0]
    right = sum(arrival.ending == "right" for arrival in arrivals)
    in_time = sum(a.ending == "right" and a.latency_ms <= objective.p99_ms for a in arrivals)
    p50, p95, p99 = np.quantile(latencies, [0.50, 0.95, 0.99]).tolist()
    lag_p50, lag_p99 = np.quantile(lags, [0.50, 0.99]).tolist()
    return WindowResult(
        **msgspec.structs.asdict(key),
        result=result,
        problem=failure or lag or doubt,
        scheduled=outcome.scheduled,
        right=right,
        refused=sum(arrival.ending == "refused" for arrival in arrivals),
        requests_per_s=right / outcome.elapsed_s if outcome.elapsed_s else 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(latencies),
        late_share=1 - in_time / outcome.scheduled if outcome.scheduled else 1.0,
        lag_p50_ms=lag_p50,
        lag_p99_ms=lag_p99,
        cpu_share=outcome.cpu_share,
    )
