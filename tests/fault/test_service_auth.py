"""Who has no token gets nothing but health, and no token is ever shown."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import RunningService, refuse_to_start, running_service
from tests.support.tiny_model import publish_numeric
from timberline.registry.store import open_store

FROM_VARIABLE = "variable-token-0123456789"
FROM_FILE = "file-token-9876543210"
WRONG = "wrong-token-0000000000"
THREE_BYTES = "wrong-token-0004882547"  # its digest begins as that of FROM_FILE
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """tiny@1, guarded by one token of the environment and one of a file, with a line for each request."""
    folder = tmp_path_factory.mktemp("guarded")
    publish_numeric(open_store(folder / "registry"))
    (folder / "tokens").write_text(f"# made for this test\n{FROM_FILE}\n", "utf-8")
    flags = ("--tokens-file", str(folder / "tokens"), "--health-route", "/up")
    environment = {"TIMBERLINE_SERVE_TOKENS": f"{FROM_VARIABLE}, {FROM_VARIABLE}-2"}
    with running_service(folder / "registry", "tiny", *flags, environment=environment) as running:
        yield running
        for token in (FROM_VARIABLE, FROM_FILE, WRONG):
            assert token not in running.log
            assert token not in json.dumps(running.announced)
            assert token not in Path(f"/proc/{running.process.pid}/cmdline").read_text("utf-8")


def ask(
    service: RunningService, method: str, path: str, token: str | None, body: Any = None
) -> tuple[int, Any, Any]:
    """Status, headers and body of one request with ``token``."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return service.request(method, path, body, headers)


@pytest.mark.parametrize("token", [None, WRONG, FROM_FILE[:-1]])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v2"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/v2/models/tiny"),
        ("GET", "/v2/models/nobody"),
        ("GET", "/nothing/here"),
        ("GET", "/predict"),
        ("POST", "/predict"),
        ("POST", "/predict/"),
        ("POST", "/v2/health/../models/tiny"),
        ("POST", "/invocations"),
    ],
)
def test_without_a_token_nothing_is_told(
    service: RunningService, method: str, path: str, token: str | None
) -> None:
    """Not even which paths and models there are; one answer for all of it."""
    body = {"rings": 40} if method == "POST" else None
    status, headers, answer = ask(service, method, path, token, body)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert headers["content-type"] == "application/json"
    told = json.loads(answer)
    assert list(told) == ["error"]
    assert "token" in told["error"]
    assert token is None or token not in told["error"]


def test_every_route_is_guarded_but_health() -> None:
    """A route that somebody adds later is guarded without being told to; this fails when one is opened."""
    from timberline.inference.routes.access import OPEN_ROUTES

    assert {"/v2/health/live", "/v2/health/ready", "/ping"} == OPEN_ROUTES


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/ping", "/up"])
def test_health_is_open(service: RunningService, path: str) -> None:
    """Orchestrators and platforms send no token, and would kill a service that asks for one."""
    assert service.request("GET", path)[0] == 200


@pytest.mark.parametrize("token", [FROM_VARIABLE, f"{FROM_VARIABLE}-2", FROM_FILE])
def test_with_a_token_everything_is_answered(service: RunningService, token: str) -> None:
    """Each of several tokens, so that one can be replaced while clients still send the other."""
    assert ask(service, "POST", "/predict", token, {"rings": 40})[0] == 200
    for path in ("/", "/v2", "/metrics", "/v2/models/tiny"):
        assert ask(service, "GET", path, token)[0] == 200
    assert ask(service, "GET", "/nothing/here", token)[0] == 404


def find_alike(known: str, part: slice) -> str:
    """A token other than ``known`` whose SHA-256 digest has the same ``part``."""
    wanted = sha256(known.encode()).digest()[part]
    tokens = (f"alike-token-{number:010}" for number in itertools.count())
    return next(token for token in tokens if sha256(token.encode()).digest()[part] == wanted)


def test_a_token_whose_digest_is_partly_right_is_refused(service: RunningService) -> None:
    """A comparison of one byte lets in one guess of 256: every byte of the digest counts."""
    parts = [slice(byte, byte + 1) for byte in range(32)] + [slice(2), slice(-2, None)]
    tokens = [find_alike(FROM_FILE, part) for part in parts]
    # Five million guesses found this one.
    assert sha256(THREE_BYTES.encode()).digest()[:3] == sha256(FROM_FILE.encode()).digest()[:3]
    for token in [*tokens, THREE_BYTES]:
        assert ask(service, "POST", "/predict", token, {"rings": 40})[0] == 401
        assert ask(service, "GET", "/v2", token)[0] == 401
    assert ask(service, "POST", "/predict", FROM_FILE, {"rings": 40})[0] == 200


@pytest.mark.parametrize(("token", "status"), [(None, 401), (WRONG, 401), (FROM_FILE, 200)])
def test_the_general_way_asks_too(service: RunningService, token: str | None, status: int) -> None:
    """Small requests are answered without ASGI and chunked ones through it; both listeners have a lock."""
    with contextlib.closing(service.connect()) as connection:
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request("POST", "/predict", iter([b'{"rings"', b": 40}"]), headers, encode_chunked=True)
        assert connection.getresponse().status == status


def test_a_body_without_a_token_is_not_read(service: RunningService) -> None:
    """Who may not ask must not be able to fill the service's memory either: it answers before the body."""
    with contextlib.closing(service.connect()) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(10**7))
        connection.endheaders()
        assert connection.getresponse().status == 401


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no token is there"), ("hunter2\n", "the token has 7 characters"), (None, "No such file")],
    ids=["empty", "short", "missing"],
)
def test_tokens_that_guard_nothing_stop_the_start(
    registry: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    """An open service that its operator believes to be guarded is the worst outcome of a typing mistake."""
    tokens = tmp_path / "tokens"
    if content is not None:
        tokens.write_text(content, "utf-8")
    code, log = refuse_to_start(registry, "tiny", "--tokens-file", str(tokens))
    assert code == 2
    assert message in log
    assert "hunter2" not in log


def test_a_request_log_has_one_line_a_request(registry: Path) -> None:
    """What an operator searches by: time, route, status, version, client and the trace it belongs to."""
    with running_service(registry, "tiny", "--request-log", "true") as service:
        headers = {"traceparent": TRACE, "Content-Type": "application/json"}
        assert service.request("POST", "/predict", b'{"rings": 40}', headers)[0] == 200
        assert service.request("GET", "/made/up?secret=1", None, {"traceparent": "none"})[0] == 404
        service.wait_for(lambda: len(service.list_events("request")) == 2)
        log = service.log
    lines = [json.loads(line) for line in log.splitlines()]
    first, second = (line for line in lines if line["event"] == "request")
    assert first.pop("ms") > 0
    assert first.pop("time")
    assert first == {
        "level": "info",
        "part": "inference.requests",
        "event": "request",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "version": "tiny@1",
        "client": "127.0.0.1",
        "traceparent": TRACE,
    }
    assert (second["route"], second["status"], second["version"]) == ("(none)", 404, None)
    assert "traceparent" not in second
    assert "secret" not in log


def test_requests_are_not_logged_unless_asked_for(registry: Path) -> None:
    """A line a request costs twice what answering it does."""
    with running_service(registry, "tiny") as service:
        assert service.predict({"rings": 40})[0] == 200
        assert '"request"' not in service.log


def test_metrics_on_a_port_of_their_own_need_no_token(registry: Path) -> None:
    """That port is for the inside; on the one for everybody there are no metrics then, token or not."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"TIMBERLINE_SERVE_TOKENS": FROM_VARIABLE}
    with running_service(registry, "tiny", "--metrics-port", str(port), environment=environment) as service:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            assert (response.status, b"http_requests_total" in response.read()) == (200, True)
            connection.request("POST", "/predict", b'{"rings": 40}')
            assert connection.getresponse().status in {401, 404}
        assert service.request("GET", "/metrics")[0] == 401
        assert ask(service, "GET", "/metrics", FROM_VARIABLE)[0] == 404


def ask_all(service: RunningService, token: str) -> set[int]:
    """Statuses of many connections' answers, so that every worker is among those that gave them."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(service.connect())) for _ in range(16)]
        for connection in connections:
            connection.connect()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        for connection in connections:
            connection.request("POST", "/predict", b'{"rings": 40}', headers)
        return {connection.getresponse().status for connection in connections}


@pytest.mark.parametrize("workers", [1, 2])
def test_tokens_that_change_are_read_again(registry: Path, tmp_path: Path, workers: int) -> None:
    """A token that leaked is to stop working without a restart; Kubernetes switches a link to do it."""
    for name, token in (("old", FROM_FILE), ("new", FROM_VARIABLE), ("bad", "hunter2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens").write_text(token, "utf-8")
    data, file = tmp_path / "..data", tmp_path / "tokens"

    def switch(name: str) -> None:
        (tmp_path / "link").symlink_to(name)
        (tmp_path / "link").replace(data)

    switch("old")
    file.symlink_to("..data/tokens")
    flags = ("--tokens-file", str(file), "--workers", str(workers))
    with running_service(registry, "tiny", *flags) as service:
        assert (ask_all(service, FROM_FILE), ask_all(service, FROM_VARIABLE)) == ({200}, {401})
        switch("new")
        service.wait_for(lambda: len(service.list_events("tokens read again")) == workers)
        assert (ask_all(service, FROM_FILE), ask_all(service, FROM_VARIABLE)) == ({401}, {200})
        switch("bad")
        service.wait_for(lambda: len(service.list_events("tokens kept as they were")) == workers)
        assert (ask_all(service, "hunter2"), ask_all(service, FROM_VARIABLE)) == ({401}, {200})
        data.unlink()
        service.wait_for(lambda: len(service.list_events("tokens kept as they were")) == 2 * workers)
        assert ask_all(service, FROM_VARIABLE) == {200}
        switch("old")
        service.wait_for(lambda: len(service.list_events("tokens read again")) == 2 * workers)
        assert (ask_all(service, FROM_FILE), ask_all(service, FROM_VARIABLE)) == ({200}, {401})
        for line in service.list_events("tokens kept as they were"):
            assert str(file) in line["error"]
        assert [token for token in (FROM_FILE, FROM_VARIABLE, "hunter2") if token in service.log] == []


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("POST", "/predict", "*/*"),
        ("GET", "/", "*/*"),
        ("GET", "/", "text/html"),
        ("GET", "/metrics", "*/*"),
        ("GET", "/nothing/here", "*/*"),
    ],
)
def test_no_answer_is_guessed_at_or_kept(
    service: RunningService, method: str, path: str, accept: str
) -> None:
    """A browser must not take JSON for a page, nor a cache keep what was predicted of whom."""
    headers = {"Authorization": f"Bearer {FROM_FILE}", "Accept": accept}
    body = b'{"rings": 40}' if method == "POST" else None
    answer = service.request(method, path, body, headers)[1]
    assert answer.get_all("x-content-type-options") == ["nosniff"]
    assert answer.get_all("cache-control") == ["no-store"]
    assert answer["server"] is None
