"""Our own counting, against the client library's."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.manifests import build_manifest
from timberline.inference import errors
from timberline.inference.metrics.counters import ModelMetrics, ServiceMetrics
from timberline.inference.metrics.drift import LEAST_ROWS, Drift
from timberline.inference.metrics.exposition import COUNTERS, SECONDS, cumulate
from timberline.inference.metrics.shared_memory import Slot, create_memory
from timberline.inference.session import Outputs
from timberline.registry.manifest import Histogram
from timberline.registry.signature import ClassLabel, Column, build_signature

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_page(metrics: ServiceMetrics) -> Samples:
    """Every sample of the page by name and labels."""
    page, content_type = metrics.write_page("")
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample."""
    return samples[name, frozenset(labels.items())]


def build_model(version: int = 1, classes: int = 3, features: int = 0) -> ModelMetrics:
    """The counts of ``m``; later versions were loaded later."""
    names, texts = (
        [f"{kind}{number}" for number in range(n)] for kind, n in (("c", classes), ("f", features))
    )
    return ModelMetrics("m", version, names, texts, digest=f"{version:064d}", loaded_at=1e9 + version)


@pytest.fixture
def slots() -> Iterator[tuple[Slot, Slot]]:
    """Two places in one memory, both of this process."""
    memory = create_memory(2)
    yield Slot(memory, 0), Slot(memory, 1)
    os.close(memory.fd)


def test_histograms_count_like_the_client_library() -> None:
    """Ours is faster; that is no use if a value on a bound falls into another bucket."""
    values = [*SECONDS, 0.0, 1e-9, 0.0003, 3.0, 11.0, 1e9]
    theirs = prometheus_client.Histogram("x", "x", buckets=SECONDS, registry=None)
    counts = [0.0] * (len(SECONDS) + 1)
    for seconds in values:
        theirs.observe(seconds)
        counts[bisect_left(SECONDS, seconds)] += 1
    found = {
        sample.labels["le"]: sample.value for sample in next(iter(theirs.collect())).samples if sample.labels
    }
    assert dict(cumulate(SECONDS, counts)) == found

    metrics = ServiceMetrics()
    model = build_model()
    metrics.add_model(model)
    route = metrics.add_route("/x")
    for seconds in values:
        route.observe("POST", 200, seconds)
        model.observe_row(0, seconds, seconds)
    samples = read_page(metrics)
    of_version = {"model": "m", "version": "1"}
    for name, labels in (
        ("http_request_duration_seconds", {"route": "/x"}),
        ("inference_queue_seconds", of_version),
        ("inference_duration_seconds", of_version),
    ):
        for bound, count in found.items():
            assert value(samples, f"{name}_bucket", **labels, le=bound) == count
        assert value(samples, f"{name}_sum", **labels) == sum(values)


def test_a_batch_counts_every_row_by_its_class() -> None:
    """The drift of predictions is watched by these counts."""
    metrics = ServiceMetrics()
    model = build_model()
    metrics.add_model(model)
    model.observe_rows(Outputs(np.array([2, 0, 2, 2]), np.zeros((4, 3), np.float32)), 0.001)
    model.observe_rows(Outputs(np.array([1]), np.zeros((1, 3), np.float32)), 0.001)
    model.observe_row(1, 0.001)
    samples = read_page(metrics)
    labels = {"model": "m", "version": "1"}
    counts = [value(samples, "predictions_total", **labels, **{"class": name}) for name in ("c0", "c1", "c2")]
    assert counts == [1, 2, 3]
    assert value(samples, "inference_rows_bucket", **labels, le="1.0") == 2
    assert value(samples, "inference_rows_count", **labels) == 3
    assert value(samples, "inference_rows_sum", **labels) == 6


def test_unknown_categories_are_counted_by_feature(slots: tuple[Slot, Slot]) -> None:
    """What training did not know is the first sign that a table has changed; any worker shows all of it."""
    first, second = (ServiceMetrics(slot) for slot in slots)
    models = [build_model(features=2), build_model(features=2)]
    for metrics, model in zip((first, second), models, strict=True):
        metrics.add_model(model)
    labels = {"model": "m", "version": "1"}

    def count(feature: str) -> float:
        return value(read_page(second), "unknown_categories_total", **labels, feature=feature)

    assert (count("f0"), count("f1")) == (0, 0)
    codes = np.array([[0, 1], [0, 2], [3, 4]])
    models[0].observe_rows(Outputs(np.zeros(3, np.int64), np.zeros((3, 3), np.float32), codes), 0.001)
    models[1].observe_codes([5, 0])
    assert (count("f0"), count("f1")) == (2, 1)
    first.show_models({})
    second.show_models({})
    assert (count("f0"), count("f1")) == (2, 1)


def test_features_beyond_a_few_count_as_one() -> None:
    """A table of text alone must not fill the page."""
    metrics = ServiceMetrics()
    model = build_model(features=30)
    metrics.add_model(model)
    model.observe_codes([0] * 30)
    found = {
        dict(k)["feature"]: v for (n, k), v in read_page(metrics).items() if n == "unknown_categories_total"
    }
    assert found == {**{f"f{number}": 1 for number in range(20)}, "(other)": 10}


def test_made_up_methods_are_counted_together() -> None:
    """A method is any word a client sends; each would be a series for ever."""
    metrics = ServiceMetrics()
    counts = metrics.add_route("/x")
    counts.observe("PROPFIND", 405, 0.1)
    counts.observe("MKCOL", 405, 0.1)
    samples = read_page(metrics)
    assert value(samples, "http_requests_total", route="/x", method="OTHER", status="405") == 2
    assert sum(name == "http_requests_total" for name, _ in samples) == 1


def test_a_route_without_requests_has_no_series() -> None:
    """Empty histograms of every route would be most of the page."""
    metrics = ServiceMetrics()
    metrics.add_route("/quiet")
    page, _ = metrics.write_page("")
    assert b"/quiet" not in page


def test_every_process_shows_what_all_have_counted(slots: tuple[Slot, Slot]) -> None:
    """Prometheus asks whichever worker answers; each must give the same, whole page."""
    first, second = (ServiceMetrics(slot) for slot in slots)
    for metrics, times in ((first, 2), (second, 3)):
        model = build_model()
        metrics.add_model(model)
        metrics.in_flight[0] += 1
        for _ in range(times):
            metrics.add_route("/x").observe("POST", 200, 0.1)
            model.observe_row(1, 0.1)
            metrics.count("model_swaps", "m", "swapped")
    for page in (read_page(first), read_page(second)):
        labels = {"model": "m", "version": "1"}
        assert value(page, "http_requests_total", route="/x", method="POST", status="200") == 5
        assert value(page, "inference_duration_seconds_count", **labels) == 5
        assert value(page, "predictions_total", **labels, **{"class": "c1"}) == 5
        assert value(page, "model_swaps_total", model="m", outcome="swapped") == 5
        assert value(page, "requests_in_flight") == 2
        assert value(page, "model_info", **labels, sha256=f"{1:064d}") == 1
        workers = {dict(key).get("worker") for name, key in page if name == "process_cpu_seconds_total"}
        assert workers == {"0", "1"}


def test_the_page_is_bounded_however_many_versions_there_were() -> None:
    """A service that swaps daily for a year must not end with a page of a year's versions."""
    metrics = ServiceMetrics()
    for version in range(1, 51):
        model = build_model(version)
        metrics.show_models({model: None})
        model.observe_row(0, 0.1)
    samples = read_page(metrics)
    versions = {dict(key)["version"] for _, key in samples if ("model", "m") in key}
    assert versions == {"47", "48", "49", "50"}
    assert {dict(key)["version"] for name, key in samples if name == "model_info"} == {"50"}


def test_a_version_that_comes_back_continues_its_counts() -> None:
    """A rollback must not look like a counter's reset."""
    metrics = ServiceMetrics()
    for version in (1, 2, 1):
        model = build_model(version)
        metrics.show_models({model: None})
        model.observe_row(0, 0.1)
    samples = read_page(metrics)
    assert value(samples, "inference_duration_seconds_count", model="m", version="1") == 2


def test_a_version_that_is_not_shown_is_counted_for_nobody() -> None:
    """A candidate that fails its checks has been run, and is still none of the service's versions."""
    metrics = ServiceMetrics()
    build_model().observe_row(0, 0.1)
    assert not any(("model", "m") in key for _, key in read_page(metrics))


def test_a_version_has_at_most_200_series() -> None:
    """Whatever the table's width and classes: series are what a Prometheus pays for."""
    classes = tuple(ClassLabel(value=f"c{number}", label="x") for number in range(300))
    columns = tuple(Column(name=f"x{number}", datatype="FP64") for number in range(500))
    histogram = Histogram(counts=(5, 5), edges=(0.0, 0.5, 1.0))
    manifest = build_manifest(
        model="m",
        signature=build_signature(columns, classes),
        histograms={column.name: histogram for column in columns},
    )
    metrics = ServiceMetrics()
    model = build_model(classes=len(classes))
    drift = Drift(manifest, 1000, lambda seconds, work: None)
    metrics.add_model(model, drift)
    for number in range(LEAST_ROWS):
        model.observe_row(number % 300, 0.1)
        drift.keep_row([0.25] * len(columns), number % 300)
    drift.flush()
    samples = read_page(metrics)
    own = [name for name, key in samples if ("model", "m") in key]
    assert len(own) <= 200
    assert "drift_psi" in own
    predictions = [count for (name, _), count in samples.items() if name == "predictions_total"]
    assert sum(predictions) == LEAST_ROWS


def test_rejections_are_told_apart_by_reason() -> None:
    """More machines help against overload, nothing but a call helps against malformed requests."""
    metrics = ServiceMetrics()
    for error in (
        errors.BodyTooLargeError,
        errors.BatchTooLargeError,
        errors.RowError,
        errors.OverloadedError,
        errors.ReceivingError,
    ):
        metrics.count_rejected(error.code)
    metrics.count_rejected(errors.NotFoundError.code)
    samples = read_page(metrics)
    found = {dict(key)["reason"]: count for (name, key), count in samples.items() if "rejected" in name}
    assert found == {"too_large": 2, "malformed": 1, "overload": 1, "receiving": 1}


def test_every_counter_has_its_name_and_labels_on_the_page() -> None:
    """Dashboards are built on these before the first of each has happened."""
    metrics = ServiceMetrics()
    for name, counted in COUNTERS.items():
        metrics.count(name, *("x" for _ in counted.labels), by=2)
    samples = read_page(metrics)
    for name, counted in COUNTERS.items():
        assert value(samples, f"{name}_total", **dict.fromkeys(counted.labels, "x")) == 2
