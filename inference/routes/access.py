"""Who may ask: bearer tokens (RFC 6750), and pages of other origins (CORS; Fetch Standard, 3.2).

Tokens are compared in a time that does not depend on how much of one was right. CORS is off by default: then
nothing of it is in the way of a request. It never allows credentials: the page's own script sends a token
in a header, and no browser adds one by itself.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
import threading
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from timberline.inference.config import ServiceConfig, environment_name
from timberline.inference.errors import UnauthorizedError
from timberline.inference.formats.request import Answer, Header
from timberline.inference.models.versions import VERSION_HEADER
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import UTF_8
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.routes.access")

# Orchestrators and platforms ask these without a token, and the answers are only yes or no.
OPEN_ROUTES = frozenset({"/v2/health/live", "/v2/health/ready", "/ping"})
# 16 characters of base64 are 96 random bits; less may be a word that can be guessed.
_SHORTEST = 16
# RFC 6750, section 2.1: what can stand behind "Bearer ".
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_MOST_BYTES = 1 << 20  # of a tokens file
# A file that changed is read when it was the same at two looks: not while it is being written.
_LOOK_S = 1.0
_HINT = "Send the header Authorization: Bearer, and a token of this service."
ANY = "*"
# RFC 6454, 6.2: scheme, host and port, and nothing behind. "null", which files and sandboxes send, is none.
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


class Guard:
    """Lets requests with one of its tokens pass. Holds digests, so that no token can be shown by mistake.

    Args:
        tokens: as clients send them.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests: tuple[bytes, ...] = ()
        self.replace(tokens)

    def replace(self, tokens: Iterable[str]) -> bool:
        """Let these pass from now on and no others; whether they are others. From any thread."""
        digests = tuple(sha256(token.encode()).digest() for token in tokens)
        is_new = digests != self._digests
        self._digests = digests
        return is_new

    def check(self, headers: Iterable[Header]) -> None:
        """Nothing if the request may be answered.

        How long it takes depends on the number of tokens, never on what was sent: digests of equal
        length are compared, and all of them.

        Raises:
            UnauthorizedError: no token was sent, more than one, or one that is not known here.
        """
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, token = given[0].strip().partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            raise UnauthorizedError("a bearer token is asked for here", hint=_HINT)
        digest = sha256(token.strip()).digest()
        is_known = False
        for known in self._digests:
            is_known |= hmac.compare_digest(known, digest)
        if not is_known:
            raise UnauthorizedError("the bearer token is not known here", hint=_HINT)


def read_guard(config: ServiceConfig) -> Guard | None:
    """The guard over the tokens of the environment and of the tokens file; None if neither is set.

    Raises:
        ConfigError: the file cannot be read, holds no token, or a token is too short or cannot be
            sent in a header. The message counts tokens and shows none.
    """
    if not config.tokens and not config.tokens_file:
        return None
    return Guard(_read_tokens(config))


class TokensWatch:
    """Keeps a guard at what its tokens file says; in a thread, as a file may be on a slow network.

    A file that cannot be read any more, or holds what stops a start, leaves the tokens as they are,
    and the log says so once. The old tokens end with the new ones' beginning.

    Args:
        guard: of `read_guard`.
        config: of the same.
    """

    def __init__(self, guard: Guard, config: ServiceConfig) -> None:
        self._guard = guard
        self._config = config
        self._seen: object = None  # at the last look
        self._read: object = None  # when it was read

    def start(self) -> None:
        """Look every second until the process ends, if there is a file; a pipe says what it says once."""
        if isinstance(_stat(self._config.tokens_file), tuple):
            threading.Thread(target=self._run, name="tokens", daemon=True).start()

    def look(self) -> None:
        """Look at the file, and read it if it changed before the last look and has not changed since."""
        before, self._seen = self._seen, _stat(self._config.tokens_file)
        if self._seen != before or self._seen == self._read:
            return
        self._read = self._seen
        try:
            tokens = _read_tokens(self._config, is_regular=True)
        except ConfigError as error:
            log_event(_logger, "tokens kept as they were", logging.ERROR, error=str(error))
            return
        if self._guard.replace(tokens):
            log_event(_logger, "tokens read again", tokens=len(tokens))

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_S):
            self.look()


def _stat(path: str) -> tuple[int, ...] | str:
    """What changes when the file does, or when a link on the way to it does; else why it is no file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        return str(error)
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read_tokens(config: ServiceConfig, *, is_regular: bool = False) -> list[str]:
    tokens: list[str] = []
    if config.tokens:
        tokens += _check(config.tokens.split(","), "token", f"environment {environment_name('tokens')}")
    if config.tokens_file:
        tokens += _check(_read_lines(config.tokens_file, is_regular), "line", config.tokens_file)
    return tokens


def _read_lines(path: str, is_regular: bool) -> Sequence[str]:
    """Lines of the file; one that must be ``is_regular`` is never waited for, as a pipe may be."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if is_regular else 0))
        with os.fdopen(fd, "rb") as file:
            if is_regular and not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError("the tokens cannot be read: it is not a regular file", where=path)
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"the tokens cannot be read: more than {_MOST_BYTES:,} bytes", where=path)
        return data.decode(UTF_8).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"the tokens cannot be read: {reason}", where=path) from None


def _check(entries: Iterable[str], kind: str, where: str) -> list[str]:
    tokens: list[str] = []
    for number, entry in enumerate(entries, 1):
        token = entry.strip()
        if not token or token.startswith("#"):
            continue
        if len(token) < _SHORTEST:
            raise ConfigError(
                f"the token has {len(token)} characters, expected at least {_SHORTEST}",
                where=f"{where}: {kind} {number}",
                hint="`openssl rand -hex 32` makes a good one.",
            )
        if not _TOKEN.match(token):
            raise ConfigError(
                "the token has a character that no bearer token may have",
                where=f"{where}: {kind} {number}",
                hint="Letters, digits and -._~+/ are allowed, and = at the end.",
            )
        tokens.append(token)
    if not tokens:
        raise ConfigError(
            "no token is there, and every request would pass", where=where, hint="Unset it to let them pass."
        )
    return tokens


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
