"""How versions are written: ``model``, ``model@7``, ``model@7#sha256:…``, ``model@production``.

Law: ``str(ModelRef.parse(text)) == text`` for every text that parses; everything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from timberline.registry.errors import ConfigError

# Lower case only: a folder on a file system that ignores case must not hold two models under one name.
_NAME = r"[a-z][a-z0-9_]{0,63}"
# No leading zero, so that a version has one spelling; nine digits fit every integer type on the way.
_NUMBER = r"[1-9][0-9]{0,8}"
MAX_NUMBER = 999_999_999
_DIGEST = r"#sha256:(?P<digest>[0-9a-f]{64})"
_REF = re.compile(rf"(?P<model>{_NAME})(?:@(?:(?P<version>{_NUMBER})(?:{_DIGEST})?|(?P<alias>{_NAME})))?")

PRODUCTION = "production"
CANDIDATE = "candidate"


class ModelRef(msgspec.Struct, frozen=True):
    """A model, or one version of it by number or by alias; never by both.

    ``manifest_sha256`` says which bytes the number is expected to be: SHA-256 of its manifest.json.
    """

    model: str
    version: int | None = None
    alias: str | None = None
    manifest_sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read ``model``, ``model@7``, ``model@7#sha256:<64 digits>`` or ``model@alias``.

        Raises:
            ConfigError: ``text`` is none of these.
        """
        match = _REF.fullmatch(text)
        if not match:
            raise ConfigError(
                f"found {text[:80]!r}, expected model, model@7, model@7#sha256:… or model@alias",
                hint="Names start with a-z and go on with a-z, 0-9 and _; versions count up from 1.",
            )
        number = match["version"]
        return cls(match["model"], int(number) if number else None, match["alias"], match["digest"])

    def __str__(self) -> str:
        tail = self.alias if self.version is None else self.version
        pin = "" if self.manifest_sha256 is None else f"#sha256:{self.manifest_sha256}"
        return self.model if tail is None else f"{self.model}@{tail}{pin}"


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it is a valid name of ``what``, a model or an alias.

    Raises:
        ConfigError: it may not.
    """
    if not is_name(name):
        raise ConfigError(
            f"found {name[:80]!r}, expected the name of {what}",
            hint="Names start with a-z, go on with a-z, 0-9 and _, and have at most 64 characters.",
        )
    return name


def is_name(text: str) -> bool:
    """Whether it is a valid name of a model or alias."""
    return re.fullmatch(_NAME, text) is not None


def parse_number(text: str) -> int | None:
    """``"7"`` → 7; None for what is no version number (``"07"``, ``"0"``, ``"aliases"``)."""
    return int(text) if re.fullmatch(_NUMBER, text) else None


def describe_newest(versions: Sequence[int]) -> str:
    """The last few of ascending ``versions``, for people: ``9, 8, 7, 6, 5 and 4 older``; ``none``."""
    named = ", ".join(map(str, versions[: -_NEWEST - 1 : -1])) or "none"
    return named if len(versions) <= _NEWEST else f"{named} and {len(versions) - _NEWEST:,} older"


_NEWEST = 5
