"""How load is measured: `load.toml` as frozen typed values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from timberline.registry.runtime.settings import load_settings

DEFAULT_LOAD = Path(__file__).with_name("load.toml")

_Level = Annotated[float, msgspec.Meta(gt=0, lt=0.5)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Above1 = Annotated[float, msgspec.Meta(gt=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in load.toml."""


class WindowSettings(_Section, frozen=True, kw_only=True):
    """One stretch of load on one service."""

    workload: str
    seed: int
    window_s: _Positive
    min_requests: _Count
    warmup_requests: Annotated[int, msgspec.Meta(ge=0)]
    max_in_flight: _Count
    request_timeout_s: _Positive
    start_timeout_s: _Positive
    stop_timeout_s: _Positive

    def seconds_at(self, rate_rps: float) -> float:
        """How long a window at this rate has to be."""
        # Four standard deviations above: of Poisson arrivals, fewer come once in 30,000 windows.
        expected = self.min_requests + 4 * math.sqrt(self.min_requests) + 8
        return max(self.window_s, expected / rate_rps)


class Objective(_Section, frozen=True, kw_only=True):
    """What a window has to keep, and when it says nothing."""

    p99_ms: _Positive
    max_lag_share: _Share
    max_cpu_share: _Share
    tries: _Count
    invalid_tries: _Count

    @property
    def max_lag_ms(self) -> float:
        """Largest believable p99 of the load generator's own lag."""
        return self.max_lag_share * self.p99_ms


class SweepSettings(_Section, frozen=True, kw_only=True):
    """How the highest rate under the objective is looked for; see `benchmarks.load.measure`."""

    start_rps: _Positive
    least_rps: _Positive
    growth: _Above1
    resolution: _Positive
    max_windows: _Count


class CompareSettings(_Section, frozen=True, kw_only=True):
    """From rounds to an interval; see `benchmarks.load.report`."""

    rounds: Annotated[int, msgspec.Meta(ge=2)]
    s0: _Positive
    nu0: _Positive
    alpha: _Level
    min_rate_share: _Share


class LoadSettings(_Section, frozen=True, kw_only=True):
    """One load.toml."""

    window: WindowSettings
    objective: Objective
    sweep: SweepSettings
    compare: CompareSettings


def load_load_settings(
    path: Path = DEFAULT_LOAD,
    *,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> LoadSettings:
    """Read load.toml with ``--set`` overrides and ``TIMBERLINE_*`` applied.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of range.
    """
    return load_settings(path, LoadSettings, overrides=overrides, environment=environment)
