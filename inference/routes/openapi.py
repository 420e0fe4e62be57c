"""``GET /openapi.json``: what this service takes and gives, made from the versions that it serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from timberline.inference.config import ServiceConfig
from timberline.inference.formats.answers import Answer, answer_bytes
from timberline.inference.formats.request import Request
from timberline.inference.models.routing import ServiceState
from timberline.inference.models.versions import LiveVersion
from timberline.inference.routes.example import pick_example
from timberline.inference.routes.openapi_paths import PathWriter, describe_errors, describe_protocol
from timberline.inference.routes.openapi_rows import describe_rows, write_tensors


class OpenApi:
    """Handler of ``GET /openapi.json``; writes the document again when another version is live.

    Args:
        state: whose default model is behind the routes that name none.
        config: its limits and routes.
        is_guarded: whether a bearer token is asked for.
    """

    def __init__(self, state: ServiceState, config: ServiceConfig, is_guarded: bool) -> None:
        self.paths: Iterable[str] = ()  # of all routes; known when all of them are
        self._state = state
        self._config = config
        self._is_guarded = is_guarded
        self._written: tuple[tuple[str, ...], Answer] = ((), answer_bytes(b""))

    def __call__(self, request: Request) -> Answer:
        """The document."""
        live = self._state.live
        served = tuple(f"{version.model}@{version.version}" for version in self._state.models.values())
        if self._written[0] != served:
            body = msgspec.json.encode(self._write(live))
            self._written = (served, answer_bytes(body, live.headers))
        return self._written[1]

    def _write(self, live: LiveVersion) -> dict[str, Any]:
        config, manifest = self._config, live.manifest
        about = (manifest.description, manifest.lineage.attribution)
        paths = PathWriter(manifest, self._state.models, self._is_guarded)
        components: dict[str, Any] = {
            "schemas": {**describe_rows(manifest, config.max_rows), **describe_protocol()},
            "responses": describe_errors(),
            "examples": {
                "Row": {"summary": "A row", "value": pick_example(manifest)},
                "Tensors": {"summary": "The same row as tensors", "value": write_tensors(manifest)},
            },
        }
        document: dict[str, Any] = {
            "openapi": "3.1.0",
            "info": {
                "title": manifest.title or manifest.model,
                "description": "\n\n".join(filter(None, about)),
                "version": str(manifest.version),
            },
            "servers": [{"url": config.root_path or "/"}],
            "paths": paths.write(self.paths, config.predict_route, config.health_route),
            "components": components,
        }
        if self._is_guarded:
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"bearer": []}]
        return document
