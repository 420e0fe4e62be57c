"""What the service's benchmark measures: running services and the load they are put under.

The server has one core and the clients another, so that neither takes the other's time; where there
is only one core they share it, and the processor time a request is still right.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec

import timberline
from timberline.benchmarks.dev.clients import RoundOutcome, RoundPlan
from timberline.benchmarks.errors import BenchmarkError, ServiceStartError
from timberline.benchmarks.load.connections import Connection
from timberline.benchmarks.measure.services import Service, exchange, list_processes

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
CLIENTS = "timberline.benchmarks.dev.clients"
# A round takes its window and what is left of answers; anything near this is a hang.
_ROUND_TIMEOUT_S = 90.0
_ROOT = Path(timberline.__file__).parents[1]
# Competitors in an environment of their own find these programs, and nothing else of ours; none is measured
# while its ONNX Runtime reports home.
COMPETITOR_ENVIRONMENT = {"PYTHONPATH": str(_ROOT)}


@dataclass(frozen=True)
class Cores:
    """Which processor is whose; ``load_before``: the machine's load average when they were chosen."""

    server: int
    clients: int
    load_before: float

    @property
    def all(self) -> tuple[int, ...]:
        """Both, for what is measured on the whole machine."""
        return tuple(sorted({self.server, self.clients}))

    def describe(self) -> dict[str, float | str]:
        """The machine as a report keeps it."""
        return {
            "processors": os.cpu_count() or 1,
            "load_average_before": self.load_before,
            "load_average_after": os.getloadavg()[0],
            "python": sys.version.partition(" ")[0],
            "server_core": self.server,
            "client_core": self.clients,
        }


def choose_cores() -> Cores:
    """The first and the last processor that this process may use.

    Raises:
        BenchmarkError: the system does not let processes be pinned.
    """
    if not hasattr(os, "sched_getaffinity"):  # pragma: no cover - the tests run on Linux
        raise BenchmarkError("processes can be pinned to processors on Linux only", where=sys.platform)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(server=usable[-1], clients=usable[0], load_before=os.getloadavg()[0])


class GraphPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of the graph without a service (`benchmarks.dev.competitors.in_process`); a Run is one "request".

    ``matrix``: ``rows`` of float64, in base64.
    """

    rows: int
    matrix: bytes
    window_s: float = 0.0
    warmup_s: float = 0.0


@dataclass(frozen=True)
class Server:
    """What is measured: one load on a running service, or the graph alone.

    ``process`` carries out ``plan``, whose times are set for each window: the clients', or the graph's own.
    """

    process: subprocess.Popen[bytes]
    plan: RoundPlan | GraphPlan
    log: Path

    def run(self, window_s: float, warmup_s: float) -> RoundOutcome:
        """Measure one window.

        Raises:
            BenchmarkError: an answer was not 200, or the process failed.
        """
        plan = msgspec.structs.replace(self.plan, window_s=window_s, warmup_s=warmup_s)
        outcome = exchange(self.process, plan, RoundOutcome, timeout_s=_ROUND_TIMEOUT_S, log=self.log)
        if outcome.failure:
            raise BenchmarkError(outcome.failure, where="round of load")
        return outcome


def find_port(service: Service) -> int:
    """The port in the service's address."""
    return int(service.url.rpartition(":")[2])


def await_answer(service: Service, request: bytes, name: str) -> int:
    """Ask until the answer is 200, as one that has announced itself may still be loading.

    Returns:
        Length of the answer's body in bytes.

    Raises:
        ServiceStartError: there was none in time; the message has the last answer.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return ask_once(find_port(service), request)
        except (BenchmarkError, OSError) as error:
            if time.monotonic() > deadline or service.process.poll() is not None:
                raise ServiceStartError(f"never answered: {error}", where=name) from error
        time.sleep(0.1)


def ask_once(port: int, request: bytes) -> int:
    """Send one request; the length of the answer's body in bytes.

    Raises:
        BenchmarkError: the status is not 200.
        OSError: no server listens, or there is no answer in time.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_S) as connected:
        reply = Connection(connected).exchange(request)
    if reply.status != HTTPStatus.OK:
        raise BenchmarkError(f"answered {reply.status}: {reply.content[:300]!r}", where="server")
    return len(reply.content)


def find_processes(service: Service) -> tuple[int, ...]:
    """The service's process and those that it started."""
    return tuple(list_processes(service.process.pid))
