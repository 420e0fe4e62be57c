"""What is sent below HTTP's rules or beyond its bounds: one request has one answer, and nothing grows."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import select
import socket
import threading
from pathlib import Path

import pytest

from tests.support.freezing import frozen
from tests.support.raw_clients import Answer, split_answer
from tests.support.service import DEADLINE_S, RunningService, Serve, running_service

BODY = b'{"rings": 40}'
LONGEST_HEAD = 65_536
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
# Nobody is to be asked for the second time: a request within the body of another.
HIDDEN = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n" + BODY
# Room for a body of 16 MiB, its copies, and what the process needs anyway to answer.
ROOM_BYTES = 48 * 1024 * 1024


@pytest.fixture(scope="module")
def service(serve: Serve) -> RunningService:
    """tiny@1, with rows handed to a thread from the second on."""
    return serve("tiny", "--inline-max-rows", "1")


def post(body: bytes = BODY, *fields: bytes, path: bytes = b"/predict", version: bytes = b"1.1") -> bytes:
    """A prediction as bytes on the wire."""
    lines = [b"POST %b HTTP/%b" % (path, version), b"Host: x", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def slow_post(rows: int = 300) -> bytes:
    """A prediction that goes to a thread."""
    return post(json.dumps({"instances": [[12.5, 40, False, None]] * rows}).encode())


LAST = post(BODY, b"Connection: close")


def read_answers(connection: socket.socket) -> list[Answer]:
    """All answers until the service hangs up."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 20):
            data += part
    answers = []
    while data:
        if data.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            data = data[len(b"HTTP/1.1 100 Continue\r\n\r\n") :]
            continue
        found = split_answer(data)
        assert found is not None, data[:300]
        answers.append(found[0])
        data = data[found[1] :]
    return answers


def read_answer(connection: socket.socket) -> Answer:
    """The next answer."""
    data = b""
    while (found := split_answer(data)) is None:
        part = connection.recv(65536)
        assert part, data
        data += part
    assert len(data) == found[1], data
    return found[0]


def ask(service: RunningService, *parts: bytes) -> list[Answer]:
    """All answers to ``parts``, each of which is read by itself, as the answer to another request shows."""
    with service.open_socket() as connection:
        for part in parts:
            connection.sendall(part)
            assert service.predict({"rings": 40})[0] == 200  # by now the part has been read
        return read_answers(connection)


def read_memory(service: RunningService, field: str) -> int:
    """Bytes of the process's memory: ``VmRSS`` now, ``VmHWM`` at most so far."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def send_until_cut(connection: socket.socket, data: bytes, most: int) -> int:
    """Send ``data`` again and again; the bytes that were sent when the other side hung up, or ``most``."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            connection.sendall(data)
            sent += len(data)
    return sent


@pytest.mark.parametrize("wish", [b"h2c", b"websocket", b"foo/1", b"TLS/1.0, HTTP/1.1"])
@pytest.mark.parametrize("options", [b"Upgrade", b"Upgrade, HTTP2-Settings", b"keep-alive, upgrade"])
@pytest.mark.parametrize("cut", ["one segment", "body later", "body in parts", "head in parts"])
def test_a_request_that_wishes_an_upgrade_has_one_answer(
    service: RunningService, wish: bytes, options: bytes, cut: str
) -> None:
    """A body that is taken for a request is answered to whoever comes next behind a proxy (CWE-444)."""
    request = post(HIDDEN, b"Connection: " + options, b"Upgrade: " + wish, b"HTTP2-Settings: AAMAAABk")
    end = request.index(b"\r\n\r\n") + 4
    cuts = {
        "one segment": [],
        "body later": [end],
        "body in parts": [end, end + 9],
        "head in parts": [30, end - 2],
    }
    edges = [0, *cuts[cut], len(request)]
    parts = [request[begin:end] for begin, end in itertools.pairwise(edges)]
    answers = ask(service, *parts, LAST)
    assert [answer.status for answer in answers] == [400, 200]
    assert b"not JSON" in answers[0].body


@pytest.mark.parametrize("cut", [False, True], ids=["one segment", "body later"])
def test_a_chunked_body_behind_a_wish_to_upgrade_is_read(service: RunningService, cut: bool) -> None:
    """Java's client wishes HTTP/2 with every first request, whatever its body's framing is."""
    head = CHUNKED[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    body = b"5\r\n%b\r\n8;a=b\r\n%b\r\n0\r\n\r\n" % (BODY[:5], BODY[5:])
    answers = ask(service, *([head, body] if cut else [head + body]), LAST)
    assert [answer.status for answer in answers] == [200, 200]


def test_a_wish_to_upgrade_behind_a_chunked_request_is_no_way_in(service: RunningService) -> None:
    """Where a chunked body ends only the parser knows, so the next head is read in the same bite."""
    chunked = CHUNKED + b"d\r\n%b\r\n0\r\n\r\n" % BODY
    wish = post(HIDDEN, b"Connection: Upgrade", b"Upgrade: h2c")
    answers = ask(service, chunked + wish + chunked + LAST)
    assert [answer.status for answer in answers] == [200, 400, 200, 200]


def test_a_get_with_a_body_and_a_wish_has_one_answer(service: RunningService) -> None:
    """Bodies of other methods are read over as well."""
    request = post(HIDDEN, b"Connection: Upgrade", b"Upgrade: h2c", path=b"/v2/health/live")
    answers = ask(service, request.replace(b"POST", b"GET", 1), LAST)
    assert [answer.status for answer in answers] == [200, 200]
    assert b'"live":true' in answers[0].body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN, 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5000 + b"13\r\n\r\n" + BODY, 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n" + HIDDEN, 400),
        (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (
            CHUNKED + b"2\r\n{}\r\nzz\r\n" + HIDDEN,
            400,
        ),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
        (b"\r\n" * 40_000, 431),
    ],
    ids=lambda value: value[:60].decode() if isinstance(value, bytes) else str(value),
)
def test_what_is_no_request_here_is_refused_once_and_in_json(
    service: RunningService, sent: bytes, status: int
) -> None:
    """Whatever stands behind it is not read as a request, since nobody knows where one would begin."""
    answers = ask(service, sent)
    assert [answer.status for answer in answers] == [status]
    assert answers[0].headers[b"connection"] == b"close"
    assert answers[0].headers[b"content-type"] == b"application/json"
    assert answers[0].headers[b"x-content-type-options"] == b"nosniff"
    assert list(json.loads(answers[0].body)) == ["error"]


def test_a_head_of_the_greatest_length_is_read(service: RunningService) -> None:
    """The bound is said in bytes, and means them: one byte more is refused, however it is cut."""
    begin, end = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: ", b"\r\n\r\n"
    fitting = begin + b"a" * (LONGEST_HEAD - len(begin) - len(end)) + end
    for head, status in ((fitting, 200), (begin + b"a" + fitting[len(begin) :], 431)):
        for cut in (1, 40_000, LONGEST_HEAD - 2):
            assert [answer.status for answer in ask(service, head[:cut], head[cut:])] == [status]


ENDLESS = {
    "fields": (
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"".join(b"X-%d: %b\r\n" % (i, b"a" * 20) for i in range(2000)),
    ),
    "one field": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 65_536),
    "one name": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a" * 65_536),
    "target": (b"GET /", b"a" * 65_536),
    "blank lines": (b"", b"\r\n" * 32_768),
    "chunk extension": (
        CHUNKED + b"5;a=",
        b"a" * 65_536,
    ),
    "chunk extensions": (
        CHUNKED,
        b"1;a=" + b"a" * 4000 + b"\r\n \r\n",
    ),
    "trailers": (
        CHUNKED + b"0\r\n",
        b"X-A: " + b"a" * 1000 + b"\r\n",
    ),
    "trailer": (
        CHUNKED + b"0\r\nX-A: ",
        b"a" * 65_536,
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_refused_before_it_has_grown(service: RunningService, kind: str) -> None:
    """Nothing of a request is without a bound: 300 MB of headers once were 400 MB of memory."""
    begin, more = ENDLESS[kind]
    before = read_memory(service, "VmHWM")
    with service.open_socket() as connection:
        connection.sendall(begin)
        refusal: list[Answer] = []
        reader = threading.Thread(target=lambda: refusal.extend(read_answers(connection)))
        reader.start()
        sent = send_until_cut(connection, more, 64 * 1024 * 1024)
        connection.shutdown(socket.SHUT_WR) if sent >= 64 * 1024 * 1024 else None
        reader.join(DEADLINE_S)
    assert [answer.status for answer in refusal] == [414 if kind == "target" else 431]
    assert read_memory(service, "VmHWM") - before < ROOM_BYTES
    assert service.predict({"rings": 40})[0] == 200


def test_trailers_are_no_headers(service: RunningService) -> None:
    """A trailer that passed for a header could change what a proxy has checked (RFC 9110, 6.5.1)."""
    request = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"d\r\n%b\r\n0\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\n" % BODY
    )
    assert [answer.status for answer in ask(service, request)] == [200]


def test_many_requests_in_one_packet_are_all_answered_in_order(service: RunningService) -> None:
    """HTTP/1.1 allows it; none is too many for one who waits for none."""
    bodies = [b'{"rings": %d}' % rings for rings in range(300)]
    with service.open_socket() as connection:
        connection.sendall(b"".join(post(body) for body in bodies) + LAST)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [200] * 301
    expected = [service.request("POST", "/predict", body)[2] for body in bodies[::60]]
    assert [answer.body for answer in answers[:300:60]] == expected


def test_one_that_pipelines_keeps_nobody_waiting(service: RunningService) -> None:
    """Its requests have a turn each; others are answered between them, and not after them."""
    with service.open_socket() as greedy, service.open_socket() as modest:
        modest.sendall(post())
        read_answer(modest)
        with frozen(service.process.pid):
            greedy.sendall(post() * 1000 + LAST)
            modest.sendall(LAST)
        order: list[tuple[str, set[int]]] = []

        def read(name: str, connection: socket.socket) -> None:
            order.append((name, {answer.status for answer in read_answers(connection)}))

        threads = [
            threading.Thread(target=read, args=who) for who in (("greedy", greedy), ("modest", modest))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert order == [("modest", {200}), ("greedy", {200})]
    page = service.request("GET", "/metrics")[2].decode()
    assert 'rejected_requests_total{reason="overload"}' not in page


@pytest.mark.parametrize("later", [False, True], ids=["one packet", "two packets"])
@pytest.mark.parametrize("first", ["slow", "fast", "chunked"])
def test_an_answer_goes_out_before_the_refusal_of_what_stands_behind(
    service: RunningService, first: str, later: bool
) -> None:
    """The first request was right; its client is owed the answer."""
    chunked = CHUNKED + b"d\r\n%b\r\n0\r\n\r\n" % BODY
    good = {"slow": slow_post(), "fast": post(), "chunked": chunked}[first]
    with service.open_socket() as connection:
        connection.sendall(good + (b"" if later else b"GARBAGE\r\n\r\n"))
        if later:
            connection.sendall(b"GARBAGE\r\n\r\n")
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [200, 400]


@pytest.mark.parametrize(
    "fields",
    [
        [b"Expect: 100-continue", b"Content-Length: 13"],
        [b"Expect: 100-continue", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Expect: 100-continue"],
        [b"Expect: 100-continue", b"Content-Encoding: identity", b"Content-Length: 13"],
        [b"Expect: 100-continue", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 13"],
    ],
    ids=lambda fields: ", ".join(field.decode() for field in fields),
)
def test_who_waits_for_a_word_to_go_on_gets_it(service: RunningService, fields: list[bytes]) -> None:
    """In whatever order its headers stand; a client that gets none waits a second or for ever."""
    body = b"d\r\n%b\r\n0\r\n\r\n" % BODY if b"Transfer-Encoding: chunked" in fields else BODY
    with service.open_socket() as connection:
        connection.sendall(b"\r\n".join([b"POST /predict HTTP/1.1", b"Host: x", *fields, b"", b""]))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 200
        connection.sendall(LAST)  # its body has come, so that the connection goes on
        assert [answer.status for answer in read_answers(connection)] == [200]


def test_a_refusal_before_an_expected_body_ends_the_connection(service: RunningService) -> None:
    """Its client may send the body or leave it: what comes next would be a guess."""
    with service.open_socket() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"
        )
        answers = read_answers(connection)
    assert [(answer.status, answer.is_last) for answer in answers] == [(413, True)]


@pytest.mark.parametrize("path", [b"/predict", b"/predict/tiny"], ids=["usual", "general"])
def test_http_1_0_is_kept_alive_if_it_asks_to_be(service: RunningService, path: bytes) -> None:
    """`ab -k` waits for ever on a connection that neither says keep-alive nor ends."""
    with service.open_socket() as connection:
        for _ in range(2):
            connection.sendall(post(BODY, b"Connection: keep-alive", path=path, version=b"1.0"))
            answer = read_answer(connection)
            assert (answer.status, answer.headers[b"connection"]) == (200, b"keep-alive")
        connection.sendall(post(BODY, path=path, version=b"1.0"))
        assert [(answer.status, answer.is_last) for answer in read_answers(connection)] == [(200, True)]


def test_a_client_that_ends_its_side_still_has_its_answers(service: RunningService) -> None:
    """Programs that write everything, shut down and read are as old as sockets."""
    with service.open_socket() as connection:
        connection.sendall(slow_post() + post() * 20 + slow_post())
        connection.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in read_answers(connection)] == [200] * 22


def test_one_connection_too_many_takes_the_place_of_an_idle_one(registry: Path) -> None:
    """Clients forget connections; they may not keep health checks out."""
    with (
        running_service(registry, "tiny", "--max-connections", "8") as service,
        contextlib.ExitStack() as stack,
    ):
        idle = [stack.enter_context(service.open_socket()) for _ in range(8)]
        for connection in idle:
            connection.sendall(post())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert service.request("GET", "/v2/health/live")[0] == 200
        closed, _, _ = select.select(idle, [], [], DEADLINE_S)
        assert [connection.recv(65536) for connection in closed] == [b""]
        busy: list[socket.socket] = []
        while service.request("GET", "/v2/health/live")[0] == 200:  # the last one's end may be seen late
            busy.append(stack.enter_context(service.open_socket()))
            busy[-1].sendall(b"POST /predict HTTP/1.1\r\n")
            assert len(busy) < 20
        status, headers, body = service.request("GET", "/v2/health/live")
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert "8 connections are open" in json.loads(body)["error"]
        for connection in busy:
            connection.sendall(b"Host: x\r\nConnection: close\r\nContent-Length: 13\r\n\r\n" + BODY)
            assert [answer.status for answer in read_answers(connection)] == [200]
        page = service.request("GET", "/metrics")[2].decode()
        assert re.search(r'rejected_requests_total\{reason="connections"\} [1-9]', page)


@pytest.mark.parametrize("length", [900_000, 4_000_000], ids=["usual", "general"])
def test_bodies_that_never_end_have_one_budget(registry: Path, length: int) -> None:
    """Sixty unfinished bodies of 16 MiB once were 1 GB; each by itself was within its bound."""
    limit = 8_000_000
    flags = ("--max-receiving-bytes", str(limit), "--max-body-bytes", "4000000")
    with running_service(registry, "tiny", *flags) as service, contextlib.ExitStack() as stack:
        before = read_memory(service, "VmHWM")
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
        clients = [stack.enter_context(service.open_socket()) for _ in range(30)]
        threads = [
            threading.Thread(target=send_until_cut, args=(client, head + b" " * (length - 1), 1))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        refused = 0
        for client in clients:
            client.settimeout(0.5)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                answer = client.recv(65536)
                assert answer.startswith(b"HTTP/1.1 503"), answer
                assert b"connection: close" in answer
                refused += 1
        assert refused >= 30 - limit // length - 1
        assert read_memory(service, "VmHWM") - before < 4 * limit
        page = service.request("GET", "/metrics")[2].decode()
        assert re.search(r'rejected_requests_total\{reason="receiving"\} [1-9]', page)
        stack.close()
        service.wait_for(lambda: read_memory(service, "VmRSS") - before < limit)  # and given back
        rows = {"instances": [{"rings": 40, "height": 0.1234567890123}] * 9000}
        service.wait_for(lambda: service.predict(rows)[0] == 200)
