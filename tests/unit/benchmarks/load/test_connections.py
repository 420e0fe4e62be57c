"""The load generator's HTTP, against a server that says word for word what a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from timberline.benchmarks.load.connections import Connections, write_request
from timberline.benchmarks.measure.records import Body, Target

REQUEST = b"POST /predict HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Model-Version: tiny@1\r\n\r\n"
TIMEOUT_S = 30.0


def connect(port: int, timeout_s: float = TIMEOUT_S) -> Connections:
    """Connections to this port."""
    return Connections(partial(socket.create_connection, ("127.0.0.1", port), timeout_s))


@contextlib.contextmanager
def saying(*connections: list[bytes]) -> Iterator[int]:
    """Answer the n-th request on the k-th connection with ``connections[k][n]``, then hang up; the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answers in connections:
            peer, _ = listener.accept()
            with peer:
                for answer in answers:
                    assert peer.recv(1000) == REQUEST
                    for part in answer.split(b"|"):
                        peer.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(TIMEOUT_S)
        listener.close()
        assert not thread.is_alive()


def test_an_answer_is_read_whole_however_it_arrives() -> None:
    """TCP cuts where it likes: in the head, between head and body, in the body."""
    cut = HEAD[:20] + b"|" + HEAD[20:] + b"|he|llo"
    with saying([cut, HEAD + b"again"]) as port:
        connections = connect(port)
        first, second = connections.exchange(REQUEST), connections.exchange(REQUEST)
        connections.close()
    assert (first.status, first.content, second.content) == (200, b"hello", b"again")
    assert first.headers["x-model-version"] == "tiny@1"


def test_a_connection_that_the_service_closes_is_not_used_again() -> None:
    """A service that is draining says so; the next request goes over a new connection."""
    last = HEAD.replace(b"X-Model", b"Connection: close\r\nX-Model") + b"hello"
    with saying([last], [HEAD + b"again"]) as port:
        connections = connect(port)
        assert connections.exchange(REQUEST).content == b"hello"
        assert connections.exchange(REQUEST).content == b"again"
        connections.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HEAD + b"hel", "hung up"),
        (HEAD[:30], "hung up"),
        (b"", "hung up"),
        (b"SSH-2.0\r\n\r\n", "not an answer"),
        (HEAD + b"hello" + HEAD, "more than was asked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "not an answer"),
    ],
    ids=["cut body", "cut head", "nothing", "not HTTP", "two answers", "no length"],
)
def test_what_is_no_answer_is_an_error(answer: bytes, message: str) -> None:
    """It must not be taken for a short answer, nor wait for ever."""
    with saying([answer]) as port:
        connections = connect(port)
        with pytest.raises(ConnectionError, match=message):
            connections.exchange(REQUEST)


def test_silence_ends_with_the_timeout() -> None:
    """A frozen service would hold the window open for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = connect(listener.getsockname()[1], 0.05)
        with pytest.raises(TimeoutError):
            connections.exchange(REQUEST)


def test_a_request_is_written_for_its_target() -> None:
    """The model's name is in the path of the protocol; the length is that of the body."""
    target = Target(
        arm="candidate",
        url="http://127.0.0.1:81",
        model="tiny",
        version=1,
        classes=(),
        atol=0,
        golden=(),
    )
    body = Body(payload=b"abc", rows=1, path="/v2/models/{model}/infer", headers={"Accept": "*/*"})
    lines = write_request(target, body).decode().split("\r\n")
    assert lines[0] == "POST /v2/models/tiny/infer HTTP/1.1"
    assert {"host: 127.0.0.1:81", "Accept: */*", "content-length: 3"} < set(lines)
    assert lines[-2:] == ["", "abc"]
