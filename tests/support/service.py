"""The real service as a process of its own, started and stopped as an operator would.

with running_service(registry, "tiny") as service:
    status, headers, body = service.request("POST", "/predict", {"rings": 40})

The port is a free one, read from the line that the service announces itself with. Its log goes
into the message of every failure. Leaving the block sends SIGTERM and asserts a clean exit.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
# Far beyond what starting and stopping take (under 2 s), so that a busy machine fails no test.
DEADLINE_S = 60.0


class RunningService:
    """A service that has announced itself; ``announced`` is what it said."""

    def __init__(self, process: subprocess.Popen[bytes], announced: Mapping[str, Any], log: Path) -> None:
        self.process = process
        self.announced = announced
        self.host: str = announced["host"]
        self.port: int = announced["port"]
        self.expected_code = 0  # for tests that end it otherwise than by SIGTERM
        self._log = log

    @property
    def log(self) -> str:
        """Everything the service has logged so far; whole lines, as long as it may be writing one."""
        text = self._log.read_text("utf-8", errors="replace")
        return text if self.process.poll() is not None else text[: text.rfind("\n") + 1]

    def list_events(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log that tell of ``event``, so far."""
        whole = self.log.rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if line["event"] == event]

    @property
    def worker_pids(self) -> list[int]:
        """Of the worker processes that are there, by the log; the last started comes last."""
        ended = {line["pid"] for line in self.list_events("worker ended")}
        return [line["pid"] for line in self.list_events("worker started") if line["pid"] not in ended]

    def wait_for(self, fact: Callable[[], object]) -> None:
        """Ask again until ``fact()`` holds; fails when the deadline has passed."""
        deadline = time.monotonic() + DEADLINE_S
        while not fact():
            assert time.monotonic() < deadline, self.log

    def open_socket(self) -> socket.socket:
        """A bare connection that sends at once what it is given; the caller closes it."""
        connection = socket.create_connection((self.host, self.port), DEADLINE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def wait_for_events(self, event: str, count: int) -> None:
        """Until the log tells of ``event`` that many times."""
        self.wait_for(lambda: len(self.list_events(event)) == count)

    def connect(self) -> http.client.HTTPConnection:
        """A new connection; the caller closes it."""
        return http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of one request on a connection of its own.

        ``body`` is sent as it stands if it is bytes, else as JSON with its content type.
        """
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get_json(self, path: str) -> Any:
        """The JSON behind ``path``, which must answer 200."""
        status, _, body = self.request("GET", path)
        assert status == http.HTTPStatus.OK, f"{path}: {status} {body!r}\n{self.log}"
        return json.loads(body)

    def predict(self, body: object) -> tuple[int, Any]:
        """Status and JSON of ``POST /predict``."""
        status, _, answer = self.request("POST", "/predict", body)
        return status, json.loads(answer)

    def stop(self) -> None:
        """Send SIGTERM and assert that the process ends with 0 and logged no traceback."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait()
        assert "Traceback" not in self.log, self.log

    def wait(self) -> None:
        """Assert that the process ends with the expected code by itself before the deadline."""
        try:
            code = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service did not stop\n{self.log}") from None
        assert code == self.expected_code, f"the service ended with {code}\n{self.log}"


@contextlib.contextmanager
def running_service(
    registry: Path | str,
    model: str,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    program: Path | None = None,
    is_bare: bool = False,
) -> Iterator[RunningService]:
    """Start ``timberline serve`` and yield it once it is ready.

    ``program`` is an installed ``timberline``, run outside of the checkout in place of the checkout's own;
    ``is_bare`` is without a flag, as a container is started: host and port are the environment's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        process = _start(registry, model, flags, environment, log, program, is_bare)
        try:
            service = RunningService(process, _read_announcement(process, log), log)
            yield service
            service.stop()
        finally:
            _end(process)


@contextlib.contextmanager
def running_command(
    command: Sequence[str | Path], environment: Mapping[str, str]
) -> Iterator[RunningService]:
    """As `running_service`, of a command that becomes the service or hands it its signals (`docker run`)."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [str(word) for word in command], env=environment, stdout=subprocess.PIPE, stderr=stderr
            )
        try:
            service = RunningService(process, _read_announcement(process, log), log)
            yield service
            service.stop()
        finally:
            _end(process)


class Serve(Protocol):
    """`running_service` of a registry that is known, without the block: conftest's `serve`."""

    def __call__(
        self,
        model: str,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        is_bare: bool = False,
    ) -> RunningService:
        """Start a service and wait until it is ready."""


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between opening and reading
        return True
    return state == "Z"


class StartingService:
    """A service that has not announced itself, and may never."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def list_events(self, event: str) -> list[dict[str, Any]]:
        """As `RunningService.list_events`."""
        whole = self._log.read_text("utf-8").rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if line["event"] == event]

    def wait_for(self, fact: Callable[[], object]) -> None:
        """As `RunningService.wait_for`."""
        deadline = time.monotonic() + DEADLINE_S
        while not fact():
            assert time.monotonic() < deadline, self._log.read_text("utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def starting_service(registry: Path | str, model: str, *flags: str) -> Iterator[StartingService]:
    """Start a service and do not wait for it; it is killed at the end of the block if it is still there."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        process = _start(registry, model, flags, None, log)
        try:
            yield StartingService(process, log)
        finally:
            _end(process)


def read_cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def refuse_to_start(
    registry: Path | str, model: str, *flags: str, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and log of a service that must not get ready; fails if it announces itself."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        process = _start(registry, model, flags, environment, log)
        try:
            said, _ = process.communicate(timeout=DEADLINE_S)
            assert not said, f"the service announced itself: {said!r}"
            return process.returncode, log.read_text("utf-8")
        finally:
            _end(process)


def _start(
    registry: Path | str,
    model: str,
    flags: tuple[str, ...],
    environment: Mapping[str, str] | None,
    log: Path,
    program: Path | None = None,
    is_bare: bool = False,
) -> subprocess.Popen[bytes]:
    command = [str(program), "serve"] if program else [sys.executable, "-m", "inference", "serve"]
    given = {"MODEL": model, "REGISTRY": str(registry)} if is_bare else {}
    if not is_bare:
        command += ["--model", model, "--registry", str(registry), "--host", "127.0.0.1", "--port", "0"]
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [*command, *flags],
            cwd=log.parent if program else ROOT,
            env={**os.environ, **given, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )


def _read_announcement(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    deadline = time.monotonic() + DEADLINE_S
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            ready = selector.select(deadline - time.monotonic())
            part = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not part:
                raise AssertionError(f"the service did not get ready\n{log.read_text('utf-8')}")
            line += part
    announced: dict[str, Any] = json.loads(line)
    assert announced["event"] == "listening", announced
    return announced


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind when a test failed."""
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
