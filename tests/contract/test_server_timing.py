"""With ``--server-timing`` every answer to a POST tells its times; without it none does."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, RunningService, Serve, running_service
from tests.support.tiny_model import NUMERIC_ROWS

ROW = json.dumps({"rings": 40}).encode()
ROWS = json.dumps({"instances": [list(row) for row in NUMERIC_ROWS]}).encode()
LARGE = json.dumps({"instances": [list(row) for row in NUMERIC_ROWS] * 300}).encode()
TOO_LARGE = json.dumps({"instances": [list(row) for row in NUMERIC_ROWS] * 4000}).encode()


@pytest.fixture(scope="module", params=["alone", "logged", "workers"])
def service(request: pytest.FixtureRequest, serve: Serve) -> RunningService:
    """tiny@1 telling its times: the flag alone, with a request log, and as two workers."""
    more = {"alone": (), "logged": ("--request-log",), "workers": ("--workers", "2")}[request.param]
    return serve("tiny", "--server-timing", *more)


def read_times(header: str | None) -> dict[str, float]:
    """Milliseconds by name."""
    assert header is not None
    time = r";dur=\d+\.\d{6}"
    assert re.fullmatch(f"handler{time}, cpu{time}(, wait{time}, wake{time})?", header)
    entries = (entry.split(";dur=") for entry in header.split(", "))
    return {name: float(milliseconds) for name, milliseconds in entries}


def check_times(header: str | None, threads: int = 1) -> None:
    """Sane numbers, of work on up to so many threads at a time."""
    times = read_times(header)
    waits = ["wait", "wake"] if Path("/proc/self/schedstat").exists() else []
    assert list(times) == ["handler", "cpu", *waits]
    assert 0 < times["handler"] < DEADLINE_S * 1e3
    assert 0 < times["cpu"] <= threads * times["handler"]
    assert 0 <= times.get("wait", 0) <= times["handler"]


@pytest.mark.parametrize(
    ("path", "body", "status", "threads"),
    [
        ("/predict", ROW, 200, 1),
        ("/predict?probabilities=false", ROW, 200, 1),
        ("/predict", ROWS, 200, 1),
        ("/predict", LARGE, 200, 2),
        ("/predict/tiny", ROW, 200, 1),
        ("/predict", b"{", 400, 1),
        ("/predict", LARGE[:-1], 400, 2),
        ("/predict/nobody", ROW, 404, 1),
        ("/nothing/here", ROW, 404, 1),
        ("/v2", b"", 405, 1),
        ("/predict", TOO_LARGE, 413, 2),
        ("/v2/repository/index", b"", 200, 1),
    ],
)
def test_every_answer_to_a_post_tells_its_times(
    service: RunningService, path: str, body: bytes, status: int, threads: int
) -> None:
    """The short way, the general one, the pool and errors: an answer without them cannot be judged."""
    found, headers, _ = service.request("POST", path, body)
    assert found == status
    check_times(headers["server-timing"], threads)


def test_a_body_in_chunks_is_timed(service: RunningService) -> None:
    """It goes the general way, as its length is not known before its end."""
    connection = service.connect()
    connection.request("POST", "/predict", iter([ROW[:4], ROW[4:]]), encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, bool(answer.read())) == (200, True)
    check_times(answer.headers["server-timing"])
    connection.close()


def test_requests_behind_each_other_are_each_timed(service: RunningService) -> None:
    """The header's bytes differ each time; a length that counts them wrongly would end the stream."""
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    bodies = [ROW, LARGE, ROWS, ROW]
    with socket.create_connection((service.host, service.port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"".join(request % (len(body), body) for body in bodies))
        with connection.makefile("rb") as file:
            for _ in bodies:
                assert file.readline().startswith(b"HTTP/1.1 200")
                headers = http.client.parse_headers(file)
                check_times(headers["server-timing"], threads=2)
                assert json.loads(file.read(int(headers["content-length"])))


def test_other_methods_tell_nothing(service: RunningService) -> None:
    """What is not measured needs no header."""
    assert service.request("GET", "/v2")[1]["server-timing"] is None


def test_without_the_flag_no_answer_tells(published: Path) -> None:
    """It would tell every client how busy the machine is."""
    with running_service(published, "tiny") as service:
        for path, body in [("/predict", ROW), ("/predict", LARGE), ("/predict/tiny", ROW), ("/none", ROW)]:
            assert service.request("POST", path, body)[1]["server-timing"] is None


def test_the_variable_turns_it_on(published: Path) -> None:
    """The gate's arms and a container are set up by variables."""
    environment = {"TIMBERLINE_SERVE_SERVER_TIMING": "true"}
    with running_service(published, "tiny", environment=environment) as service:
        check_times(service.request("POST", "/predict", ROW)[1]["server-timing"])
