"""What a body is declared to be."""

from __future__ import annotations

from inference.errors import UnsupportedMediaError
from inference.request import Request

_JSON = frozenset(
    {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
)


def check_json(request: Request) -> None:
    """Nothing if the body is JSON by its declaration; one without a declaration is taken to be JSON.

    Raises:
        UnsupportedMediaError: it is declared to be something else.
    """
    declared = request.find_header(b"content-type")
    if declared is not None and declared not in _JSON:
        _check_media(declared)


def _check_media(value: bytes) -> None:
    media, _, parameters = value.decode("latin-1").lower().partition(";")
    if media.strip() != "application/json":
        raise UnsupportedMediaError(
            f"content type {_show(value)} is not read here", hint="Send application/json."
        )
    charset = next(
        (p.partition("=")[2] for p in parameters.split(";") if p.strip().startswith("charset")), ""
    )
    if charset.strip(' "') not in {"", "utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaError(f"content type {_show(value)} is not read here", hint="JSON is UTF-8.")


def _show(value: bytes) -> str:
    return repr(value.decode("latin-1"))[:80]
