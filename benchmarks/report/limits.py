"""How much of a limit a line uses up: a common scale for times, shares and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from timberline.benchmarks.settings import GateSettings
from timberline.registry.verdict import VerdictLine


@dataclass(frozen=True)
class Change:
    """A difference against the champion, 0 for none; a ratio of 1.05 is a change of 0.05."""

    mean: float
    low: float | None
    high: float | None
    limit: float | None


def change_of(line: VerdictLine) -> Change | None:
    """The line's difference as a change; None when it has none."""
    if line.difference is None:
        return None
    zero = 1.0 if _is_ratio(line) else 0.0
    low, high, limit = (None if v is None else v - zero for v in (line.low, line.high, line.limit))
    return Change(line.difference - zero, low, high, limit)


@dataclass(frozen=True)
class Used:
    """Shares of a limit: 0 is no change, or nothing used up; 1 is the limit; ``low`` <= ``high``."""

    mean: float
    low: float
    high: float


def use_of(line: VerdictLine) -> Used | None:
    """How much of its limit a line uses up; None where there is no limit, or one of 0.

    A bounded difference is compared as it is. Otherwise the limit is one of the candidate's own
    value: what counts is its share of a ceiling, or of the errors that a floor allows.
    """
    if line.limit is None:
        return None
    if line.difference is not None and line.low is not None:
        zero, value = (1.0 if _is_ratio(line) else 0.0), line.difference
    elif line.candidate is not None:
        zero, value = (1.0 if line.name.endswith("_floor") else 0.0), line.candidate
    else:
        return None
    if line.limit == zero:
        return None
    mean, *ends = (
        (number - zero) / (line.limit - zero)
        for number in (value, *(end if end is not None else value for end in (line.low, line.high)))
    )
    return Used(mean, min(ends), max(ends))


def margin_shares(settings: GateSettings) -> dict[str, float]:
    """By line: the share of its limit above which a proven change marks a line that passes."""
    latency = settings.latency
    return {
        "net_p50": latency.net_p50_margin / latency.net_p50_limit,
        "service_p50": latency.service_margin,
        "net_p99": latency.p99_margin,
        "p50": latency.client_p50_margin,
        "client_p99": latency.p99_margin,
        "cpu_per_request": latency.service_margin,
    }


def _is_ratio(line: VerdictLine) -> bool:
    return line.unit.endswith("ratio")
