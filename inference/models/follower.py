"""The thread that follows the registry while the event loop answers requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable
from time import monotonic, time

from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.board import Board
from timberline.inference.models.loaded import Change, LoadedModels
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.models.follower")

# How long the end of the process waits for a look at the registry that is under way.
_STOP_S = 2.0
# A look takes milliseconds, one that loads a version a second or two; this one has met something else.
_LONG_LOOK_S = 5.0
_TICK_S = 1.0
# How often a process looks in the memory that others write in; asking the bucket is another matter.
_REMOTE_TICK_S = 0.5
# A bucket that does not answer is asked less and less often, but not less than this.
_LONGEST_PAUSE_S = 300.0
_MOST_DOUBLINGS = 20
# Of so many questions one is about whole aliases: a promoter that was killed leaves a move without its head.
_WHOLE_EVERY = 10


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
        every_s: seconds between looks, of a bucket between two questions; 0 is never.
        board: of a bucket, what the service's processes tell each other.
    """

    def __init__(
        self,
        models: LoadedModels,
        state: ServiceState,
        metrics: ServiceMetrics,
        every_s: float,
        board: Board | None = None,
    ) -> None:
        self._models = models
        self._state = state
        self._metrics = metrics
        self._every_s = every_s
        self._board = board or Board()
        self._asker = Asker(models, self._board, every_s)
        self._seen_moves = self._board.seen_moves
        self._seen_answer = 0.0
        self._stopping = threading.Event()
        self._began_at: float | None = None  # of the look under way
        self._long_look: float | None = None  # the last one logged, by when it began
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch, if there is anything that may move, or that the registry has not confirmed."""
        if self._models.unconfirmed:
            self._board.note_failure(time())
        if self._models.is_remote:
            self._metrics.note_registry(self._board.failing_since, time())
        if self._every_s and (self._models.is_movable or self._models.unconfirmed):
            run = self._run_remote if self._models.is_remote else self._run
            self._thread = threading.Thread(target=run, args=(loop,), name="watcher", daemon=True)
            self._thread.start()
            if not self._models.unconfirmed:
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
        self._metrics.show_from_cache(change.unconfirmed)
        self._state.table = change.table
        for swap in change.swaps:
            self._metrics.count("model_swaps", swap.model, swap.outcome)
            self._metrics.observe_load(swap.model, swap.seconds)
            if swap.outcome == "swapped":
                log_event(_logger, "swap", **{k: v for k, v in swap._asdict().items() if k != "outcome"})

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.wait(self._every_s):
            self._look(loop)

    def _run_remote(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask a bucket, if no other process of the service does, and look when any has found news."""
        board = self._board
        while not self._stopping.wait(min(_REMOTE_TICK_S, self._every_s)):
            self._began_at = monotonic()
            try:
                self._asker.ask_if_due()
            except Exception:  # the edge of the thread
                _logger.exception("look failed")
            finally:
                self._began_at = None
            if self._is_behind():
                self._seen_moves, self._seen_answer = board.moves, board.answered_at
                self._look(loop)
            elif self._models.has_seen_all and not self._models.unconfirmed and board.answered_at:
                self._metrics.note_look(board.answered_at)
            self._metrics.note_registry(board.failing_since, board.answered_at)

    def _is_behind(self) -> bool:
        """Whether this process has to look: there was a move, or the last look is to be done again."""
        if self._board.moves != self._seen_moves:
            return True
        if self._models.has_seen_all and not self._models.unconfirmed:
            return self._models.is_retry_due and not self._board.failing_since
        return self._board.answered_at > self._seen_answer

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


class Asker:
    """Asks a bucket whether an alias has moved, for all processes of a service; belongs to one thread.

    Args:
        models: know which aliases there are.
        board: where the others learn of it.
        every_s: seconds between two questions, on average: a thousand services are not to ask at once.
        clock: in seconds, never going back.
        draw: as `random.uniform`.
    """

    def __init__(
        self,
        models: LoadedModels,
        board: Board,
        every_s: float,
        clock: Callable[[], float] = monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._models = models
        self._board = board
        self._every_s = every_s
        self._clock = clock
        self._draw = draw
        self._due = clock() + self._draw_pause(every_s)
        self._tags: dict[str, str] | None = None  # None before the first question
        self._count = 0
        self._failures = 0

    def ask_if_due(self) -> None:
        """Ask, if it is time to and this is the process that asks."""
        if self._clock() < self._due or not self._board.lead():
            return
        self._due = self._clock() + self._draw_pause(self._every_s)
        if not (self._models.is_movable or self._models.unconfirmed or self._board.failing_since):
            return  # pinned versions, which are confirmed
        try:
            has_moved = self._ask()
        except OSError as error:
            self._note_failure(error)
        else:
            self._note_answer(has_moved)

    def _ask(self) -> bool:
        before = self._tags
        tags = self._models.ask_tags(before or {})
        self._count += 1
        # Before the first question another process may have asked, and have died with what it had found.
        has_moved = tags != before or (self._count % _WHOLE_EVERY == 0 and self._models.find_move())
        self._tags = tags
        return has_moved

    def _note_answer(self, has_moved: bool) -> None:
        since = self._board.failing_since
        self._board.note_answer(time())
        if since:
            log_event(_logger, "registry answers again", seconds=round(time() - since, 1))
        if has_moved or since:
            self._board.tell_moved()
        self._failures = 0

    def _note_failure(self, error: OSError) -> None:
        if self._board.note_failure(time()) or not self._failures:
            log_event(_logger, "registry does not answer", logging.WARNING, why=str(error)[:300])
        self._failures += 1
        pause_s = self._every_s * 2.0 ** min(self._failures, _MOST_DOUBLINGS)
        self._due = self._clock() + self._draw_pause(min(pause_s, max(_LONGEST_PAUSE_S, self._every_s)))

    def _draw_pause(self, seconds: float) -> float:
        return self._draw(0.5 * seconds, 1.5 * seconds)


def show_versions(table: RoutingTable, metrics: ServiceMetrics) -> None:
    """Have the metrics show every version that may answer a request, and no other as being served."""
    versions = [live for model in table.models for live in table.list_versions(model)]
    metrics.show_models({live.metrics: live.drift for live in versions})
