"""Health, and what the server and its versions say about themselves: Open Inference Protocol v2, and v1.

v1 is what TensorFlow Serving began and KServe went on with. Where the two differ, one answer holds both.
"""

from __future__ import annotations

import datetime
from time import monotonic
from typing import Any

import msgspec

from timberline import __version__
from timberline.inference.formats.request import Answer, Request, answer_json
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.metrics.exposition import (
    COUNTER,
    MODEL,
    ModelLayout,
    find_registry_state,
    sort_groups,
)
from timberline.inference.metrics.shared_memory import Memory
from timberline.inference.models.routing import ServiceState
from timberline.inference.routes.page import PageBuilder, prefers_page
from timberline.registry.manifest import Manifest, rank_values
from timberline.registry.moments import write_row
from timberline.registry.signature import Column

# Values of a text column that the model card counts.
_MOST_VALUES = 100
# The repository's index is answered too, but not its loading and unloading, so it is not named here.
EXTENSIONS = ("binary_tensor_data",)


class Health:
    """Handlers that say how the service is; the Open Inference Protocol's two, and ``GET /``.

    Args:
        state: what is served.
        metrics: what was counted.
        metrics_port: where ``/metrics`` is; 0 is here.
        root_path: before every path in an answer.
    """

    def __init__(
        self, state: ServiceState, metrics: ServiceMetrics, metrics_port: int = 0, root_path: str = ""
    ) -> None:
        self._metrics_at = f":{metrics_port}/metrics" if metrics_port else f"{root_path}/metrics"
        self._root_path = root_path
        self._state = state
        self._metrics = metrics
        self._pages = PageBuilder(root_path)
        self._started = monotonic()

    def live(self, request: Request) -> Answer:
        """200 as long as the process answers at all."""
        return answer_json(self._describe())

    def ready(self, request: Request) -> Answer:
        """200 when work should be sent here, else 503."""
        return _answer_readiness(self._describe(), self._state.is_ready)

    def probe(self, request: Request) -> Answer:
        """What is served here: a page for a person's browser, JSON for other clients.

        ``requests`` are all that brought a body, refused ones included, ``predictions`` the rows
        that were predicted; of every worker and since the service started. ``uptime_s`` is this worker's.
        ``registry`` is there only while there is something to say of it: see `_describe_registry`.
        """
        self._state.check_ready()
        live = self._state.live
        if prefers_page(request.find_header(b"accept") or b""):
            return self._pages.answer(live)
        return answer_json(
            {
                "status": "alive",  # the word that KServe's v1 clients ask liveness by
                "model": live.model,
                "version": live.version,
                "title": live.manifest.title,
                "predict": f"{self._root_path}/predict",
                "metadata": f"{self._root_path}/v2/models/{live.model}",
                "metrics": self._metrics_at,
                "models": {name: self._state.list_versions(name) for name in self._state.models},
                "uptime_s": round(monotonic() - self._started, 1),
                **_sum_traffic(self._metrics.memory),
                **_describe_registry(self._metrics.memory),
            },
            200,
            (b"vary", b"accept"),
        )

    def _describe(self) -> dict[str, bool]:
        # The protocol's text prints "live" for both, KServe answers "ready"; clients look for either.
        return {"live": True, "ready": self._state.is_ready}


def _answer_readiness(page: Any, is_ready: bool) -> Answer:
    return answer_json(page) if is_ready else answer_json(page, 503, (b"retry-after", b"1"))


def _describe_registry(memory: Memory) -> dict[str, Any]:
    """What is to be said of a registry in a bucket; nothing as long as it answers.

    ``from_cache`` are versions that the bucket could not be asked about: newer ones may be in production.
    """
    state = find_registry_state(sort_groups(memory), memory.read_pids())
    if not state.failing_since and not state.from_cache:
        return {}
    since = (
        datetime.datetime.fromtimestamp(state.failing_since, datetime.UTC) if state.failing_since else None
    )
    return {
        "registry": {
            "answers": since is None,
            "failing_since": since and since.isoformat(timespec="seconds"),
            "from_cache": [f"{model}@{version}" for model, version in state.from_cache],
        }
    }


def _sum_traffic(memory: Memory) -> dict[str, int]:
    """Requests for predictions and rows predicted, over all processes and versions."""
    requests = predictions = 0.0
    for group in memory.read().values():
        # Nothing but work is posted; health checks and pages that look here are no traffic.
        if group.key[:2] == (COUNTER, "http_requests") and group.key[3] == "POST":
            requests += group.sum()[0]
        elif group.key[0] == MODEL:
            predictions += sum(group.sum()[ModelLayout.PREDICTIONS :])
    return {"requests": int(requests), "predictions": int(predictions)}


class Metadata:
    """Handlers of ``GET /v2``, of a model and its readiness in v2 and v1, and of the lists of models."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def server(self, request: Request) -> Answer:
        """Name, version and extensions of the server."""
        return answer_json({"name": "timberline", "version": __version__, "extensions": EXTENSIONS})

    def model(self, request: Request) -> Answer:
        """The graph's tensors as the protocol wants them, and the model card beside them."""
        live = self._state.find(request.named["model"], request.named.get("version"))
        signature = live.manifest.signature
        return answer_json(
            {
                "name": live.model,
                "versions": self._state.list_versions(live.model),
                "platform": "onnxruntime_onnx",
                "inputs": signature.inputs,
                "outputs": signature.outputs,
                "card": _describe(live.manifest),
            }
        )

    def ready(self, request: Request) -> Answer:
        """Whether this version can be asked: 200 or 503."""
        live = self._state.find(request.named["model"], request.named.get("version"))
        is_ready = self._state.is_ready
        return _answer_readiness({"name": live.model, "ready": is_ready}, is_ready)

    def models(self, request: Request) -> Answer:
        """The names of the models, as KServe lists them in both protocols."""
        return answer_json({"models": list(self._state.models)})

    def status(self, request: Request) -> Answer:
        """Of v1: whether a model can be asked (KServe: 200 or 503), and its versions (TensorFlow Serving)."""
        live = self._state.find(request.named["model"], request.named.get("version"))
        is_ready = self._state.is_ready
        versions = [request.named["version"]] if "version" in request.named else None
        state = {
            "state": "AVAILABLE" if is_ready else "UNLOADING",
            "status": {"error_code": "OK", "error_message": ""},
        }
        page = {
            "name": live.model,
            "ready": is_ready,
            "model_version_status": [
                {"version": version, **state} for version in versions or self._state.list_versions(live.model)
            ],
        }
        return _answer_readiness(page, is_ready)

    def index(self, request: Request) -> Answer:
        """The versions being served, as the repository extension lists them."""
        return answer_json(
            [
                {"name": model, "version": version, "state": "READY", "reason": ""}
                for model in self._state.models
                for version in self._state.list_versions(model)
            ]
        )


def _describe(manifest: Manifest) -> dict[str, Any]:
    """The model card: what a person checks before trusting a version."""
    return {
        "title": manifest.title,
        "description": manifest.description,
        "version": manifest.version,
        "created_at": manifest.created_at,
        "attribution": manifest.lineage.attribution,
        "columns": [_describe_column(column) for column in manifest.signature.columns],
        "classes": manifest.signature.classes,
        "prior": manifest.prior,
        "metrics": manifest.metrics,
        "opset": manifest.opset,
        "producers": manifest.producers,
        "lineage": manifest.lineage,
        "files": manifest.files,
        **_describe_learned(manifest),
    }


def _describe_column(column: Column) -> Any:
    """A column as the manifest has it, but for moments, which are ISO 8601 here."""
    if column.moment is None:
        return column
    default, minimum, maximum = write_row((column.default, column.minimum, column.maximum), (column,) * 3)
    return {**msgspec.structs.asdict(column), "default": default, "minimum": minimum, "maximum": maximum}


def _describe_learned(manifest: Manifest) -> dict[str, Any]:
    """What features.sql has learned, and how often training saw the commonest values of text; if anything."""
    histograms = {
        column.name: manifest.histograms[column.name]
        for column in manifest.signature.columns
        if column.datatype == "BYTES" and column.name in manifest.histograms
    }
    learned = {
        "categories": manifest.categories,
        "constants": manifest.constants,
        "values": {name: dict(rank_values(found)[:_MOST_VALUES]) for name, found in histograms.items()},
    }
    return {name: value for name, value in learned.items() if value}
