"""Liveness, readiness and the probe at ``/``."""

from __future__ import annotations

from time import monotonic

from timberline.inference.formats.answers import Answer, answer_json
from timberline.inference.formats.request import Request
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.metrics.exposition import COUNTER, MODEL, ModelLayout
from timberline.inference.metrics.shared_memory import Memory
from timberline.inference.models.routing import ServiceState
from timberline.inference.routes.page import PageBuilder, prefers_page


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
        if self._state.is_ready:
            return answer_json(self._describe())
        return answer_json(self._describe(), 503, (b"retry-after", b"1"))

    def probe(self, request: Request) -> Answer:
        """What is served here: a page for a person's browser, JSON for everybody else.

        ``requests`` are all that brought a body, refused ones included, ``predictions`` the rows
        that were predicted; of every worker and since the service started. ``uptime_s`` is this worker's.
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
            },
            200,
            (b"vary", b"accept"),
        )

    def _describe(self) -> dict[str, bool]:
        # The protocol's text prints "live" for both, KServe answers "ready"; clients look for either.
        return {"live": True, "ready": self._state.is_ready}


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
