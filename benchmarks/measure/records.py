"""What passes between the gate and its Locust process, and what is measured: plans, requests, restarts.

The Locust process is separate because gevent patches the standard library of the process that loads it. No
import of Locust here. Raw observations are kept as compressed CSV; equal rows give equal bytes.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np

from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.settings import Placement

_Row = TypeVar("_Row", bound=msgspec.Struct)


def write_rows(path: Path, kind: type[_Row], rows: Iterable[_Row]) -> None:
    """Write structs as compressed CSV, one a line; floats in full, equal rows give equal bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kind.__struct_fields__)
    for row in rows:
        cells = msgspec.structs.astuple(row)
        writer.writerow([cell.replace("\n", " ") if isinstance(cell, str) else cell for cell in cells])
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
        packed.write(text.getvalue().encode())


def read_rows(path: Path, kind: type[_Row]) -> list[_Row]:
    """Read what `write_rows` wrote, a ``kind`` for each row.

    Raises:
        EvidenceError: the file is missing, damaged or cut short.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None:
                raise EvidenceError("raw observations cannot be read: there is no line", where=str(path))
            return [msgspec.convert(row, kind, strict=False) for row in reader]
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:  # the last: not UTF-8, no row
        raise EvidenceError(f"raw observations cannot be read: {error}", where=str(path)) from error


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every message between the two processes."""


JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
Form = Literal["json", "csv", "float32", "oip", "oip_binary"]


class Body(_Message, frozen=True, kw_only=True):
    """One request of ``rows`` rows; ``answers`` are known probabilities by arm.

    ``payload`` is what is posted to ``path`` with ``headers``; ``form`` decides how the reply is read.
    ``{model}`` in the path stands for the target's model.
    """

    payload: bytes
    rows: int
    form: Form = "json"
    path: str = "/predict"
    headers: dict[str, str] = msgspec.field(default_factory=lambda: dict(JSON_HEADERS))
    answers: dict[str, tuple[tuple[float, ...], ...]] = {}


class Target(_Message, frozen=True, kw_only=True):
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


class Plan(_Message, frozen=True, kw_only=True):
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


class Outcome(_Message, frozen=True, kw_only=True):
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


class Observation(_Message, frozen=True, kw_only=True):
    """One measured request; ``problem`` is empty for a right answer.

    ``latency_ms`` is what the client saw; of it, its own thread stood in the kernel's run queue for
    ``queue_ms``. The service itself reports ``handler_ms`` (wall time in it), ``cpu_ms`` (processor
    time of that), ``wait_ms`` (of that, in the run queue) and ``wake_ms`` (in the run queue before
    it could begin). NaN where it is not known.
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
    """Write the raw observations; see `write_rows`."""
    write_rows(path, Observation, observations)


def read_observations(path: Path) -> list[Observation]:
    """Read what `write_observations` wrote.

    Raises:
        EvidenceError: the file is missing, damaged or cut short.
    """
    return read_rows(path, Observation)


@dataclass(frozen=True)
class Latencies:
    """Client latencies of one arm, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def summarize_latencies(values_ms: Sequence[float]) -> Latencies:
    """Percentiles by linear interpolation between order statistics (numpy's default, Hyndman & Fan's type 7).

    Raises:
        EvidenceError: there is no observation, or one is not a positive finite number.
    """
    values = np.asarray(values_ms, dtype=float)
    if values.size == 0:
        raise EvidenceError("no latency was observed", where="latencies")
    if not np.all(np.isfinite(values)) or values.min() <= 0:
        raise EvidenceError("a latency is not a positive number", where="latencies")
    p50, p95, p99 = np.quantile(values, [0.50, 0.95, 0.99])
    return Latencies(
        count=values.size,
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        max_ms=float(values.max()),
    )


@dataclass(frozen=True)
class ArmRun:
    """One arm in one restart: raw times of its requests, start-up time and memory.

    The tuples hold one number a request, milliseconds, in the order sent. ``net_ms`` is time in the
    service less what others had the processor for; empty where the service does not report it.
    ``client_net_ms`` is what the client saw less every wait for a processor, the service's and its own.
    ``lost_share`` is the part of the time in the service that it did not compute, 0 to 1. ``cpu_s`` is the
    processor time that all threads of the service's process used for them, in seconds; NaN where it
    cannot be read.
    ``request_count`` is everything that was asked, golden rows and warm-up too; ``failure_count``
    what of it failed or was answered wrongly.
    """

    latencies_ms: tuple[float, ...]
    ready_s: float
    resident_bytes: int
    net_ms: tuple[float, ...] = ()
    client_net_ms: tuple[float, ...] = ()
    lost_share: float = 0.0
    request_count: int = 0
    failure_count: int = 0
    cpu_s: float = math.nan

    @property
    def p50_ms(self) -> float:
        """Median client latency of this restart."""
        return summarize_latencies(self.latencies_ms).p50_ms

    @property
    def cpu_ms(self) -> float:
        """Processor time of the service a request, in milliseconds; NaN where it cannot be read."""
        return 1e3 * self.cpu_s / len(self.latencies_ms) if self.latencies_ms else math.nan


@dataclass(frozen=True)
class Contrasts:
    """What one restart shows of the candidate beside the champion.

    - ``net_p50``: difference of the medians of net time, as a share of the champion's client p50 net
      of all waits (with them it would be smaller the busier the machine is).
    - ``net_p99``: ln of the ratio of the p99s of net time.
    - ``net_tail``: ln of the ratio of the means of the slowest twentieth of net times (expected
      shortfall at 95 %; Acerbi & Tasche, *J. Banking & Finance* 26, 2002). A p99 sees nothing of what
      hits fewer than one request in a hundred, and is a coin at exactly that.
    - ``client_p50``: ln of the ratio of the client p50s, waits included.
    - ``client_p99``: ln of the ratio of the client p99s net of all waits.
    - ``service_p50``: ln of the ratio of the medians of net time.
    - ``cpu_per_request``: ln of the ratio of the services' processor times a request; all that the
      process does in the window, also before, after and beside its requests.

    None where the service or the kernel does not report it.
    """

    net_p50: float | None
    net_p99: float | None
    client_p50: float
    client_p99: float | None = None
    net_tail: float | None = None
    service_p50: float | None = None
    cpu_per_request: float | None = None


@dataclass(frozen=True)
class Restart:
    """One start of every service under test and the cycles it gave.

    ``problem`` is why the restart cannot be believed, and is empty when it can: a service that
    did not start, a failed request, a wrong answer, too few pairs, a clock that jumped.
    ``cpu_share`` is the load generator's processor time as a share of one core. ``recorded`` are the
    contrasts of a restart whose single times were not kept.
    """

    number: int
    pairs: int
    arms: Mapping[str, ArmRun]
    problem: str = ""
    cpu_share: float = 0.0
    recorded: Contrasts | None = None

    @property
    def contrasts(self) -> Contrasts:
        """The contrasts that are judged; both arms have to be there."""
        if self.recorded is not None:
            return self.recorded
        champion, candidate = self.arms["champion"], self.arms["candidate"]
        net_p50 = net_p99 = net_tail = client_p99 = service_p50 = cpu = None
        whole = champion.p50_ms
        client_p50 = math.log(candidate.p50_ms / whole)
        if champion.client_net_ms and candidate.client_net_ms:
            client_p99 = _log_p99_ratio(champion.client_net_ms, candidate.client_net_ms)
            whole = float(np.median(champion.client_net_ms))
        if champion.net_ms and candidate.net_ms:
            net_p99 = _log_p99_ratio(champion.net_ms, candidate.net_ms)
            net_tail = math.log(average_slowest(candidate.net_ms) / average_slowest(champion.net_ms))
            before, after = (float(np.median(arm.net_ms)) for arm in (champion, candidate))
            net_p50 = (after - before) / whole
            if before > 0 and after > 0:
                service_p50 = math.log(after / before)
        # A clock of coarse ticks may have seen nothing at all, here and above.
        if champion.cpu_s > 0 and candidate.cpu_s > 0:
            cpu = math.log(candidate.cpu_ms / champion.cpu_ms)
        return Contrasts(net_p50, net_p99, client_p50, client_p99, net_tail, service_p50, cpu)


CONTRASTS = tuple(field.name for field in dataclasses.fields(Contrasts))


def average_slowest(times_ms: Sequence[float]) -> float:
    """Mean of the slowest twentieth, at least one."""
    count = max(1, len(times_ms) // 20)
    return float(np.mean(np.partition(times_ms, -count)[-count:]))


def _log_p99_ratio(champion: Sequence[float], candidate: Sequence[float]) -> float:
    return math.log(float(np.quantile(candidate, 0.99)) / float(np.quantile(champion, 0.99)))


def pool_latencies(restarts: Sequence[Restart], arm: str) -> Latencies:
    """Percentiles over all observations of an arm; reported, never judged."""
    return summarize_latencies([ms for restart in restarts for ms in restart.arms[arm].latencies_ms])
