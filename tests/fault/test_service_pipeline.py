"""Requests sent behind each other without waiting: answers come in the order of the requests."""

from __future__ import annotations

import http.client
import io
import json
import random
import socket
from typing import Any

import pytest

from tests.support.service import DEADLINE_S, RunningService, Serve
from tests.support.tiny_model import NUMERIC_COLUMNS

ROW = [12.5, 40, False, None]


@pytest.fixture(scope="module")
def service(serve: Serve) -> RunningService:
    """tiny@1, with rows handed to a thread from the second on."""
    return serve("tiny", "--inline-max-rows", "1")


def post(rows: int) -> bytes:
    """A prediction of ``rows`` rows as bytes on the wire."""
    body = json.dumps({"instances": [ROW[: len(NUMERIC_COLUMNS)]] * rows}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def read_answer(file: io.BufferedReader) -> dict[str, Any]:
    """The JSON of the next answer."""
    status = file.readline()
    assert status.startswith(b"HTTP/1.1 200"), status
    headers = http.client.parse_headers(file)
    answer: dict[str, Any] = json.loads(file.read(int(headers["content-length"])))
    return answer


@pytest.mark.parametrize("order", ["slow fast", "fast slow", "slow slow fast", "slow quick slow"])
def test_answers_come_in_the_order_of_the_requests(service: RunningService, order: str) -> None:
    """HTTP/1.1 has no other way to tell whose answer it is."""
    requests = {"slow": post(300), "fast": GET, "quick": post(1)}
    wanted = {"slow": 300, "fast": None, "quick": 1}
    with socket.create_connection((service.host, service.port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"".join(requests[kind] for kind in order.split()))
        with connection.makefile("rb") as file:
            answers = [read_answer(file) for _ in order.split()]
    counts = [len(a["predictions"]) if "predictions" in a else None for a in answers]
    assert counts == [wanted[kind] for kind in order.split()]


def test_a_client_that_hangs_up_on_a_thread_harms_nobody(service: RunningService) -> None:
    """The thread's answer has nowhere to go; the service goes on."""
    with socket.create_connection((service.host, service.port), timeout=DEADLINE_S) as connection:
        connection.sendall(post(300) + GET)
    assert service.get_json("/v2/health/live")["live"]


@pytest.mark.parametrize("seed", range(6))
def test_answers_do_not_depend_on_how_the_bytes_are_cut(service: RunningService, seed: int) -> None:
    """Heads are remembered by their bytes; a head, a body and the next head arrive in any pieces."""
    chance = random.Random(seed)
    rows = [{"rings": 10 ** chance.randrange(4), "height": chance.choice([0.5, 12.25])} for _ in range(60)]
    bodies = [json.dumps(row).encode() for row in rows]
    expected = [service.request("POST", "/predict", body)[2] for body in bodies]
    heads = (b"POST /predict HTTP/1.1\r\nHost: x\r\n", b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Other: 1\r\n")
    stream = b"".join(
        chance.choice(heads) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies
    )
    with socket.create_connection((service.host, service.port), timeout=DEADLINE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        file = connection.makefile("rb")
        while stream:
            size = chance.choice([1, 7, 40, 130, 400])
            connection.sendall(stream[:size])
            stream = stream[size:]
        assert [json.dumps(read_answer(file), sort_keys=True) for _ in rows] == [
            json.dumps(json.loads(answer), sort_keys=True) for answer in expected
        ]
        file.close()


def test_what_follows_a_bodys_end_is_not_taken_for_a_heads_beginning(service: RunningService) -> None:
    """Bytes that were once the rest of a body are no request when they come first."""
    body = b'{"rings": 40}'
    head = b"POST /predict HTTP/1.1\r\nHost: y\r\nContent-Length: %d\r\n\r\n" % len(body)
    rest = body[5:] + head + body
    address = (service.host, service.port)
    with socket.create_connection(address, DEADLINE_S) as connection, connection.makefile("rb") as file:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: y\r\n\r\n" + head + body[:5])
        read_answer(file)  # by now all of it has been received
        connection.sendall(rest)
        assert [read_answer(file)["version"] for _ in range(2)] == [1, 1]
    with socket.create_connection(address, DEADLINE_S) as connection, connection.makefile("rb") as file:
        connection.sendall(rest)
        assert file.readline().startswith(b"HTTP/1.1 400")
