"""A line of a verdict as text for every document, and as a share of its limit for the figures."""

from __future__ import annotations

from dataclasses import dataclass

from timberline.benchmarks.gate.settings import GateSettings
from timberline.registry.verdict import Verdict, VerdictLine

HEAD = ("", "what", "champion", "candidate", "difference", "bounds", "limit", "why")


def describe_match(verdict: Verdict) -> str:
    """The second half of a title: against whom."""
    if verdict.champion is None:
        return "(first version, judged alone)"
    return f"against version {verdict.champion.version}"


def format_row(line: VerdictLine) -> tuple[str, ...]:
    """One line as text, a cell for each of ``HEAD``."""
    scale = _scale(line)
    bounds = f"{scale(line.low)} to {scale(line.high)}" if line.low is not None else ""
    change = scale(line.difference, sign=not line.unit.endswith("ratio"))
    value = _value_scale(line)
    limit = scale(line.limit)
    return (
        line.label,
        line.name,
        value(line.champion),
        value(line.candidate),
        change,
        bounds,
        limit,
        line.reason,
    )


class _Scale:
    """Numbers of one unit as people read them."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __call__(self, value: float | None, *, sign: bool = False) -> str:
        if value is None:
            return ""
        plus = "+" if sign else ""
        if self._unit.startswith("share"):
            return f"{value:{plus}.2%}"
        if self._unit == "bytes":
            return f"{value / 1e6:{plus},.1f} MB"
        if self._unit == "ratio":
            return f"× {value:.3f}"
        if self._unit in ("pairs", "rows"):
            return f"{value:,.0f} {self._unit}"
        return f"{value:{plus}.4g} {self._unit}".rstrip()


def _scale(line: VerdictLine) -> _Scale:
    """Of difference, bounds and limit."""
    return _Scale(line.unit.rpartition(", ")[2])


def _value_scale(line: VerdictLine) -> _Scale:
    """Of the two values themselves."""
    return _Scale(line.unit.partition(",")[0])


@dataclass(frozen=True)
class RelativeChange:
    """A difference against the champion, 0 for none; a ratio of 1.05 is a change of 0.05."""

    mean: float
    low: float | None
    high: float | None
    limit: float | None


def relative_change(line: VerdictLine) -> RelativeChange | None:
    """The line's difference as a change; None when it has none."""
    if line.difference is None:
        return None
    zero = 1.0 if _is_ratio(line) else 0.0
    low, high, limit = (None if v is None else v - zero for v in (line.low, line.high, line.limit))
    return RelativeChange(line.difference - zero, low, high, limit)


@dataclass(frozen=True)
class LimitUsage:
    """Shares of a limit: 0 is no change, or nothing used up; 1 is the limit; ``low`` <= ``high``."""

    mean: float
    low: float
    high: float


def limit_usage(line: VerdictLine) -> LimitUsage | None:
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
    return LimitUsage(mean, min(ends), max(ends))


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
