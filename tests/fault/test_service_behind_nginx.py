"""The real nginx in front of the real service: an attacker's request must never become another client's.

As usual for WebSockets, ``Upgrade`` is passed on by a map, and connections to the service are kept and
shared by all clients. Where the two disagree on where a request ends, its body is the beginning of
somebody else's (CWE-444).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, RunningService, running_service

# Debian has it where a user's PATH may not reach.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
TOKEN = "the-honest-clients-token"
ROUNDS = 10
CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream service {{ server 127.0.0.1:{service}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 16m;
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""

if NGINX is None:
    if os.environ.get("CI"):
        raise RuntimeError("CI has to install nginx; .ci/run does")
    pytest.skip("no nginx on this machine", allow_module_level=True)


@pytest.fixture(params=[False, True], ids=["open", "with tokens"])
def service(published: Path, request: pytest.FixtureRequest) -> Iterator[RunningService]:
    """A service, with and without tokens."""
    environment = {"TIMBERLINE_SERVE_TOKENS": TOKEN} if request.param else {}
    with running_service(published, "tiny", environment=environment) as running:
        yield running


@pytest.fixture
def port(tmp_path: Path, service: RunningService) -> Iterator[int]:
    """Where nginx listens in front of the service."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, service=service.port, port=port))
    with (tmp_path / "nginx.log").open("wb") as log:
        process = subprocess.Popen([str(NGINX), "-p", str(tmp_path), "-c", str(config)], stderr=log)
    try:
        service.wait_for(lambda: process.poll() is not None or is_listening(port))
        assert process.poll() is None, (tmp_path / "nginx.log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def is_listening(port: int) -> bool:
    """Whether somebody accepts on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def ask(connection: http.client.HTTPConnection, rings: int) -> tuple[int, bytes]:
    """Status and body of the answer to an honest client."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", "/predict", json.dumps({"rings": rings}), headers)
    response = connection.getresponse()
    return response.status, response.read()


def attack(port: int, upgrade: str, body: bytes) -> list[int]:
    """Statuses of the answers to one ``POST`` with ``Upgrade``, of a client that says it is its last."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nUpgrade: {upgrade}\r\n"
        f"Connection: Upgrade\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as attacker:
        attacker.sendall(head.encode() + body)
        data = b""
        while b"}" not in data:
            part = attacker.recv(1 << 16)
            assert part, data
            data += part
        attacker.shutdown(socket.SHUT_WR)
        while part := attacker.recv(1 << 16):
            data += part
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", data)]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_an_attackers_body_never_becomes_another_clients_request(
    service: RunningService, port: int, upgrade: str
) -> None:
    """Otherwise the next client gets the page of the attacker's choice, its own token spent on it."""
    # Longer than nginx keeps in memory, so that it comes in segments of its own; empty lines in front of
    # a request are passed over, wherever the service begins to read.
    body = b"\r\n" * 10_000 + b"GET /openapi.json HTTP/1.1\r\nHost: a\r\nX-Swallowed: "
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as honest:
        own = {rings: ask(honest, rings) for rings in (40, 400)}
        assert {status for status, _ in own.values()} == {200}
        assert own[40] != own[400]
        stolen = []
        for number in range(ROUNDS):
            assert len(attack(port, upgrade, body)) == 1
            rings = (40, 400)[number % 2]
            if (answer := ask(honest, rings)) != own[rings]:
                stolen.append((number, answer[0], answer[1][:80]))
    assert stolen == [], service.log


def test_a_request_in_an_upgrades_body_is_not_answered(service: RunningService, port: int) -> None:
    """One request, one answer: the service has counted as many as were sent, and none of the attacker's."""
    inner = b"GET /v2 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n" % TOKEN.encode()
    for _ in range(ROUNDS):
        assert len(attack(port, "h2c", b"\r\n" * 10_000 + inner)) == 1
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as honest:
        assert ask(honest, 40)[0] == 200
    _, _, metrics = service.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    counted = re.findall(r'^http_requests_total\{.*route="([^"]*)".*\} (\d+)', metrics.decode(), re.MULTILINE)
    assert sum(int(count) for route, count in counted if route == "/v2") == 0
    assert sum(int(count) for route, count in counted if route == "/predict") == ROUNDS + 1
