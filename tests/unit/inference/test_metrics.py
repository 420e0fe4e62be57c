"""Our own counting, against the client library's."""

from __future__ import annotations

import numpy as np
import prometheus_client

from inference.metrics import SECONDS, Histogram, ModelMetrics, RouteMetrics, ServiceMetrics
from inference.session import Outputs


def test_histograms_count_like_the_client_library() -> None:
    """Ours is faster; that is no use if a value on a bound falls into another bucket."""
    values = [*SECONDS, 0.0, 1e-9, 0.0003, 3.0, 11.0, 1e9]
    ours = Histogram(SECONDS)
    theirs = prometheus_client.Histogram("x", "x", buckets=SECONDS, registry=None)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    samples = {sample.labels.get("le", sample.name): sample.value for sample in theirs.collect()[0].samples}
    buckets, total = ours.cumulate()
    assert dict(buckets) == {bound: samples[bound] for bound, _ in buckets}
    assert total == samples["x_sum"]
    assert buckets[-1] == ("+Inf", len(values))


def test_a_batch_counts_every_row_by_its_class() -> None:
    """The drift of predictions is watched by these counts."""
    metrics = ModelMetrics("m", 1, ["a", "b", "c"], digest="", loaded_at=0.0)
    metrics.observe_rows(Outputs(np.array([2, 0, 2, 2]), np.zeros((4, 3), np.float32)), 0.001)
    metrics.observe_row(1, 0.001)
    assert metrics.predictions == [1, 1, 3]


def test_made_up_methods_are_counted_together() -> None:
    """A method is any word a client sends; each would be a series for ever."""
    counts = RouteMetrics("/x")
    counts.observe("PROPFIND", 405, 0.1)
    counts.observe("MKCOL", 405, 0.1)
    assert counts.counts == {("OTHER", 405): 2}


def test_a_route_without_requests_has_no_series() -> None:
    """Empty histograms of every route would be most of the page."""
    metrics = ServiceMetrics()
    metrics.add_route("/quiet")
    page, content_type = metrics.write_page("")
    assert b"/quiet" not in page
    assert content_type.startswith("text/plain")
