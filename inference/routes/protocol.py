"""Open Inference Protocol v2: what the server and the versions being served say about themselves."""

from __future__ import annotations

from typing import Any

from inference.live.state import ServiceState
from inference.wire.answers import Answer, answer_json
from inference.wire.request import Request
from registry import __version__
from registry.manifest import Manifest

# The repository's index is answered too, but not its loading and unloading, so it is not named here.
EXTENSIONS = ("binary_tensor_data",)


class Metadata:
    """Handlers of ``GET /v2``, ``GET /v2/models/{model}[/versions/{version}][/ready]`` and the index."""

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
        more = () if is_ready else ((b"retry-after", b"1"),)
        return answer_json({"name": live.model, "ready": is_ready}, 200 if is_ready else 503, *more)

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
    """What a person wants to know of a version before trusting it."""
    return {
        "title": manifest.title,
        "description": manifest.description,
        "version": manifest.version,
        "created_at": manifest.created_at,
        "attribution": manifest.lineage.attribution,
        "columns": manifest.signature.columns,
        "classes": manifest.signature.classes,
        "prior": manifest.prior,
        "metrics": manifest.metrics,
        "opset": manifest.opset,
        "producers": manifest.producers,
        "lineage": manifest.lineage,
        "files": manifest.files,
    }
