"""One worker process as its supervisor sees it: started, ready, asked to end, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec

from timberline.inference.server.worker_config import Order, Replaced, write_order
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.server.child")

# A worker that was ready for so long has not failed early.
_SETTLED_S = 5.0


async def start_worker(order: Order, flags: Sequence[str]) -> Worker:
    """Start a process and give it its order.

    Args:
        flags: of its command line.

    Raises:
        OSError: the system has no room for another process.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "timberline.inference", "worker", *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=order.fds,
        process_group=0,  # Ctrl+C is for the supervisor, which passes it on
    )
    assert process.stdin is not None
    process.stdin.write(write_order(order))
    with contextlib.suppress(ConnectionError):  # it has ended already, and `wait` will tell
        await process.stdin.drain()
    return Worker(order.worker, process)


class Worker:
    """One worker process; ``slot`` is its place in what the workers share."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process) -> None:
        self.slot = slot
        self.announced: dict[str, Any] | None = None  # what it said when it was ready
        self.is_asked_to_end = False
        self.is_hung = False
        self._process = process
        self._ready_at: float | None = None
        self._beats = 0
        self._silent_looks = 0

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def has_settled(self) -> bool:
        """Whether it was ready for long enough to count as one that works."""
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

    def forgive(self) -> None:
        """Begin to count its silence anew."""
        self._silent_looks = 0

    def end_hung(self) -> None:
        """End it at once, as one that does not hear; another takes its place."""
        self.is_hung = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def get_ready(self) -> bool:
        """Wait until it is ready, or has ended without having been."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                self.announced = decode_json(line, dict[str, Any])
            except msgspec.DecodeError:  # some library's: whoever writes there is not to end the service
                log_event(_logger, "not an announcement", logging.WARNING, pid=self.pid, line=repr(line[:80]))
            else:
                self._ready_at = monotonic()
                return True
        return False

    async def wait(self) -> int:
        """Its exit code, once it has ended; minus the number of the signal that ended it."""
        return await self._process.wait()

    def end(self, number: int) -> None:
        """Ask it to end, or make it."""
        self.is_asked_to_end = True
        if self._process.returncode is None:
            self._process.send_signal(number)
