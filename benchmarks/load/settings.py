"""How load is measured: `load.toml` as frozen typed values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec

from timberline.benchmarks.settings import Count, Level, Positive

DEFAULT_LOAD = Path(__file__).with_name("load.toml")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in load.toml."""


class WindowSettings(_Section, frozen=True, kw_only=True):
    """One stretch of load on one service."""

    workload: str
    seed: int
    window_s: Positive
    min_requests: Count
    warmup_requests: Annotated[int, msgspec.Meta(ge=0)]
    max_in_flight: Count
    request_timeout_s: Positive
    start_timeout_s: Positive
    stop_timeout_s: Positive

    def seconds_at(self, rate_rps: float) -> float:
        """How long a window at this rate has to be."""
        # Four standard deviations above: of Poisson arrivals, fewer come once in 30,000 windows.
        expected = self.min_requests + 4 * math.sqrt(self.min_requests) + 8
        return max(self.window_s, expected / rate_rps)


class Objective(_Section, frozen=True, kw_only=True):
    """What a window has to keep, and when it is invalid."""

    p99_ms: Positive
    max_lag_share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    max_cpu_share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    tries: Count
    invalid_tries: Count

    @property
    def max_lag_ms(self) -> float:
        """Largest believable p99 of the load generator's own lag."""
        return self.max_lag_share * self.p99_ms


class SweepSettings(_Section, frozen=True, kw_only=True):
    """How the highest rate under the objective is looked for; see `benchmarks.load.measure`."""

    start_rps: Positive
    least_rps: Positive
    growth: Annotated[float, msgspec.Meta(gt=1)]
    resolution: Positive
    max_windows: Count


class CompareSettings(_Section, frozen=True, kw_only=True):
    """From rounds to an interval; see `benchmarks.load.report`."""

    rounds: Annotated[int, msgspec.Meta(ge=2)]
    s0: Positive
    nu0: Positive
    alpha: Level
    min_rate_share: Annotated[float, msgspec.Meta(gt=0, le=1)]


class LoadSettings(_Section, frozen=True, kw_only=True):
    """One load.toml."""

    window: WindowSettings
    objective: Objective
    sweep: SweepSettings
    compare: CompareSettings
