"""What the server and the versions being served say about themselves: Open Inference Protocol v2, and v1.

v1 is what TensorFlow Serving began and KServe went on with. Where the two differ, one answer holds both.
"""

from __future__ import annotations

from typing import Any

from timberline import __version__
from timberline.inference.formats.answers import Answer, answer_json
from timberline.inference.formats.request import Request
from timberline.inference.models.routing import ServiceState
from timberline.registry.manifest import Manifest

# The repository's index is answered too, but not its loading and unloading, so it is not named here.
EXTENSIONS = ("binary_tensor_data",)
_AGAIN = (b"retry-after", b"1")


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
        more = () if is_ready else (_AGAIN,)
        return answer_json({"name": live.model, "ready": is_ready}, 200 if is_ready else 503, *more)

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
        return answer_json(page, 200 if is_ready else 503, *(() if is_ready else (_AGAIN,)))

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
