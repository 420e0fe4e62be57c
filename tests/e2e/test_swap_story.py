"""A release's whole life before a running service: shadow, canary, production, and back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.manifests import give_verdict
from tests.support.service import DEADLINE_S, ROOT, RunningService, running_service
from tests.support.swapping import SCALES
from tests.support.tiny_model import publish_numeric
from timberline.registry.store import open_store

BODY = {"instances": [[30.0, 400, True, 12.0]]}


def run_registry(registry: Path, *words: str) -> Any:
    """What ``python -m registry`` printed; it must end with 0."""
    command = [sys.executable, "-m", "registry", *words, "--registry", str(registry)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def wait_for(fact: Callable[[], bool], service: RunningService) -> None:
    """Ask again until ``fact()`` holds or the deadline has passed."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, service.log


def answering(service: RunningService) -> int:
    """The version that answers a request without a key."""
    status, answer = service.predict(BODY)
    assert status == 200, answer
    version: int = answer["version"]
    return version


def live_versions(service: RunningService) -> list[str]:
    """The versions that may answer, by the service's own word."""
    versions: list[str] = service.get_json("/v2/models/tiny")["versions"]
    return versions


def test_a_release_goes_live_and_back_without_a_restart(tmp_path: Path) -> None:
    """The commands that an operator types move what clients get, and nothing else has to be done."""
    store = open_store(tmp_path)
    publish_numeric(store, scale=SCALES[1])
    flags = ("--watch-s", "0.02", "--canary", "candidate=0.5", "--shadow", "candidate=1")
    with running_service(tmp_path, "tiny", *flags) as service:
        assert live_versions(service) == ["1"]

        publish_numeric(store, scale=SCALES[2], alias="candidate")
        wait_for(lambda: live_versions(service) == ["1", "2"], service)
        wait_for(lambda: {answering(service) for _ in range(20)} == {1, 2}, service)
        wait_for(lambda: 'shadow="2"' in service.request("GET", "/metrics")[2].decode(), service)

        give_verdict(store, "tiny", 2)
        assert run_registry(tmp_path, "promote", "tiny")["version"] == 2
        wait_for(lambda: live_versions(service) == ["2"], service)
        assert {answering(service) for _ in range(20)} == {2}

        assert run_registry(tmp_path, "rollback", "tiny")["version"] == 1
        wait_for(lambda: live_versions(service) == ["1", "2"], service)
        assert service.get_json("/")["version"] == 1
