"""Liveness, readiness and the probe at ``/``."""

from __future__ import annotations

from inference.answers import Answer, answer_json
from inference.request import Request
from inference.state import ServiceState


class Health:
    """Handlers that say how the service is; the Open Inference Protocol's two, and ``GET /``."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def live(self, request: Request) -> Answer:
        """200 as long as the process answers at all."""
        return answer_json(self._describe())

    def ready(self, request: Request) -> Answer:
        """200 when work should be sent here, else 503."""
        if self._state.is_ready:
            return answer_json(self._describe())
        return answer_json(self._describe(), 503, (b"retry-after", b"1"))

    def probe(self, request: Request) -> Answer:
        """What is served here, for a person or a load balancer."""
        self._state.check_ready()
        live = self._state.live
        return answer_json(
            {
                "status": "ok",
                "model": live.model,
                "version": live.version,
                "title": live.manifest.title,
                "predict": "/predict",
                "metadata": f"/v2/models/{live.model}",
                "metrics": "/metrics",
            }
        )

    def _describe(self) -> dict[str, bool]:
        # The protocol's text prints "live" for both, KServe answers "ready"; clients look for either.
        return {"live": True, "ready": self._state.is_ready}
