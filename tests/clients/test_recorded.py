"""The recording that `make test` replays is what the clients send today."""

from __future__ import annotations

import os

import pytest

from tests.support.clients import ask_as
from tests.support.recording import (
    Recorded,
    inflate,
    normalise,
    read_recorded,
    recording_proxy,
    send_raw,
    write_recorded,
)
from tests.support.service import running_service
from tests.support.tiny_model import publish_mixed
from timberline.registry.store import open_store

MODEL = "tiny_text"
# By client: its environment, its script, and what its orders hold beside address and model.
CLIENTS = {
    "kserve": ("kserve", "kserve_child.py", "http://", {}),
    "mlserver": ("mlserver", "mlserver_child.py", "", {}),
    "triton": ("triton", "triton_child.py", "", {"is_async": False}),
    "triton asyncio": ("triton", "triton_child.py", "", {"is_async": True}),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Recorded]:
    """What the clients send, each request once, with its status."""
    registry = tmp_path_factory.mktemp("registry")
    publish_mixed(open_store(registry))
    rows: list[Recorded] = []
    with running_service(registry, MODEL) as service:
        for client, (environment, script, scheme, more) in CLIENTS.items():
            with recording_proxy(service.port) as (port, seen):
                ask_as(environment, script, url=f"{scheme}127.0.0.1:{port}", model=MODEL, **more)
            for request in sorted({normalise(request) for request in seen}):
                rows.append(Recorded(client, send_raw(service.port, request).status, request))
    return rows


def test_the_recording_is_what_the_clients_send(recorded: list[Recorded]) -> None:
    """A recording of clients that nobody uses any more would prove nothing."""
    if os.environ.get("TIMBERLINE_RECORD"):
        write_recorded(recorded)
    hint = "record again: TIMBERLINE_RECORD=1 make test-clients"
    for client in CLIENTS:
        found, kept = (
            [(row.status, inflate(row.request)) for row in rows if row.client == client]
            for rows in (recorded, read_recorded())
        )
        assert found
        assert sorted(found) == sorted(kept), hint
