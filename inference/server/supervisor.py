"""Several workers behind one listening socket, and the process that watches over them.

The supervisor answers nothing and loads nothing that could fail: no numpy, no ONNX Runtime, no web
server. It holds the listening sockets and the memory that workers share, starts the workers, starts
others in place of those that end, replaces them one by one on SIGHUP, and ends them on SIGTERM.
If the supervisor is killed, its workers see the end of their standard input and end as on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any, Literal

import msgspec

from timberline.inference.config import Replaced, ServiceConfig, WorkerConfig, write_worker_config
from timberline.inference.metrics.shared_memory import Memory, create_memory, open_memory
from timberline.inference.models.board import create_board
from timberline.inference.server.acceptor import (
    ConnectionCounts,
    StateFile,
    bind_socket,
    stop_new_connections,
)
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.logs import log_event

# A worker that was ready for so long has not failed early.
_SETTLED_S = 5.0


async def start_worker(config: WorkerConfig, flags: Sequence[str]) -> Worker:
    """Start a worker process and send it its settings.

    Args:
        flags: of its command line.

    Raises:
        OSError: the system has no room for another process.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "timberline.inference", "worker", *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=config.fds,
        process_group=0,  # Ctrl+C is for the supervisor, which passes it on
    )
    assert process.stdin is not None
    process.stdin.write(write_worker_config(config))
    with contextlib.suppress(ConnectionError):  # it has ended already; `wait` returns at once
        await process.stdin.drain()
    return Worker(config.worker, process)


class Worker:
    """One worker process; ``slot`` is its place in what the workers share."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process) -> None:
        self.slot = slot
        self.announced: dict[str, Any] | None = None  # its announcement, once it is ready
        self.is_asked_to_end = False
        self.is_hung = False
        self._process = process
        self._ready_at: float | None = None
        self._beats = 0
        self._silent_looks = 0

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._process.pid

    @property
    def has_settled(self) -> bool:
        """Whether it was ready for long enough to count as started."""
        return self._ready_at is not None and monotonic() - self._ready_at >= _SETTLED_S

    @property
    def replaced_as(self) -> Replaced:
        """Why another one is to take its place, now that it has ended."""
        if self.is_hung:
            return "hung"
        return "killed" if (self._process.returncode or 0) < 0 else "ended"

    def note_beats(self, beats: int) -> int:
        """How many times in a row its beats were the same as the time before."""
        self._silent_looks = self._silent_looks + 1 if beats == self._beats else 0
        self._beats = beats
        return self._silent_looks

    def reset_silence(self) -> None:
        """Reset the count of silent looks."""
        self._silent_looks = 0

    def kill_hung(self) -> None:
        """Kill it, as it does not react to signals; another takes its place."""
        self.is_hung = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def get_ready(self) -> bool:
        """Wait until it is ready, or has ended without having been."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                self.announced = decode_json(line, dict[str, Any])
            except msgspec.DecodeError:  # a library wrote there; the service goes on
                log_event(_logger, "not an announcement", logging.WARNING, pid=self.pid, line=repr(line[:80]))
            else:
                self._ready_at = monotonic()
                return True
        return False

    async def wait(self) -> int:
        """Its exit code, once it has ended; minus the number of the signal that ended it."""
        return await self._process.wait()

    def end(self, number: int) -> None:
        """Send it a signal to end."""
        self.is_asked_to_end = True
        if self._process.returncode is None:
            self._process.send_signal(number)


_logger = logging.getLogger("inference.server.supervisor")

# How long to wait before starting another in place of one that failed early: doubled each time.
_FIRST_DELAY_S = 0.1
_LAST_DELAY_S = 5.0
# What a worker may take to end beyond the times of its settings.
_END_S = 5.0
# How often beats are looked for (a worker's comes every 0.5 s), and how many looks without a new one make
# it stuck: 3.5 to 4.5 s, where no callback of the event loop takes one. Looks and not seconds, as in a
# machine that was suspended many of these pass at once.
_LOOK_S = 0.5
_MOST_SILENT_LOOKS = 7
# The same for one that has not begun to beat: Python itself is still being read from a slow disk.
_MOST_UNBORN_LOOKS = 120


def supervise(config: ServiceConfig, flags: Sequence[str]) -> int:
    """Run ``config.workers`` workers until SIGTERM or SIGINT; returns the exit code.

    If a worker cannot be started in the first place, the others are ended and its exit code is
    returned; its log says why.

    Args:
        flags: of the command line, for the workers' logs.

    Raises:
        ConfigError: a port cannot be had.
    """
    with contextlib.ExitStack() as stack:
        ports = [config.port, config.metrics_port] if config.metrics_port else [config.port]
        sockets = [stack.enter_context(bind_socket(config.host, port, config.reuse_port)) for port in ports]
        state_file = stack.enter_context(StateFile(config.runtime_dir))
        code = asyncio.run(Supervisor(config, sockets, flags, state_file).run())
    log_event(_logger, "stopped", workers=config.workers)
    return code


class Supervisor:
    """Starts, watches, replaces and ends the workers; see the module.

    Args:
        config: the service's settings.
        sockets: bound sockets: the service's, and the metrics' if they have one of their own.
        flags: of the workers' command line.
        state_file: written when all workers are ready.
    """

    def __init__(
        self,
        config: ServiceConfig,
        sockets: Sequence[socket.socket],
        flags: Sequence[str],
        state_file: StateFile,
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._flags = flags
        self._state_file = state_file
        self._slots = config.workers + 1
        self._counts_fd = ConnectionCounts.create_memory(self._slots)
        self._counts = ConnectionCounts(self._counts_fd, self._slots)
        self._metrics: Memory = create_memory(self._slots)
        self._trials_fd = open_memory("timberline-trials")
        self._board_fd = create_board()
        self._free = list(range(self._slots))
        self._workers: dict[int, Worker] = {}  # by slot
        self._tasks: set[asyncio.Task[None]] = set()
        self._reapers: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._signals: list[int] = []
        self._roll = asyncio.Event()

    async def run(self) -> int:
        """Start the workers, announce the service, watch until a signal stops it; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._roll.set)
        self._background(self._watch_beats())
        try:
            code = await self._start()
            if code is None:
                self._background(self._roll_when_asked())
                await self._stop.wait()
            await self._end()
        finally:
            for worker in self._workers.values():
                worker.end(signal.SIGKILL)
        return code or 0

    # Starting

    async def _start(self) -> int | None:
        """Start all; an exit code if one ended, or if the service is to end, before all were ready."""
        # One by itself first: what keeps it from starting would keep all, and is logged once.
        first = await self._launch()
        if first.announced is None:
            return 0 if self._signals else await first.wait()
        others = await asyncio.gather(*[self._launch() for _ in range(self._config.workers - 1)])
        for worker in (first, *others):
            if worker.announced is None:
                return 0 if self._signals else await worker.wait()
            self._background(self._keep(worker))
        self._state_file.write(*self._sockets[0].getsockname()[:2])
        log_event(_logger, "all workers ready", workers=self._config.workers)
        sys.stdout.write(msgspec.json.encode(first.announced).decode() + "\n")
        sys.stdout.flush()
        return None

    async def _launch(self, replaces: Replaced | Literal[""] = "") -> Worker:
        """Start a worker in a free slot and wait until it is ready, or has ended instead.

        Raises:
            OSError: the system has no room for another process.
        """
        slot = self._free.pop(0)
        try:
            worker = await start_worker(self._configure_worker(slot, replaces), self._flags)
        except OSError:
            self._free.insert(0, slot)
            raise
        self._workers[slot] = worker
        self._reapers.add(self._background(self._reap(worker)))
        log_event(_logger, "worker started", worker=slot, pid=worker.pid)
        if self._signals:
            worker.end(self._signals[0])
        await worker.get_ready()
        return worker

    async def _try_to_launch(self, replaces: Replaced) -> Worker | None:
        """As `_launch`, but None if it did not get ready."""
        try:
            worker = await self._launch(replaces)
        except OSError as error:
            log_event(_logger, "worker not started", logging.ERROR, error=str(error))
            return None
        return worker if worker.announced else None

    def _configure_worker(self, slot: int, replaces: Replaced | Literal[""]) -> WorkerConfig:
        fds = [bound.fileno() for bound in self._sockets]
        return WorkerConfig(
            config=self._config,
            worker=slot,
            slots=self._slots,
            socket_fd=fds[0],
            metrics_socket_fd=fds[1] if len(fds) > 1 else None,
            counts_fd=self._counts_fd,
            metrics_fd=self._metrics.fd,
            trials_fd=self._trials_fd,
            board_fd=self._board_fd,
            replaces=replaces,
        )

    # Watching

    async def _reap(self, worker: Worker) -> None:
        """Wait for the end of a worker and free its slot."""
        code = await worker.wait()
        self._counts.clear(worker.slot)
        self._metrics.release(worker.slot)
        del self._workers[worker.slot]
        self._free.insert(0, worker.slot)
        how = {"signal": signal.Signals(-code).name} if code < 0 else {"exit_code": code}
        # One that failed may have been asked to end while it did.
        is_expected = worker.is_asked_to_end and code <= 0
        level = logging.INFO if is_expected else logging.ERROR
        log_event(_logger, "worker ended", level, worker=worker.slot, pid=worker.pid, **how)

    async def _watch_beats(self) -> None:
        """End workers that are stuck, so that others take their place.

        If all are silent at once it may as well be the machine that stood still: then only the first.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            there = self._workers.values()
            watched = [worker for worker in there if not (worker.is_asked_to_end or worker.is_hung)]
            silent = [worker for worker in watched if self._is_silent(worker)]
            if len(silent) == len(watched) > 1:
                for worker in silent[1:]:
                    worker.reset_silence()
                del silent[1:]
            for worker in silent:
                log_event(_logger, "worker hung", logging.ERROR, worker=worker.slot, pid=worker.pid)
                worker.kill_hung()

    def _is_silent(self, worker: Worker) -> bool:
        beats = self._metrics.read_beats(worker.slot)
        return worker.note_beats(beats) >= (_MOST_SILENT_LOOKS if beats else _MOST_UNBORN_LOOKS)

    async def _keep(self, worker: Worker) -> None:
        """Start another whenever the worker has ended without having been asked to."""
        failures = 0
        while True:
            await worker.wait()
            if worker.is_asked_to_end or self._signals:
                return
            failures = 0 if worker.has_settled else failures + 1
            why = worker.replaced_as
            while (replacement := await self._replace(failures, why)) is None:
                failures += 1
                if self._signals:
                    return
            worker = replacement
            log_event(_logger, "worker restarted", worker=worker.slot, pid=worker.pid)

    async def _replace(self, failures: int, why: Replaced) -> Worker | None:
        """Start another after so many early failures; None if it is one more, or the end has begun."""
        if failures:
            await asyncio.sleep(min(_FIRST_DELAY_S * 2 ** (failures - 1), _LAST_DELAY_S))
        return None if self._signals else await self._try_to_launch(why)

    async def _roll_when_asked(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            log_event(_logger, "rolling restart begun", workers=self._config.workers)
            done = await self._replace_all()
            log_event(_logger, "rolling restart done" if done else "rolling restart given up")

    async def _replace_all(self) -> bool:
        """Replace the workers one by one, each by one that is ready; False if one did not get ready."""
        for old in list(self._workers.values()):
            if old.slot not in self._workers or old.announced is None:
                continue  # it has ended meanwhile, or has only just begun
            new = await self._try_to_launch("rolled")
            if new is None:
                return False  # its log says why; the old one keeps answering
            self._background(self._keep(new))
            await self._dismiss(old)
        return True

    async def _dismiss(self, worker: Worker) -> None:
        """Ask a worker to end as it would with the service, and wait for it."""
        worker.end(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._end_s(signal.SIGTERM)):
                await worker.wait()
        except TimeoutError:
            worker.end(signal.SIGKILL)
            await worker.wait()

    # Ending

    def _take_signal(self, number: int) -> None:
        """Begin to end, or go on to the next step, as `inference.server.listener.Server` does."""
        is_patient = not self._signals and number != signal.SIGINT and self._config.drain_s
        self._signals.append(number)
        self._stop.set()
        if is_patient:
            asyncio.get_running_loop().call_later(self._config.drain_s, self._stop_new_connections)
        else:
            self._stop_new_connections()
        for worker in list(self._workers.values()):
            worker.end(number if len(self._signals) == 1 else signal.SIGINT)

    def _stop_new_connections(self) -> None:
        """Stop new connections; the workers accept those that have begun."""
        for bound in self._sockets:
            if bound.fileno() >= 0:
                stop_new_connections(bound)
                bound.close()

    async def _end(self) -> None:
        """Wait for the workers to end as they were asked to, and end those that do not."""
        if not self._signals:
            self._take_signal(signal.SIGINT)
        await asyncio.wait(self._reapers, timeout=self._end_s(self._signals[0]))
        for worker in list(self._workers.values()):
            worker.end(signal.SIGKILL)
        await asyncio.wait(self._reapers)

    def _end_s(self, number: int) -> float:
        """How long a worker may take to end after this signal."""
        drain_s = 0.0 if number == signal.SIGINT else self._config.drain_s
        return drain_s + self._config.shutdown_grace_s + _END_S

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
