"""Requests sent behind each other without waiting: answers come in the order of the requests."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator

import pytest

from registry.store import open_store
from tests.support.service import DEADLINE_S, RunningService, running_service
from tests.support.tiny_model import NUMERIC_COLUMNS, publish_numeric

ROW = [12.5, 40, False, None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """tiny@1, with rows handed to a thread from the second on."""
    registry = tmp_path_factory.mktemp("registry")
    publish_numeric(open_store(registry))
    with running_service(registry, "tiny", "--inline-max-rows", "1") as running:
        yield running


def post(rows: int) -> bytes:
    """A prediction of ``rows`` rows as bytes on the wire."""
    body = json.dumps({"instances": [ROW[: len(NUMERIC_COLUMNS)]] * rows}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def read_answer(file: io.BufferedReader) -> dict[str, object]:
    """The JSON of the next answer."""
    status = file.readline()
    assert status.startswith(b"HTTP/1.1 200"), status
    headers = http.client.parse_headers(file)
    answer: dict[str, object] = json.loads(file.read(int(headers["content-length"])))
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
    counts = [len(a["predictions"]) if "predictions" in a else None for a in answers]  # type: ignore[arg-type]
    assert counts == [wanted[kind] for kind in order.split()]


def test_a_client_that_hangs_up_on_a_thread_harms_nobody(service: RunningService) -> None:
    """The thread's answer has nowhere to go; the service goes on."""
    with socket.create_connection((service.host, service.port), timeout=DEADLINE_S) as connection:
        connection.sendall(post(300) + GET)
    assert service.get_json("/v2/health/live")["live"]
