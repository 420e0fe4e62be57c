"""Rows to outputs: where the graph is run, and what is counted about it. Knows no wire format.

A `WorkLimit` bounds the requests in work and gives each a deadline. The bound is on requests, not on
connections: a thousand idle connections cost nothing, a thousand requests at once slow down every client.
A request beyond the bound is refused at once, while its client still has time to ask another service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from math import isfinite
from time import perf_counter
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np

from timberline.inference.errors import DeadlineError, OverloadedError, RowError
from timberline.inference.models.versions import LiveVersion
from timberline.inference.session import Feed, Outputs, Row, RowAnswer
from timberline.registry.errors import LifecycleError
from timberline.registry.signature import UNKNOWN_CODE

_P = ParamSpec("_P")
_T = TypeVar("_T")


class WorkLimit:
    """Counts the requests in work; belongs to the event loop's thread.

    A request answered within one turn of the loop is in work from the turn's beginning: it waited
    for those of the same turn that came before it. So ``begin`` counts the requests of the turn,
    and work in a thread is counted in ``held`` for as long as it lasts.

    Args:
        max_requests: more than this at a time are refused.
        deadline_s: seconds after which a request that is not answered is given up.
    """

    def __init__(self, max_requests: int, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.held = 0
        self.waited = 0.0  # seconds, of the request taken on last
        self._max_requests = max_requests
        self._in_turn = 0
        self._turn_began = 0.0

    def begin(self) -> float:
        """Take on one request; the seconds that it waited for others of its turn.

        Raises:
            OverloadedError: there are as many in work as there may be.
            DeadlineError: it waited for longer than it may take in all.
        """
        now = perf_counter()
        if self._in_turn == 0:
            self._turn_began = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._in_turn += 1
        if self.held + self._in_turn > self._max_requests:
            raise OverloadedError(
                f"{self._max_requests:,} requests are in work, the most there may be",
                hint="Ask again in a second.",
            )
        self.waited = waited = now - self._turn_began
        if waited > self.deadline_s:
            raise DeadlineError.after(self.deadline_s)
        return waited

    def _end_turn(self) -> None:
        self._in_turn = 0


class Asked(Protocol):
    """What a request asks for, as its route knows it."""

    @property
    def live(self) -> LiveVersion:
        """The version that answers."""

    @property
    def feed(self) -> Feed:
        """Its rows."""


_A = TypeVar("_A", bound=Asked)


class _Done(NamedTuple, Generic[_T]):
    """A large request that was answered, and what is counted about it."""

    answer: _T
    live: LiveVersion
    feed: Feed
    outputs: Outputs
    started: float  # when a thread was free for it
    seconds: float  # of the graph's run


class Runner:
    """Runs versions' graphs for every route alike.

    Small requests are worked on right on the event loop, as handing them to a thread costs more
    than answering them; large ones go to ``pool`` so that small ones need not wait behind them.

    Args:
        pool: for large requests.
        work: the bound on requests in work.
        inline_max_rows: up to here a request is small.
    """

    def __init__(self, pool: Executor, work: WorkLimit, inline_max_rows: int) -> None:
        self._pool = pool
        self._work = work
        self.inline_max_rows = inline_max_rows

    def run_row(self, live: LiveVersion, row: Row) -> RowAnswer:
        """The answer to one row.

        Raises:
            RowError: the graph has no finite answer.
        """
        started = perf_counter()
        label, probabilities, codes = live.session.run_row(row)
        seconds = perf_counter() - started
        if not isfinite(sum(probabilities)):
            raise _refuse_values("")
        live.metrics.observe_row(label, seconds, self._work.waited)
        if codes is not None and UNKNOWN_CODE in codes:
            live.metrics.observe_codes(codes)
        if live.drift is not None:
            live.drift.keep_row(row, label)
        if live.shadow is not None:
            live.shadow.offer_row(row, label)
        return label, probabilities, codes

    def run(self, live: LiveVersion, feed: Feed) -> Outputs:
        """Outputs of all rows, on the event loop; for requests of at most ``inline_max_rows``.

        Raises:
            RowError: the graph has no finite answer; says for which row.
        """
        outputs, seconds = _run(live, feed)
        _count(live, feed, outputs, seconds, self._work.waited)
        if live.shadow is not None:
            live.shadow.offer_rows(feed, outputs)
        return outputs

    async def run_large(self, read: Callable[[], _A], write: Callable[[_A, Outputs], _T]) -> _T:
        """Read rows, run the graph over them and write the answer, all in one thread.

        In one piece, as rows that wait for a thread between two steps are memory that nothing bounds:
        a hundred times what their request's body has, where most columns have defaults.

        Args:
            read: gives what is asked: the rows, and whose graph is run.
            write: gives the answer.

        Raises:
            RowError, DeadlineError: no finite answer, or none in time; and what ``read`` and ``write`` raise.
        """
        submitted = perf_counter()
        done = await self.in_pool(_answer, read, write)
        _count(done.live, done.feed, done.outputs, done.seconds, done.started - submitted)
        return done.answer

    async def in_pool(self, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """Do ``work`` in a thread; it counts as a request in work until it is done.

        Raises:
            DeadlineError: it was not done in time. A thread cannot be stopped: what it does is lost.
        """
        # By hand: asyncio's own wait, shield and executor future are three more futures and two more
        # turns of the loop, a third of what the hand-over costs.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        task = self._pool.submit(work, *arguments, **named)
        self._work.held += 1
        task.add_done_callback(partial(self._hand_back, loop, answer))
        timer = loop.call_later(self._work.deadline_s, _expire, answer, self._work.deadline_s)
        try:
            return await answer
        finally:
            timer.cancel()
            task.cancel()  # if it has not begun
            # Either holds the error, and the error this frame, which holds the request's body.
            del answer, task

    def _hand_back(
        self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[_T], done: Future[_T]
    ) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._settle, done, answer)

    def _settle(self, done: Future[_T], answer: asyncio.Future[_T]) -> None:
        self._work.held -= 1
        if answer.done() or done.cancelled():
            return  # the request has ended already
        error = done.exception()
        if error is None:
            answer.set_result(done.result())
        else:
            if isinstance(error, LifecycleError):  # its traceback is not used, and its frames hold the rows
                error.__traceback__ = error.__context__ = None
            answer.set_exception(error)


def _expire(answer: asyncio.Future[Any], seconds: float) -> None:
    if not answer.done():
        answer.set_exception(DeadlineError.after(seconds))


def _answer(read: Callable[[], _A], write: Callable[[_A, Outputs], _T]) -> _Done[_T]:
    started = perf_counter()
    asked = read()
    outputs, seconds = _run(asked.live, asked.feed)
    return _Done(write(asked, outputs), asked.live, asked.feed, outputs, started, seconds)


def _run(live: LiveVersion, feed: Feed) -> tuple[Outputs, float]:
    """Outputs and the seconds of the graph's run; touches nothing that another thread may."""
    started = perf_counter()
    outputs = live.session.run(feed)
    seconds = perf_counter() - started
    if not isfinite(outputs.probabilities.sum()):  # a tenth of the time of looking at each
        finite = np.isfinite(outputs.probabilities).all(axis=1)  # (rows, classes) → (rows,)
        raise _refuse_values(f"row {int(np.argmin(finite))}")
    return outputs, seconds


def _count(live: LiveVersion, feed: Feed, outputs: Outputs, seconds: float, waited: float) -> None:
    live.metrics.observe_rows(outputs, seconds, waited)
    if live.drift is not None:
        live.drift.keep_rows(feed, outputs)


def _refuse_values(where: str) -> RowError:
    return RowError(
        "the model has no finite answer for these values",
        where=where,
        hint="One of them is far outside of everything that can be computed with.",
    )
