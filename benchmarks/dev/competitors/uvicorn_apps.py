"""Three applications behind uvicorn, each as our own service runs it.

- ``--app noop``: raw ASGI that does nothing, the yardstick of everything else. It takes the request whole,
  as a server that reads it must, and answers bytes that were made beforehand. What remains is uvicorn's own
  work, parsing and writing.
- ``--app starlette_noop``: the same in Starlette: what a framework adds before anything is done.
- ``--app timberline --service serve …``: our own application behind plain uvicorn, the yardstick of how fair
  the service's own way of taking turns is. ``timberline serve …`` loads the version; then uvicorn's
  own server and protocol take the application over. It listens on a free port of its own.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from timberline.benchmarks.dev.competitors.program import parse_arguments
from timberline.benchmarks.dev.competitors.uvicorn_server import serve

_Config = uvicorn.Config


def build_noop(body_bytes: int) -> Any:
    """An ASGI application whose answers have a body of ``body_bytes``."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % body_bytes)]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    body = {"type": "http.response.body", "body": b"0" * body_bytes}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send(body)

    return answer


def build_starlette_noop(body_bytes: int) -> Any:
    """The same as a Starlette application."""
    from starlette.applications import Starlette  # noqa: PLC0415  (the other programs go without)
    from starlette.requests import Request  # noqa: PLC0415
    from starlette.responses import Response  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    body = b"0" * body_bytes

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/predict", answer, methods=["POST"])])


def run_service(name: str, arguments: list[str]) -> None:
    """Become ``python -m inference`` with ``arguments``, whose application uvicorn serves as ``name``."""

    def configure(app: Any, **_: Any) -> None:
        uvicorn.Config = _Config  # type: ignore[misc]
        serve(app, name)
        raise SystemExit(0)

    uvicorn.Config = configure  # type: ignore[assignment,misc]
    sys.argv = ["inference", *arguments]
    runpy.run_module("timberline.inference", run_name="__main__", alter_sys=True)


_NOOPS: dict[str, Callable[[int], Any]] = {"noop": build_noop, "starlette_noop": build_starlette_noop}

if __name__ == "__main__":
    _options = parse_arguments(
        __doc__,
        app={"choices": [*_NOOPS, "timberline"], "required": True},
        body_bytes={"type": int, "default": 0},
        service={"nargs": "...", "default": [], "help": "arguments of python -m inference; last"},
    )
    if _options.app in _NOOPS:
        serve(_NOOPS[_options.app](_options.body_bytes), _options.name)
    else:
        run_service(_options.name, _options.service)
