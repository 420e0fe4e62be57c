"""The references that the settings name: what stands behind each, and what there is to tell of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from inference.live.versions import LiveVersion
from registry.errors import ConfigError, LifecycleError
from registry.ground.logs import log_event
from registry.names import PRODUCTION, ModelRef

_logger = logging.getLogger("inference.live.places")

Role = Literal["main", "canary", "shadow"]

_REFUSED = "version refused"


def parse_models(text: str) -> list[ModelRef]:
    """Read ``name``, ``name@alias`` or ``name@7``, several with commas between, each model once.

    Raises:
        ConfigError: one of them is none of these, or a model is named twice.
    """
    refs = [ModelRef.parse(part.strip()) for part in text.split(",")]
    for index, ref in enumerate(refs):
        if ref.model in {other.model for other in refs[:index]}:
            raise ConfigError(
                f"model {ref.model} is named twice",
                where="model",
                hint=f"A second version of it is a canary: --canary {ref.version or _alias_of(ref)}=0.1.",
            )
    return refs


@dataclass
class Place:
    """One reference of the settings, and the version that stands behind it now."""

    role: Role
    ref: ModelRef
    live: LiveVersion | None = None
    sequence: int = 0  # of the alias's move that was last followed or refused; 0 is none
    trouble: str = ""  # that the log tells of already

    @property
    def alias(self) -> str | None:
        """The alias to watch; None where the version is pinned."""
        return None if self.ref.version is not None else _alias_of(self.ref)

    def find_obstacle(self, main: LiveVersion) -> str:
        """Why a canary or shadow has nothing to do beside ``main``; empty if it has."""
        if self.live is None:
            return "there is no version to serve behind it"
        if self.live.version == main.version:
            return f"it is version {main.version}, which answers already"
        if self.role == "shadow" and _shape(self.live) != _shape(main):
            return f"its columns or classes are not those of version {main.version}"
        return ""

    def warn_once(self, event: str, why: str) -> None:
        """Tell of trouble when it begins; until it is over it is the same at every look."""
        if self.trouble != event:
            self.trouble = event
            log_event(_logger, event, logging.WARNING, ref=str(self.ref), why=why[:300])

    def log_refusal(self, version: int, error: Exception) -> None:
        """Tell why a version is not served."""
        fields = {"model": self.ref.model, "version": version, "role": self.role}
        if isinstance(error, LifecycleError):
            log_event(_logger, _REFUSED, logging.ERROR, **fields, code=error.code, why=str(error))
        else:
            why = str(error)[:300]
            _logger.exception(_REFUSED, extra={"fields": {**fields, "code": "unexpected", "why": why}})


def _shape(live: LiveVersion) -> tuple[list[tuple[str, str]], list[str]]:
    """What a row of the version is, and what an answer."""
    signature = live.manifest.signature
    columns = [(column.name, str(column.datatype)) for column in signature.columns]
    return columns, [label.value for label in signature.classes]


def _alias_of(ref: ModelRef) -> str:
    return ref.alias or PRODUCTION
