"""The thread that follows the registry while the event loop answers requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from time import monotonic, time

from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.loaded import Change, LoadedModels
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.models.follower")

# How long the end of the process waits for a look at the registry that is under way.
_STOP_S = 2.0
# A look takes milliseconds, one that loads a version a second or two; this one has met something else.
_LONG_LOOK_S = 5.0
_TICK_S = 1.0


class Watcher:
    """Looks at the registry every so often, and has the event loop publish what it found.

    A thread of its own and not a task: a look may take as long as the registry takes to answer, and
    a new version's verification as long as its files are large. It is a daemon, so that a registry
    that never answers cannot hold up the end of the process. While it does not, the event loop says so in
    the log, and the time of the last look in the metrics stands still.

    Args:
        models: loaded; belongs to this thread from `start` on.
        state: where versions are published.
        metrics: where swaps are counted.
        every_s: seconds between looks; 0 is never.
    """

    def __init__(
        self, models: LoadedModels, state: ServiceState, metrics: ServiceMetrics, every_s: float
    ) -> None:
        self._models = models
        self._state = state
        self._metrics = metrics
        self._every_s = every_s
        self._stopping = threading.Event()
        self._began_at: float | None = None  # of the look under way
        self._long_look: float | None = None  # the last one logged, by when it began
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch, if there is anything that may move."""
        if self._every_s and self._models.is_movable:
            self._thread = threading.Thread(target=self._run, args=(loop,), name="watcher", daemon=True)
            self._thread.start()
            self._metrics.note_look(time())  # the start has looked everywhere
            self._tick(loop)

    def stop(self) -> None:
        """Stop watching; nothing is published any more."""
        self._stopping.set()
        self._models.stop()
        if self._thread is not None:
            self._thread.join(_STOP_S)
        self._models.close()

    def publish(self, change: Change) -> None:
        """Let the new table answer every request that is taken from now on; on the loop's thread."""
        if self._stopping.is_set():
            return
        show_versions(change.table, self._metrics)
        self._state.table = change.table
        for swap in change.swaps:
            self._metrics.count("model_swaps", swap.model, swap.outcome)
            self._metrics.observe_load(swap.model, swap.seconds)
            if swap.outcome == "swapped":
                log_event(_logger, "swap", **{k: v for k, v in swap._asdict().items() if k != "outcome"})

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.wait(self._every_s):
            self._look(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """One look. Keeps nothing alive afterwards: a version is to go with its last request."""
        self._began_at = monotonic()
        try:
            change = self._models.look()
        except Exception:  # the edge of the thread; the next look may fare better
            _logger.exception("look failed")
            return
        finally:
            self._began_at = None
        if self._models.has_seen_all:
            self._metrics.note_look(time())
        if change is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self.publish, change)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log each look that takes long, once; on the loop's thread, as the other one is in it."""
        began_at = self._began_at
        if began_at is not None and began_at != self._long_look and monotonic() - began_at > _LONG_LOOK_S:
            self._long_look = began_at
            seconds = round(monotonic() - began_at, 1)
            log_event(_logger, "look takes long", logging.WARNING, seconds=seconds)
        loop.call_later(_TICK_S, self._tick, loop)


def show_versions(table: RoutingTable, metrics: ServiceMetrics) -> None:
    """Have the metrics show every version that may answer a request, and no other as being served."""
    versions = [live for model in table.models for live in table.list_versions(model)]
    metrics.show_models({live.metrics: live.drift for live in versions})
