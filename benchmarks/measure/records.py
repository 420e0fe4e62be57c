"""The word between the gate and its Locust process: a plan in, an outcome and raw observations out.

The Locust process is separate because gevent patches the standard library of whatever process it
is loaded in. No import of Locust here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec

from timberline.benchmarks.gate.settings import Placement
from timberline.benchmarks.measure.raw import quote, read_rows, write_rows

COLUMNS = (
    "pair",
    "position",
    "arm",
    "body",
    "sent_s",
    "latency_ms",
    "handler_ms",
    "cpu_ms",
    "wait_ms",
    "wake_ms",
    "queue_ms",
    "problem",
)


class _Word(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything said between the two processes."""


JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
Form = Literal["json", "csv", "float32", "oip", "oip_binary"]


class Body(_Word, frozen=True, kw_only=True):
    """One request of ``rows`` rows; ``answers`` are known probabilities by arm.

    ``payload`` is what is posted to ``path`` with ``headers``; ``form`` says how the reply is read.
    ``{model}`` in the path stands for the target's model.
    """

    payload: bytes
    rows: int
    form: Form = "json"
    path: str = "/predict"
    headers: dict[str, str] = msgspec.field(default_factory=lambda: dict(JSON_HEADERS))
    answers: dict[str, tuple[tuple[float, ...], ...]] = {}


class Target(_Word, frozen=True, kw_only=True):
    """One service: where it is, which version must answer, and the golden rows it has to reproduce.

    ``pid``: its process, whose processor time is read, and which is moved between processors if the plan
    says so.
    """

    arm: str
    pid: int | None = None
    url: str
    model: str
    version: int
    classes: tuple[str, ...]
    atol: float
    golden: tuple[Body, ...]


class Plan(_Word, frozen=True, kw_only=True):
    """What one Locust run does: replay the golden rows, warm up, then ``window_s`` of cycles.

    A cycle sends one body to every target, in random order. ``users`` 1 keeps one request in flight.
    A window goes on, up to three times as long, until it has ``min_cycles``: a machine that is busy
    for a while has not failed. ``placement`` "shared" puts all targets on one processor, drawn anew
    every few cycles, so that what runs beside them hits all alike; "free" leaves it to the kernel.
    """

    targets: tuple[Target, ...]
    bodies: tuple[Body, ...]
    users: int
    window_s: float
    warmup_cycles: int
    seed: str
    request_timeout_s: float
    observations: str
    min_cycles: int = 0
    placement: Placement = "free"


class Outcome(_Word, frozen=True, kw_only=True):
    """What came of it; ``cycles`` is complete cycles in the window, ``failures`` of all phases.

    ``asked`` and ``failed`` are requests of all phases by arm.
    ``clock_jump_s`` is how far the wall clock and the monotonic clock drifted apart;
    ``cpu_share`` the processor time of the Locust process, as a share of one core. ``cpu_s`` is, by arm, the
    processor time that the service's process used in the window, in seconds; it lacks an arm where that
    cannot be read.
    """

    cycles: int
    failures: int
    first_failure: str
    elapsed_s: float
    clock_jump_s: float
    cpu_share: float
    asked: dict[str, int] = {}
    failed: dict[str, int] = {}
    cpu_s: dict[str, float] = {}


class Observation(_Word, frozen=True, kw_only=True):
    """One measured request; ``problem`` is empty for a right answer.

    ``latency_ms`` is what the client saw; of it, its own thread stood in the kernel's run queue for
    ``queue_ms``. The service itself tells ``handler_ms`` (wall time in it), ``cpu_ms`` (processor
    time of that), ``wait_ms`` (of that, in the run queue) and ``wake_ms`` (in the run queue before
    it could begin). NaN where it is not told.
    """

    pair: int
    position: int
    arm: str
    body: int
    sent_s: float
    latency_ms: float
    handler_ms: float = math.nan
    cpu_ms: float = math.nan
    wait_ms: float = math.nan
    wake_ms: float = math.nan
    queue_ms: float = math.nan
    problem: str

    @property
    def net_ms(self) -> float:
        """Time in the service less the wait for a processor; processor time where that is unknown."""
        return self.cpu_ms if math.isnan(self.wait_ms) else self.handler_ms - self.wait_ms

    @property
    def client_net_ms(self) -> float:
        """What the client saw less all waits for a processor, its own too; NaN where they are unknown."""
        return self.latency_ms - self.queue_ms - self.wait_ms - self.wake_ms


def write_observations(path: Path, observations: list[Observation]) -> None:
    """Write compressed CSV; floats in full, equal observations give equal bytes."""
    rows = (
        f"{o.pair},{o.position},{o.arm},{o.body},{o.sent_s!r},{o.latency_ms!r},"
        f"{o.handler_ms!r},{o.cpu_ms!r},{o.wait_ms!r},"
        f"{o.wake_ms!r},{o.queue_ms!r},{quote(o.problem)}"
        for o in observations
    )
    write_rows(path, COLUMNS, rows)


def read_observations(path: Path) -> list[Observation]:
    """Read what `write_observations` wrote.

    Raises:
        EvidenceError: the file is missing, damaged or cut short.
    """
    return read_rows(path, Observation)
