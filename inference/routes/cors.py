"""Which other origins' pages may ask, and the headers their browsers need (Fetch Standard, 3.2: CORS).

Off by default: then nothing here is in the way of a request. No credentials are ever allowed: a token
is sent by the page's own script, in a header, and no browser adds one by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from timberline.inference.config import ServiceConfig
from timberline.inference.formats.answers import Answer, Header
from timberline.inference.models.versions import VERSION_HEADER
from timberline.registry.errors import ConfigError

ANY = "*"
# RFC 6454, 6.2: scheme, host and port, and nothing behind. "null", which files and sandboxes send, is nobody.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+\Z")
_ALLOW_ORIGIN = b"access-control-allow-origin"
_VARY: Header = (b"vary", b"origin")
# What the routes here read beside what every page may send.
_READ = (
    *("authorization", "content-type", "content-encoding", "inference-header-content-length"),
    *("traceparent", "x-request-id"),
)
_SHOWN = (VERSION_HEADER, b"inference-header-content-length", b"retry-after")
# Browsers keep an answer for two hours at most; ten minutes let a change of the setting be felt.
_KEPT_S = 600


class CorsPolicy:
    """Adds to answers what lets a browser show them to a page of another origin.

    Args:
        origins: as browsers send them, or `ANY` alone.
        headers: names of headers that requests may have, beside those that are always allowed.
    """

    def __init__(self, origins: Sequence[str], headers: Sequence[str] = ()) -> None:
        self._any = origins[0] == ANY
        shown: Header = (b"access-control-expose-headers", b", ".join(_SHOWN))
        allowed = {ANY} if self._any else set(origins)
        vary = () if self._any else (_VARY,)
        # By origin; a tuple each, so that heads of answers are joined once and not for each answer.
        self._of_origin = {o.encode(): ((_ALLOW_ORIGIN, o.encode()), shown, *vary) for o in allowed}
        self._of_others: tuple[Header, ...] = vary
        names = ", ".join(dict.fromkeys((*_READ, *headers))).encode()
        self._preflight: tuple[Header, ...] = (
            (b"access-control-allow-methods", b"GET, HEAD, POST"),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", b"%d" % _KEPT_S),
        )

    def allow(self, answer: Answer, headers: Sequence[Header]) -> Answer:
        """``answer`` to a request with these ``headers``, for its page if that may have it."""
        more = self._find(headers)
        if not more:
            return answer
        if more[-1] is _VARY and any(name == b"vary" for name, _ in answer.headers):
            own = tuple((n, b"%b, origin" % v if n == b"vary" else v) for n, v in answer.headers)
            return answer._replace(headers=(*own, *more[:-1]))
        return answer._replace(headers=(*answer.headers, *more))

    def answer_preflight(self, headers: Sequence[Header]) -> Answer | None:
        """The answer to a preflight; None if these headers are of none."""
        names = {name for name, _ in headers}
        if not {b"origin", b"access-control-request-method"} <= names:
            return None
        more = self._find(headers)
        is_allowed = any(name == _ALLOW_ORIGIN for name, _ in more)
        return Answer(200, (*more, *self._preflight) if is_allowed else more, b"")

    def _find(self, headers: Sequence[Header]) -> tuple[Header, ...]:
        origin = next((value for name, value in headers if name == b"origin"), None)
        if origin is None:
            return self._of_others
        return self._of_origin.get(b"*" if self._any else origin, self._of_others)


def read_policy(config: ServiceConfig) -> CorsPolicy | None:
    """The policy that ``cors_origin`` asks for; None if it is not set.

    Raises:
        ConfigError: an entry is no origin, or stands beside ``*``.
    """
    if not config.cors_origin:
        return None
    origins = [origin.strip().lower() for origin in config.cors_origin.split(",")]
    for origin in origins:
        if not (_ORIGIN.match(origin) or origins == [ANY]):
            raise ConfigError(
                f"found {origin!r:.80}, expected an origin such as https://example.org",
                where="cors origin",
                hint="Scheme, host and port; several with commas between; or * alone, for all.",
            )
    return CorsPolicy(origins, [config.canary_header.lower()] if config.canary else [])
