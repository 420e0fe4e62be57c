"""The metrics page: names, labels and counts that dashboards and alerts are built on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.store import open_store
from tests.support.service import RunningService, running_service
from tests.support.tiny_model import NUMERIC_ROWS, publish_numeric

VERSION = {"model": "tiny", "version": "1"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    """A fresh tiny@1, so that its counts begin at nought."""
    publish_numeric(open_store(tmp_path))
    with running_service(tmp_path, "tiny") as running:
        yield running


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
    assert value("requests_in_flight") == 1  # the one that reads the page


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
