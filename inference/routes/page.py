"""The page at ``/`` for a person's browser: one file that asks for nothing but this service.

The sources lie in ``static/`` and are put together as they stand, once for every version. What
comes from a manifest is data (JSON that a script reads, text that is escaped), never markup; the
policy lets the browser run the page's own script and style only, known by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import html
import weakref
from functools import cache
from pathlib import Path
from string import Template

import msgspec

from timberline.inference.formats.answers import Answer, Header
from timberline.inference.formats.media import read_accept
from timberline.inference.models.versions import VERSION_HEADER, LiveVersion
from timberline.inference.routes.card import describe_version
from timberline.registry.manifest import Manifest

_STATIC = Path(__file__).with_name("static")
# In this order one script: each uses what stands before it.
_SCRIPTS = ("dom.js", "quality.js", "fields.js", "predict.js", "traffic.js")
# What could end the element that the data stands in, or make a script of it.
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


class PageBuilder:
    """Builds the page of a version when it is first asked for, and keeps the last one.

    Args:
        root_path: before every path that it asks for.
    """

    def __init__(self, root_path: str = "") -> None:
        self._root_path = root_path
        self._built: tuple[weakref.ref[LiveVersion], Answer] | None = None

    def answer(self, live: LiveVersion) -> Answer:
        """The page of ``live``."""
        if self._built is None or self._built[0]() is not live:
            version = (VERSION_HEADER, f"{live.model}@{live.version}".encode())
            page = write_page(live.manifest, self._root_path)
            self._built = (weakref.ref(live), Answer(200, (*page_headers(), version), page))
        return self._built[1]


def prefers_page(accept: bytes) -> bool:
    """Whether a client with this Accept header asks for HTML rather than JSON.

    Only a client that names ``text/html`` does, as browsers do; ``*/*`` is a program's.
    """
    ranges = read_accept(accept)
    page, data = (ranges[name][0] if name in ranges else 0 for name in ("text/html", "application/json"))
    return page > 0 and page >= data


def write_page(manifest: Manifest, root_path: str = "") -> bytes:
    """The whole page about one version; without a ``root_path`` it asks for what lies beside it."""
    style, script, template = _read_sources()
    data = msgspec.json.encode({"root": root_path, **describe_version(manifest)}).decode().translate(_ESCAPES)
    page = template.substitute(
        name=html.escape(f"{manifest.model}@{manifest.version}"),
        title=html.escape(manifest.title),
        description=html.escape(manifest.description),
        model=html.escape(manifest.model),
        root=html.escape(f"{root_path}/" if root_path else ""),
        style=style,
        script=script,
        data=data,
    )
    return page.encode()


@cache
def page_headers() -> tuple[Header, ...]:
    """The headers of every page: what it may do is what it must, and no more."""
    style, script, _ = _read_sources()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"vary", b"accept"),
    )


@cache
def _read_sources() -> tuple[str, str, Template]:
    style = (_STATIC / "page.css").read_text("utf-8")
    script = "".join((_STATIC / name).read_text("utf-8") for name in _SCRIPTS)
    return style, script, Template((_STATIC / "page.html").read_text("utf-8"))


def _digest(source: str) -> str:
    """A source expression of Content Security Policy Level 3 for an inline element's text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
