"""Whoever reads the service's log may stop reading, or go away: the service answers as before."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, ROOT, RunningService

BODY = b'{"rings": 40}'
REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
# Each is a line of some 280 bytes; the pipe and the service's memory hold some 4,000.
REQUESTS = 6000


@contextlib.contextmanager
def started(
    registry: Path, *flags: str, streams: Mapping[int, int | None]
) -> Iterator[subprocess.Popen[bytes]]:
    """A service with these descriptors for its standard ones (None is closed); killed if it is left over."""
    redirect = (
        "import json, os, sys\n"
        "for number, fd in json.loads(sys.argv[1]):\n"
        "    os.close(number) if fd is None else os.dup2(fd, number)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'inference', 'serve', *sys.argv[2:]])"
    )
    arguments = ["--model", "tiny", "--registry", str(registry), "--port", "0", *flags]
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", redirect, json.dumps(list(streams.items())), *arguments],
        cwd=ROOT,
        env={**os.environ, "TIMBERLINE_SERVE_RUNTIME_DIR": str(registry.parent)},
        pass_fds=[fd for fd in streams.values() if fd is not None],
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def find_service(registry: Path, process: subprocess.Popen[bytes]) -> RunningService:
    """The service by the file that it leaves, as its announcement may go nowhere."""
    deadline = time.monotonic() + DEADLINE_S
    found: list[str] = []
    while not found:
        assert time.monotonic() < deadline
        assert process.poll() is None
        found = [path.read_text("utf-8") for path in registry.parent.glob("timberline-*/*")]
        found = [text for text in found if text.endswith("\n")]
    _, _, port, host = found[0].split()
    announced: Mapping[str, object] = {"host": host, "port": int(port)}
    return RunningService(process, announced, Path(os.devnull))


def ask_often(service: RunningService, times: int) -> None:
    """Ask again and again on one connection; every answer must come, and be a prediction."""
    with (
        socket.create_connection((service.host, service.port), DEADLINE_S) as connection,
        connection.makefile("rb") as answers,
    ):
        for _ in range(times):
            connection.sendall(REQUEST)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            assert json.loads(answers.read(length))["model"] == "tiny"


def count_dropped(service: RunningService) -> int:
    """Lines of the log that were dropped, by the metrics of all workers."""
    page = service.request("GET", "/metrics")[2].decode()
    (value,) = re.findall(r"^log_lines_dropped_total (\S+)$", page, re.M)
    return int(float(value))


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM ends it as always."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe without room for a byte, and who fills it has stopped reading."""
    source, target = os.pipe()
    os.set_blocking(target, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(target, b"." * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(target, b".")
    os.set_blocking(target, True)
    try:
        yield source, target
    finally:
        for fd in (source, target):
            with contextlib.suppress(OSError):
                os.close(fd)


def read_until(fd: int, text: bytes) -> bytes:
    """Everything up to and with ``text``."""
    data = b""
    while text not in data:
        assert select.select([fd], [], [], DEADLINE_S)[0], data[-2000:]
        data += os.read(fd, 1 << 16)
    return data


def test_a_log_that_nobody_reads_holds_no_request_up(registry: Path) -> None:
    """One full pipe stopped the whole service; now lines are dropped, counted, and the gap is told."""
    source, target = os.pipe()
    with started(registry, "--request-log", streams={2: target}) as process:
        os.close(target)
        service = find_service(registry, process)
        ask_often(service, REQUESTS)
        dropped = count_dropped(service)
        assert dropped > 0
        data = read_until(source, b'"log lines dropped"')
        while not data.endswith(b"\n"):
            data += os.read(source, 1 << 16)
        lines = [json.loads(line) for line in data.splitlines()]
        told = sum(line["lines"] for line in lines if line["event"] == "log lines dropped")
        answered = sum(line["event"] == "request" and line["route"] == "/predict" for line in lines)
        assert answered + told >= REQUESTS
        assert answered < REQUESTS
        ask_often(service, 1)
        read_until(source, b'"route":"/predict"')
        stop(process)
    os.close(source)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("numbers", [[2], [1], [1, 2]], ids=str)
def test_a_pipe_that_is_full_from_the_beginning_stops_no_start(
    registry: Path, workers: str, numbers: list[int]
) -> None:
    """The log's reader may hang already; the announcement's too, which the service does not depend on."""
    with full_pipe() as (_, target):
        flags = ("--request-log", "--workers", workers)
        with started(registry, *flags, streams=dict.fromkeys(numbers, target)) as process:
            service = find_service(registry, process)
            ask_often(service, 20)
            stop(process)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("kind", ["no stderr", "no output", "nothing", "full disk", "broken pipe"])
def test_a_log_that_cannot_be_written_ends_nothing(registry: Path, workers: str, kind: str) -> None:
    """A terminal that was closed, a disk that is full: the service has answers to give."""
    closed = {"no stderr": [2], "no output": [1, 2], "nothing": [0, 1, 2]}.get(kind, [])
    source, target = os.pipe()
    os.close(source)
    if kind == "full disk":
        os.close(target)
        target = os.open("/dev/full", os.O_WRONLY)
    streams = dict.fromkeys(closed) if closed else dict.fromkeys((1, 2), target)
    with started(registry, "--request-log", "--workers", workers, streams=streams) as process:
        os.close(target)
        service = find_service(registry, process)
        ask_often(service, 20)
        if not closed:  # what is closed is the null device by now, which takes everything
            service.wait_for(lambda: count_dropped(service) >= 20)
        stop(process)


def test_what_stops_a_start_is_told_before_the_end(registry: Path) -> None:
    """The line that says why is the last one, and the process is gone a moment later."""
    arguments = ["-m", "inference", "serve", "--registry", str(registry), "--port", "0"]
    for workers in ("1", "2"):
        done = subprocess.run(
            [sys.executable, *arguments, "--model", "nobody", "--workers", workers],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 2
        assert b"nobody" in done.stderr
        assert done.stdout == b""
