"""Requests of foreign clients, byte for byte as they sent them, without the clients.

The clients themselves run in `make test-clients`, which also holds this recording to what they send.
"""

from __future__ import annotations

import json
import re
import socket
import struct

import pytest

from tests.support.clients import LOCKS
from tests.support.recording import Recorded, read_recorded, recording_proxy, send_raw
from tests.support.service import DEADLINE_S, RunningService

RECORDED = read_recorded()
CLIENTS = {"kserve", "mlserver", "triton", "triton asyncio"}
# Whose requests a status other than 200 answers: they ask for what is not there, or wrongly on purpose.
REFUSED = (b"/v2/models/other", b"/v1/models/other", b"/config ", b":explain ", b'"other"', b'"x"')
JSON_LENGTH = b"inference-header-content-length"


@pytest.mark.parametrize(
    "row", RECORDED, ids=[f"{row.client} {i} {row.status}" for i, row in enumerate(RECORDED)]
)
def test_a_clients_own_bytes_are_answered_as_they_were(text_service: RunningService, row: Recorded) -> None:
    """Its odd headers too: bytes declared to be octets that are JSON, names in the body, gzip."""
    answer = send_raw(text_service.port, row.request)
    assert answer.status == row.status
    if row.status == 200 and row.request.startswith(b"POST") and b"/infer " in row.request:
        text = answer.body[: int(answer.headers.get(JSON_LENGTH, len(answer.body)))]
        assert json.loads(text)["model_name"] == "tiny_text"
    if row.status >= 400:
        assert list(json.loads(answer.body)) == ["error"]


def test_a_client_that_resets_its_connection_is_recorded_too(text_service: RunningService) -> None:
    """What leaves an answer unread closes with a reset, as foreign clients do when they end."""
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    with (
        recording_proxy(text_service.port) as (port, seen),
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line,
    ):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.sendall(request)
        assert line.recv(1) == b"H"
    assert seen == [request]


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_every_client_is_recorded_in_json_and_in_blobs_and_understood(client: str) -> None:
    """A recording without the hard cases would pass for ever."""
    rows = [row for row in RECORDED if row.client == client]
    infers = [row.request for row in rows if b"/infer " in row.request and row.status == 200]
    lengths = [JSON_LENGTH in request.partition(b"\r\n\r\n")[0].lower() for request in infers]
    assert False in lengths
    assert (True in lengths) == (client != "mlserver")  # its command sends no text in blobs
    for row in rows:
        is_refused = any(mark in row.request for mark in REFUSED) or b"[1, 2]" in row.request
        assert row.status == 200 or is_refused or b'"shape":[1,2]' in row.request, row.request[:300]


def test_every_client_is_locked_with_hashes_and_no_host() -> None:
    """What was recorded can be installed again, from wherever the user's index is."""
    sources = sorted(LOCKS.glob("*.in"))
    assert {"kserve", "mlserver", "onnxruntime-oldest", "openapi", "triton"} <= {
        path.stem for path in sources
    }
    assert {path.stem for path in LOCKS.glob("*.txt")} == {path.stem for path in sources}
    for source in sources:
        text = source.with_suffix(".txt").read_text("utf-8")
        entries = re.split(r"\n(?=[a-z0-9])", text.strip())
        assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []
        assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", text) == []
    locks = sorted(LOCKS.glob("*/package-lock.json"))
    assert "typescript" in {path.parent.name for path in locks}
    for lock in locks:
        packages = json.loads(lock.read_text("utf-8"))["packages"]
        assert [name for name, package in packages.items() if name and "integrity" not in package] == []
        assert [name for name, package in packages.items() if "resolved" in package] == []
