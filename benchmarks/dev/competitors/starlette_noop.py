"""A Starlette application that does nothing: what a framework adds before anything was done."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from timberline.benchmarks.dev.competitors.announce import parse_arguments
from timberline.benchmarks.dev.competitors.uvicorn_server import serve


def build_app(body_bytes: int) -> Starlette:
    """The application; its answers have a body of so many bytes."""
    body = b"0" * body_bytes

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/predict", answer, methods=["POST"])])


if __name__ == "__main__":
    _options = parse_arguments(__doc__, body_bytes={"type": int, "required": True})
    serve(build_app(_options.body_bytes), _options.name)
