"""uvicorn as our own service runs it: uvloop, httptools, nothing else switched on."""

from __future__ import annotations

from typing import Any

import uvicorn

from timberline.benchmarks.dev.competitors.program import announce, listen


def serve(app: Any, name: str) -> None:
    """Serve an ASGI application as ``name`` until SIGTERM."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    listener = listen()
    announce(listener.getsockname()[1], name)
    uvicorn.Server(config).run(sockets=[listener])
