"""The metrics page: names, labels and counts that dashboards and alerts are built on."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import DEADLINE_S, RunningService, running_service
from tests.support.tiny_model import NUMERIC_ROWS, publish_numeric
from timberline.registry.manifest import Histogram
from timberline.registry.store import open_store

VERSION = {"model": "tiny", "version": "1"}


def read_samples(service: RunningService) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the page by name and labels."""
    status, headers, page = service.request("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(page.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_and_predictions_are_counted(service: RunningService) -> None:
    """What an operator asks first: how many, how fast, with what outcome, and what was predicted."""
    assert service.predict({"instances": NUMERIC_ROWS})[0] == 200
    assert service.predict({"rings": 40})[0] == 200
    assert service.predict({"ring": 40})[0] == 400
    assert service.request("GET", "/nowhere/1")[0] == 404
    assert service.request("TRACE", "/predict")[0] == 405
    samples = read_samples(service)

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    assert value("http_requests_total", route="/predict", method="POST", status="200") == 2
    assert value("http_requests_total", route="/predict", method="POST", status="400") == 1
    assert value("http_requests_total", route="/predict", method="OTHER", status="405") == 1
    assert value("http_requests_total", route="(none)", method="GET", status="404") == 1
    assert value("http_request_duration_seconds_count", route="/predict") == 4
    assert value("inference_duration_seconds_count", **VERSION) == 2
    assert value("inference_duration_seconds_sum", **VERSION) > 0
    assert value("inference_rows_sum", **VERSION) == 4
    assert value("inference_rows_bucket", **VERSION, le="1.0") == 1
    assert [value("predictions_total", **VERSION, **{"class": c}) for c in ("1", "2", "7")] == [1, 2, 1]
    assert value("inference_queue_seconds_count", **VERSION) == 2
    assert value("requests_in_flight") == 0  # the one that reads the page is no work


def test_the_version_and_the_process_are_described(service: RunningService) -> None:
    """Which version answers, since when, and what the process takes."""
    samples = read_samples(service)
    names = {name for name, _ in samples}
    digest = open_digest(service)
    assert samples["model_info", frozenset({**VERSION, "sha256": digest}.items())] == 1
    assert samples["model_loaded_timestamp_seconds", frozenset(VERSION.items())] > 1.7e9
    assert {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_open_fds",
    } <= names


def test_rejections_are_counted_by_why(registry: Path) -> None:
    """Alerts on overload and on malformed clients go to different people."""
    with running_service(registry, "tiny", "--max-body-bytes", "1000") as service:
        assert service.predict({"ring": 40})[0] == 400
        assert service.request("POST", "/predict", b"{")[0] == 400
        assert service.request("POST", "/predict", b" " * 1001)[0] == 413
        assert service.request("POST", "/predict", b"x", {"Content-Type": "image/png"})[0] == 415
        assert service.request("GET", "/nowhere")[0] == 404
        samples = read_samples(service)
    found = {dict(key)["reason"]: count for (name, key), count in samples.items() if "rejected" in name}
    assert found == {"malformed": 2, "too_large": 1, "unsupported": 1}


def test_drift_shows_a_moved_column_within_a_window(tmp_path: Path) -> None:
    """The first sign that a model is being asked about other rows than it learned from."""
    histogram = Histogram(counts=(50,) * 20, edges=tuple(5.0 * edge for edge in range(21)))
    publish_numeric(open_store(tmp_path), histograms={"height": histogram})
    random = np.random.default_rng(3)
    with running_service(tmp_path, "tiny", "--drift-window-rows", "1000") as service:
        heights = random.uniform(0, 100, 1000)
        ask_rows(service, heights[:100])
        assert wait_for_rows(service, 100) == {}
        ask_rows(service, heights[100:])
        assert wait_for_rows(service, 1000)["height"] < 0.05
        ask_rows(service, heights + 100 / math.sqrt(12))
        assert wait_for_psi(service, 0.2) > 0.2


def ask_rows(service: RunningService, heights: Iterable[float]) -> None:
    """Predict rows of these heights, a hundred at a time."""
    rows = [(height, 40, False, None) for height in heights]
    for start in range(0, len(rows), 100):
        assert service.predict({"instances": rows[start : start + 100]})[0] == 200


def read_drift(service: RunningService) -> tuple[float, dict[str, float]]:
    """Rows in the window, and PSI by feature."""
    samples = read_samples(service)
    rows = samples.get(("drift_window_rows", frozenset(VERSION.items())), 0.0)
    return rows, {dict(key)["feature"]: psi for (name, key), psi in samples.items() if name == "drift_psi"}


def wait_for_rows(service: RunningService, rows: int) -> dict[str, float]:
    """PSI by feature once so many rows are in the window; a row gets there within a second."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found, psi = read_drift(service)
        if found >= rows:
            return psi
    raise AssertionError(f"{found} rows in the window after {DEADLINE_S} s")


def wait_for_psi(service: RunningService, least: float) -> float:
    """The PSI of ``height`` once it is above ``least``."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        psi = read_drift(service)[1]["height"]
        if psi > least:
            return psi
    raise AssertionError(f"PSI is {psi} after {DEADLINE_S} s")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_promtool_has_nothing_to_say(service: RunningService) -> None:
    """Names, units, help and types follow the rules that the tools downstream rely on."""
    assert service.predict({"rings": 40})[0] == 200
    assert service.predict({"ring": 40})[0] == 400
    _, _, page = service.request("GET", "/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def open_digest(service: RunningService) -> str:
    """SHA-256 of the graph by the model's own metadata."""
    digest: str = service.get_json("/v2/models/tiny")["card"]["files"]["model.onnx"]["sha256"]
    return digest


def test_buckets_begin_at_a_tenth_of_a_millisecond(service: RunningService) -> None:
    """A request takes a fraction of a millisecond; the client library's own buckets begin at five."""
    assert service.predict({"rings": 40})[0] == 200
    labels = {
        labels for name, labels in read_samples(service) if name == "http_request_duration_seconds_bucket"
    }
    bounds = sorted(float(dict(label)["le"]) for label in labels if dict(label)["route"] == "/predict")
    assert bounds[0] == 0.0001
    assert bounds[-1] == float("inf")


def test_a_client_cannot_make_new_series(service: RunningService) -> None:
    """Paths and methods are the client's words; as labels they would fill the server's memory."""
    for number in range(20):
        service.request("GET", f"/made/up/{number}")
        service.request("GET", f"/v2/models/made_up_{number}")
    routes = {dict(labels).get("route") for name, labels in read_samples(service) if "http_requests" in name}
    assert routes == {"(none)", "/v2/models/{model}"}


def test_open_metrics_is_written_when_asked_for(service: RunningService) -> None:
    """Prometheus asks for it by the Accept header and falls back to text by itself."""
    _, headers, page = service.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")
    assert service.predict({"rings": 40})[0] == 200
    _, _, page = service.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    families = open_metrics_families(page.decode())  # type: ignore[no-untyped-call]  # has no annotations
    names = {family.name for family in families}
    assert {"http_requests", "predictions", "rejected_requests", "inference_queue_seconds"} <= names
