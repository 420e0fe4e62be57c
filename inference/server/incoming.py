"""One request on its way in: what its head says, how much has come, and how much may come.

The parser (llhttp) bounds nothing. Here a head has at most 64 KiB, counted as its bytes arrive and
before the parser has them, and 256 fields; what is around the bytes of a chunked body, and its
trailers, have as much.

Most heads, of requests and of answers, are the same bytes as the last: two caches parse and join each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from timberline.inference.app import Endpoint
from timberline.inference.errors import (
    HeadTooLargeError,
    MethodNotAllowedError,
    RequestError,
    TargetTooLongError,
)
from timberline.inference.formats.request import Header

# nginx takes 32 KiB, Node.js 16 KiB, Apache 100 fields.
LONGEST_HEAD = 64 * 1024
_MOST_FIELDS = 256
# The shortest chunk, one byte, has five bytes around it.
_FRAMING_EACH = 8
# Where a chunked body ends only the parser knows: it is fed so much at a time, and what begins
# behind the body within one bite lines up in uvicorn's pipeline.
_BITE_BYTES = 4096
_END_OF_HEAD = b"\r\n\r\n"
# Of a Content-Length, as they are written; Python refuses to read more than 4,300.
_MOST_DIGITS = 40
# A request with one of these goes the general way.
_UNUSUAL = frozenset({b"transfer-encoding", b"content-encoding", b"expect"})
# A client's head changes with its body's length only: some dozen heads a client, a fifth of a KB each.
_MOST_KNOWN = 512
LONGEST_KNOWN = 1024


class IncomingRequest:
    """The request that is being received, or the blank bytes before one.

    - ``headers``: of the head, names in lower case;
    - ``endpoint``: if it takes the short way; ``has_cycle``: if it takes uvicorn's;
    - ``is_bite``: the parser is fed what may be more than this request;
    - ``begun_at``: where in the bytes received last it began, -1 if it began before them;
    - ``parts``, ``body_bytes``: of its body, on the short way and in all;
    - ``wants_upgrade``, ``expects``: it asks for another protocol, or waits for ``100 Continue``;
    - ``keep_alive``: whether its connection may be used again, once its body comes.
    """

    # Defaults of every one: most requests change few of them.
    endpoint: Endpoint | None = None
    has_begun = has_head = has_cycle = False
    is_chunked = is_bite = wants_upgrade = expects = False
    is_usual = keep_alive = True
    length = begun_at = -1
    body_bytes = 0
    _remaining = _host_count = 0
    _head_bytes = _framing_bytes = _stalled_bytes = 0
    _has_line = False
    _tail = b""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.parts: list[bytes] = []

    def begin(self, at: int) -> None:
        """Note that the request begins at offset ``at`` of the bytes received last."""
        self.has_begun = True
        self.begun_at = at

    def repeat(self) -> IncomingRequest:
        """A new object for the same request, whose head is read again."""
        repeated = IncomingRequest()
        repeated._head_bytes, repeated.begun_at = self._head_bytes, self.begun_at
        return repeated

    def find_end(self, held: bytes, at: int) -> int:
        """Up to where of ``held`` the parser is fed next: a head's end, a body's, or a bite of chunks.

        Raises:
            HeadTooLargeError, TargetTooLongError: the head would have too many bytes.
        """
        if self.has_head:
            self.is_bite = self.is_chunked
            return min(len(held), at + (_BITE_BYTES if self.is_chunked else self._remaining))
        end = self._find_end_of_head(held, at)
        if end < len(held) <= at + _BITE_BYTES and held.find(b"chunked", at, end) >= 0:
            self.is_bite = True  # head and body in one
            return len(held)
        room = LONGEST_HEAD - self._head_bytes
        self._head_bytes += end - at
        self._has_line = self._has_line or held.find(b"\n", at, at + room) >= 0
        if self._head_bytes > LONGEST_HEAD:
            if self._has_line:
                raise _too_large(f"the head has more than {LONGEST_HEAD:,} bytes")
            raise TargetTooLongError(
                f"the request line has more than {LONGEST_HEAD:,} bytes, the most that is read",
                hint="Send values in the body of a POST.",
            )
        return end

    def _find_end_of_head(self, held: bytes, at: int) -> int:
        """Behind the head, or behind everything if it is not whole; its end may have come in two parts."""
        if not self.has_begun and held.startswith((b"\r", b"\n"), at):
            blank = held[at:]  # the parser reads over blank lines before a request
            return len(held) - len(blank.lstrip(b"\r\n"))
        if self._tail:
            seam = self._tail + held[at : at + 3]
            found = seam.find(_END_OF_HEAD)
            if found >= 0:
                return at + found + len(_END_OF_HEAD) - len(self._tail)
        found = held.find(_END_OF_HEAD, at)
        return len(held) if found < 0 else found + len(_END_OF_HEAD)

    def remember_end(self, held: bytes, at: int, end: int) -> None:
        """Keep the last bytes fed, which may hold the beginning of a head's end."""
        self._tail = (self._tail + held[max(at, end - 3) : end])[-3:]

    def count_framing(self, fed: int, received: int) -> None:
        """Limit the framing bytes of a chunked body.

        Args:
            fed: bytes that the parser had last.
            received: how many of them are the body's.

        Raises:
            HeadTooLargeError: extensions, trailers or needlessly small chunks are too many.
        """
        self._framing_bytes += fed - received
        self._stalled_bytes = 0 if received else self._stalled_bytes + fed
        allowed = LONGEST_HEAD + _FRAMING_EACH * self.body_bytes
        if self._framing_bytes > allowed or self._stalled_bytes > LONGEST_HEAD:
            raise _too_large(f"the body has more than {LONGEST_HEAD:,} bytes of chunk extensions or trailers")

    def add_header(self, name: bytes, value: bytes) -> None:
        """Take one field of the head. Trailers are dropped: none may pass for a header.

        Raises:
            HeadTooLargeError: it is one field too many.
            RequestError: the body is framed in a way that is not read here.
        """
        if self.has_head:
            return
        if len(self.headers) >= _MOST_FIELDS:
            raise _too_large(f"the head has more than {_MOST_FIELDS} fields")
        name = name.lower()
        if name in _UNUSUAL:
            self.is_usual = False
            if name == b"expect":
                self.expects |= value.strip().lower() == b"100-continue"
            elif name == b"transfer-encoding":
                if self.is_chunked or value.strip().lower() != b"chunked":
                    refuse_syntax("a body is chunked once, or has a length")
                self.is_chunked = True
        elif name == b"content-length":
            if len(value) > _MOST_DIGITS:
                refuse_syntax("its Content-Length has too many digits")
            self.length = int(value)
        elif name == b"host":
            self._host_count += 1
        self.headers.append((name, value))

    def end_head(self, version: str, method: bytes) -> None:
        """Check the whole head.

        Args:
            version: of HTTP.
            method: in capitals.

        Raises:
            RequestError: it is not a head of HTTP/1.0 or 1.1 (RFC 9112, 3.2 and 6.1).
        """
        if method == b"CONNECT":
            raise MethodNotAllowedError("CONNECT", "", ("GET", "POST"))
        if version == "1.0":
            self.is_usual = self.expects = False
            if self.is_chunked:
                refuse_syntax("HTTP/1.0 has no Transfer-Encoding")
        elif version != "1.1":
            refuse_syntax("HTTP/1.1 is spoken here")
        if self._host_count != 1 and (version == "1.1" or self._host_count):
            refuse_syntax(f"it has {self._host_count} Host headers, expected one")
        self.has_head = True
        self._remaining = max(self.length, 0)
        self._tail = b""

    def add_body(self, part: bytes) -> None:
        """Take bytes of the body."""
        self.body_bytes += len(part)
        self._remaining -= len(part)
        if self.endpoint is not None:
            self.parts.append(part)


def refuse_syntax(what: str = "") -> NoReturn:
    """Refuse what is no request.

    Raises:
        RequestError: always.
    """
    raise RequestError("the request is not valid HTTP/1.1" + (f": {what}" if what else ""))


def _too_large(what: str) -> HeadTooLargeError:
    return HeadTooLargeError(f"{what}, the most that is read", hint="Send fewer or shorter headers.")


class Head(NamedTuple):
    """The parsed head of a short request."""

    endpoint: Endpoint
    path: str
    query: bytes
    headers: list[Header]
    first: dict[bytes, bytes]  # of the headers, by name
    length: int  # of the body, in bytes
    keep_alive: bool


def write_head(method: bytes, target: bytes, version: bytes, headers: Sequence[Header]) -> bytes:
    """A request's head as bytes, without what asks for another protocol (RFC 9110, 7.6.1 and 7.8)."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version)]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() != b"upgrade")  # noqa: PLW2901
        if name != b"upgrade" and not (name == b"connection" and not value):
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])


class RequestHeadCache:
    """Heads of requests that were parsed before, by their bytes: equal bytes mean the same."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.find = self._known.get

    def learn(self, data: bytes, head: Head) -> None:
        """Keep a head if ``data`` is one whole request: a head from its first byte on, and its body."""
        end = len(data) - head.length
        if data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4 == end:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[data[:end]] = head


class AnswerHeadCache:
    """Status line and headers as bytes, joined once for all answers that have the same ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[Header, ...]], bytes] = {}
        self._defaults: list[Header] | None = None

    def find(self, status: int, headers: tuple[Header, ...], defaults: list[Header]) -> bytes:
        """Everything before ``content-length``; ``defaults`` is a new list whenever they change."""
        if defaults is not self._defaults:
            self._known.clear()  # once a second, when the date changes
            self._defaults = defaults
        head = self._known.get((status, headers))
        if head is None:
            lines = [b"%b: %b\r\n" % header for header in (*defaults, *headers)]
            head = self._known[status, headers] = STATUS_LINE[status] + b"".join(lines)
        return head
