"""One line in the log for every request, if asked for; and the trace that a request belongs to."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from starlette.types import Scope

from timberline.inference.formats.answers import Answer, Header
from timberline.inference.models.versions import VERSION_HEADER
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.requests")
# W3C Trace Context, section 3.2.2: version-trace-parent-flags in lower case. Version ff is none, 00 has
# nothing behind the flags, later ones may; a trace or a parent of zeros is to be ignored.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
_LENGTH = 55  # of what version 00 defines


def find_trace(headers: Iterable[Header]) -> dict[str, Any]:
    """The field ``traceparent`` for a log line; nothing if none was sent, several, or one that is none."""
    found = [value for name, value in headers if name == b"traceparent"]
    if len(found) != 1 or not _TRACEPARENT.fullmatch(found[0]):
        return {}
    return {"traceparent": found[0][:_LENGTH].decode("ascii")}


def log_request(route: str, scope: Scope, answer: Answer, seconds: float) -> None:
    """Tell one answered request: its route and not its path or query, which may hold anything.

    Args:
        route: the path's pattern.
        scope: of the request.
        answer: what is about to be sent.
        seconds: since the request was routed.
    """
    client = scope.get("client")
    version = next((value.decode() for name, value in answer.headers if name == VERSION_HEADER), None)
    log_event(
        _logger,
        "request",
        method=scope["method"],
        route=route,
        status=answer.status,
        ms=round(seconds * 1000, 3),
        version=version,
        client=client[0] if client else None,
        **find_trace(scope["headers"]),
    )
