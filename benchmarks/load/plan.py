"""The word between `benchmarks load` and its Locust process: a window to drive, and what came of it.

No import of Locust or gevent here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from timberline.benchmarks.measure.records import Body, Target, read_rows, write_rows

# How a request ended: answered rightly; refused for want of time or room (503, 504, silence), which is
# what overload looks like; or anything else, which says that something is broken.
Ending = Literal["right", "refused", "wrong"]


class _Word(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything said between the two processes."""


class WindowPlan(_Word, frozen=True, kw_only=True):
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


class WindowOutcome(_Word, frozen=True, kw_only=True):
    """What came of a window.

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


class Arrival(_Word, frozen=True, kw_only=True):
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
