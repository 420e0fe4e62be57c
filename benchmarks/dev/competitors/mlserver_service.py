"""MLServer with the same graph as a custom runtime, in its own process as ``parallel_workers=0``."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from timberline.benchmarks.dev.competitors.program import announce, open_version, parse_arguments


class OnnxModel(MLModel):  # type: ignore[misc]  # the library is not here where types are checked
    """The graph behind ``/v2/models/{name}/infer``."""

    async def load(self) -> bool:
        """Load the folder that the settings name."""
        self._session: Any = open_version(Path(self.settings.parameters.uri)).session
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the graph on the first tensor, (rows, columns)."""
        numbers = NumpyCodec.decode_input(payload.inputs[0])
        names = ["probabilities", "label"]
        outputs = self._session.run(names, {"numeric": numbers})
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(*pair) for pair in zip(names, outputs, strict=True)],
        )


async def run(folder: Path, name: str) -> None:
    """Serve the version until SIGTERM."""
    http, grpc, metrics = _free_ports(3)
    settings = Settings(
        host="127.0.0.1",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        parallel_workers=0,
        debug=False,
        use_structured_logging=False,
    )
    model, _, version = name.partition("@")
    served = ModelSettings(
        name=model,
        implementation=OnnxModel,
        parameters=ModelParameters(uri=str(folder), version=version),
    )
    announce(http, name)
    await MLServer(settings).start([served])


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: MLServer takes none that is bound already, and no port 0."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


if __name__ == "__main__":
    _options = parse_arguments(__doc__, version={"type": Path, "required": True})
    logging.disable(logging.INFO)  # it logs every request
    uvloop.install()
    asyncio.run(run(_options.version, _options.name))
