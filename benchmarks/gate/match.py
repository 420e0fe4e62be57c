"""Who is judged against whom."""

from __future__ import annotations

from dataclasses import dataclass

from timberline.registry.aliases import open_target, read_alias, resolve
from timberline.registry.names import CANDIDATE, PRODUCTION, ModelRef
from timberline.registry.store import Store

# Part of every verdict; a new rule or formula is a new version, and makes older passes count no more.
GATE_VERSION = "4"


@dataclass(frozen=True)
class Match:
    """Who is judged against whom; ``champion`` None when no version is in production."""

    model: str
    candidate: int
    champion: int | None

    @property
    def arms(self) -> dict[str, int]:
        """Version by arm."""
        arms = {} if self.champion is None else {"champion": self.champion}
        return arms | {"candidate": self.candidate}

    @property
    def folder_name(self) -> str:
        """``7-vs-5``, or ``1-first``."""
        return f"{self.candidate}-first" if self.champion is None else f"{self.candidate}-vs-{self.champion}"


def find_match(store: Store, model: str, candidate: str | None, champion: str | None) -> Match:
    """The versions that ``candidate`` and ``champion`` name, by default the aliases candidate and production.

    Raises:
        VersionNotFoundError: there is no such version or alias (an absent `production` is no error).
        DamageError: an alias is damaged, or its version is lost or another one than it was moved to.
    """
    challenger = resolve(store, ModelRef.parse(candidate or f"{model}@{CANDIDATE}"))
    if champion is not None:
        return Match(model, challenger, resolve(store, ModelRef.parse(champion)))
    production = read_alias(store, model, PRODUCTION)
    if production:
        open_target(store, production)
    return Match(model, challenger, production.version if production else None)
