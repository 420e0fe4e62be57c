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
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

import timberline
from timberline.benchmarks.dev.clients import RoundOutcome, RoundPlan
from timberline.benchmarks.errors import BenchmarkError, ServiceStartError
from timberline.benchmarks.load.connections import Connection
from timberline.benchmarks.measure.cpu_time import list_processes
from timberline.benchmarks.measure.services import Service, exchange
from timberline.registry.runtime.quiet import NO_TELEMETRY

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
CLIENTS = "timberline.benchmarks.dev.clients"
# A round takes its window and what is left of answers; anything near this is a hang.
_ROUND_TIMEOUT_S = 90.0
_ROOT = Path(timberline.__file__).parents[1]
# Competitors in an environment of their own find these programs, and nothing else of ours; none is measured
# while its ONNX Runtime reports home.
COMPETITOR_ENVIRONMENT = {"PYTHONPATH": str(_ROOT), **NO_TELEMETRY}


@dataclass(frozen=True)
class Cores:
    """Which processor is whose."""

    server: int
    clients: int

    @property
    def all(self) -> tuple[int, ...]:
        """Both, for what is measured on the whole machine."""
        return tuple(sorted({self.server, self.clients}))


def choose_cores() -> Cores:
    """The first and the last processor that this process may use.

    Raises:
        BenchmarkError: the system does not let processes be pinned.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise BenchmarkError("processes can be pinned to processors on Linux only", where=sys.platform)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(server=usable[-1], clients=usable[0])


def exchange_round(process: subprocess.Popen[bytes], plan: msgspec.Struct, log: Path) -> RoundOutcome:
    """Have a client process carry out one round.

    Raises:
        BenchmarkError: an answer was not 200, or the process failed.
    """
    outcome = exchange(process, plan, RoundOutcome, timeout_s=_ROUND_TIMEOUT_S, log=log)
    if outcome.failure:
        raise BenchmarkError(outcome.failure, where="round of load")
    return outcome


@dataclass(frozen=True)
class Load:
    """One request over some connections to a running service, sent by the process ``clients``."""

    clients: subprocess.Popen[bytes]
    log: Path
    port: int
    request: bytes
    connections: int
    pids: tuple[int, ...]
    client_cores: Collection[int]

    def run(self, window_s: float, warmup_s: float) -> RoundOutcome:
        """Drive the service for one window."""
        plan = RoundPlan(
            port=self.port,
            request=self.request,
            connections=self.connections,
            warmup_s=warmup_s,
            window_s=window_s,
            pids=self.pids,
            cores=tuple(self.client_cores),
        )
        return exchange_round(self.clients, plan, self.log)


class _RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `benchmarks.dev.competitors.in_process` reads; ``matrix``: float64 in base64."""

    rows: int
    seconds: float
    warmup_s: float
    matrix: bytes


@dataclass(frozen=True)
class GraphAlone:
    """Runs of the graph without a service; a "request" is one Run over ``matrix``, (rows, columns)."""

    process: subprocess.Popen[bytes]
    log: Path
    matrix: npt.NDArray[np.float64]

    def run(self, window_s: float, warmup_s: float) -> RoundOutcome:
        """Run the graph for one window."""
        plan = _RunPlan(
            rows=len(self.matrix), seconds=window_s, warmup_s=warmup_s, matrix=self.matrix.tobytes()
        )
        return exchange_round(self.process, plan, self.log)


Server = Load | GraphAlone


def find_port(service: Service) -> int:
    """The port in the service's address."""
    return int(service.url.rpartition(":")[2])


def await_answer(service: Service, request: bytes, name: str) -> int:
    """Ask until the answer is 200, as one that has announced itself may still be loading.

    Returns:
        Length of the answer's body in bytes.

    Raises:
        ServiceStartError: there was none in time; told with the last answer.
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
        OSError: there is nobody, or no answer in time.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_S) as connected:
        reply = Connection(connected).exchange(request)
    if reply.status != HTTPStatus.OK:
        raise BenchmarkError(f"answered {reply.status}: {reply.content[:300]!r}", where="server")
    return len(reply.content)


def find_processes(service: Service) -> tuple[int, ...]:
    """The service's process and those that it started."""
    return tuple(list_processes(service.process.pid))
