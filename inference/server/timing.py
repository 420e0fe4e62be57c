"""What each answer to a ``POST`` cost this process, in its ``Server-Timing`` header (W3C).

``server-timing: handler;dur=0.091234, cpu;dur=0.090100, wait;dur=0.000312``, in milliseconds:

- ``handler``: wall time, from the bytes that completed the request to the head of its answer. What
  ASGI answers (a chunked or compressed body, one of more than 1 MiB) counts from its head on, and
  so holds the wait for its body;
- ``cpu``: processor time of the threads that worked on it: the event loop's and, for a large
  request, the pool's. Threads that overlap may use more of it than ``handler`` lasts;
- ``wait``: how long they stood in the kernel's run queue meanwhile, ready and without a processor;
  ``handler`` less ``wait`` hardly depends on neighbours;
- ``wake``: how long the event loop's thread stood there since its answer before, which is mostly
  for being woken by this request. Both are left out where the kernel does not report them.

The event loop goes on with other requests while one waits for the pool or its body, and then the
numbers hold that work too: they are one request's only while no other is in flight.

Off by default, as it describes the machine to strangers. Nothing of it is in the way of a request
then: the classes here take the places of others when the process starts. What is refused before it
is a whole request (malformed, too slow) has no such header.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from time import perf_counter_ns, thread_time_ns
from typing import Any, ParamSpec, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from timberline.inference.formats.request import Header
from timberline.inference.server.connection import Connection
from timberline.inference.server.incoming import AnswerHeadCache
from timberline.registry.runtime.cpus import SCHEDSTAT, RunQueue

_P = ParamSpec("_P")
_T = TypeVar("_T")

NAME = b"server-timing"


class ReportedRunQueue(RunQueue):
    """The run queue of the calling thread, and how much of its wait headers have reported."""

    def __init__(self, path: str = SCHEDSTAT) -> None:
        super().__init__(path)
        self.reported_ns = 0


_QUEUE = ReportedRunQueue()


class Stopwatch:
    """Measures from its creation on, in the thread that made it."""

    __slots__ = ("_began", "_cpu", "_queue", "_waited", "_woken")

    def __init__(self, queue: ReportedRunQueue = _QUEUE) -> None:
        # The wall's reading is around the others', here and at the end, so that it is the longest.
        self._began = perf_counter_ns()
        self._queue = queue
        self._waited = queue.read_ns()
        self._woken = self._waited - queue.reported_ns
        self._cpu = thread_time_ns()

    def add(self, cpu_ns: int, waited_ns: int) -> None:
        """Count what another thread has done for the same request."""
        self._cpu -= cpu_ns
        self._waited -= waited_ns

    def write(self) -> bytes:
        """The header's value, up to now."""
        cpu = thread_time_ns() - self._cpu
        read = self._queue.read_ns()
        waited = read - self._waited
        self._queue.reported_ns = read
        handler = perf_counter_ns() - self._began
        if not self._queue.is_known:
            return b"handler;dur=%.6f, cpu;dur=%.6f" % (handler / 1e6, cpu / 1e6)
        # Two threads may wait at the same time; the request lost it once.
        waited = min(waited, handler)
        times = (handler / 1e6, cpu / 1e6, waited / 1e6, self._woken / 1e6)
        return b"handler;dur=%.6f, cpu;dur=%.6f, wait;dur=%.6f, wake;dur=%.6f" % times


# Of the request that is being answered; a task that goes on with it takes it along.
_current: ContextVar[Stopwatch] = ContextVar("stopwatch")


class TimedPool(ThreadPoolExecutor):
    """Charges a request with what the pool's thread used and waited for it."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As its base; work that belongs to no request is not measured."""
        stopwatch = _current.get(None)
        if stopwatch is None:
            return super().submit(fn, *args, **kwargs)
        submitted = perf_counter_ns()

        def work() -> _T:
            cpu = thread_time_ns()
            try:
                return fn(*args, **kwargs)
            finally:
                _charge(stopwatch, thread_time_ns() - cpu, submitted)

        return super().submit(work)


def _charge(stopwatch: Stopwatch, cpu_ns: int, submitted: int) -> None:
    # The thread's wait since its last work, not since this began: it is woken for it, and waits then
    # most. Where that is a wait from before the hand-over, it is not this request's.
    waited = _QUEUE.read_ns()
    stopwatch.add(cpu_ns, min(waited - _QUEUE.reported_ns, perf_counter_ns() - submitted))
    _QUEUE.reported_ns = waited


class TimedApp:
    """An ASGI application whose answers to ``POST`` have their times in a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        stopwatch = Stopwatch()
        _current.set(stopwatch)

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((NAME, stopwatch.write()))
            await send(message)

        await self._app(scope, receive, send_timed)


class TimedHeads(AnswerHeadCache):
    """Heads of one connection's answers, each with its times.

    Args:
        known: of all connections.
    """

    def __init__(self, known: AnswerHeadCache) -> None:
        self._find = known.find
        self.stopwatch = Stopwatch()  # of the last bytes that came

    def find(self, status: int, headers: tuple[Header, ...], defaults: list[Header]) -> bytes:
        """As its base's, with the time until now."""
        return b"%b%b: %b\r\n" % (self._find(status, headers, defaults), NAME, self.stopwatch.write())


class TimedConnection(Connection):
    """A connection whose short way adds the times; what goes through ASGI is `TimedApp`'s.

    One stopwatch is enough: nothing more is read while a request of the short way is waited for.
    """

    heads: TimedHeads

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.heads = TimedHeads(type(self).heads)

    def data_received(self, data: bytes) -> None:
        """As its base's, timed from here on: these bytes may be a request's last."""
        self._start()
        super().data_received(data)

    def go_on(self) -> None:
        """As its base's; a pipelined request is timed from its turn on."""
        self._start()
        super().go_on()

    def _start(self) -> None:
        self.heads.stopwatch = stopwatch = Stopwatch()
        _current.set(stopwatch)
