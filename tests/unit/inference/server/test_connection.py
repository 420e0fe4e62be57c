"""The first lines of answers, which are joined once and used again.

Also which connection goes on when, of those that have more to do than one turn of the loop allows.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from timberline.inference.formats.body import ReceiveBudget
from timberline.inference.formats.request import JSON
from timberline.inference.server.connection import Connection as ServiceConnection
from timberline.inference.server.connection import IdleConnections, Turns
from timberline.inference.server.incoming import AnswerHeadCache


def test_a_head_holds_the_status_and_every_header() -> None:
    """A header that is lost here is lost in every answer."""
    head = AnswerHeadCache().find(503, (JSON, (b"retry-after", b"1")), [(b"date", b"today")])
    lines = [b"HTTP/1.1 503 Service Unavailable", b"date: today", b"content-type: application/json"]
    assert head.split(b"\r\n") == [*lines, b"retry-after: 1", b""]


def test_a_head_is_joined_anew_when_the_date_changes() -> None:
    """What is kept must not be older than what it says."""
    heads = AnswerHeadCache()
    today = [(b"date", b"today")]
    assert heads.find(200, (JSON,), today) is heads.find(200, (JSON,), today)
    assert b"tomorrow" in heads.find(200, (JSON,), [(b"date", b"tomorrow")])
    assert heads.find(200, (JSON,), today).count(b"date") == 1


def test_heads_are_told_apart_by_status_and_headers() -> None:
    """An answer with another version's header would be a wrong answer."""
    heads = AnswerHeadCache()
    defaults = [(b"date", b"today")]
    found = {
        heads.find(status, (JSON, (b"x-model-version", version)), defaults)
        for status in (200, 400)
        for version in (b"a@1", b"a@2")
    }
    assert len(found) == 4


class Transport:
    """Whether it was closed."""

    is_closed = False

    def close(self) -> None:
        """Close it."""
        self.is_closed = True


class Connection:
    """A connection that writes its name down at each turn, and stands in line again for some of them."""

    def __init__(self, name: str, turns: Turns, log: list[str], again: int = 0, since: float = 0.0) -> None:
        self.transport = Transport()
        self.since = since
        self.unread = 0
        self.is_busy = False
        self._name = name
        self._turns = turns
        self._log = log
        self._again = again

    @property
    def is_idle(self) -> bool:
        """Whether it can be closed."""
        return not (self.is_busy or self.transport.is_closed)

    def count_unread(self) -> int:
        """As it was set."""
        return self.unread

    def go_on(self) -> None:
        """Take a turn."""
        self._log.append(self._name)
        if self._again:
            self._again -= 1
            self._turns.add(self)
        if self._name == "broken":
            raise RuntimeError(self._name)


def test_a_turn_takes_a_few_and_then_everybody_else_is_asked() -> None:
    """A hundred senders may not make one turn as long as a hundred."""
    log: list[str] = []

    async def main() -> None:
        turns = Turns()
        for index in range(20):
            turns.add(Connection(str(index), turns, log, again=1))
        while len(log) < 40:
            log.append("others")
            await asyncio.sleep(0)

    asyncio.run(main())
    turns_taken = "".join("|" if name == "others" else "." for name in log).split("|")
    assert max(map(len, turns_taken)) == 8
    assert [name for name in log if name != "others"][:25] == [*map(str, range(20)), *map(str, range(5))]


def test_one_that_fails_keeps_nobody_from_a_turn() -> None:
    """The line is everybody's: a fault of one connection is that connection's alone."""
    log: list[str] = []
    seen: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        turns = Turns()
        for name in ("broken", "first", "second"):
            turns.add(Connection(name, turns, log))
        while len(log) < 3:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert log == ["broken", "first", "second"]
    assert [str(context["exception"]) for context in seen] == ["broken"]


def test_room_is_made_by_the_one_that_is_idle_for_longest_and_has_nothing_unread() -> None:
    """Closing a connection whose request has just come would lose it."""
    turns = Turns()
    others = [Connection(str(index), turns, [], since=float(index)) for index in range(4)]
    others[0].is_busy = True
    others[1].unread = 5
    newcomer = Connection("new", turns, [], since=10.0)
    assert IdleConnections().close_one(newcomer, [*others, newcomer])
    assert [other.transport.is_closed for other in others] == [False, False, True, False]
    assert not newcomer.transport.is_closed
    assert not IdleConnections().close_one(newcomer, [others[0], newcomer])


class Pipe(asyncio.Transport):
    """A transport that notes whether it is read from."""

    is_read = True

    def pause_reading(self) -> None:
        """Read no more."""
        self.is_read = False

    def resume_reading(self) -> None:
        """Read again."""
        self.is_read = True

    def is_closing(self) -> bool:
        """Never."""
        return False


def test_one_that_fills_the_buffer_is_read_again_in_its_turn_and_not_before() -> None:
    """The application asks for more of a body as soon as it has some; the line would be of no use."""

    async def main() -> list[bool]:
        is_over = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await is_over.wait()

        bound = ServiceConnection.bind({}, 0, lambda code: None, ReceiveBudget(1 << 20))
        config = uvicorn.Config(
            app, http=bound, ws="none", lifespan="off", interface="asgi3", log_config=None
        )
        config.load()
        loop = asyncio.get_running_loop()
        connection = bound(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        pipe = Pipe()
        connection.connection_made(pipe)
        buffer = connection.get_buffer(-1)
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        buffer[: len(head)] = head
        connection.buffer_updated(len(buffer))
        seen = [pipe.is_read]
        connection.cycle.body = bytearray()  # the application takes what there is,
        connection.flow.resume_reading()  # and asks for more
        seen.append(pipe.is_read)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append(pipe.is_read)
        connection.cycle.disconnected = True
        is_over.set()
        await asyncio.gather(*connection.tasks)
        return seen

    assert asyncio.run(main()) == [False, False, True]
