"""Requests that are broken below the JSON: too long, cut off, not HTTP, sent by somebody who left."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import zlib
from collections.abc import Iterator

import pytest

from tests.support.service import RunningService, Serve

LIMIT = 100_000


@pytest.fixture(scope="module")
def service(serve: Serve) -> RunningService:
    """tiny@1 that reads bodies of up to `LIMIT` bytes, with more than two rows in a thread."""
    flags = ("--max-body-bytes", str(LIMIT), "--inline-max-rows", "2", "--inline-max-body-bytes", "2000")
    return serve("tiny", *flags)


@pytest.fixture(autouse=True)
def still_answers(service: RunningService) -> Iterator[None]:
    """Whatever a test sends, the next client is served as if nothing had been."""
    yield
    status, answer = service.predict({"rings": 40})
    assert (status, answer["prediction"]) == (200, "2"), service.log
    assert "Traceback" not in service.log


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one answer with a content length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        part = connection.recv(65536)
        assert part, data
        body += part
    return head, body


def test_a_body_that_announces_itself_too_long_is_refused_unread(service: RunningService) -> None:
    """The answer comes while none of the announced bytes has been sent."""
    with service.open_socket() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        head, body = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 413")
    assert "100,000 bytes" in json.loads(body)["error"]


def test_a_body_of_unknown_length_is_refused_while_it_arrives(service: RunningService) -> None:
    """A chunked body has no length to refuse; the bytes are counted as they come, and it never ends here."""
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    with service.open_socket() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(chunk * 4)
        head, body = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 413")
    assert list(json.loads(body)) == ["error"]


def test_a_chunked_body_within_the_limit_is_read(service: RunningService) -> None:
    """Streaming clients do not know their length; that is no error."""
    with service.open_socket() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b'{"ri', b'ngs"', b": 40}"):
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")
        head, body = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["prediction"] == "2"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_is_inflated(service: RunningService, coding: str) -> None:
    """Rows compress to a tenth, and clients far away know it."""
    compress = gzip.compress if coding == "gzip" else zlib.compress
    rows = [[float(index % 90), index + 1, False, None] for index in range(3500)]
    body = json.dumps({"instances": rows}, separators=(",", ":")).encode()
    assert 65_536 < len(body) < LIMIT  # beyond what is inflated on the event loop
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    status, _, answer = service.request("POST", "/predict", compress(body), headers)
    assert status == 200, answer
    assert json.loads(answer) == service.predict({"instances": rows})[1]


def test_a_bomb_is_refused_while_it_arrives(service: RunningService) -> None:
    """A few kilobytes that grow beyond the bound are refused, though their end never comes."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = compressor.compress(b" " * 2**24) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < LIMIT
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    with service.open_socket() as connection:
        connection.sendall(head % (len(bomb) + 1) + bomb)
        answer, body = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert "the inflated body has more than 100,000 bytes" in json.loads(body)["error"]


def test_the_connection_can_be_used_after_a_refusal(service: RunningService) -> None:
    """A refused body is read to its end and dropped, or its rest would be taken for the next request."""
    with contextlib.closing(service.connect()) as connection:
        connection.request("POST", "/predict", b" " * (LIMIT + 50_000))
        response = connection.getresponse()
        assert (response.status, list(json.loads(response.read()))) == (413, ["error"])
        connection.request("POST", "/predict", b'{"rings": 40}')
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["prediction"]) == (200, "2")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["TLS", "words", "negative length", "no number", "two lengths", "bad chunk", "path bytes"],
)
def test_what_is_not_http_is_refused_in_json(service: RunningService, sent: bytes) -> None:
    """Errors below our own code have the same shape, so that no client meets two."""
    with service.open_socket() as connection:
        connection.sendall(sent)
        head, body = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 400"), head
    assert b"content-type: application/json" in head.lower()
    assert list(json.loads(body)) == ["error"]


def test_clients_that_leave_in_the_middle_are_let_go(service: RunningService) -> None:
    """Nobody is answered and nothing is leaked; the service counts them apart."""
    for sent in (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{",
        b"POST /predict HTTP/1.1\r\nHo",
        b"",
    ):
        with service.open_socket() as connection:
            connection.sendall(sent)
    page = ""
    while 'status="499"' not in page:
        page = service.request("GET", "/metrics")[2].decode()
    assert "requests_in_flight 0.0" in page


def test_what_only_looks_is_not_in_flight(service: RunningService) -> None:
    """An autoscaler that follows the number must not see its own scrapes, nor the probes, as work."""
    with service.open_socket() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{    \r\n"
        )
        page = ""
        while "requests_in_flight 1.0" not in page:
            assert service.request("GET", "/v2/health/ready")[0] == 200
            page = service.request("GET", "/metrics")[2].decode()
            assert re.search(r"^requests_in_flight [01]\.0$", page, re.M)
        connection.sendall(b'a\r\n"rings":4}\r\n0\r\n\r\n')
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert "requests_in_flight 0.0" in service.request("GET", "/metrics")[2].decode()


def test_large_requests_are_answered_beside_small_ones(service: RunningService) -> None:
    """Above the thresholds decoding and inference run in threads; answers and errors stay the same."""
    rows = [[float(index % 90), index + 1, False, None] for index in range(1500)]
    status, answer = service.predict({"instances": rows})
    assert status == 200
    assert len(answer["predictions"]) == len(rows)
    alone = service.predict({"instances": rows[700:701]})[1]["predictions"][0]
    assert answer["predictions"][700]["prediction"] == alone["prediction"]
    status, answer = service.predict({"instances": [*rows, [0.0, 1.5, False, None]]})
    assert (status, answer) == (400, {"error": 'row 1500, "rings": expected an integer, found 1.5'})


def test_a_pipelined_pair_is_answered_in_order(service: RunningService) -> None:
    """HTTP/1.1 allows it, and proxies do it."""
    one = b'{"rings": 40}'
    two = b'{"ring": 40}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with service.open_socket() as connection:
        connection.sendall(head % len(one) + one + head % len(two) + two)
        answers = b""
        while b'rings\\"?' not in answers:
            part = connection.recv(65536)
            assert part, answers
            answers += part
    assert answers.index(b"200 OK") < answers.index(b"400 Bad Request")
