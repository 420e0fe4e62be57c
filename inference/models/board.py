"""What one of a service's processes finds out about a bucket for all of them, in memory that they share.

Each question to a bucket costs money; so one process asks, and it tells the others when an alias has moved
and whether the bucket answers at all. Who asks holds a lock that the kernel frees when the process ends.

This module imports nothing heavy, as the supervisor imports it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from timberline.inference.metrics.shared_memory import open_memory

_MOVES, _ANSWERED_AT, _FAILING_SINCE = 0, 1, 2  # in words
_BYTES = 3 * 8


def create_board() -> int:
    """File descriptor of a new board's memory, which is gone with the last process that has it."""
    fd = open_memory("timberline-board")
    os.ftruncate(fd, _BYTES)
    return fd


class Board:
    """Numbers of eight bytes each, which processors read and store as one.

    ``seen_moves`` are those that were there when this process attached: what moves later is news to it.

    Args:
        fd: of `create_board`, and never closed: that would free the lock. None for a process on its own.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = create_board() if fd is None else fd
        view = memoryview(mmap.mmap(self._fd, _BYTES))
        self._counts, self._times = view.cast("q"), view.cast("d")
        self.seen_moves = self.moves

    def lead(self) -> bool:
        """Whether this process is the one that asks: from the first time on that no other living one is."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    @property
    def moves(self) -> int:
        """How many times all processes had to look where their aliases point."""
        return self._counts[_MOVES]

    @property
    def answered_at(self) -> float:
        """When the registry last answered, in seconds since 1970; 0 if it has not."""
        return self._times[_ANSWERED_AT]

    @property
    def failing_since(self) -> float:
        """Since when it does not answer, in seconds since 1970; 0 if it does."""
        return self._times[_FAILING_SINCE]

    def tell_moved(self) -> None:
        """Have all processes look; only for the one that asks."""
        self._counts[_MOVES] += 1

    def note_answer(self, now: float) -> None:
        """Note that the registry has answered."""
        self._times[_ANSWERED_AT] = now
        self._times[_FAILING_SINCE] = 0.0

    def note_failure(self, now: float) -> bool:
        """Note that it has not; whether that is news."""
        if self.failing_since:
            return False
        self._times[_FAILING_SINCE] = now
        return True
