"""A file behind an http(s) URL, through the standard library: the machine's proxies and certificates hold."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from timberline.training.errors import SourceError
from timberline.training.sources.download import CHUNK_BYTES, FileChangedError, LostConnectionError, Reply
from timberline.training.sources.http_fields import (
    BUSY_STATUSES,
    RANGE_NOT_SATISFIABLE,
    read_reply,
    resume_headers,
)
from timberline.training.sources.scrub import show_url

_TIMEOUT_S = 60.0

_HINTS = {
    401: "It asks to sign in; use a presigned URL, or download the file yourself and give its path.",
    403: "Access is refused; a presigned URL may have run out.",
    404: "Check source.path in model.toml.",
    410: "The file is gone for good.",
}


def check_url(url: str) -> None:
    """Refuse a URL with a password in it: model.toml is no place for one.

    Raises:
        SourceError: it has one, or names no host.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise SourceError(
            "the URL carries credentials",
            where=show_url(url),
            hint="model.toml is committed and copied; use a presigned URL, by --set source.path=…, instead.",
        )
    if not parts.hostname:
        raise SourceError("the URL names no host", where=show_url(url))


@contextlib.contextmanager
def open_url(url: str, offset: int, validator: str | None) -> Iterator[Reply]:
    """Ask for the file at ``url`` from ``offset`` on; an `Opener` once ``url`` is bound."""
    headers = {"User-Agent": "timberline", **resume_headers(offset, validator)}
    request = urllib.request.Request(url, headers=headers)
    where = show_url(url)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(error, where) from None
    except (OSError, http.client.HTTPException) as error:
        raise LostConnectionError(_reason(error)) from None
    with response:
        yield read_reply(response.status, response.headers, offset, _chunks(response), where)


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise LostConnectionError(f"the body broke off ({_reason(error)})") from None


def _refusal(error: urllib.error.HTTPError, where: str) -> Exception:
    if error.code == RANGE_NOT_SATISFIABLE:
        return FileChangedError("the file is shorter now")
    if error.code in BUSY_STATUSES:
        return LostConnectionError(f"the server is busy ({error.code})")
    return SourceError(f"the server answered {error.code}", where=where, hint=_HINTS.get(error.code, ""))


def _reason(error: Exception) -> str:
    """The cause without the URL, whose query may be a signature."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__
