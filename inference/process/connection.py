"""One HTTP/1.1 connection: uvicorn's, with a short way for small predictions and an end without loss.

A small ``POST`` to a route that is known beforehand is answered inside the call that received its
last byte: no task, no ASGI messages, one write. Everything else (other methods, chunked or
compressed bodies, ``Expect``, a request behind one that is still being answered) goes uvicorn's way
through the application; both ways call the same endpoint.

A connection ends when its client ends it, when it was idle or slow for too long, or when the
service stops; then the next answer says ``Connection: close``, so that no request is ever sent
into a connection that is about to be cut (Kludex/uvicorn#2757).
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from inference.app import Endpoint
from inference.errors import RequestError, SlowClientError
from inference.process.heads import LONGEST_KNOWN, AnswerHeads, Head, KnownHeads
from inference.wire.answers import Answer
from inference.wire.request import Request

# A request with one of these goes the general way.
_UNUSUAL = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
# How long an idle connection is kept after the service began to stop: its client may have sent the
# next request already. Clients in a closed loop send it within milliseconds.
_LINGER_S = 1.0
_LOOK_AGAIN_S = 0.02


class Connection(HttpToolsProtocol):
    """As uvicorn's, with timers that a sweep over all connections looks at and not one each.

    Set on a subclass by `bind`:

    - ``direct``: endpoints by request target for which the short way is open;
    - ``max_direct_bytes``: longest body that takes it;
    - ``heads``: what they know of answers' first lines;
    - ``known``: heads of requests by their bytes; a client sends the same one again and again;
    - ``count_rejected``: told the error's code of what is refused before it is a request.
    """

    direct: Mapping[bytes, Endpoint] = {}
    max_direct_bytes = 0
    heads: AnswerHeads
    known: KnownHeads
    count_rejected: Callable[[str], None]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.since = self.loop.time()  # of the last request's first byte, or the last answer
        self.is_receiving = False
        self.is_stopping = False
        self._endpoint: Endpoint | None = None  # of the request being received, if it takes the short way
        self._is_usual = True
        self._length = -1
        self._parts: list[bytes] = []
        self._data = self._begun_in = b""
        self._waiting: asyncio.Task[None] | None = None

    @classmethod
    def bind(
        cls, direct: Mapping[bytes, Endpoint], max_direct_bytes: int, count_rejected: Callable[[str], None]
    ) -> type[Connection]:
        """The class of one service's connections."""
        settings = {
            "direct": direct,
            "max_direct_bytes": max_direct_bytes,
            "heads": AnswerHeads(),
            "known": KnownHeads(),
            "count_rejected": staticmethod(count_rejected),
        }
        return type("BoundConnection", (cls,), settings)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, without a timer to take back, and without parsing a head that is known."""
        if not self.is_receiving:
            end = data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4
            known = self.known.find(data[:end])
            if known and known.length == len(data) - end and not self.is_busy:
                self.since = self.loop.time()
                self._answer(known, data[end:])
                return
            self._data = data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade:
            pass  # not offered: the request itself has been answered as if it had not asked
        self._data = self._begun_in = b""

    # Parser callbacks

    def on_message_begin(self) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle = None  # type: ignore[assignment]  # it was the last request's
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.is_receiving = True
        self.since = self.loop.time()
        self._endpoint = None
        self._is_usual = True
        self._length = -1
        self._begun_in = self._data

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _UNUSUAL:
            self._is_usual = False
            self.expect_100_continue = name == b"expect" and value.lower() == b"100-continue"
        elif name == b"content-length":
            self._length = int(value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        url = self.url
        endpoint = self.direct.get(url if b"?" not in url else url[: url.index(b"?")])
        if (
            endpoint is not None
            and self._is_usual
            and 0 <= self._length <= self.max_direct_bytes
            and self.parser.get_method() == b"POST"
            and not self.is_busy
        ):
            self._endpoint = endpoint
            self._parts = []
        else:
            self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        if self._endpoint is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        self.is_receiving = False
        if self._endpoint is None:
            super().on_message_complete()
            return
        path, _, query = self.url.partition(b"?")
        head = Head(
            self._endpoint,
            path.decode("ascii"),
            query,
            self.headers,
            self._length,
            self.parser.should_keep_alive(),
        )
        if self._begun_in is self._data:
            self.known.learn(self._data, head)
        self._answer(head, b"".join(self._parts))

    def _answer(self, head: Head, body: bytes) -> None:
        request = Request("POST", head.path, head.query, head.headers, body)
        answer = head.endpoint.answer_post(request)
        if isinstance(answer, Answer):
            self._write(answer, head.keep_alive)
        else:
            self.flow.pause_reading()
            self._waiting = self.loop.create_task(self._write_later(answer, head.keep_alive))
            self.tasks.add(self._waiting)
            self._waiting.add_done_callback(self.tasks.discard)

    @property
    def is_busy(self) -> bool:
        """Whether a request that came before is still being answered."""
        return self._waiting is not None or not (self.cycle is None or self.cycle.response_complete)

    @property
    def _is_unanswered(self) -> bool:
        """Whether the request being received has no answer: the last cycle was of one before it."""
        return self.cycle is None or not self.cycle.more_body

    def _begin_cycle(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()
        if self.is_stopping:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Begin to answer, or line up behind a request of the short way that is still being answered."""
        if self._waiting is None:
            super()._start_asgi_task(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))

    # Answers

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
        answer = await coming
        self._waiting = None
        self._write(answer, keep_alive)
        if self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())
        elif not self.flow.write_paused:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # the sweep closes idle connections
        self.since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and hang up: where the next request begins is not known."""
        self.count_rejected(RequestError.code)
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        body = msgspec.json.encode({"error": message})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not take its answers: read no more of its requests until it does."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client takes its answers again."""
        super().resume_writing()
        if not self.is_busy:
            self.flow.resume_reading()

    # The end

    def sweep(self, now: float, idle_s: float, receive_s: float) -> None:
        """Close the connection if it has been idle, or receiving one request, for too long."""
        if self.transport.is_closing():
            return
        if self.is_receiving:
            if now - self.since > receive_s and not self.is_busy:  # work has limits of its own
                if self._is_unanswered:
                    self.count_rejected(SlowClientError.code)
                    self._refuse(408, "the request did not arrive in time")
                else:
                    self.transport.abort()  # the answer is out; there is nothing more to say
        elif not self.is_busy and now - self.since > idle_s:
            self.transport.close()

    def shutdown(self) -> None:
        """Begin to stop: the next answer is the connection's last."""
        self.is_stopping = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        self.loop.call_later(_LINGER_S, self._close_if_idle)

    def give_up(self) -> None:
        """End now, and say so to who has sent a part of a request; cancelled work answers by itself."""
        if self.transport.is_closing() or self.is_busy:
            return
        if self.is_receiving and self._is_unanswered:
            self._refuse(503, "the service stopped before the request was complete")
        else:
            self.transport.close()

    def _close_if_idle(self) -> None:
        if self.transport.is_closing():
            return
        if self.is_receiving or self.is_busy or self._count_unread():
            self.loop.call_later(_LOOK_AGAIN_S, self._close_if_idle)
        else:
            self.transport.close()

    def _count_unread(self) -> int:
        """Bytes that the kernel has received and the loop has not read."""
        fd = self.transport.get_extra_info("socket").fileno()
        count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        return count
