"""How far a piece of work has come: a bar on a terminal, and a log line now and then elsewhere.

A thread also watches a stage that works in steps of unknown length (`Progress.begin`), so that a bar or a
line appears while one statement runs for minutes.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from timberline.registry.runtime.logs import log_event

_BAR_WIDTH = 28
_REDRAW_S = 0.1
_LOG_INTERVAL_S = 10.0
# How often the thread looks whether it is time for a line.
_CHECK_INTERVAL_S = 0.5


class Progress:
    """Report how far a piece of work has come; use as a context manager.

    Args:
        what: what is being done, in a few words.
        total: size of the work in ``unit``, or None when it is not known.
        unit: what ``advance`` counts: ``rows``, ``bytes``, ``steps``.
        clock: monotonic seconds; a parameter so that tests need not wait.
        running: the share of the running part of a step that is done, 0 to 1 (below 0: not known). A
            thread calls it, from ``__enter__`` to ``__exit__``.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        running: Callable[[], float] | None = None,
    ) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._logger = logger
        self._clock = clock
        self._running = running
        self._done = 0
        self._note = ""
        # The step that is being done: its size in units; its parts: all, done, running (0: all of them).
        self._size, self._parts, self._parts_done, self._parts_running = 0, 1, 0, 0
        self._started = self._reported = clock()
        self._bar = sys.stderr.isatty()
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._running is not None:
            self._thread.start()
        return self

    def begin(self, note: str, *, size: int = 1, parts: int = 1) -> None:
        """Count the step before as done; begin the one named ``note``, of ``size`` units, in ``parts`` parts.

        All parts run at once unless `begin_part` says otherwise.
        """
        with self._lock:
            done, self._size = self._size, size
            self._parts, self._parts_done, self._parts_running = max(parts, 1), 0, 0
            self.advance(done, note)

    def begin_part(self, count: int = 1) -> None:
        """Count the parts of the step that ran as done, and ``count`` more as running."""
        with self._lock:
            self._parts_done += self._parts_running
            self._parts_running = count
            self._report()

    def advance(self, count: int, note: str = "") -> None:
        """Count ``count`` more units as done; ``note`` replaces the text behind the bar."""
        with self._lock:
            self._done += count
            self._note = note or self._note
            self._report()

    def _look(self) -> None:
        while not self._is_over.wait(_CHECK_INTERVAL_S):
            with self._lock:
                self._report()

    def _report(self) -> None:
        """Draw or log, if the last time is long enough ago."""
        now = self._clock()
        if now - self._reported >= (_REDRAW_S if self._bar else _LOG_INTERVAL_S):
            self._reported = now
            self._draw() if self._bar else self._log()

    def _share(self) -> float:
        """How much of the step is done, 0 to 1."""
        # DuckDB says 100 % while it still writes what it has read.
        running = min(max(self._running() if self._running else 0.0, 0.0), 0.99)
        done = self._parts_done + running * (self._parts_running or self._parts)
        return min(done / self._parts, 1.0)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        if kind is None:
            self._done += self._size
        self._size = 0
        if self._bar:
            self._draw()
            sys.stderr.write("\n")

    def _draw(self) -> None:
        seconds = self._clock() - self._started
        step = self._share() if self._size else 0.0
        if self._total:
            share = min((self._done + self._size * step) / self._total, 1.0)
            filled = round(share * _BAR_WIDTH)
            bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:4.0%}"
        else:
            bar = f"{self._done:,} {self._unit}"
        note = f"{self._note} {step:.0%}" if self._size else self._note
        sys.stderr.write(f"\r\x1b[K{self._what} {bar} {seconds:.0f} s {note}")
        sys.stderr.flush()

    def _log(self) -> None:
        fields: dict[str, Any] = {"done": self._done, "unit": self._unit}
        if self._total:
            fields["total"] = self._total
        if self._note:
            fields["note"] = self._note
        if self._size:
            fields["share"] = round(self._share(), 2)
        log_event(self._logger, self._what, **fields)
