"""The references that the settings name: what stands behind each, and what there is to tell of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from timberline.inference.models.traffic import ColumnChoice
from timberline.inference.models.versions import LiveVersion
from timberline.registry.aliases import AliasRecord
from timberline.registry.errors import ConfigError, LifecycleError
from timberline.registry.names import PRODUCTION, ModelRef
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.models.targets")

Role = Literal["main", "canary", "shadow"]

_REFUSED = "version refused"
# Between two attempts at a version that may still become whole.
_LONGEST_PAUSE_S = 60.0


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
class Retry:
    """A move that could not be followed yet: what was wrong may be mended, as when a copy is under way."""

    record: AliasRecord
    code: str  # of what was wrong at the last attempt, as the log tells already
    is_counted: bool  # as a refusal
    pause_s: float
    due: float  # of the next attempt, by the fleet's clock


@dataclass
class Place:
    """One reference of the settings, and the version that stands behind it now."""

    role: Role
    ref: ModelRef
    live: LiveVersion | None = None
    settled: AliasRecord | None = None  # the alias's move that was last followed, or refused for good
    retry: Retry | None = None
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
        if self.role == "shadow" and not _can_shadow(self.live, main):
            return f"its columns or classes are not those of version {main.version}"
        return ""

    def warn_once(self, event: str, why: str) -> None:
        """Tell of trouble when it begins; until it is over it is the same at every look."""
        if self.trouble != event:
            self.trouble = event
            log_event(_logger, event, logging.WARNING, ref=str(self.ref), why=why[:300])

    def postpone(self, record: AliasRecord, error: Exception, first_pause_s: float, now: float) -> bool:
        """Have a move tried again, each time after twice the pause; whether it is to be counted as refused.

        A registry that cannot be read refuses nothing. What is known of a move is logged once.
        """
        is_refusal = isinstance(error, LifecycleError)
        code = error.code if isinstance(error, LifecycleError) else ""
        last = self.retry if self.retry is not None and self.retry.record == record else None
        if not is_refusal:
            self.warn_once("registry not readable", str(error))
        elif last is None or last.code != code:
            self.log_refusal(record.version, error)
        pause_s = min(last.pause_s * 2, _LONGEST_PAUSE_S) if last else first_pause_s
        was_counted = last is not None and last.is_counted
        self.retry = Retry(record, code, was_counted or is_refusal, pause_s, now + pause_s)
        return is_refusal and not was_counted

    def settle(self, record: AliasRecord | None) -> bool:
        """Have a move not tried again; whether it was counted as refused before."""
        last, self.retry = self.retry, None
        self.settled = record
        return last is not None and last.record == record and last.is_counted

    def log_refusal(self, version: int, error: Exception) -> None:
        """Tell why a version is not served."""
        fields = {"model": self.ref.model, "version": version, "role": self.role}
        if isinstance(error, LifecycleError):
            log_event(_logger, _REFUSED, logging.ERROR, **fields, code=error.code, why=str(error))
        else:
            why = str(error)[:300]
            _logger.exception(_REFUSED, extra={"fields": {**fields, "code": "unexpected", "why": why}})


def _can_shadow(live: LiveVersion, main: LiveVersion) -> bool:
    """Whether the version can be asked the rows of ``main``, and its answers be compared."""
    shadow, answering = live.manifest.signature, main.manifest.signature
    classes = [[label.value for label in signature.classes] for signature in (shadow, answering)]
    return classes[0] == classes[1] and ColumnChoice(answering.columns, shadow.columns).is_possible


def _alias_of(ref: ModelRef) -> str:
    return ref.alias or PRODUCTION
