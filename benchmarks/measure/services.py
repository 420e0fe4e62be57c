"""Processes of the gate: services under test and the Locust process, started and always ended.

Also their processor time, in nanoseconds, and their memory. The kernel's clock of a process counts what all
of its threads ran, user and system, also of those that have ended; unlike ``/proc/<pid>/stat`` it is not
rounded to ticks of 10 ms. Where there is no such clock, `read_cpu_s` asks psutil.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import psutil

from timberline.benchmarks.errors import BenchmarkError, ServiceStartError
from timberline.benchmarks.measure.records import Outcome, Plan
from timberline.registry.runtime.documents import decode_json

# CPUCLOCK_SCHED of <linux/posix-timers.h>: what the scheduler ran, as clock_getcpuclockid(3) makes it.
_SCHEDULED = 2


def read_cpu_s(pid: int) -> float:
    """Seconds of processor time that all threads of the process have used so far, ended ones too.

    Raises:
        BenchmarkError: there is no such process (any longer), or its time cannot be read.
    """
    try:
        if sys.platform == "linux":
            return time.clock_gettime_ns((~pid << 3) | _SCHEDULED) / 1e9
        return sum(psutil.Process(pid).cpu_times()[:2])
    except (OSError, psutil.Error):
        raise BenchmarkError("ended while it was measured", where=f"process {pid}") from None


def read_each_cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """`read_cpu_s` of each process by its name; without those that have ended."""
    found = {}
    for name, pid in pids.items():
        with contextlib.suppress(BenchmarkError):
            found[name] = read_cpu_s(pid)
    return found


def read_wait_s(pid: int) -> float:
    """Seconds in which the process's threads could have run, but others had the processor."""
    waited = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread that has just ended; the second where it ends between opening and reading.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            waited += int((task / "schedstat").read_bytes().split()[1])
    return waited / 1e9


def list_processes(pid: int) -> list[int]:
    """The process and everything below it, now; the process itself comes first."""
    return [pid, *sorted(child.pid for child in psutil.Process(pid).children(recursive=True))]


def read_resident_bytes(pids: Sequence[int]) -> list[int]:
    """Memory of each process now (RSS; pages that several share count for each)."""
    return [int(psutil.Process(pid).memory_info().rss) for pid in pids]


class ProcessMemory(NamedTuple):
    """Memory of one process: now (RSS), and the most since it was started (VmHWM)."""

    resident_bytes: int
    peak_bytes: int


def read_memory(pid: int) -> ProcessMemory:
    """Memory of the process, now and at its peak; Linux only.

    Raises:
        BenchmarkError: there is no such process (any longer).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return ProcessMemory(*(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")))
    except (OSError, KeyError):  # a process that has ended keeps its file for a moment, without these
        raise BenchmarkError("ended while it was measured", where=f"process {pid}") from None


_LOG_TAIL_BYTES = 2000
T = TypeVar("T")
# The module that serves a version.
SERVICE = ("timberline.inference",)


@dataclass(frozen=True)
class Service:
    """A service that is ready; ``ready_s`` is from the start of the process to its announcement."""

    process: subprocess.Popen[bytes]
    url: str
    ready_s: float

    def resident_bytes(self) -> int:
        """Memory of the process now (RSS)."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


class _Announcement(msgspec.Struct):
    event: str
    host: str
    port: int
    model: str
    version: int


class Launch:
    """A service process that may not be ready yet."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path, started: float) -> None:
        self.process = process
        self.started = started
        self._name = name
        self._log = log

    def await_ready(self, timeout_s: float) -> Service:
        """Wait for the announcement that the service writes when it is ready.

        Raises:
            ServiceStartError: it ended, stayed silent for ``timeout_s``, or announced another version.
        """
        line = read_line(self.process, self.started + timeout_s)
        seconds = time.monotonic() - self.started
        if line is None:
            state = self.process.poll()
            how = f"ended with exit code {state}" if state is not None else f"not ready in {timeout_s:g} s"
            raise ServiceStartError(f"{how}. Last log line: {self._last_log_line()}", where=self._name)
        try:
            announced = decode_json(line, _Announcement)
        except msgspec.DecodeError as error:
            raise ServiceStartError(f"announced {line[:80]!r}", where=self._name) from error
        if f"{announced.model}@{announced.version}" != self._name:
            raise ServiceStartError(f"announced {announced.model}@{announced.version}", where=self._name)
        return Service(self.process, f"http://{announced.host}:{announced.port}", seconds)

    def _last_log_line(self) -> str:
        tail = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return tail.splitlines()[-1][:300] if tail else "none"


def read_line(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """The next line on stdout, or None when the process ended or the deadline passed before it.

    ``deadline`` is on the clock of `time.monotonic`. A process writes a line only when it was asked to,
    so that there is never a second one behind it.
    """
    assert process.stdout is not None
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in data:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = process.stdout.read1(65536)  # type: ignore[attr-defined]  # a BufferedReader
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                return None
            data += chunk
    return data.partition(b"\n")[0]


@contextlib.contextmanager
def launch_service(
    registry: str,
    model: str,
    version: int,
    *,
    log: Path,
    stop_timeout_s: float,
    flags: Sequence[str] = (),
    cores: Collection[int] = (),
    program: Sequence[str] = SERVICE,
    checkout: Path | None = None,
) -> Iterator[Launch]:
    """Start ``model@version`` from the registry on a free port; it is ended when the block is left.

    Args:
        flags: more flags of ``timberline serve``.
        program: the module, and flags before its verb, that stand in the place of ``inference``.
        cores: the processors that it may use; none given is all.
        checkout: another checkout of this project, whose service it is.
    """
    name = f"{model}@{version}"
    environment = None
    if checkout:
        environment = {"PYTHONPATH": str(checkout / "src")}
        if program == SERVICE:
            # The name that it has in every checkout, also in those from before there was one package.
            program = ("inference",)
    command = [sys.executable, "-m", *program, "serve", "--model", name, "--registry", registry]
    command += ["--host", "127.0.0.1", "--port", "0", *flags]
    with launch_command(
        command,
        name,
        log=log,
        stop_timeout_s=stop_timeout_s,
        cores=cores,
        environment=environment,
        folder=checkout,
    ) as launch:
        yield launch


@contextlib.contextmanager
def launch_command(
    command: list[str],
    name: str,
    *,
    log: Path,
    stop_timeout_s: float,
    cores: Collection[int] = (),
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Launch]:
    """Start any service that announces itself as ours does, as ``name`` (model@version)."""
    started = time.monotonic()
    with running_process(
        command, log=log, stop_timeout_s=stop_timeout_s, cores=cores, environment=environment, folder=folder
    ) as process:
        yield Launch(process, name, log, started)


def launch_driver(
    *, log: Path, stop_timeout_s: float, module: str = "timberline.benchmarks.measure.locust_user"
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a Locust process, which waits for its plan; see `drive`."""
    return running_process([sys.executable, "-m", module], log=log, stop_timeout_s=stop_timeout_s)


def drive(driver: subprocess.Popen[bytes], plan: Plan, *, timeout_s: float, log: Path) -> Outcome:
    """Hand a plan to the Locust process and wait for its outcome; it may get another one afterwards.

    Raises:
        BenchmarkError: it failed, hung, or ended without an outcome (a stalled machine may end a
            Locust run without a single request and with exit code 0).
    """
    return exchange(driver, plan, Outcome, timeout_s=timeout_s, log=log)


def exchange(
    driver: subprocess.Popen[bytes], message: msgspec.Struct, kind: type[T], *, timeout_s: float, log: Path
) -> T:
    """Send a message to the load generator, a line of JSON, and wait for its answer.

    Raises:
        BenchmarkError: it failed, hung, or ended without an answer.
    """
    assert driver.stdin is not None
    deadline = time.monotonic() + timeout_s
    try:
        driver.stdin.write(msgspec.json.encode(message) + b"\n")
        driver.stdin.flush()
        answer = read_line(driver, deadline)
    except BrokenPipeError:
        answer = None
    if answer is None and driver.poll() is None:
        raise BenchmarkError(f"not finished after {timeout_s:g} s", where="load generator")
    try:
        return decode_json(answer or b"", kind)
    except msgspec.DecodeError as error:
        raise BenchmarkError(
            f"ended with exit code {driver.returncode} and no outcome",
            where="load generator",
            hint=f"See {log}.",
        ) from error


@contextlib.contextmanager
def running_process(
    command: list[str],
    *,
    log: Path,
    stop_timeout_s: float,
    cores: Collection[int] = (),
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with pipes to its input and output, ended when the block is left.

    Args:
        log: what it writes to its standard error is appended here.
        stop_timeout_s: how long it may take to end after SIGTERM before it is killed.
        cores: the processors that it and its children may use (Linux only); none given is all.
        environment: set for it beside our own variables.
        folder: where it runs, and finds modules first; here by default.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(
            _leash(command, cores),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Its own session: Ctrl-C reaches us alone, and we end it in order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process, stop_timeout_s)


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, then SIGKILL when it does not end in time or we are interrupted again."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _leash(command: list[str], cores: Collection[int]) -> list[str]:
    """Linux: have the kernel end the process when the gate is killed with no chance to clean up.

    Pins it to ``cores``, too.

    A tiny interpreter asks for it and then becomes ``command``; asking between fork and exec would
    run Python in a process that may have had threads.
    """
    if sys.platform != "linux":  # pragma: no cover - the tests run on Linux
        return command
    gate, mask = str(os.getpid()), ",".join(map(str, sorted(cores)))
    return [sys.executable, "-I", "-S", "-c", _LEASH, gate, mask, *command]


# 1 is PR_SET_PDEATHSIG, 15 SIGTERM; <linux/prctl.h>. It sends nothing for a gate that was killed before
# this call: then the parent is another process.
_LEASH = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
if sys.argv[2]:
    os.sched_setaffinity(0, map(int, sys.argv[2].split(",")))
os.execv(sys.argv[3], sys.argv[3:])
"""
_Plan = TypeVar("_Plan")


def run_users(runner: Any, users: int, begin: Callable[[], object] | None = None) -> tuple[float, float]:
    """Start the users of a local runner, and wait until all have stopped by themselves.

    Args:
        runner: of Locust.
        users: how many.
        begin: called just before the first one starts.

    Returns:
        how far the wall clock and the monotonic clock parted, in seconds, and the processor time of this
        process as a share of one core.
    """
    # No collection meanwhile: it would hit one request or the other.
    gc.collect()
    gc.disable()
    if begin is not None:
        begin()
    wall, steady, cpu = time.time(), time.monotonic(), time.process_time()
    runner.start(users, spawn_rate=max(users, 1))
    runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    elapsed = max(time.monotonic() - steady, 1e-9)
    jump = abs((time.time() - wall) - elapsed)
    share = (time.process_time() - cpu) / elapsed
    gc.enable()
    runner.quit()
    return jump, share


def serve_plans(kind: type[_Plan], run: Callable[[_Plan], object]) -> None:
    """Run every plan that comes on stdin, a line each, and answer each with a line."""
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(run(decode_json(line, kind))) + b"\n")
        sys.stdout.buffer.flush()
