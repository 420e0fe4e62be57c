"""Clients that ask, wait for the answer and ask again, on connections that are kept.

Bytes on sockets, without an HTTP library that would mend what it should report: a request that was
written and not wholly answered is lost, whatever the reason, and is never sent again. A client
connects anew only where it was told to (``Connection: close``) or lost a request.

Run under ``run_clients``; one process asks some 10,000 requests a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import uvloop

from tests.support.service import DEADLINE_S, RunningService

# More findings than this are one finding; the clients stop.
MOST_FINDINGS = 20


class Answer(NamedTuple):
    """One whole answer; names of headers in lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with it."""
        return self.headers.get(b"connection", b"").lower() == b"close"


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.is_closed = False
        self._received = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: Any = None

    async def ask(self, request: bytes) -> Answer:
        """The answer to one request.

        Raises:
            ConnectionError: there was none, or a part of one; or something had come unasked.
        """
        if self.is_closed:
            raise ConnectionError("closed before the request, and no answer had said so")
        if self._received:
            raise ConnectionError(f"unasked: {bytes(self._received[:200])!r}")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    async def pour(self, data: bytes) -> bytes:
        """Everything that comes back before the end of the connection, of which this is the last word."""
        try:
            self._transport.write(data)
            self._transport.write_eof()
            await asyncio.shield(self._end)
        finally:
            await self.close()
        return bytes(self._received)

    async def close(self) -> None:
        """Hang up."""
        self._transport.close()
        await self._end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._waiting is None or self._waiting.done():
            return
        try:
            found = split_answer(self._received)
        except ValueError as error:
            self._waiting.set_exception(ConnectionError(f"no HTTP: {error}"))
            return
        if found is not None:
            answer, length = found
            del self._received[:length]
            self._waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        if self._waiting is not None and not self._waiting.done():
            what = f"{error or 'closed'} after {len(self._received)} bytes of an answer"
            self._waiting.set_exception(ConnectionError(what))
        if not self._end.done():
            self._end.set_result(None)


def split_answer(data: bytes | bytearray) -> tuple[Answer, int] | None:
    """The first answer in ``data`` and its length; None if it is not whole yet.

    Raises:
        ValueError: it is no HTTP/1.1 answer with a length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(data[:end]).split(b"\r\n")
    if not first.startswith(b"HTTP/1.1 "):
        raise ValueError(f"found {first!r}")
    pairs = [line.split(b": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    if len(headers) < len(pairs):
        raise ValueError(f"a header is given twice: {lines!r}")
    body = end + 4
    whole = body + int(headers.get(b"content-length", b"-"))
    if len(data) < whole:
        return None
    return Answer(int(first[9:12]), headers, bytes(data[body:whole])), whole


class Sendable(Protocol):
    """What a client sends."""

    @property
    def request(self) -> bytes:
        """The bytes."""


Question = TypeVar("Question", bound=Sendable)


class Clients(Generic[Question]):
    """Clients at work, and what happened to their requests.

    Args:
        service: whom they ask.
        questions: of each client, in order; the client ends when there are none left.
        take: given the client's number, its question and the answer; whatever it raises if that is
            not right becomes a finding.
    """

    def __init__(
        self,
        service: RunningService,
        questions: list[Iterator[Question]],
        take: Callable[[int, Question, Answer], None],
    ) -> None:
        self.sent = 0
        self.answered = 0  # whole answers, right or wrong
        self.reconnected = 0  # because an answer said so
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.is_over = False
        self._service = service
        self._questions = questions
        self._take = take

    async def run(self) -> None:
        """Ask until all clients are at their end, or told to be (``is_over``)."""
        async with asyncio.TaskGroup() as group:
            for number, questions in enumerate(self._questions):
                group.create_task(self._work(number, questions))

    async def connect(self) -> Line:
        """A new connection."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(Line, self._service.host, self._service.port)
        return line

    async def wait_for(self, fact: Callable[[], object]) -> None:
        """Return when ``fact`` holds; fail with the log when clients have findings or nothing goes on."""
        before, deadline = -1, 0.0
        while not fact():
            if len(self.lost) + len(self.wrong) >= MOST_FINDINGS:
                self.is_over = True
            assert not self.is_over, self.describe()
            if self.answered != before:
                before, deadline = self.answered, time.monotonic() + DEADLINE_S
            assert time.monotonic() < deadline, f"nothing goes on\n{self.describe()}"
            await asyncio.sleep(0.01)  # the clients share this process

    def describe(self) -> str:
        """The findings, and the end of the service's log."""
        findings = [*self.lost[:MOST_FINDINGS], *self.wrong[:MOST_FINDINGS]]
        return "\n".join([*findings, self._service.log[-5000:]])

    async def _work(self, number: int, questions: Iterator[Question]) -> None:
        line = await self.connect()
        try:
            for question in questions:
                if self.is_over:
                    break
                if not await self._ask(line, number, question):
                    await line.close()
                    line = await self.connect()
        finally:
            await line.close()

    async def _ask(self, line: Line, number: int, question: Question) -> bool:
        """Whether there may be another question on this line."""
        self.sent += 1
        try:
            answer = await line.ask(question.request)
        except ConnectionError as error:
            self.lost.append(f"client {number}: {error}; it had sent {question!r:.2000}")
            return False
        self.answered += 1
        try:
            self._take(number, question, answer)
        except Exception as error:  # whatever it was, it is the finding
            self.wrong.append(f"client {number}: {error!r}; it had sent {question!r:.2000}")
        self.reconnected += answer.is_last
        return not answer.is_last


def run_clients(main: Callable[[], Awaitable[None]]) -> None:
    """Run ``main`` on an event loop of its own."""

    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
