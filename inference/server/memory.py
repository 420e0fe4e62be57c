"""How the process keeps memory once everything that lasts is loaded, and when it gives it back."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from concurrent.futures import Executor

# Arrays of a large request are up to some MB. By default glibc gives such blocks back to the kernel as
# soon as they are free and asks for them again, zeroed page by page, at the next request.
_KEPT_BYTES = 16 * 1024 * 1024
_LARGE_BYTES = 4 * 1024 * 1024
# Large requests that come close behind each other find what the last one left; one that comes later
# pays some milliseconds for the pages that it touches.
_QUIET_S = 0.1
_LIBRARY = ctypes.CDLL(None)
_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
# Young containers between two collections; 700 by default, which a few requests fill.
_YOUNG = 10_000


def share_heap() -> None:
    """Make threads that start later use the existing heap.

    By default every thread gets a heap of its own, and keeps the end of it whatever is asked. One that
    was made before, for the thread that loads, would stay, and others would take it over.
    """
    mallopt = getattr(_LIBRARY, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle_memory() -> None:
    """Exclude what is loaded from garbage collections, and keep freed blocks for reuse.

    A full collection would walk a hundred thousand objects that never die, for some 20 ms in which
    no request is answered. A C library without ``mallopt`` keeps memory as it likes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
    share_heap()
    mallopt = getattr(_LIBRARY, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class Trimmer:
    """Gives freed memory back to the kernel when no large request has ended for a while.

    By itself the C library only gives back what is free at the end of the heap, and `settle_memory` lets
    it keep some of that: what some large requests at once leave behind, no small one will ever need.
    Belongs to the event loop's thread.

    Args:
        pool: where it is done.
        quiet_s: how long a while is.
    """

    def __init__(self, pool: Executor, quiet_s: float = _QUIET_S) -> None:
        self._pool = pool
        self._quiet_s = quiet_s
        self._due = 0.0
        self._is_armed = False

    def note(self) -> None:
        """Note that a large request has ended."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._quiet_s
        if not self._is_armed:
            self._is_armed = True
            loop.call_at(self._due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.time() < self._due:
            loop.call_at(self._due, self._look, loop)
            return
        self._is_armed = False
        gc.collect()  # a refused body hangs on its error's traceback in a circle; what lasts is left out
        trim = getattr(_LIBRARY, "malloc_trim", None)
        if trim is not None:
            loop.run_in_executor(self._pool, trim, 0)  # some milliseconds; ctypes lets go of the interpreter
