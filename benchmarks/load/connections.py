"""HTTP/1.1 for the load generator: bytes out, a reply in, over connections that are kept.

Locust's own client costs 0.6 ms of processor time a request where this costs 0.2 ms; on a machine that
the service has to share, that is the difference between measuring the service and measuring the
client. It reads what the service writes: a status line, headers, and a body of known length.
"""

from __future__ import annotations

from typing import NamedTuple

import gevent.socket

from timberline.benchmarks.measure.records import Body, Target

_READ_BYTES = 1 << 16
_HEAD_END = b"\r\n\r\n"


class Reply(NamedTuple):
    """A whole answer; header names are in small letters."""

    status: int
    headers: dict[str, str]
    content: bytes


class Connections:
    """As many connections to one service as requests are in flight; free ones are used again."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._free: list[gevent.socket.socket] = []

    def exchange(self, request: bytes) -> Reply:
        """Send a whole request and read its answer.

        Raises:
            TimeoutError: the service was silent for the timeout.
            OSError: it could not be reached, hung up, or wrote something that is no answer.
        """
        connection = self._free.pop() if self._free else self._connect()
        try:
            connection.sendall(request)
            reply = _read_reply(connection)
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

    def _connect(self) -> gevent.socket.socket:
        connection = gevent.socket.create_connection(self._address, timeout=self._timeout_s)
        connection.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return connection


def write_request(target: Target, body: Body) -> bytes:
    """The whole request for ``body``, made before the load begins."""
    lines = [
        f"POST {body.path.replace('{model}', target.model)} HTTP/1.1",
        f"host: {target.url.removeprefix('http://')}",
        "user-agent: timberline-load",
        *(f"{name}: {value}" for name, value in body.headers.items()),
        f"content-length: {len(body.payload)}",
    ]
    return "\r\n".join(lines).encode() + _HEAD_END + body.payload


def _read_reply(connection: gevent.socket.socket) -> Reply:
    data = _receive(connection)
    while (end := data.find(_HEAD_END)) < 0:
        data += _receive(connection)
    status, headers = _parse_head(data[:end])
    body = data[end + len(_HEAD_END) :]
    length = int(headers["content-length"])
    while len(body) < length:
        body += _receive(connection)
    return Reply(status, headers, body)


def _receive(connection: gevent.socket.socket) -> bytes:
    data: bytes = connection.recv(_READ_BYTES)
    if not data:
        raise ConnectionError("the service hung up before its answer was whole")
    return data


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    try:
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ", 2)[1])
        int(headers["content-length"])
    except (IndexError, KeyError, ValueError):
        raise ConnectionError(f"not an answer with a length: {head[:80]!r}") from None
    return status, headers
