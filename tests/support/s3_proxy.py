"""A proxy in front of an S3 server: counts requests, and loses, refuses or breaks off what it is told to.

    with serve_proxy(server.endpoint) as proxy:      # point AWS_ENDPOINT_URL at proxy.endpoint
        proxy.decide = lose_conditional(2)           # the server does the 2nd conditional PUT, unheard
        ...
        assert [seen.status for seen in proxy.seen if seen.condition] == [200, 200, 412]

Requests and answers pass byte for byte: a client signs the Host header that it sends, the proxy's, and the
server checks the signature against the same header. `decide` is called before the server is asked, in the
thread of the client's connection: a test may kill the client there, so that it dies at exactly this boundary.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.s3_server import S3Server, serve_s3

# "lose": the server does it, and the client's connection ends without an answer. "refuse": it ends before the
# server is asked. "cut": the answer's body ends half-way. A number: it is answered, and the server not asked.
Fault = Literal["lose", "refuse", "cut"] | int
Condition = Literal["", "create", "swap"]

_JOIN_S = 30
_REASONS = {
    403: "Forbidden",
    409: "Conflict",
    500: "Internal Server Error",
    503: "Slow Down",
    507: "Insufficient Storage",
}


class Asked(NamedTuple):
    """A request: ``number`` and ``conditional`` count from 1; the latter is 0 if it is no conditional PUT.

    ``path`` begins with the bucket and has no query; ``condition`` is that of a PUT. ``era`` is of the proxy:
    it counts the `S3Proxy.clear`s before.
    """

    era: int
    number: int
    conditional: int
    method: str
    path: str
    query: str
    condition: Condition
    seen_tag: str  # the If-None-Match of a GET


class Seen(NamedTuple):
    """A request that is over: what the server said, and what the client was told; 0 is nothing."""

    asked: Asked
    status: int
    told: int

    @property
    def condition(self) -> Condition:
        """That of the request."""
        return self.asked.condition


Decide = Callable[[Asked], Fault | None]


class S3Proxy:
    """Change `decide` and `after` at any time; `seen` and the numbers begin again with `clear`."""

    def __init__(self, upstream: str) -> None:
        # The server's URL.
        self.upstream = upstream
        parts = urlsplit(upstream)
        assert parts.hostname
        assert parts.port
        self._address = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._is_idle = threading.Condition(self._lock)
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._number = self._conditional = self._era = 0
        self._is_closed = False
        self.seen: list[Seen] = []
        # What went wrong in `decide` or `after`; raised by `close`.
        self.errors: list[BaseException] = []
        self.decide: Decide = lambda _: None
        # Called when the server has answered with this status, before the client is told.
        self.after: Callable[[Asked, int], object] = lambda *_: None
        self._start(self._accept)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def clear(self) -> None:
        """Count from 1 again, and go easy from now on."""
        with self._lock:
            self._number = self._conditional = 0
            self._era += 1
            self.seen = []
        self.decide = lambda _: None
        self.after = lambda *_: None

    def settle(self) -> None:
        """Wait until every request that has come is over: their senders may be dead."""
        with self._is_idle:
            assert self._is_idle.wait_for(lambda: len(self.seen) == self._number, _JOIN_S)

    def count(self, method: str = "", *, part: str = "") -> int:
        """The requests of this method whose path has this part."""
        return sum(method in ("", seen.asked.method) and part in seen.asked.path for seen in list(self.seen))

    def close(self) -> None:
        """End every connection and thread.

        Raises:
            BaseException: what `decide` or `after` raised first.
        """
        self._is_closed = True
        with self._lock:
            open_sockets = [self._listener, *self._connections]
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_JOIN_S)
            assert not thread.is_alive()
        self._listener.close()
        if self.errors:
            raise self.errors[0]

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        """Answer the requests of one connection of the client."""
        try:
            with connection, connection.makefile("rb") as reader:
                while not self._is_closed and self._pass_on(connection, reader):
                    pass
        except OSError:  # the client or the server has gone
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _pass_on(self, connection: socket.socket, reader: BufferedReader) -> bool:
        """One request and its answer; False if the connection is over."""
        head = _read_head(reader)
        if head is None:
            return False
        body = _read_body(reader, head)
        asked = self._number_it(head)
        fault = self.decide(asked)
        if fault == "refuse":
            self._note(asked, 0, 0)
            return False
        if isinstance(fault, int):
            self._note(asked, 0, fault)
            connection.sendall(_answer(fault, asked))
            return True
        try:
            status, answer = self._ask(head, body, asked.method)
        except OSError:
            self._note(asked, 0, 0)
            raise
        self.after(asked, status)
        if fault == "lose":
            self._note(asked, status, 0)
            return False
        self._note(asked, status, status)
        if fault == "cut":
            ended = answer.index(b"\r\n\r\n") + 4
            connection.sendall(answer[: ended + (len(answer) - ended) // 2])
            return False
        connection.sendall(answer)
        return True

    def _number_it(self, head: _Head) -> Asked:
        path, _, query = head.target.partition("?")
        condition: Condition = ""
        if head.method == "PUT":
            condition = "create" if "if-none-match" in head.fields else ""
            condition = "swap" if "if-match" in head.fields else condition
        with self._lock:
            self._number += 1
            self._conditional += bool(condition)
            return Asked(
                self._era,
                self._number,
                self._conditional if condition else 0,
                head.method,
                unquote(path.lstrip("/")),
                query,
                condition,
                head.fields.get("if-none-match", "") if head.method == "GET" else "",
            )

    def _note(self, asked: Asked, status: int, told: int) -> None:
        with self._lock:
            if asked.era == self._era:
                self.seen.append(Seen(asked, status, told))
                self._is_idle.notify_all()

    def _ask(self, head: _Head, body: bytes, method: str) -> tuple[int, bytes]:
        with socket.create_connection(self._address) as server, server.makefile("rb") as reader:
            server.sendall(head.raw + body)
            while True:
                answer = _read_head(reader)
                if answer is None:
                    raise ConnectionResetError("the server ended the connection")
                status = int(answer.method)
                if status >= 200:
                    break
            has_body = method != "HEAD" and status not in (204, 304)
            return status, answer.raw + (_read_body(reader, answer, to_the_end=True) if has_body else b"")


@contextlib.contextmanager
def serve_proxy(upstream: str) -> Iterator[S3Proxy]:
    """A proxy of the server at this URL, for as long as the block runs."""
    proxy = S3Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def serve_proxied(folder: Path, bucket: str) -> Iterator[tuple[S3Server, S3Proxy]]:
    """A real server with an empty bucket, and a proxy in front of it, to which the environment leads."""
    with (
        serve_s3(folder, secret_key="only-in-this-test") as server,
        serve_proxy(server.endpoint) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint}.items():
            patch.setenv(name, value)
        server.make_bucket(bucket)
        yield server, proxy


def lose_conditional(number: int) -> Decide:
    """The answer of this conditional PUT is lost, counted from 1; a client's new attempt is one more."""
    return lambda asked: "lose" if asked.conditional == number else None


def lose_each_conditional() -> Decide:
    """The first answer for each path of a conditional PUT is lost."""
    lost: set[str] = set()

    def decide(asked: Asked) -> Fault | None:
        if not asked.condition or asked.path in lost:
            return None
        lost.add(asked.path)
        return "lose"

    return decide


def be_gone_after(number: int) -> Decide:
    """The server does the conditional PUT of this number, and nobody hears from it again."""
    is_gone = threading.Event()

    def decide(asked: Asked) -> Fault | None:
        if is_gone.is_set():
            return "refuse"
        if asked.conditional != number:
            return None
        is_gone.set()
        return "lose"

    return decide


class _Head(NamedTuple):
    """The first lines of a message; ``method`` and ``target`` of an answer are its status and reason."""

    raw: bytes
    method: str
    target: str
    fields: dict[str, str]


def _read_head(reader: BufferedReader) -> _Head | None:
    lines = [reader.readline()]
    while lines[-1] not in (b"\r\n", b""):
        lines.append(reader.readline())
    if lines[-1] == b"":
        return None
    first, *rest = (line.decode("latin-1").rstrip("\r\n") for line in lines[:-1])
    words = first.split(" ", 2)
    method, target = words[1:] if first.startswith("HTTP/") else words[:2]
    pairs = (line.partition(":") for line in rest)
    return _Head(b"".join(lines), method, target, {name.lower(): value.strip() for name, _, value in pairs})


def _read_body(reader: BufferedReader, head: _Head, *, to_the_end: bool = False) -> bytes:
    """As it came, the sizes of chunks with it."""
    if head.fields.get("transfer-encoding", "").lower() == "chunked":
        return _read_chunks(reader)
    if length := head.fields.get("content-length"):
        data = reader.read(int(length))
        if len(data) < int(length):
            raise ConnectionResetError("a body ended early")
        return data
    return reader.read() if to_the_end else b""


def _read_chunks(reader: BufferedReader) -> bytes:
    parts: list[bytes] = []
    while True:
        line = reader.readline()
        parts.append(line)
        size = int(line.split(b";")[0], 16)
        if size:
            parts.append(reader.read(size + 2))
            continue
        while parts[-1] not in (b"\r\n", b""):  # trailers, and the empty line
            parts.append(reader.readline())
        return b"".join(parts)


def _answer(status: int, asked: Asked) -> bytes:
    code = {403: "AccessDenied", 409: "ConditionalRequestConflict", 503: "SlowDown"}.get(
        status, "InternalError"
    )
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Resource>/{asked.path}</Resource></Error>"
    body = b"" if asked.method == "HEAD" else text.encode()
    lines = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Fault')}",
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
