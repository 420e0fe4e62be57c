"""One window of load: its figures, and whether they can be believed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from timberline.benchmarks.load.plan import Arrival, WindowOutcome
from timberline.benchmarks.load.settings import Objective
from timberline.benchmarks.load.validity import Result, decide, find_doubt, find_failure, find_lag


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
    - ``problem``: why the figures are not the service's; "" when they are.
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
    """The figures of a window, and its result under the objective; see `benchmarks.load.validity`."""
    lag = find_lag(arrivals, objective) if place.rate_rps is not None else ""
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
        **msgspec.structs.asdict(place),
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
