"""How sure the gate has to be: `gates.toml` as frozen typed values.

What a model must keep (its limits) is in its manifest; see `registry.manifest.GateLimits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from registry.errors import ConfigError
from registry.ground.settings import load_settings

DEFAULT_GATES = Path(__file__).with_name("gates.toml")

Level = Annotated[float, msgspec.Meta(gt=0, lt=0.5)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in gates.toml."""


class DuetSettings(_Section, frozen=True, kw_only=True):
    """How champion and candidate are driven; the unit of replication is the restart of both."""

    workload: str
    restarts: Count
    max_restarts: Count
    window_s: Positive
    warmup_pairs: Annotated[int, msgspec.Meta(ge=0)]
    min_pairs: Count
    seed: int
    start_timeout_s: Positive
    stop_timeout_s: Positive
    request_timeout_s: Positive

    @property
    def looks(self) -> tuple[int, ...]:
        """Restart counts after which the latencies are looked at: 4, 8, 12."""
        looks = list(range(self.restarts, self.max_restarts, self.restarts))
        return (*looks, self.max_restarts)


class LatencySettings(_Section, frozen=True, kw_only=True):
    """Levels and the stored spread of the latency judgement; see `benchmarks.judge.measure`."""

    alpha_block: Level
    alpha_pass: Level
    block_share: Share
    s0: Positive
    nu0: Positive


class AccuracySettings(_Section, frozen=True, kw_only=True):
    """Levels of the accuracy judgement; see `benchmarks.judge.paired`."""

    alpha_block: Level
    alpha_recall: Level
    alpha_pass: Level
    materiality_share: Share
    power: Annotated[float, msgspec.Meta(gt=0, lt=1)]


class GateSettings(_Section, frozen=True, kw_only=True):
    """One gates.toml."""

    duet: DuetSettings
    latency: LatencySettings
    accuracy: AccuracySettings


def load_gate_settings(
    path: Path = DEFAULT_GATES,
    *,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> GateSettings:
    """Read gates.toml with ``--set`` overrides and ``TIMBERLINE_*`` applied.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of range.
    """
    settings = load_settings(path, GateSettings, overrides=overrides, environment=environment)
    if settings.duet.max_restarts < settings.duet.restarts:
        raise ConfigError(
            f"is {settings.duet.max_restarts}, below restarts = {settings.duet.restarts}",
            where=f"{path}: duet.max_restarts",
        )
    return settings
