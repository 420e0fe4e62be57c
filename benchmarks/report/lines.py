"""A line of a verdict as text for every document, and as a share of its limit for the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from timberline.benchmarks.settings import GateSettings
from timberline.registry.verdict import Verdict, VerdictLine


class Row(NamedTuple):
    """One line as text; a cell is empty where the line has no such value."""

    outcome: str
    what: str
    champion: str
    candidate: str
    difference: str
    bounds: str
    limit: str
    why: str


HEAD = ("", *Row._fields[1:])


def describe_match(verdict: Verdict) -> str:
    """The version that the candidate is compared with, as the second half of a title."""
    if verdict.champion is None:
        return "(first version, judged alone)"
    return f"against version {verdict.champion.version}"


def format_row(line: VerdictLine) -> Row:
    """The line's values in its units."""
    unit, difference_unit = line.unit.partition(",")[0], line.unit.rpartition(", ")[2]
    bounds = [_format(end, difference_unit) for end in (line.low, line.high)]
    return Row(
        outcome=line.label,
        what=line.name,
        champion=_format(line.champion, unit),
        candidate=_format(line.candidate, unit),
        difference=_format(line.difference, difference_unit, "" if _is_ratio(line) else "+"),
        bounds=" to ".join(bounds) if line.low is not None else "",
        limit=_format(line.limit, difference_unit),
        why=line.reason,
    )


def _format(value: float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return ""
    if unit.startswith("share"):
        return f"{value:{sign}.2%}"
    if unit == "bytes":
        return f"{value / 1e6:{sign},.1f} MB"
    if unit == "ratio":
        return f"× {value:.3f}"
    if unit in ("pairs", "rows"):
        return f"{value:,.0f} {unit}"
    return f"{value:{sign}.4g} {unit}".rstrip()


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
