"""Who may ask: bearer tokens (RFC 6750), compared without telling how much of one was right."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from inference.config import ServiceConfig, environment_name
from inference.errors import UnauthorizedError
from inference.wire.answers import Header
from registry.errors import ConfigError

# Orchestrators and platforms ask these without a token, and they tell nothing but yes or no.
OPEN_ROUTES = frozenset({"/v2/health/live", "/v2/health/ready", "/ping"})
# 16 characters of base64 are 96 random bits; less may be a word that somebody guesses.
_SHORTEST = 16
# RFC 6750, section 2.1: what can stand behind "Bearer ".
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_HINT = "Send the header Authorization: Bearer, and a token of this service."


class Guard:
    """Lets requests with one of its tokens pass. Holds digests, so that no token can be shown by mistake.

    Args:
        tokens: as clients send them.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(sha256(token.encode()).digest() for token in tokens)

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
    tokens: list[str] = []
    if config.tokens:
        tokens += _check(config.tokens.split(","), "token", f"environment {environment_name('tokens')}")
    if config.tokens_file:
        tokens += _check(_read_lines(config.tokens_file), "line", config.tokens_file)
    return Guard(tokens)


def _read_lines(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text("utf-8").split("\n")
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
            "no token is there; everybody would be let in", where=where, hint="Unset it to let them."
        )
    return tokens
