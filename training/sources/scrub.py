"""Keep credentials out of messages: what a client or server said, without what it should not have said."""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Iterable

_HIDDEN = "***"
_LIMIT = 300
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
# Presigned URLs carry their signature in the query.
_QUERY = re.compile(r"(?<=[\w/.\-%])\?[^\s'\"<>)]+")
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=\-]{6,}")


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` on one line of at most 300 characters, without ``secrets`` (plain, quoted or in base64),
    userinfo and queries of URLs, and authorization headers.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, urllib.parse.quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            text = text.replace(form, _HIDDEN)
    text = _AUTHORIZATION.sub(rf"\1 {_HIDDEN}", text)
    text = _QUERY.sub(f"?{_HIDDEN}", _USERINFO.sub(f"{_HIDDEN}@", text))
    text = " ".join(text.split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 1] + "…"


def show_url(url: str) -> str:
    """A URL as it may be shown: scheme, host, port and path; no userinfo, query or fragment."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
