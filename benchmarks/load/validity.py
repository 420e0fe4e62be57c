"""Whether a window of load can be believed, and whether it met the objective. Pure.

Three things can be wrong: the service is broken (it answered wrongly or not at all, for which no load
is an excuse), the machine or the data are doubtful, or the load generator sent late. Figures of a
window of the last kind are not the service's. But its lag errs to one side and by no more than itself:
in a queue that is served in order, requests that arrive at most ``lag`` later are answered no earlier
and at most ``lag`` later. So a window that met the objective in spite of its lag has met it, and one
that missed it by more than its lag has missed it.

Source: the departures of a queue are a (max, +) linear, hence monotonic and nonexpansive, function of
its arrivals; Baccelli, Cohen, Olsder & Quadrat, *Synchronization and Linearity* (1992), chapters 1 and
8; Lindley's recursion for one server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from timberline.benchmarks.load.plan import Arrival, WindowOutcome
from timberline.benchmarks.load.settings import Objective

# As for a restart of the gate: clocks part by more only when somebody sets one or the machine sleeps.
_MAX_CLOCK_JUMP_S = 1.0

Result = Literal["met", "missed", "invalid", "broken"]


def find_failure(outcome: WindowOutcome, arrivals: Sequence[Arrival]) -> str:
    """Why the service is broken; "" when it is not. Refusals are answers: they say how much it bears."""
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
    """Why nothing can be said at all; "" when something can."""
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
        lag: what `find_lag` says.
    """
    p99 = float(np.quantile([arrival.latency_ms for arrival in arrivals], 0.99))
    is_whole = not outcome.is_cut and all(arrival.ending == "right" for arrival in arrivals)
    if is_whole and p99 <= objective.p99_ms:
        return "met"
    if lag and p99 - max(arrival.lag_ms for arrival in arrivals) <= objective.p99_ms:
        return "invalid"
    return "missed"
