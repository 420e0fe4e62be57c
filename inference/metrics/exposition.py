"""The families of `/metrics`, made from what all processes have counted.

A version is shown while a living process serves it, and afterwards while it is among the last
ones of its model: a page must not grow with every release. It has at most 200 series then:
60 of histograms, 4 of its own, one a class, one a feature that is text, and one a column as far as there is
room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from timberline.inference.metrics.drift import Drift
from timberline.inference.metrics.shared_memory import Group, Memory

# A row takes some 0.05 ms, so the first bucket is 0.1 ms; from 5 ms on with the bounds that
# OpenTelemetry advises for HTTP servers.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
# A small version is loaded in half a second, a large one on a busy machine in a minute.
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)

# Kinds of block: the first word of their keys.
ROUTE, MODEL, LIVE, IN_FLIGHT, COUNTER = "route", "model", "live", "in_flight", "counter"
UNKNOWN = "unknown"
LAST_LOOK, LOAD = "last_look", "load"
REGISTRY, FROM_CACHE = "registry", "from_cache"

# Versions of a model that are shown although no process serves them any longer.
_RETIRED_SHOWN = 3
_MOST_SERIES = 200
# Both histograms of seconds, that of rows, info, loaded, rows of drift, greatest PSI, PSI of classes.
_FIXED_SERIES = 2 * (len(SECONDS) + 3) + len(ROWS) + 3 + 5
# Classes beyond these are counted as one.
_MOST_CLASSES = 100
# As with features that are text.
_MOST_FEATURES = 20
OTHER = "(other)"


class Counted(NamedTuple):
    """A counter: help and the names of its labels."""

    text: str
    labels: tuple[str, ...]


COUNTERS: Mapping[str, Counted] = {
    "http_requests": Counted("Answered requests.", ("route", "method", "status")),
    "rejected_requests": Counted("Requests that were refused, by why.", ("reason",)),
    "model_swaps": Counted(
        "Versions that took over (swapped), or failed their checks and did not (refused), in each worker.",
        ("model", "outcome"),
    ),
    "worker_restarts": Counted("Workers that were started in place of another, by why.", ("reason",)),
    "log_lines_dropped": Counted(
        "Log lines that nothing read in time and that were dropped, of every worker.", ()
    ),
    "shadow_rows": Counted(
        "Rows that another version (shadow) was asked too, by whether it agreed.",
        ("model", "version", "shadow", "outcome"),
    ),
}


class ModelLayout:
    """Where the numbers of a version lie in its block.

    The sum of ``SIZES`` leaves out runs of one row: they are the first bucket, and it is their sum.
    """

    WAITED = 0
    WAITED_SUM = len(SECONDS) + 1
    DURATIONS = WAITED_SUM + 1
    DURATIONS_SUM = DURATIONS + len(SECONDS) + 1
    SIZES = DURATIONS_SUM + 1
    SIZES_SUM = SIZES + len(ROWS) + 1
    LOADED_AT = SIZES_SUM + 1  # seconds since 1970, of the last time
    PREDICTIONS = LOADED_AT + 1

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.size = self.PREDICTIONS + len(classes)


def cumulate(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    """(upper bound, observations up to it), ending in +Inf."""
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


class Page(Collector):
    """Writes the page. ``drifts`` are those of the versions that this process serves, by key."""

    def __init__(self, memory: Memory) -> None:
        self.drifts: dict[tuple[str, ...], Drift] = {}
        self._memory = memory
        self._processes: dict[int, ProcessCollector] = {}  # by process number
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        PlatformCollector(registry=self._registry)

    def write(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: text format 0.0.4, or OpenMetrics if ``accept`` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: the families are known when they are collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families in the order of the page."""
        pids = self._memory.read_pids()
        kinds = sort_groups(self._memory)
        yield from _collect_counters(kinds.get(COUNTER, []))
        yield from _collect_requests(kinds, pids)
        yield from _collect_following(kinds, pids)
        shown = _choose(kinds.get(MODEL, []), _find_live(kinds.get(LIVE, []), pids))
        yield from _collect_models(shown)
        yield _collect_unknown(kinds.get(UNKNOWN, []), shown)
        yield from self._collect_drift(pids)
        yield from self._collect_processes(pids)

    def _collect_drift(self, pids: Mapping[int, int]) -> Iterator[Metric]:
        labels = ["model", "version"]
        rows = GaugeMetricFamily("drift_window_rows", "Rows that drift is measured over.", labels=labels)
        features = GaugeMetricFamily(
            "drift_psi",
            "Population stability index of a column against the training rows.",
            labels=[*labels, "feature"],
        )
        greatest = GaugeMetricFamily(
            "drift_psi_max",
            "Greatest population stability index of any column that is no date or timestamp.",
            labels=labels,
        )
        classes = GaugeMetricFamily(
            "drift_prediction_psi",
            "Population stability index of the predicted classes against those to be expected.",
            labels=labels,
        )
        groups = {group.key: group for group in self._memory.read().values()}
        for key, drift in self.drifts.items():
            own = list(key[1:3])
            room = _MOST_SERIES - _FIXED_SERIES - min(drift.class_count, _MOST_CLASSES + 1)
            room -= min(drift.category_count, _MOST_FEATURES + 1)
            found = drift.compute(groups[key].sum_of(pids))
            rows.add_metric(own, found.rows)
            if found.greatest is not None:
                greatest.add_metric(own, found.greatest)
            for name in list(found.features)[:room]:
                features.add_metric([*own, name], found.features[name])
            if found.classes is not None:
                classes.add_metric(own, found.classes)
        yield from (rows, features, greatest, classes)

    def _collect_processes(self, pids: Mapping[int, int]) -> Iterator[Metric]:
        """What the client library says of one process, of every worker."""
        families: dict[str, Metric] = {}
        self._processes = {pid: self._processes.get(pid) or _watch(pid) for pid in pids.values()}
        for slot, pid in pids.items():
            for found in self._processes[pid].collect():
                family = families.setdefault(
                    found.name, Metric(found.name, found.documentation, found.type, found.unit)
                )
                for sample in found.samples:
                    family.add_sample(sample.name, {"worker": str(slot)}, sample.value)
        yield from families.values()


def _watch(pid: int) -> ProcessCollector:
    return ProcessCollector(pid=lambda: pid, registry=None)


def _collect_counters(groups: Sequence[Group]) -> Iterator[Metric]:
    for name, counted in COUNTERS.items():
        family = CounterMetricFamily(name, counted.text, labels=counted.labels)
        for group in sorted((group for group in groups if group.key[1] == name), key=lambda g: g.key):
            family.add_metric(group.key[2:], group.sum()[0])
        yield family


def _collect_requests(kinds: Mapping[str, list[Group]], pids: Mapping[int, int]) -> Iterator[Metric]:
    durations = HistogramMetricFamily(
        "http_request_duration_seconds", "From routing to the answer handed over.", labels=["route"]
    )
    for group in kinds.get(ROUTE, []):
        *counts, total = group.sum()
        if any(counts):
            durations.add_metric(group.key[1:], cumulate(SECONDS, counts), total)
    in_flight = sum(group.sum_of(pids)[0] for group in kinds.get(IN_FLIGHT, []))
    yield durations
    yield GaugeMetricFamily("requests_in_flight", "Requests being worked on.", value=in_flight)


def _collect_following(kinds: Mapping[str, list[Group]], pids: Mapping[int, int]) -> Iterator[Metric]:
    looks = [values[0] for group in kinds.get(LAST_LOOK, []) for slot, values in group.parts if slot in pids]
    last_look = GaugeMetricFamily(
        "registry_last_look_timestamp_seconds",
        "When each alias was last looked up, by the worker that did so longest ago.",
    )
    if watching := [at for at in looks if at]:
        last_look.add_metric([], min(watching))
    loads = HistogramMetricFamily(
        "version_load_seconds",
        "From an alias's move seen to its version loaded or refused.",
        labels=["model"],
    )
    for group in kinds.get(LOAD, []):
        *counts, total = group.sum()
        loads.add_metric(group.key[1:], cumulate(LOAD_SECONDS, counts), total)
    yield from (last_look, loads)
    yield from _collect_registry(kinds, pids)


def _collect_registry(kinds: Mapping[str, list[Group]], pids: Mapping[int, int]) -> Iterator[Metric]:
    """Of a registry in a bucket; nothing is shown of a folder."""
    up = GaugeMetricFamily("registry_up", "Whether the bucket of the registry answered the last question.")
    state = find_registry_state(kinds, pids)
    if state.is_remote:
        up.add_metric([], 0 if state.failing_since else 1)
    cached = GaugeMetricFamily(
        "model_from_cache",
        "A version that came from the cache, as the registry could not be asked where its alias points.",
        labels=["model", "version"],
    )
    for model, version in state.from_cache:
        cached.add_metric([model, version], 1)
    yield from (up, cached)


class RegistryState(NamedTuple):
    """What is known of a registry in a bucket.

    - ``is_remote``: whether it is one;
    - ``failing_since``: since when it does not answer, in seconds since 1970; 0 if it does;
    - ``from_cache``: models and versions that it could not be asked about.
    """

    is_remote: bool
    failing_since: float
    from_cache: list[tuple[str, str]]


def find_registry_state(kinds: Mapping[str, list[Group]], pids: Mapping[int, int]) -> RegistryState:
    """What all living processes say of the registry; times are negative while it does not answer."""
    times = [v[0] for group in kinds.get(REGISTRY, []) for slot, v in group.parts if slot in pids and v[0]]
    cached = [group for group in kinds.get(FROM_CACHE, []) if any(group.sum_of(pids))]
    failing = [-at for at in times if at < 0]
    return RegistryState(
        bool(times), min(failing, default=0.0), sorted((group.key[1], group.key[2]) for group in cached)
    )


def sort_groups(memory: Memory) -> dict[str, list[Group]]:
    """All blocks by their kind."""
    kinds: dict[str, list[Group]] = {}
    for group in memory.read().values():
        kinds.setdefault(group.key[0], []).append(group)
    return kinds


class _Shown(NamedTuple):
    """A version on the page: its values, and since when a living process serves it (0 for none)."""

    labels: tuple[str, str]
    digest: str
    classes: tuple[str, ...]
    values: list[float]
    live_since: float


def _find_live(groups: Sequence[Group], pids: Mapping[int, int]) -> dict[tuple[str, ...], float]:
    """Labels and digest of the versions being served → when the last process had loaded it."""
    found = {g.key[1:]: max((v[0] for slot, v in g.parts if slot in pids), default=0.0) for g in groups}
    return {key: since for key, since in found.items() if since}


def _choose(groups: Sequence[Group], live: Mapping[tuple[str, ...], float]) -> list[_Shown]:
    """The live versions, and of each model the last ones that were."""
    shown = [group for group in groups if group.key[1:4] in live]
    retired: dict[str, list[tuple[float, int]]] = {}
    for index, group in enumerate(groups):
        if group.key[1:4] not in live:
            loaded_at = max(values[ModelLayout.LOADED_AT] for _, values in group.parts)
            retired.setdefault(group.key[1], []).append((loaded_at, index))
    for of_model in retired.values():
        shown += [groups[index] for _, index in sorted(of_model)[-_RETIRED_SHOWN:]]
    shown.sort(key=lambda group: (group.key[1], int(group.key[2])))
    return [
        _Shown((g.key[1], g.key[2]), g.key[3], g.key[4:], g.sum(), live.get(g.key[1:4], 0.0)) for g in shown
    ]


def _collect_models(versions: Sequence[_Shown]) -> Iterator[Metric]:
    labels = ["model", "version"]
    waited = HistogramMetricFamily(
        "inference_queue_seconds", "From when a request could be worked on until it was.", labels=labels
    )
    durations = HistogramMetricFamily(
        "inference_duration_seconds", "One run of the graph, rows to probabilities.", labels=labels
    )
    rows = HistogramMetricFamily("inference_rows", "Rows in one run of the graph.", labels=labels)
    predictions = CounterMetricFamily("predictions", "Rows by predicted class.", labels=[*labels, "class"])
    info = GaugeMetricFamily("model_info", "A version being served.", labels=[*labels, "sha256"])
    loaded = GaugeMetricFamily(
        "model_loaded_timestamp_seconds", "When the version was ready to be served.", labels=labels
    )
    at = ModelLayout
    for shown in versions:
        values = shown.values
        waits, runs = values[at.WAITED : at.WAITED_SUM], values[at.DURATIONS : at.DURATIONS_SUM]
        sizes = values[at.SIZES : at.SIZES_SUM]
        waited.add_metric(shown.labels, cumulate(SECONDS, waits), values[at.WAITED_SUM])
        durations.add_metric(shown.labels, cumulate(SECONDS, runs), values[at.DURATIONS_SUM])
        rows.add_metric(shown.labels, cumulate(ROWS, sizes), values[at.SIZES_SUM] + sizes[0])
        for name, count in _name_counts(shown.classes, values[at.PREDICTIONS :], _MOST_CLASSES):
            predictions.add_metric([*shown.labels, name], count)
        if shown.live_since:
            info.add_metric([*shown.labels, shown.digest], 1)
            loaded.add_metric(shown.labels, shown.live_since)
    yield from (waited, durations, rows, predictions, info, loaded)


def _collect_unknown(groups: Sequence[Group], versions: Sequence[_Shown]) -> Metric:
    family = CounterMetricFamily(
        "unknown_categories",
        "Values of a feature that is text which training did not see, or too rarely.",
        labels=["model", "version", "feature"],
    )
    found = {group.key[1:4]: group for group in groups}
    for shown in versions:
        if group := found.get((*shown.labels, shown.digest)):
            for name, count in _name_counts(group.key[4:], group.sum(), _MOST_FEATURES):
                family.add_metric([*shown.labels, name], count)
    return family


def _name_counts(names: Sequence[str], counts: Sequence[float], most: int) -> list[tuple[str, float]]:
    named = list(zip(names[:most], counts, strict=False))
    return named if len(names) <= most else [*named, (OTHER, sum(counts[most:]))]
