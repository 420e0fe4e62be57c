"""What the service counts, and its page in the Prometheus text format.

Counting happens on the event loop's thread only and costs an addition; the client library's own
counters and histograms lock and search on every call, which for one request adds up to a sixth of
everything the service does. They are built when `/metrics` is read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from inference.session import Outputs

# A row takes some 0.05 ms, so the first bucket is 0.1 ms; from 5 ms on with the bounds that
# OpenTelemetry advises for HTTP servers.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
# Any other method counts as OTHER: a client must not be able to make new series.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Histogram:
    """Counts of observations by upper bound (a value equal to a bound lies below it), and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def cumulate(self) -> tuple[list[tuple[str, float]], float]:
        """(upper bound, observations up to it) ending in +Inf, and the sum."""
        names = [str(bound) for bound in self._bounds] + ["+Inf"]
        totals = np.cumsum(self._counts).tolist()
        return list(zip(names, totals, strict=True)), self._sum


class RouteMetrics:
    """Requests of one route; ``route`` is its pattern, never a path that a client made up."""

    def __init__(self, route: str) -> None:
        self.route = route
        self.durations = Histogram(SECONDS)
        self.counts: dict[tuple[str, int], int] = {}

    def observe(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (method if method in _METHODS else "OTHER", status)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.durations.observe(seconds)


class ModelMetrics:
    """Inferences of one version."""

    def __init__(
        self, model: str, version: int, classes: Sequence[str], *, digest: str, loaded_at: float
    ) -> None:
        self.labels = [model, str(version)]
        self.classes = tuple(classes)
        self.digest = digest
        self.loaded_at = loaded_at
        self.durations = Histogram(SECONDS)
        self.rows = Histogram(ROWS)
        self.predictions = [0] * len(classes)

    def observe_row(self, label: int, seconds: float) -> None:
        """Count an inference of one row."""
        self.durations.observe(seconds)
        self.rows.observe(1)
        self.predictions[label] += 1

    def observe_rows(self, outputs: Outputs, seconds: float) -> None:
        """Count an inference of several rows."""
        self.durations.observe(seconds)
        self.rows.observe(len(outputs.labels))
        counts = np.bincount(outputs.labels, minlength=len(self.classes)).tolist()
        self.predictions = [old + new for old, new in zip(self.predictions, counts, strict=True)]


class ServiceMetrics(Collector):
    """Everything this process counts. Not shared between processes."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._routes: dict[str, RouteMetrics] = {}
        self._models: list[ModelMetrics] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def add_route(self, route: str) -> RouteMetrics:
        """The counts of a route, made when first asked for."""
        return self._routes.setdefault(route, RouteMetrics(route))

    def add_model(self, metrics: ModelMetrics) -> None:
        """Show the counts of a version from now on."""
        self._models.append(metrics)

    def write_page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: text format 0.0.4, or OpenMetrics if ``accept`` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: the families are known when they are collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of the service, in the order of the page."""
        yield from self._collect_requests()
        yield from self._collect_models()

    def _collect_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "http_requests", "Answered requests.", labels=["route", "method", "status"]
        )
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "From routing to the answer handed over.", labels=["route"]
        )
        for route in self._routes.values():
            for (method, status), count in sorted(route.counts.items()):
                requests.add_metric([route.route, method, str(status)], count)
            if route.counts:
                durations.add_metric([route.route], *route.durations.cumulate())
        yield requests
        yield durations
        yield GaugeMetricFamily("requests_in_flight", "Requests being worked on.", value=self.in_flight)

    def _collect_models(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        durations = HistogramMetricFamily(
            "inference_duration_seconds", "One run of the graph, rows to probabilities.", labels=labels
        )
        rows = HistogramMetricFamily("inference_rows", "Rows in one run of the graph.", labels=labels)
        predictions = CounterMetricFamily(
            "predictions", "Rows by predicted class.", labels=[*labels, "class"]
        )
        info = GaugeMetricFamily("model_info", "A version being served.", labels=[*labels, "sha256"])
        loaded = GaugeMetricFamily(
            "model_loaded_timestamp_seconds", "When the version was ready to be served.", labels=labels
        )
        for model in self._models:
            durations.add_metric(model.labels, *model.durations.cumulate())
            rows.add_metric(model.labels, *model.rows.cumulate())
            for name, count in zip(model.classes, model.predictions, strict=True):
                predictions.add_metric([*model.labels, name], count)
            info.add_metric([*model.labels, model.digest], 1)
            loaded.add_metric(model.labels, model.loaded_at)
        yield from (durations, rows, predictions, info, loaded)
