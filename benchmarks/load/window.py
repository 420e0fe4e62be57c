"""One window of load: its figures, and whether they can be believed. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from benchmarks.load.plan import Arrival, WindowOutcome
from benchmarks.load.settings import Objective

# As for a restart of the gate: clocks part by more only when somebody sets one or the machine sleeps.
_MAX_CLOCK_JUMP_S = 1.0

# Under the objective; "invalid" says nothing about the service, "broken" that it answered wrongly or not
# at all, for which no load is an excuse.
Result = Literal["met", "missed", "invalid", "broken"]


class WindowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm did in one window.

    - ``number``: in the order of time, over all rounds.
    - ``rate_rps``: of an open loop's timetable; None in a closed loop of ``users``.
    - ``scheduled``, ``right``, ``refused``: requests of the timetable, answered rightly, turned away.
    - ``requests_per_s``: right answers.
    - ``p50_ms`` ... ``max_ms``: from the due time, over all requests that were sent, with refusals.
    - ``late_share``: of the scheduled requests, those not answered rightly within the objective.
    - ``lag_p50_ms``, ``lag_p99_ms``: how late the load generator itself sent.
    - ``cpu_share``: of one core, the load generator's.
    - ``problem``: why the window says nothing about the service; "" when it does.
    - ``observations``: the file with every request.
    """

    round: int
    number: int
    arm: str
    rate_rps: float | None
    users: int
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
    observations: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which window it was; the names are those of `WindowResult`."""

    round: int
    number: int
    arm: str
    rate_rps: float | None
    users: int
    observations: str


def summarize_window(
    place: Place,
    outcome: WindowOutcome,
    arrivals: Sequence[Arrival],
    objective: Objective,
    min_requests: int,
) -> WindowResult:
    """The figures of a window, and its result under the objective.

    An open window meets the objective when p99 from the due time is within it, nothing was refused,
    and the queue did not outgrow the window.
    """
    result, problem = find_problem(
        outcome, arrivals, objective, min_requests, is_open=place.rate_rps is not None
    )
    latencies = [arrival.latency_ms for arrival in arrivals] or [0.0]
    lags = [arrival.lag_ms for arrival in arrivals] or [0.0]
    right = sum(arrival.ending == "right" for arrival in arrivals)
    in_time = sum(a.ending == "right" and a.latency_ms <= objective.p99_ms for a in arrivals)
    p50, p95, p99 = np.quantile(latencies, [0.50, 0.95, 0.99]).tolist()
    lag_p50, lag_p99 = np.quantile(lags, [0.50, 0.99]).tolist()
    is_met = not outcome.is_cut and right == outcome.scheduled and p99 <= objective.p99_ms
    return WindowResult(
        **msgspec.structs.asdict(place),
        result=result or ("met" if is_met else "missed"),
        problem=problem,
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


def find_problem(
    outcome: WindowOutcome,
    arrivals: Sequence[Arrival],
    objective: Objective,
    min_requests: int,
    *,
    is_open: bool,
) -> tuple[Result | None, str]:
    """Whether a window is broken or invalid, and why; (None, "") when it can be judged.

    Refusals say how much load the service bears, wrong answers do not.
    """
    failure = next(_list_failures(outcome, arrivals), "")
    if failure:
        return "broken", failure
    doubts = _list_doubts(outcome, arrivals, objective, is_open=is_open)
    doubt = next(itertools.chain(doubts, _list_gaps(outcome, arrivals, min_requests)), "")
    return ("invalid", doubt) if doubt else (None, "")


def _list_failures(outcome: WindowOutcome, arrivals: Sequence[Arrival]) -> Iterator[str]:
    """Of the service."""
    if outcome.warmup_problem:
        yield f"before the load: {outcome.warmup_problem}"
    wrong = [arrival.problem for arrival in arrivals if arrival.ending == "wrong"]
    if wrong:
        yield f"{len(wrong)} wrong answers, the first: {wrong[0]}"
    if not any(arrival.ending == "right" for arrival in arrivals):
        yield f"no right answer to {len(arrivals)} requests"


def _list_doubts(
    outcome: WindowOutcome, arrivals: Sequence[Arrival], objective: Objective, *, is_open: bool
) -> Iterator[str]:
    """About the load generator and its machine."""
    if outcome.clock_jump_s > _MAX_CLOCK_JUMP_S:
        yield f"a clock jumped by {outcome.clock_jump_s:.1f} s"
    if is_open:
        lag, most = float(np.quantile([a.lag_ms for a in arrivals], 0.99)), objective.max_lag_ms
        if lag > most:
            yield f"the load generator lags: p99 {lag:.1f} ms, believed are at most {most:g} ms"
    if outcome.cpu_share > objective.max_cpu_share:
        yield f"the load generator is at {outcome.cpu_share:.0%} of a core"


def _list_gaps(outcome: WindowOutcome, arrivals: Sequence[Arrival], min_requests: int) -> Iterator[str]:
    """In the data."""
    if outcome.scheduled < min_requests:
        yield f"{outcome.scheduled} requests, expected at least {min_requests}"
    if len(arrivals) < outcome.scheduled and not outcome.is_cut:
        yield f"{len(arrivals)} of {outcome.scheduled} requests were sent"
