"""What the service's benchmark measures: running services and the load they are put under.

The server has one core and the clients another, so that neither takes the other's time; where there
is only one core they share it, and the processor time a request is still right.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

import timberline
from timberline.benchmarks.dev.service.closed_loop import Failed, Round, Seen, read_answer_length
from timberline.benchmarks.errors import BenchmarkError, ServiceStartError
from timberline.benchmarks.measure.services import Service, list_processes, read_line, running_process
from timberline.registry.runtime.documents import decode_json

T = TypeVar("T")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
# A round takes its window and what is left of answers; anything near this is a hang.
_ROUND_TIMEOUT_S = 90.0
_ROOT = Path(timberline.__file__).parents[1]
# Rivals in an environment of their own find these programs, and nothing else of ours.
RIVAL_ENVIRONMENT = {"PYTHONPATH": str(_ROOT)}


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


class Clients:
    """The process of the load generator."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def drive(self, plan: Round) -> Seen:
        """One window of load.

        Raises:
            BenchmarkError: an answer was not 200, or the generator failed.
        """
        answer = _converse(self._process, msgspec.json.encode(plan), "load generator")
        try:
            return decode_json(answer, Seen)
        except msgspec.ValidationError:
            failure = _read(answer, Failed, "load generator").failure
            raise BenchmarkError(failure, where=f"load on port {plan.port}") from None


@contextlib.contextmanager
def launch_clients(log: Path) -> Iterator[Clients]:
    """Start the load generator; it is ended when the block is left."""
    command = [sys.executable, "-m", "timberline.benchmarks.dev.service.closed_loop"]
    with running_process(
        command, log=log, stop_timeout_s=STOP_TIMEOUT_S, environment=RIVAL_ENVIRONMENT
    ) as process:
        yield Clients(process)


@dataclass(frozen=True)
class Load:
    """One request over some connections to a running service."""

    clients: Clients
    port: int
    request: bytes
    connections: int
    pids: tuple[int, ...]
    client_cores: Collection[int]

    def run(self, window_s: float, warmup_s: float) -> Seen:
        """Drive the service for one window."""
        return self.clients.drive(
            Round(
                port=self.port,
                request=self.request,
                connections=self.connections,
                warmup_s=warmup_s,
                window_s=window_s,
                pids=self.pids,
                cores=tuple(self.client_cores),
            )
        )


class _Run(msgspec.Struct, frozen=True):
    runs: int
    elapsed_s: float
    cpu_s: float


@dataclass(frozen=True)
class GraphAlone:
    """Runs of the graph without a service; a "request" is one Run over ``matrix``, (rows, columns)."""

    process: subprocess.Popen[bytes]
    matrix: npt.NDArray[np.float64]

    def run(self, window_s: float, warmup_s: float) -> Seen:
        """Run the graph for one window."""
        asked = {
            "rows": len(self.matrix),
            "seconds": window_s,
            "warmup_s": warmup_s,
            "matrix": base64.b64encode(self.matrix.tobytes()).decode(),
        }
        answer = _converse(self.process, msgspec.json.encode(asked), "graph alone")
        run = _read(answer, _Run, "graph alone")
        return Seen(
            requests=run.runs,
            elapsed_s=run.elapsed_s,
            server_cpu_s=(run.cpu_s,),
            server_wait_s=0.0,
            client_cpu_s=0.0,
            latencies_s=b"",
            answer_bytes=0,
        )


Arm = Load | GraphAlone


def _converse(process: subprocess.Popen[bytes], line: bytes, where: str) -> bytes:
    assert process.stdin is not None
    try:
        process.stdin.write(line + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise BenchmarkError(f"ended with exit code {process.poll()}", where=where) from None
    answer = read_line(process, time.monotonic() + _ROUND_TIMEOUT_S)
    if answer is None:
        state = process.poll()
        how = f"ended with exit code {state}" if state is not None else f"silent for {_ROUND_TIMEOUT_S:g} s"
        raise BenchmarkError(how, where=where)
    return answer


def _read(answer: bytes, kind: type[T], where: str) -> T:
    try:
        return decode_json(answer, kind)
    except msgspec.DecodeError as error:
        raise BenchmarkError(f"answered {answer[:80]!r}", where=where) from error


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
    with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_S) as connection:
        connection.sendall(request)
        data = b""
        while not (length := read_answer_length(data)) or len(data) < length:
            part = connection.recv(1 << 16)
            if not part:
                raise BenchmarkError(f"hung up after {data[:300]!r}", where="server")
            data += part
    return length - data.find(b"\r\n\r\n") - 4


def find_processes(service: Service) -> tuple[int, ...]:
    """The service's process and those that it started."""
    return tuple(list_processes(service.process.pid))
