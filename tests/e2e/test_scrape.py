"""A real Prometheus scrapes the real service."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import RunningService

DEADLINE_S = 60.0
REQUESTS = 25

if shutil.which("prometheus") is None:
    if os.environ.get("CI"):
        raise RuntimeError("CI has to install prometheus; .ci/run does")
    pytest.skip("no prometheus on this machine", allow_module_level=True)


@pytest.fixture
def service(service: RunningService) -> RunningService:
    """A service that has answered some requests."""
    for _ in range(REQUESTS):
        assert service.predict({"rings": 40})[0] == 200
    assert service.predict({"ring": 40})[0] == 400
    return service


@pytest.fixture
def prometheus(tmp_path: Path, service: RunningService) -> Iterator[str]:
    """The address of a Prometheus that scrapes the service five times a second."""
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms}\n"
        "scrape_configs:\n"
        f"  - {{job_name: timberline, static_configs: [{{targets: ['127.0.0.1:{service.port}']}}]}}\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *flags, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def ask(address: str, query: str, *, until: float) -> float:
    """The value of ``query``, asked until it is at least ``until`` or the deadline is over."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    pause = threading.Event()
    deadline = time.monotonic() + DEADLINE_S
    value = float("nan")
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                found = json.load(response)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            found = []  # Prometheus is still starting
        if found:
            value = float(found[0]["value"][1])
            if value >= until:
                return value
        pause.wait(0.1)
    raise AssertionError(f"{query} is {value} after {DEADLINE_S} s, expected at least {until}")


def test_prometheus_sees_every_request_and_its_latency(prometheus: str) -> None:
    """A metric that the real server cannot read, or that loses a request, is no metric."""
    assert (
        ask(prometheus, 'sum(http_requests_total{route="/predict",status="200"})', until=REQUESTS) == REQUESTS
    )
    assert ask(prometheus, 'sum(predictions_total{model="tiny",version="1"})', until=REQUESTS) == REQUESTS
    count = 'sum(http_request_duration_seconds_count{route="/predict"})'
    assert ask(prometheus, count, until=REQUESTS + 1) == REQUESTS + 1  # one was refused
    count = 'sum(inference_queue_seconds_count{model="tiny",version="1"})'
    assert ask(prometheus, count, until=REQUESTS) == REQUESTS
    assert ask(prometheus, 'model_info{model="tiny",version="1"}', until=1) == 1
    assert ask(prometheus, 'drift_window_rows{model="tiny",version="1"}', until=REQUESTS) == REQUESTS
    assert ask(prometheus, "sum(rejected_requests_total)", until=1) == 1
    assert ask(prometheus, "requests_in_flight", until=0) == 0  # a scrape is no work
    assert ask(prometheus, 'process_resident_memory_bytes{worker="0"}', until=1) > 10_000_000
