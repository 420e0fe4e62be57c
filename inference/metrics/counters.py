"""What the service counts. Which families the page shows of it is in `inference.metrics.exposition`.

Counting happens on the event loop's thread only and costs some additions in shared memory
(`inference.metrics.shared_memory`): the client library's own counters lock and search on every call, and
between processes lose what a worker that ended knew about itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from prometheus_client.metrics_core import Metric

from timberline.inference.metrics.drift import Drift
from timberline.inference.metrics.exposition import (
    COUNTERS,
    FROM_CACHE,
    IN_FLIGHT,
    LAST_LOOK,
    LIVE,
    LOAD,
    LOAD_SECONDS,
    MODEL,
    REGISTRY,
    ROUTE,
    ROWS,
    SECONDS,
    UNKNOWN,
    ModelLayout,
    Page,
)
from timberline.inference.metrics.shared_memory import Memory, Slot, clear, create_private
from timberline.inference.session import Outputs
from timberline.registry.signature import UNKNOWN_CODE

# Any other method counts as OTHER: a client must not be able to make new series.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS_SUM = len(SECONDS) + 1
# Errors' codes (`inference.errors`) → why a request was rejected. What is not here is no rejection:
# a path that is not there, a client that went away.
_REASONS = {
    "overloaded": "overload",
    "receiving": "receiving",
    "too_many_connections": "connections",
    "deadline": "deadline",
    "head_too_large": "too_large",
    "target_too_long": "too_large",
    "body_too_large": "too_large",
    "batch_too_large": "too_large",
    "bad_request": "malformed",
    "malformed_body": "malformed",
    "bad_row": "malformed",
    "unsupported_media": "unsupported",
    "unauthorized": "unauthorized",
    "slow_client": "slow_client",
}


class RouteMetrics:
    """Requests of one route; ``route`` is its pattern, never a path that a client made up."""

    __slots__ = ("_counts", "_durations", "_slot", "route")

    def __init__(self, route: str, slot: Slot) -> None:
        self.route = route
        self._slot = slot
        self._durations = slot.add((ROUTE, route), _SECONDS_SUM + 1)
        self._counts: dict[tuple[str, int], memoryview[float]] = {}

    def observe(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        count = self._counts.get((method, status))
        if count is None:
            count = self._add_count(method, status)
        count[0] += 1.0
        durations = self._durations
        durations[bisect_left(SECONDS, seconds)] += 1.0
        durations[_SECONDS_SUM] += seconds

    def _add_count(self, method: str, status: int) -> memoryview[float]:
        if method not in _METHODS:
            return self._slot.add(_counter("http_requests", (self.route, "OTHER", str(status))), 1)
        count = self._slot.add(_counter("http_requests", (self.route, method, str(status))), 1)
        self._counts[method, status] = count
        return count


class ModelMetrics:
    """Inferences of one version; on the page once `ServiceMetrics.add_model` shows them."""

    __slots__ = ("_categories", "_layout", "_live", "_unknown", "_values", "digest", "key", "loaded_at")

    def __init__(
        self,
        model: str,
        version: int,
        classes: Sequence[str],
        categories: Sequence[str] = (),
        *,
        digest: str,
        loaded_at: float,
    ) -> None:
        self.key = (model, str(version), digest)
        self.digest = digest
        self.loaded_at = loaded_at
        self._layout = ModelLayout(classes)
        self._categories = categories  # features that are text, in the order of their codes
        self._live = _nothing(1)
        self._values = _nothing(self._layout.size)
        self._unknown = _nothing(len(categories))

    def observe_row(self, label: int, seconds: float, waited: float = 0.0) -> None:
        """Count an inference of one row; ``waited`` is how long its request was in the queue, in seconds."""
        values = self._values
        # Nearly every request waits for less than the first bound.
        values[0 if waited <= SECONDS[0] else bisect_left(SECONDS, waited)] += 1.0
        values[ModelLayout.WAITED_SUM] += waited
        values[ModelLayout.DURATIONS + bisect_left(SECONDS, seconds)] += 1.0
        values[ModelLayout.DURATIONS_SUM] += seconds
        values[ModelLayout.SIZES] += 1.0
        values[ModelLayout.PREDICTIONS + label] += 1.0

    def observe_rows(self, outputs: Outputs, seconds: float, waited: float = 0.0) -> None:
        """Count an inference of several rows."""
        values = self._values
        rows = len(outputs.labels)
        values[bisect_left(SECONDS, waited)] += 1.0
        values[ModelLayout.WAITED_SUM] += waited
        values[ModelLayout.DURATIONS + bisect_left(SECONDS, seconds)] += 1.0
        values[ModelLayout.DURATIONS_SUM] += seconds
        values[ModelLayout.SIZES + bisect_left(ROWS, rows)] += 1.0
        if rows > 1:  # the first bucket's sum is its count
            values[ModelLayout.SIZES_SUM] += rows
        for label, count in enumerate(np.bincount(outputs.labels).tolist(), ModelLayout.PREDICTIONS):
            if count:
                values[label] += count

        if outputs.categories is not None:
            counts = np.count_nonzero(outputs.categories == UNKNOWN_CODE, axis=0).tolist()
            for feature, count in enumerate(counts):
                if count:
                    self._unknown[feature] += count

    def observe_codes(self, codes: Sequence[int]) -> None:
        """Count the unknown ones of a row's codes."""
        for feature, code in enumerate(codes):
            if code == UNKNOWN_CODE:
                self._unknown[feature] += 1.0

    def show(self, slot: Slot) -> None:
        """Count in ``slot`` from now on, as a version that is being served."""
        if self._categories:
            self._unknown = slot.add((UNKNOWN, *self.key, *self._categories), len(self._categories))
        self._values = slot.add((MODEL, *self.key, *self._layout.classes), self._layout.size)
        self._values[ModelLayout.LOADED_AT] = self.loaded_at
        self._live = slot.add((LIVE, *self.key), 1, is_gauge=True)
        self._live[0] = self.loaded_at

    def retire(self) -> None:
        """No longer being served; what is still in work is counted as before."""
        clear(self._live)


class ServiceMetrics:
    """Everything this process counts, and the page of what all processes count.

    ``in_flight`` is one number, of the requests that this process is working on; what only looks, as
    scrapes and health checks do, counts itself in ``not_in_flight``, which is not on the page.

    Args:
        slot: where to count; without one, a place of this process alone.
    """

    def __init__(self, slot: Slot | None = None) -> None:
        self._slot = create_private() if slot is None else slot
        self.in_flight = self._slot.add((IN_FLIGHT,), 1, is_gauge=True)
        self._last_look = self._slot.add((LAST_LOOK,), 1, is_gauge=True)
        self._registry = self._slot.add((REGISTRY,), 1, is_gauge=True)
        self._from_cache: dict[tuple[str, int], memoryview[float]] = {}
        self.not_in_flight = _nothing(1)
        self._dropped_lines = self._slot.add(_counter("log_lines_dropped", ()), 1)
        self._routes: dict[str, RouteMetrics] = {}
        self._models: dict[ModelMetrics, Drift | None] = {}
        self._page = Page(self._slot.memory)

    @property
    def memory(self) -> Memory:
        """Where this process and all others count."""
        return self._slot.memory

    def add_route(self, route: str) -> RouteMetrics:
        """The counts of a route, made when first asked for."""
        if route not in self._routes:
            self._routes[route] = RouteMetrics(route, self._slot)
        return self._routes[route]

    def add_model(self, metrics: ModelMetrics, drift: Drift | None = None) -> None:
        """Show a version as one being served, and how far its rows are from those of its training."""
        if metrics in self._models:
            return
        metrics.show(self._slot)
        self._models[metrics] = drift
        if drift is not None:
            drift.show(self._slot)
            self._page.drifts[drift.key] = drift

    def show_models(self, models: Mapping[ModelMetrics, Drift | None]) -> None:
        """Show exactly these versions as being served, and those before as served once.

        What a retired one still has in work is counted as before.
        """
        for metrics in [one for one in self._models if one not in models]:
            metrics.retire()
            drift = self._models.pop(metrics)
            if drift is not None:
                drift.retire()
                self._page.drifts.pop(drift.key, None)
        for metrics, drift in models.items():
            self.add_model(metrics, drift)

    def note_look(self, at: float) -> None:
        """Show when this process last found out where every alias points, in seconds since 1970.

        Written by another thread than the event loop's; no other thread does.
        """
        self._last_look[0] = at

    def note_registry(self, failing_since: float, answered_at: float) -> None:
        """Show whether a bucket answers; both in seconds since 1970, the first 0 if it does.

        Written by another thread than the event loop's, as `note_look`.
        """
        self._registry[0] = -failing_since if failing_since else max(answered_at, 1.0)

    def show_from_cache(self, versions: Collection[tuple[str, int]]) -> None:
        """Show exactly these models and versions as coming from the cache."""
        for key in versions:
            if key not in self._from_cache:
                name = (FROM_CACHE, key[0], str(key[1]))
                self._from_cache[key] = self._slot.add(name, 1, is_gauge=True)
        for key, values in self._from_cache.items():
            values[0] = float(key in versions)

    def observe_load(self, model: str, seconds: float) -> None:
        """Count what came of a version, taken over or refused, and how long that took to find out."""
        values = self._slot.add((LOAD, model), len(LOAD_SECONDS) + 2)
        values[bisect_left(LOAD_SECONDS, seconds)] += 1.0
        values[-1] += seconds

    def beat(self) -> None:
        """Show the supervisor that this process is not stuck."""
        self._slot.beat()

    def count_rejected(self, code: str) -> None:
        """Count a request that failed with the error ``code``, if that was a rejection."""
        reason = _REASONS.get(code)
        if reason is not None:
            self.count("rejected_requests", reason)

    def count_dropped_lines(self, lines: int) -> None:
        """Count lines of the log that were dropped; from any thread, but one call at a time."""
        self._dropped_lines[0] += lines

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add to one of `inference.metrics.exposition.COUNTERS`, by its name and the values of its labels.

        For what happens now and then: it looks its place up every time.
        """
        assert len(labels) == len(COUNTERS[name].labels), name
        self._slot.add(_counter(name, labels), 1)[0] += by

    def write_page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: text format 0.0.4, or OpenMetrics if ``accept`` asks for it."""
        return self._page.write(accept)

    def collect(self) -> Iterator[Metric]:
        """The families of the page."""
        return self._page.collect()


def _counter(name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    return ("counter", name, *labels)


def _nothing(count: int) -> memoryview[float]:
    return memoryview(bytearray(8 * count)).cast("d")
