"""Progress of a long stage: a bar on a terminal, a plain log line now and then otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from registry.ground.logs import log_event

_BAR_WIDTH = 28
_REDRAW_S = 0.1
_LOG_INTERVAL_S = 10.0


class Progress:
    """Report how far a piece of work has come; use as a context manager.

    Args:
        what: what is being done, in a few words.
        total: size of the work in ``unit``, or None when it is not known.
        unit: what ``advance`` counts: ``rows``, ``bytes``, ``steps``.
        clock: monotonic seconds; a parameter so that tests need not wait.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._logger = logger
        self._clock = clock
        self._done = 0
        self._note = ""
        self._started = self._reported = clock()
        self._bar = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int, note: str = "") -> None:
        """Count ``count`` more units as done; ``note`` replaces the text behind the bar."""
        self._done += count
        self._note = note or self._note
        now = self._clock()
        if now - self._reported >= (_REDRAW_S if self._bar else _LOG_INTERVAL_S):
            self._reported = now
            self._draw() if self._bar else self._log()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._draw()
            sys.stderr.write("\n")

    def _draw(self) -> None:
        seconds = self._clock() - self._started
        if self._total:
            share = min(self._done / self._total, 1.0)
            filled = round(share * _BAR_WIDTH)
            bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:4.0%}"
        else:
            bar = f"{self._done:,} {self._unit}"
        sys.stderr.write(f"\r\x1b[K{self._what} {bar} {seconds:.0f} s {self._note}")
        sys.stderr.flush()

    def _log(self) -> None:
        fields: dict[str, Any] = {"done": self._done, "unit": self._unit}
        if self._total:
            fields["total"] = self._total
        if self._note:
            fields["note"] = self._note
        log_event(self._logger, self._what, **fields)
