"""The end of a service: what was begun is finished, and the process ends with 0."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.closed_loop import ClosedLoop
from tests.support.service import DEADLINE_S, RunningService, running_command, running_service

BODY = b'{"rings": 40}'
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# The first and the second half of a request, by how its end is told: a body of a known length is read
# by the connection itself, a chunked one by the application.
HALVES = {
    "length": (HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:5], BODY[5:]),
    "chunked": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\n",
        b"%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n",
    ),
    "head": (HEAD[:40], HEAD[40:] + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY),
}
KINDS = pytest.mark.parametrize("kind", HALVES)
CLIENTS = 16


@contextlib.contextmanager
def begun_requests(service: RunningService, kind: str, count: int) -> Iterator[list[socket.socket]]:
    """Connections on which a request has begun and a part of it is still to come."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            connection = socket.create_connection((service.host, service.port), DEADLINE_S)
            sockets.append(stack.enter_context(connection))
            connection.sendall(HALVES[kind][0])
        # Connections are accepted and read in their order: when this one is answered, those were read.
        assert service.get_json("/v2/health/live")
        yield sockets


def refuses_connections(service: RunningService) -> bool:
    """Whether nobody listens on the port any more."""
    try:
        socket.create_connection((service.host, service.port), DEADLINE_S).close()
    except ConnectionError as error:  # a reset is the socket being closed this very moment
        return isinstance(error, ConnectionRefusedError)
    return False


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side hangs up."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@KINDS
def test_requests_in_flight_are_answered_after_sigterm(registry: Path, kind: str) -> None:
    """A release or a scale-down sends SIGTERM in the middle of work; no client may notice."""
    with running_service(registry, "tiny") as service, begun_requests(service, kind, 5) as sockets:
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: refuses_connections(service))
        for connection in sockets:
            connection.sendall(HALVES[kind][1])
        for connection in sockets:
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK"), head
            assert b"connection: close" in head
            assert json.loads(body)["model"] == "tiny"
        service.wait()


def test_a_draining_service_says_that_it_is_not_ready_and_answers(registry: Path) -> None:
    """A load balancer sends on until it looks at the readiness again; none of that may be lost."""
    with running_service(registry, "tiny", "--drain-s", "3600") as service:
        assert service.request("GET", "/v2/health/ready")[0] == 200
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: service.request("GET", "/v2/health/ready")[0] == 503)
        status, headers, body = service.request("GET", "/v2/health/ready")
        assert (status, json.loads(body)) == (503, {"live": True, "ready": False})
        assert headers["retry-after"] == "1"
        assert service.get_json("/v2/health/live") == {"live": True, "ready": False}
        assert service.predict({"rings": 40})[0] == 200
        status, _, body = service.request("GET", "/")
        assert (status, list(json.loads(body))) == (503, ["error"])
        service.stop()  # a second SIGTERM does not wait for the rest of the hour


def test_a_signal_to_every_process_at_once_counts_as_one(registry: Path) -> None:
    """systemd ends a service so: a worker gets its signal and the supervisor's, and drains all the same."""
    with running_service(registry, "tiny", "--workers", "2", "--drain-s", "3600") as service:

        def is_draining() -> bool:
            """Whether each worker says so, whichever is asked."""
            return all(service.request("GET", "/v2/health/ready")[0] == 503 for _ in range(20))

        pids = service.worker_pids
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        service.wait_for(is_draining)
        service.process.send_signal(signal.SIGTERM)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for _ in range(20):  # more than it takes for each worker to be asked
            status, headers, _ = service.request("POST", "/predict", {"rings": 40})
            assert (status, headers["connection"]) == (200, None)  # "close" is of the step after the drain
        service.stop()  # a second one to the supervisor goes on to the next step, in every worker


def test_idle_connections_do_not_hold_up_the_end(registry: Path) -> None:
    """Keep-alive connections of a pool may stay open for an hour."""
    with running_service(registry, "tiny") as service, contextlib.ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(contextlib.closing(service.connect()))
            connection.request("GET", "/")
            assert connection.getresponse().read()
        silent = socket.create_connection((service.host, service.port), DEADLINE_S)
        stack.enter_context(silent)
        service.stop()


@KINDS
def test_a_request_that_never_ends_is_given_up_after_the_grace(registry: Path, kind: str) -> None:
    """A client that died in the middle must not keep the process from ending; a slow one is told."""
    with (
        running_service(registry, "tiny", "--shutdown-grace-s", "0") as service,
        begun_requests(service, kind, 1) as (slow,),
    ):
        service.process.send_signal(signal.SIGTERM)
        head, _, body = read_all(slow).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503"), head
        assert list(json.loads(body)) == ["error"]
        service.wait()


def test_a_second_sigterm_gives_up_what_the_first_one_waits_for(registry: Path) -> None:
    """Somebody who asks twice does not want to wait for the slowest client."""
    with (
        running_service(registry, "tiny", "--shutdown-grace-s", "3600") as service,
        begun_requests(service, "length", 1) as (slow,),
    ):
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: refuses_connections(service))
        service.process.send_signal(signal.SIGTERM)
        assert read_all(slow).startswith(b"HTTP/1.1 503")
        service.wait()


def test_requests_written_before_the_signal_was_heard_are_answered(registry: Path) -> None:
    """The requests are in the kernel when the service hears that it is to stop: Kludex/uvicorn#2757.

    A stopped process stands for a loop that is busy at that moment. Half of the connections are
    known to the service; of the others it has not even heard.
    """
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with running_service(registry, "tiny") as service, contextlib.ExitStack() as stack:
        address = (service.host, service.port)
        known = [stack.enter_context(socket.create_connection(address, DEADLINE_S)) for _ in range(CLIENTS)]
        for connection in known:
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        service.process.send_signal(signal.SIGSTOP)
        new = [stack.enter_context(socket.create_connection(address, DEADLINE_S)) for _ in range(CLIENTS)]
        for connection in (*known, *new):
            connection.sendall(request)
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGCONT)
        for connection in (*known, *new):
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK"), head
            assert json.loads(body)["model"] == "tiny"
        service.wait()


@pytest.mark.parametrize("attempt", range(3))
def test_no_request_of_a_closed_loop_is_lost(registry: Path, attempt: int) -> None:
    """Every request that was sent on a connection that the service took is answered, to the last."""
    with running_service(registry, "tiny") as service:
        with ClosedLoop(service, CLIENTS) as load:
            service.wait_for(lambda: load.answer_count > 500)
            service.stop()
        assert load.failures == []
        assert load.statuses == {200}


@pytest.mark.skipif(os.getuid() != 0, reason="this user has no rights to give up")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_request_is_lost_by_a_service_without_rights(registry: Path, host: str) -> None:
    """The user of a unit or of a container has no capability, and newer kernels ask for one before they
    filter packets: what keeps the last connections must need none."""
    command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-m", "inference"]
    command += ["serve", "--model", "tiny", "--registry", f"{registry}", "--host", host, "--port", "0"]
    with running_command(command, os.environ) as service:
        with ClosedLoop(service, CLIENTS) as load:
            service.wait_for(lambda: load.answer_count > 500)
            service.stop()
        assert load.failures == []
        assert load.statuses == {200}


def test_load_during_the_end_gets_whole_answers_or_none(registry: Path) -> None:
    """Under load every answer that arrives is complete and right; the rest were never accepted."""
    stop_now = threading.Event()
    answers: list[tuple[int, bytes]] = []
    failures: list[str] = []

    def ask(service: RunningService) -> None:
        while True:
            try:
                status, _, body = service.request("POST", "/predict", BODY, {"Connection": "close"})
            except OSError as error:
                failures.append(type(error).__name__)
                return
            answers.append((status, body))
            if len(answers) > 200:
                stop_now.set()

    with running_service(registry, "tiny") as service:
        threads = [threading.Thread(target=ask, args=(service,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert stop_now.wait(DEADLINE_S), service.log
        service.stop()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert {status for status, _ in answers} == {200}
    assert len({body for _, body in answers}) == 1
    assert len(failures) == 8  # each thread's first failure is its last request


def test_an_interrupt_ends_it_as_cleanly(registry: Path) -> None:
    """Ctrl+C at a terminal is a way to stop, not a failure."""
    with running_service(registry, "tiny") as service:
        service.process.send_signal(signal.SIGINT)
        service.wait()
        assert "Traceback" not in service.log
