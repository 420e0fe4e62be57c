"""One HTTP/1.1 connection: uvicorn's, with a short way, with bounds, and with an end that loses nothing.

A small ``POST`` to a route that is known beforehand is answered inside the call that received its
last byte: no task, no ASGI messages, one write. Everything else (other methods, chunked or
compressed bodies, ``Expect``, HTTP/1.0) goes uvicorn's way through the application; both ways call
the same endpoint.

The parser is fed one request at a time. What a client sends behind a request waits until that one is
answered and the event loop has looked after all other connections: a client that pipelines gets
its answers in order, one each turn of the loop, and delays no other.

What a client can make the service keep is bounded: a head in `inference.server.incoming`, bodies
and pipelined requests of all connections by one `ReceiveBudget`, connections by their number.

A request may ask for another protocol with ``Upgrade``; a server may ignore that (RFC 9110, 7.8).
The parser stops behind such a head and would take the body for the next request, so a new one is
given the head again without that header.

A connection ends when its client ends it, when it was idle or slow for too long, or when the
service stops; then the next answer says ``Connection: close``, so that no request is ever sent
into a connection that is about to be cut (Kludex/uvicorn#2757).

All connections share one event loop. A turn of the loop reads from every connection that has something to
be read, and a small request waits for all of them. So a connection that fills the whole buffer, or has
something left to be parsed, stands in line for its next turn, and a turn takes few out of the line.
"""

from __future__ import annotations

import asyncio
import fcntl
import heapq
import struct
import termios
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from timberline.inference.app import Endpoint, answer_error
from timberline.inference.errors import NotReadyError, RequestError, SlowClientError, TooManyConnectionsError
from timberline.inference.formats.body import ReceiveBudget
from timberline.inference.formats.request import NOTHING_NAMED, Answer, Header, Request
from timberline.inference.server.incoming import (
    LONGEST_KNOWN,
    AnswerHeadCache,
    Head,
    IncomingRequest,
    RequestHeadCache,
    write_head,
)
from timberline.registry.errors import LifecycleError

# 64 KiB are read in 60 µs, and 4 KiB of the smallest chunks parsed in 1.2 ms.
_MOST_A_TURN = 8
# Of idle connections, in one look at all: it takes half a millisecond, and so is worth it for many.
_MOST_FOUND = 64
# After a look that found no idle connection.
_SEARCH_AGAIN_S = 0.02
# Read of one connection in one turn; uvloop's own 256 KiB take four times as long.
_BUFFER_BYTES = 64 * 1024
_BUFFER = memoryview(bytearray(_BUFFER_BYTES))
# How long an idle connection is kept after the service began to stop: its client may have sent the
# next request already. Clients in a closed loop send it within milliseconds.
_LINGER_S = 1.0
_LOOK_AGAIN_S = 0.02
# How long the bytes of a refused client are read and dropped. Closing with bytes unread resets the
# connection, and the client may lose the refusal.
_REFUSED_S = 2.0
_CLOSE: Header = (b"connection", b"close")


class Flow(FlowControl):
    """As uvicorn's, but reading is not resumed while the connection stands in line."""

    is_in_line = False

    def resume_reading(self) -> None:
        """Read on, unless the connection's turn does it."""
        if not self.is_in_line:
            super().resume_reading()


class Sharing(Protocol):
    """What `Turns` and `IdleConnections` need of a connection; ``since`` is its last request or answer."""

    transport: Any
    since: float

    @property
    def is_idle(self) -> bool:
        """Whether nothing that has been read waits for an answer."""

    def count_unread(self) -> int:
        """Bytes that have come and not been read."""

    def go_on(self) -> None:
        """Take a turn."""


class Turns:
    """The line of all connections that have more to do than one turn allows."""

    def __init__(self) -> None:
        self._line: deque[Sharing] = deque()
        self._is_due = False

    def add(self, connection: Sharing) -> None:
        """Have the connection go on in a later turn of the loop, behind all that are in line."""
        self._line.append(connection)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        self._is_due = False
        try:
            for _ in range(min(_MOST_A_TURN, len(self._line))):
                self._line.popleft().go_on()
        finally:  # whatever goes wrong with one, the others have their turns
            if self._line:
                self._schedule()


class IdleConnections:
    """Finds the connection that has been idle for longest, and scans all of them only now and then."""

    def __init__(self) -> None:
        self._found: list[Sharing] = []  # the longest idle last
        self._missed_at = 0.0  # when a look found none

    def close_one(self, newcomer: Sharing, others: Collection[Any]) -> bool:
        """Close one of ``others``; False if none is idle. ``newcomer`` may be among them, and stays."""
        found = self._found
        if not found and newcomer.since - self._missed_at > _SEARCH_AGAIN_S:
            idle = [other for other in others if other.is_idle and other is not newcomer]
            found += reversed(heapq.nsmallest(_MOST_FOUND, idle, key=lambda other: other.since))
            self._missed_at = self._missed_at if found else newcomer.since
        while found:
            oldest = found.pop()
            if oldest.is_idle and not oldest.count_unread():
                oldest.transport.close()
                return True
        return False


class Connection(HttpToolsProtocol):
    """As uvicorn's, but one sweep over all connections checks their times, instead of a timer for each.

    Set on a subclass by `bind`:

    - ``direct``: endpoints by request target for which the short way is open;
    - ``max_direct_bytes``: longest body that takes it;
    - ``max_connections``: more than this are refused; 0 is no bound; ``idle``: who makes room for one more;
    - ``turns``: the line of those that have more to do than one turn allows;
    - ``receiving``: the budget of bytes that all connections hold;
    - ``heads``: what they know of answers' first lines;
    - ``known``: heads of requests by their bytes; a client sends the same one again and again;
    - ``count_rejected``: given the error's code of what is refused before it is a request.
    """

    direct: Mapping[bytes, Endpoint] = {}
    max_direct_bytes = 0
    max_connections = 0
    idle: IdleConnections
    turns: Turns
    flow: Flow
    receiving: ReceiveBudget
    heads: AnswerHeadCache
    known: RequestHeadCache
    count_rejected: Callable[[str], None]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.since = self.loop.time()  # of the last request's first byte, or the last answer
        self.is_stopping = False
        self._incoming = IncomingRequest()
        self._ready: tuple[Head, IncomingRequest] | None = None  # a whole request that takes the short way
        self._waiting: asyncio.Task[None] | None = None
        self._held = b""  # what came last, of which the parser has had `_at` bytes, the last from `_fed_from`
        self._at = self._fed_from = 0
        self._is_biting = False  # at a chunked body, whose end and what begins behind it come together
        self._is_in_line = False  # for its next turn
        self._is_at_eof = False  # the client sends no more
        self._is_refused = False  # the last answer is out
        self._drops_input = False  # or will be it, and what comes is dropped
        self._refusal: Exception | None = None  # of what stands behind requests that are not answered yet
        self._kept = 0  # bytes of a body that takes the short way
        self._counted = 0  # bytes that the budget knows of

    @classmethod
    def bind(
        cls,
        direct: Mapping[bytes, Endpoint],
        max_direct_bytes: int,
        count_rejected: Callable[[str], None],
        receiving: ReceiveBudget,
        max_connections: int = 0,
    ) -> type[Connection]:
        """The class of one service's connections."""
        settings = {
            "direct": direct,
            "max_direct_bytes": max_direct_bytes,
            "max_connections": max_connections,
            "idle": IdleConnections(),
            "turns": Turns(),
            "receiving": receiving,
            "heads": AnswerHeadCache(),
            "known": RequestHeadCache(),
            "count_rejected": staticmethod(count_rejected),
        }
        return type("BoundConnection", (cls,), settings)

    # Its begin, and its client's end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's; if there are too many, an idle one is closed or this one is refused."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        if (
            self.max_connections
            and len(self.connections) > self.max_connections
            and not self.idle.close_one(self, self.connections)
        ):
            self._refuse(
                TooManyConnectionsError(
                    f"{self.max_connections:,} connections are open, the most there may be",
                    hint="Use a connection for many requests, or ask again in a second.",
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's; what was received is dropped."""
        super().connection_lost(exc)
        self._held, self._at, self._kept = b"", 0, 0
        self._incoming = IncomingRequest()
        self._settle()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay open: a client may end its side first and still wait for its answers."""
        self._is_at_eof = True
        return not self._is_refused and (bool(self._held) or (self.is_busy and not self.is_receiving))

    # What comes

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the next bytes: one for all connections, as it is emptied before the next read."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Take ``nbytes`` new bytes out of the buffer."""
        self.data_received(_BUFFER[:nbytes].tobytes())
        if nbytes == _BUFFER_BYTES:  # the kernel may hold more
            self._queue_up()

    def data_received(self, data: bytes) -> None:
        """Answer a whole request with a known head at once; feed anything else to the parser."""
        held = self._held
        if not held and not self._incoming.has_begun:
            end = data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4
            known = self.known.find(data[:end])
            if known and known.length == len(data) - end and not self.is_busy and not self._drops_input:
                self.since = self.loop.time()
                self._answer(known, data[end:])
                return
        if self._is_over:
            return
        self._incoming.begun_at = -1
        if held:
            self._held, self._at = held[self._at :] + data, 0
            self.flow.pause_reading()
            self._settle()
        else:
            self._held = data
            self._advance()

    def go_on(self) -> None:
        """Take the next turn: with what has come already, else with reading on."""
        self._is_in_line = self.flow.is_in_line = False
        if self.transport.is_closing():
            return  # it was closed while it stood in line
        if self._held and not self._drops_input:
            self._advance()
        else:
            self._tidy()

    def _advance(self) -> None:
        """Feed the parser what is held, up to the end of one request or of one bite of chunks."""
        while True:
            incoming = self._incoming
            if not incoming.has_begun and (self.is_busy or self.flow.write_paused):
                self.flow.pause_reading()  # the end of the answer goes on with it
                break
            self._feed(incoming)
            if self._ready is not None:
                self._answer_ready(*self._ready)
            if self._at >= len(self._held) or self._is_over:
                break
            if self._incoming is not incoming or self._is_biting:
                self._queue_up()
                break
        self._tidy()

    def _feed(self, incoming: IncomingRequest) -> None:
        """Feed the parser one head, the rest of one body or a bite of chunks, or refuse it."""
        held, at = self._held, self._at
        try:
            end = self._at = incoming.find_end(held, at)
            self._fed_from = at
            self._is_biting = incoming.is_bite
            received = incoming.body_bytes
            part = held if at == 0 and end == len(held) else memoryview(held)[at:end]
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as stop:
                self._feed_without_upgrade(part[stop.args[0] :])
            if not self._incoming.has_head:
                self._incoming.remember_end(held, at, end)
            if self._is_biting and self._incoming is incoming:
                incoming.count_framing(end - at, incoming.body_bytes - received)
        except httptools.HttpParserCallbackError as error:
            self._refuse(_find_cause(error))
        except (httptools.HttpParserError, LifecycleError) as error:
            self._refuse(error)

    def _feed_without_upgrade(self, rest: bytes | memoryview) -> None:
        """Feed a new parser the last head without its Upgrade header, then ``rest``."""
        while True:
            self._repeat_without_upgrade()
            try:
                if rest:
                    self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stop:
                rest = rest[stop.args[0] :]
            else:
                return

    def _repeat_without_upgrade(self) -> None:
        version = self.parser.get_http_version().encode()
        head = write_head(self.parser.get_method(), self.url, version, self._incoming.headers)
        self._incoming = self._incoming.repeat()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun to come and is not whole."""
        return self._incoming.has_begun

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._waiting is not None or not (self.cycle is None or self.cycle.response_complete)

    @property
    def is_idle(self) -> bool:
        """Whether nothing that has been read waits for an answer."""
        return not (self.is_receiving or self.is_busy or self._held or self._is_over)

    @property
    def _is_over(self) -> bool:
        """Whether what comes is dropped."""
        return self._drops_input or self.transport.is_closing()

    def _queue_up(self) -> None:
        """Go on when other connections had their turns."""
        if not self._is_in_line and not self.transport.is_closing():
            self.flow.pause_reading()
            self._is_in_line = self.flow.is_in_line = True
            self.turns.add(self)

    def _tidy(self) -> None:
        """Drop what the parser has read, and read on if nothing waits."""
        if self._at >= len(self._held) or self._is_over:
            self._held, self._at = b"", 0
            if self.flow.read_paused or self._is_at_eof:
                self._read_on()
        if self._held or self._kept or self._counted:
            self._settle()

    def _read_on(self) -> None:
        """Read on, as everything that has come is with the parser; after its client's end, close."""
        if self.transport.is_closing():
            self._kept = 0
        elif self._drops_input:
            self._kept = 0
            self.flow.resume_reading()  # and drop it
        elif self._is_at_eof and not self.is_busy:
            self.transport.close()
        elif self._waiting is None and not self.flow.write_paused:
            has_enough = self._incoming.has_cycle and len(self.cycle.body) > HIGH_WATER_LIMIT
            if not has_enough:
                self.flow.resume_reading()

    def _settle(self) -> None:
        """Count what this connection holds in the budget; endpoints count what they hold themselves."""
        holds = self._kept + len(self._held) - self._at
        if holds < self._counted:
            self.receiving.give(self._counted - holds)
            self._counted = holds
        elif holds > self._counted:
            try:
                self.receiving.take(holds - self._counted)
                self._counted = holds
            except LifecycleError as error:
                self._refuse(error)

    # Parser callbacks

    def on_message_begin(self) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle = None  # type: ignore[assignment]  # it was the last request's
        self._incoming.begin(self._fed_from)
        self.url = b""
        self.since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._incoming.add_header(name, value)

    def on_headers_complete(self) -> None:
        incoming, parser = self._incoming, self.parser
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            incoming.wants_upgrade = True  # the parser says that it is all; `_feed_without_upgrade` is next
            return
        incoming.end_head(parser.get_http_version(), method)
        url = self.url
        endpoint = self.direct.get(url if b"?" not in url else url[: url.index(b"?")])
        if (
            endpoint is not None
            and incoming.is_usual
            and 0 <= incoming.length <= self.max_direct_bytes
            and method == b"POST"
            and not (self.is_busy or self._is_biting)
        ):
            incoming.endpoint = endpoint
        else:
            self._begin_cycle(incoming)

    def on_body(self, body: bytes) -> None:
        incoming = self._incoming
        incoming.add_body(body)
        if incoming.endpoint is not None:
            self._kept += len(body)
            return
        cycle = self.cycle
        if cycle.response_complete:
            return  # it was refused, and the rest of it is dropped
        if incoming.expects:  # its body comes, so that where the next request begins is known
            cycle.keep_alive = incoming.keep_alive and not self.is_stopping
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        incoming = self._incoming
        if incoming.wants_upgrade:
            return
        self._incoming = IncomingRequest()
        if incoming.endpoint is None:
            self.cycle.more_body = False
            self.cycle.message_event.set()
            return
        path, _, query = self.url.partition(b"?")
        head = Head(
            incoming.endpoint,
            path.decode("ascii"),
            query,
            incoming.headers,
            dict(reversed(incoming.headers)),
            incoming.length,
            self.parser.should_keep_alive(),
        )
        self._ready = head, incoming

    def _begin_cycle(self, incoming: IncomingRequest) -> None:
        """Answer through the application, which is given the body as it comes."""
        url = self.url
        super().on_message_begin()
        self.url, self.expect_100_continue = url, incoming.expects
        self.headers = self.scope["headers"] = incoming.headers
        super().on_headers_complete()
        incoming.has_cycle = True
        cycle = self.cycle
        if self.is_stopping:
            cycle.keep_alive = False
        elif self.scope["http_version"] == "1.0" and self.parser.should_keep_alive():
            cycle.keep_alive = True
            cycle.default_headers = [*cycle.default_headers, (b"connection", b"keep-alive")]
        elif incoming.expects:
            # If it is answered before its body has come, the client may send the body or not.
            incoming.keep_alive, cycle.keep_alive = cycle.keep_alive, False

    # Answers

    def _answer_ready(self, head: Head, incoming: IncomingRequest) -> None:
        self._ready = None
        if incoming.begun_at == 0 and self._at == len(self._held):
            self.known.learn(self._held, head)
        body = b"".join(incoming.parts)
        self._kept = 0  # the endpoint counts it from here on
        self._settle()
        self._answer(head, body)

    def _answer(self, head: Head, body: bytes) -> None:
        request = Request("POST", head.path, head.query, head.headers, body, NOTHING_NAMED, head.first)
        answer = head.endpoint.answer_post(request)
        if isinstance(answer, Answer):
            self._write(answer, head.keep_alive)
        else:
            self.flow.pause_reading()
            self._waiting = self.loop.create_task(self._write_later(answer, head.keep_alive))
            self.tasks.add(self._waiting)
            self._waiting.add_done_callback(self.tasks.discard)

    def _write(self, answer: Answer, keep_alive: bool) -> None:
        if self.transport.is_closing():
            return
        status, headers, body = answer
        is_last = self.is_stopping or not keep_alive
        end = b"connection: close\r\n\r\n" if is_last else b"\r\n"
        head = self.heads.find(status, headers, self.server_state.default_headers)
        self.transport.write(b"%bcontent-length: %d\r\n%b%b" % (head, len(body), end, body))
        if is_last:
            self.transport.close()
        self.since = self.loop.time()

    async def _write_later(self, coming: Awaitable[Answer], keep_alive: bool) -> None:
        status, headers, body = await coming
        self._waiting = None
        kept = tuple(header for header in headers if header != _CLOSE)
        self._write(Answer(status, kept, body), keep_alive and len(kept) == len(headers))
        self._end_answer()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._end_answer()

    def _end_answer(self) -> None:
        """After an answer, go on with what its client has sent behind the request."""
        if self._refusal is not None and not self.is_busy:
            self._write_refusal(self._refusal)
        if self._held:
            self._queue_up()
        self._tidy()

    def _refuse(self, error: Exception) -> None:
        """Refuse what is being received, behind the answers to what came before it, and read no more."""
        if self._is_over:
            return
        self._refusal, self._drops_input = error, True
        is_due = self._take_back_cycle(error) if self._incoming.has_cycle else not self.is_busy
        if is_due:
            self._write_refusal(error)
        self._incoming = IncomingRequest()  # whose parts are not held for one who sends on
        self._tidy()

    def _take_back_cycle(self, error: Exception) -> bool:
        """Take the request being received from the application; whether ``error`` answers it now."""
        cycle = self.cycle
        cycle.disconnected = True
        cycle.message_event.set()
        if self.pipeline and self.pipeline[0][0] is cycle:  # it stands behind another, and has not begun

            async def refuse(*_: object) -> None:
                self._write_refusal(error)

            self.pipeline[0] = cycle, refuse
            return False
        self.cycle = None  # type: ignore[assignment]
        if cycle.response_started:  # a request has one answer
            self._hang_up()
        return not cycle.response_started

    def _write_refusal(self, error: Exception) -> None:
        """The connection's last answer, by the table of `inference.app`."""
        if isinstance(error, httptools.HttpParserError | UnicodeDecodeError):
            error = RequestError("the request is not valid HTTP/1.1")
        if isinstance(error, LifecycleError):
            self.count_rejected(error.code)
        status, headers, body = answer_error(error)
        headers = tuple(header for header in headers if header != _CLOSE)
        head = type(self).heads.find(status, headers, self.server_state.default_headers)
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(head + length + body)
        self._hang_up()

    def _hang_up(self) -> None:
        """End this side; what the client still sends is read for a while, so that it can read its answer."""
        self._is_refused = self._drops_input = True
        self._refusal = None  # and with it the frames of its traceback, which hold what was received
        self.transport.write_eof()
        self.loop.call_later(_REFUSED_S, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not take its answers: read no more of its requests until it does."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client takes its answers again."""
        super().resume_writing()
        if not self.is_busy:
            if self._held:
                self._queue_up()
            self._tidy()

    # The end

    def sweep(self, now: float, idle_s: float, receive_s: float) -> None:
        """Close the connection if it has been idle, or receiving one request, for too long."""
        if self._is_over or self.is_busy:  # work has limits of its own
            return
        if not self.is_receiving:
            if now - self.since > idle_s:
                self.transport.close()
        elif now - self.since > receive_s:
            if self._incoming.has_cycle:
                self.transport.abort()  # the answer is out; there is nothing more to say
            else:
                self._refuse(SlowClientError("the request did not arrive in time"))

    def shutdown(self) -> None:
        """Begin to stop: the next answer is the connection's last."""
        self.is_stopping = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.cycle.default_headers = self.server_state.default_headers
        self.loop.call_later(_LINGER_S, self._close_if_idle)

    def give_up(self) -> None:
        """End now, with a refusal for a request that came in part; cancelled work has its own answer."""
        if self._is_over or self.is_busy:
            return
        if self.is_receiving and not self._incoming.has_cycle:
            self._refuse(NotReadyError("the service stopped before the request was complete"))
        else:
            self.transport.close()

    def _close_if_idle(self) -> None:
        if self._is_over:
            return
        if self.is_idle and not self.count_unread():
            self.transport.close()
        else:
            self.loop.call_later(_LOOK_AGAIN_S, self._close_if_idle)

    def count_unread(self) -> int:
        """Bytes that the kernel has received and the loop has not read."""
        fd = self.transport.get_extra_info("socket").fileno()
        count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        return count


class Reader(asyncio.BufferedProtocol):
    """The protocol that the event loop calls; it reads into our buffer.

    uvloop takes whatever is a ``Protocol``, as uvicorn's is, for one that has no buffer.
    """

    def __init__(self, connection: Connection) -> None:
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = connection.buffer_updated  # type: ignore[method-assign]
        self.connection_made = connection.connection_made  # type: ignore[method-assign,assignment]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.eof_received = connection.eof_received  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]


def _find_cause(error: httptools.HttpParserCallbackError) -> Exception:
    """The error that a callback raised; the parser wraps it in its own."""
    return error.__context__ if isinstance(error.__context__, Exception) else error
