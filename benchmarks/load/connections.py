"""HTTP/1.1 for load generators: bytes out, a reply in, over connections that are kept.

Locust's own client costs 0.6 ms of processor time a request where this costs 0.2 ms; on a machine that the
service has to share, that is the difference between measuring the service and measuring the client. It
reads what the service writes: a status line, headers, and a body of known length. Sockets come from
outside: gevent's, or plain ones.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from timberline.benchmarks.measure.records import Body, Target

# One answer of the largest batch comes in a few of these.
_READ_BYTES = 1 << 18
_HEAD_END = b"\r\n\r\n"


class Reply(NamedTuple):
    """A whole answer; header names are in small letters. ``size``: bytes of head and body."""

    status: int
    headers: dict[str, str]
    content: bytes
    size: int


class Connection:
    """One connection to a server, over a connected TCP socket; a reply is read before the next request."""

    def __init__(self, connected: Any) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fileno, self.close = connected.fileno, connected.close
        self.send: Callable[[bytes], object] = connected.sendall
        self._receive: Callable[[int], bytes] = connected.recv
        self._received = b""

    def exchange(self, request: bytes) -> Reply:
        """Send a whole request and wait for its reply.

        Raises:
            TimeoutError: the server was silent for the socket's timeout.
            OSError: it hung up, or as `read`.
        """
        self.send(request)
        while (reply := self.read()) is None:
            pass
        return reply

    def read(self) -> Reply | None:
        """Take what has arrived, or wait for it; the reply, if it is whole now.

        Raises:
            ConnectionError: the server hung up, or wrote something that is no answer, or more than one.
        """
        data = self._receive(_READ_BYTES)
        if not data:
            raise ConnectionError("the service hung up before its answer was whole")
        if self._received:
            data = self._received + data
        end = data.find(_HEAD_END)
        if end >= 0:
            status, headers, length = _parse_head(data[:end])
            whole = end + len(_HEAD_END) + length
            if len(data) > whole:
                raise ConnectionError("answered more than was asked")
            if len(data) == whole:
                self._received = b""
                return Reply(status, headers, data[end + len(_HEAD_END) :], whole)
        self._received = data
        return None


class Connections:
    """As many connections to one service as requests are in flight; free ones are used again.

    Args:
        connect: opens a socket to the service.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._free: list[Connection] = []

    def exchange(self, request: bytes) -> Reply:
        """As `Connection.exchange`, over a free connection or a new one."""
        connection = self._free.pop() if self._free else Connection(self._connect())
        try:
            reply = connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if reply.headers.get("connection") == "close":
            connection.close()
        else:
            self._free.append(connection)
        return reply

    def close(self) -> None:
        """Close the free connections; none may be in use."""
        while self._free:
            self._free.pop().close()


def write_request(target: Target, body: Body) -> bytes:
    """The whole request for ``body``, made before the load begins."""
    headers = [f"host: {target.url.removeprefix('http://')}", "user-agent: timberline-load"]
    headers += [f"{name}: {value}" for name, value in body.headers.items()]
    return write_post(body.path.replace("{model}", target.model), body.payload, *headers)


def write_post(path: str, body: bytes, *headers: str) -> bytes:
    """``POST path`` with ``body`` and its length, whole."""
    lines = [f"POST {path} HTTP/1.1", *headers, f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + _HEAD_END + body


# Heads are few; some servers give every answer a head of its own.
@functools.lru_cache(maxsize=100)
def _parse_head(head: bytes) -> tuple[int, dict[str, str], int]:
    """Status, headers and the length of the body."""
    first, *lines = head.decode("latin-1").split("\r\n")
    try:
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split(" ", 2)[1]), headers, int(headers["content-length"])
    except (IndexError, KeyError, ValueError):
        raise ConnectionError(f"not an answer with a length: {head[:80]!r}") from None
