"""Open Inference Protocol v2: metadata of the server and of the version being served."""

from __future__ import annotations

from typing import Any

from inference.answers import Answer, answer_json
from inference.request import Request
from inference.state import ServiceState
from registry import __version__
from registry.manifest import Manifest


class Metadata:
    """Handlers of ``GET /v2`` and ``GET /v2/models/{model}[/versions/{version}]``."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def server(self, request: Request) -> Answer:
        """Name, version and extensions of the server."""
        return answer_json({"name": "timberline", "version": __version__, "extensions": []})

    def model(self, request: Request) -> Answer:
        """The graph's tensors as the protocol wants them, and the model card beside them."""
        live = self._state.find(request.named["model"], request.named.get("version"))
        signature = live.manifest.signature
        return answer_json(
            {
                "name": live.model,
                "versions": [str(live.version)],
                "platform": "onnxruntime_onnx",
                "inputs": signature.inputs,
                "outputs": signature.outputs,
                "card": _describe(live.manifest),
            }
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
