"""How sure the gate has to be: `gates.toml` as frozen typed values; every room reads it.

What a model must keep (its limits) is in its manifest; see `registry.manifest.GateLimits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import GateLimits
from timberline.registry.runtime.documents import decode_toml
from timberline.registry.runtime.settings import load_settings

# Part of every verdict; a new rule or formula is a new version, and makes older passes count no more.
GATE_VERSION = "4"
DEFAULT_GATES = Path(__file__).with_name("gates.toml")
Level = Annotated[float, msgspec.Meta(gt=0, lt=0.5)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Placement = Literal["shared", "free"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of settings: unknown keys are refused."""


class DuetSettings(Section, frozen=True, kw_only=True):
    """How champion and candidate are driven; the unit of replication is the restart of both.

    ``looks`` are restart counts after which the latencies are looked at; the last one is the end.
    One restart is not believed with fewer than ``min_pairs``, when the clocks part by more than
    ``max_clock_jump_s``, when nothing comes or goes for ``max_standstill_share`` of the window, or when
    what requests take outside of the services differs between the arms by ``max_outside_ratio``.
    """

    workload: str
    placement: Placement
    looks: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
    window_s: Positive
    warmup_pairs: Annotated[int, msgspec.Meta(ge=0)]
    min_pairs: Count
    max_clock_jump_s: Positive
    max_standstill_share: Share
    max_outside_ratio: Annotated[float, msgspec.Meta(ge=1)]
    seed: int
    start_timeout_s: Positive
    stop_timeout_s: Positive
    request_timeout_s: Positive


class Spread(Section, frozen=True, kw_only=True):
    """SD between restarts of identical processes, by contrast.

    ``net_p50`` as a share of the client p50, the others of logarithms of ratios.
    """

    net_p50: Positive
    service_p50: Positive
    net_p99: Positive
    net_tail: Positive
    client_p50: Positive
    client_p99: Positive
    cpu_per_request: Positive
    memory: Positive
    start_up: Positive


class LatencySettings(Section, frozen=True, kw_only=True):
    """Levels, margins and the stored spread of the latency judgement; see `benchmarks.analysis.latency`.

    ``spend_block`` and ``spend_pass`` are (restarts, share) points: how much of a level may be
    spent until then. ``*_limit`` and ``*_margin`` are shares of what the model's own [gate] table sets: more
    than a limit blocks, a proven increase of more than a margin marks a line that passes.
    """

    alpha_net_p50: Level
    alpha_service_p50: Level
    alpha_net_p99: Level
    alpha_net_tail: Level
    alpha_client_p50: Level
    alpha_client_p99: Level
    alpha_cpu: Level
    alpha_resources: Level
    alpha_pass: Level
    spend_block: tuple[tuple[Count, Share], ...]
    spend_pass: tuple[tuple[Count, Share], ...]
    net_p50_limit: Share
    net_p50_margin: Share
    p99_margin: Share
    client_p50_margin: Share
    service_margin: Share
    s0: Spread
    nu0: Positive
    max_spread: Positive


class ValiditySettings(Section, frozen=True, kw_only=True):
    """When restarts that were each believed are not believed together.

    - ``alpha_errors``: one-sided, of blocking a candidate that fails no more often than the champion;
      see `benchmarks.analysis.validity`.
    - ``max_mean_outside_ratio``: of what requests of the two arms take outside of the services, over
      all restarts; see `benchmarks.analysis.validity`.
    - ``max_outside_p99_ratio``: of the p99s of that time without waits in the run queue, over all restarts.
    - ``alpha_fairness``: one-sided, how sure either has to be before nothing is believed.
    - ``s0_outside``, ``s0_outside_p99``: SD between restarts of identical processes, of the ratios'
      logarithms.
    """

    alpha_errors: Level
    alpha_fairness: Level
    max_mean_outside_ratio: Annotated[float, msgspec.Meta(ge=1)]
    max_outside_p99_ratio: Annotated[float, msgspec.Meta(ge=1)]
    s0_outside: Positive
    s0_outside_p99: Positive


class AccuracySettings(Section, frozen=True, kw_only=True):
    """Levels of the accuracy judgement; see `benchmarks.analysis.statistics`.

    ``alpha_noise`` is what equal recipes may exceed, over all lines together, and ``max_noise_factor`` how
    often a stated limit their noise may count for; see `benchmarks.analysis.limits`.
    ``releases`` that were in production last are compared with the candidate, at ``alpha_total`` together.
    """

    alpha_block: Level
    alpha_total: Level
    alpha_recall: Level
    alpha_probabilities: Level
    alpha_baseline: Level
    alpha_pass: Level
    alpha_improvement: Level
    alpha_noise: Level
    max_noise_factor: Annotated[float, msgspec.Meta(ge=1)]
    releases: Count
    power: Annotated[float, msgspec.Meta(gt=0, lt=1)]


class GateSettings(Section, frozen=True, kw_only=True):
    """One gates.toml."""

    duet: DuetSettings
    validity: ValiditySettings
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
    looks = settings.duet.looks
    if list(looks) != sorted(set(looks)):
        raise ConfigError(f"are {list(looks)}, expected rising numbers", where=f"{path}: duet.looks")
    return settings


def read_limits(path: Path) -> GateLimits:
    """The ``[gate]`` of a model.toml; the rest of the file is not looked at.

    Raises:
        ConfigError: it cannot be read, or holds no limits.
    """
    try:
        return msgspec.convert(decode_toml(path.read_bytes()).get("gate", {}), GateLimits)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"its [gate] cannot be read: {error}", where=str(path)) from error
