"""More than the service can do, and clients that take their time: turned away, told, or cut."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import select
import selectors
import socket
import threading
from pathlib import Path

import pytest

from tests.support.freezing import frozen
from tests.support.service import DEADLINE_S, running_service

BODY = b'{"rings": 40}'
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMALL = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
# Some seconds of work.
MANY_ROWS = 300_000
LARGE = b'{"instances": [' + b",".join([b"[12.5, 40, false, null]"] * MANY_ROWS) + b"]}"
LIMITS = ("--max-rows", str(MANY_ROWS), "--max-body-bytes", str(len(LARGE)))


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side hangs up, gently or not."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def send_for_ever(connection: socket.socket) -> None:
    """Until the other side cuts it."""
    while True:
        connection.sendall(b" " * 65536)


def test_what_is_beyond_the_bound_is_turned_away_at_once(registry: Path) -> None:
    """A queue that grows makes everybody wait; a client that is turned away can ask another service."""
    with running_service(registry, "tiny", "--max-requests-in-work", "3") as service:
        last = SMALL.replace(b"Host: x", b"Host: x\r\nConnection: close")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(service.open_socket()) for _ in range(10)]
            for client in clients:  # by the time of an answer it has been accepted
                client.sendall(SMALL)
                assert client.recv(65536).startswith(b"HTTP/1.1 200")
            with frozen(service.process.pid):  # so that all are read in one turn of the loop
                for client in clients:
                    client.sendall(last)
            answers = sorted(map(read_all, clients))
        assert [answer[9:12] for answer in answers] == [b"200"] * 3 + [b"503"] * 7
        assert b"retry-after: 1" in answers[-1]
        assert "3 requests are in work" in json.loads(answers[-1].partition(b"\r\n\r\n")[2])["error"]
        assert service.predict({"rings": 40})[0] == 200
        page = service.request("GET", "/metrics")[2]
        assert b'rejected_requests_total{reason="overload"} 7.0' in page


def test_a_large_request_counts_as_long_as_it_takes(registry: Path) -> None:
    """The bound is on work: one that takes seconds in a thread is in work for seconds."""
    with running_service(registry, "tiny", *LIMITS, "--max-requests-in-work", "1") as service:
        statuses: list[int] = []
        headers = {"Content-Type": "application/json"}

        def ask() -> None:
            """Until it is taken on: it may itself come while a small one is in work."""
            while (status := service.request("POST", "/predict", LARGE, headers)[0]) == 503:
                pass
            statuses.append(status)

        large = threading.Thread(target=ask)
        large.start()
        service.wait_for(lambda: service.predict({"rings": 40})[0] == 503 or statuses)
        assert service.request("GET", "/v2/health/ready")[0] == 200  # busy is no reason to be taken out
        large.join(DEADLINE_S)
        assert statuses == [200]
        assert service.predict({"rings": 40})[0] == 200


def test_a_request_beyond_its_deadline_is_given_up(registry: Path) -> None:
    """Nobody waits for an answer any more that comes a minute late."""
    with running_service(registry, "tiny", *LIMITS, "--deadline-s", "0.05") as service:
        status, _, body = service.request("POST", "/predict", LARGE, {"Content-Type": "application/json"})
        assert status == 504
        assert "0.05 s" in json.loads(body)["error"]
        assert service.predict({"rings": 40})[0] == 200


@pytest.mark.parametrize(
    "endless",
    [
        HEAD + b"X-Long: ",
        HEAD + b"Content-Length: 60000\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff0\r\n",
        SMALL + HEAD,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD,
    ],
    ids=["head", "short body", "chunked body", "second head", "head after another way"],
)
def test_a_client_that_sends_a_byte_at_a_time_is_told_and_cut(registry: Path, endless: bytes) -> None:
    """Slowloris: a thousand such clients cost an attacker nothing."""
    with (
        running_service(registry, "tiny", "--receive-timeout-s", "0.5") as service,
        service.open_socket() as slow,
    ):
        slow.sendall(endless)
        answers = b""
        with selectors.DefaultSelector() as selector, contextlib.suppress(ConnectionError):
            selector.register(slow, selectors.EVENT_READ)
            while True:
                if selector.select(0.01):
                    part = slow.recv(65536)
                    if not part:
                        break
                    answers += part
                else:
                    slow.sendall(b"x")
        last = answers.rpartition(b"HTTP/1.1 ")[2]
        assert last.startswith(b"408"), answers
        assert list(json.loads(last.partition(b"\r\n\r\n")[2])) == ["error"]
        assert service.predict({"rings": 40})[0] == 200


def test_a_client_that_sends_on_after_its_answer_is_cut(registry: Path) -> None:
    """What is refused unread must not keep the connection, and the loop, busy for ever."""
    flags = ("--max-body-bytes", "1000", "--receive-timeout-s", "0.5")
    with running_service(registry, "tiny", *flags) as service, service.open_socket() as endless:
        endless.sendall(HEAD + b"Content-Length: 999999999999\r\n\r\n")
        assert endless.recv(65536).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            send_for_ever(endless)
        assert service.predict({"rings": 40})[0] == 200


def test_bytes_of_unfinished_bodies_are_bounded_over_all_connections(registry: Path) -> None:
    """Sixty clients that never finish a body of 16 MiB held a gigabyte; each was within its own bound."""
    flags = ("--max-body-bytes", "2000000", "--max-receiving-bytes", "5000000")
    body = b" " * 1_500_000
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 2_000_000
    with running_service(registry, "tiny", *flags) as service, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(service.open_socket()) for _ in range(4)]
        for connection in slow:
            with contextlib.suppress(ConnectionError):  # one of them is refused in the middle
                connection.sendall(head + body)
        answered, _, _ = select.select(slow, [], [], DEADLINE_S)
        answer = read_all(answered[0])
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
        assert b"connection: close" in answer
        assert "5,000,000 bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert service.predict({"rings": 40})[0] == 200  # what is small is no burden
        page = service.request("GET", "/metrics")[2]
        assert re.search(rb'rejected_requests_total\{reason="receiving"\} [1-9]', page)
        for connection in slow:
            connection.close()

        def is_given_back() -> bool:
            """Whether a body of the same size is read again, and found to be no row."""
            sent = {"Content-Type": "application/json"}
            with contextlib.suppress(ConnectionError):  # while it does not, it is refused in the middle
                return service.request("POST", "/predict", body, sent)[0] == 400
            return False

        service.wait_for(is_given_back)


@pytest.mark.parametrize("first", [b"", SMALL], ids=["never asked", "asked once"])
def test_an_idle_connection_is_closed(registry: Path, first: bytes) -> None:
    """Clients forget connections; each holds a file descriptor."""
    with running_service(registry, "tiny", "--keep-alive-s", "0.2") as service, service.open_socket() as idle:
        idle.sendall(first)
        assert read_all(idle).count(b"HTTP/1.1 200 OK") == (1 if first else 0)


def test_a_client_that_never_reads_is_not_read_from(registry: Path) -> None:
    """Its answers would pile up in memory as fast as it can ask."""
    with running_service(registry, "tiny") as service, service.open_socket() as deaf:
        deaf.setblocking(False)
        sent = 0
        with selectors.DefaultSelector() as selector:
            selector.register(deaf, selectors.EVENT_WRITE)
            while selector.select(2.0):  # stops when nothing is taken off the connection any more
                sent += deaf.send(SMALL * 400)
                assert sent < 64 * 1024 * 1024, "it goes on reading"
        assert service.predict({"rings": 40})[0] == 200


def test_a_service_out_of_file_descriptors_recovers(registry: Path) -> None:
    """Too many connections are a bad minute, not the end; and no reason to spin."""
    with running_service(registry, "tiny") as service, contextlib.ExitStack() as stack:
        limits = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        open_count = len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (open_count + 5, limits[1]))
        for _ in range(20):
            stack.enter_context(service.open_socket())
        service.wait_for(lambda: service.list_events("no connection accepted"))
        stack.close()
        assert service.predict({"rings": 40})[0] == 200
