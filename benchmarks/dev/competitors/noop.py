"""An ASGI application that does nothing: the yardstick of everything else.

It takes the request whole, as whoever wants to know what is in it must, and answers bytes that
were made beforehand. What remains is uvicorn's own work, parsing and writing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from timberline.benchmarks.dev.competitors.announce import parse_arguments
from timberline.benchmarks.dev.competitors.uvicorn_server import serve

_Message = dict[str, Any]
_App = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]
]


def build_app(body_bytes: int) -> _App:
    """The application; its answers have a body of so many bytes."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % body_bytes)]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    body = {"type": "http.response.body", "body": b"0" * body_bytes}

    async def answer(
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send(body)

    return answer


if __name__ == "__main__":
    _options = parse_arguments(__doc__, body_bytes={"type": int, "required": True})
    serve(build_app(_options.body_bytes), _options.name)
