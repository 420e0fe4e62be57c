"""How often each kind of candidate was blocked, beside how often it is stated to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from timberline.benchmarks.selftest.binomial import bound_rate, bound_rate_below
from timberline.benchmarks.selftest.ledger import GateRow
from timberline.benchmarks.selftest.scenarios import FALSE_BLOCK_RATE, parse_arm

Finding = Literal["kept", "open", "broken", ""]


@dataclass(frozen=True)
class Rate:
    """The gates of one arm.

    ``rate`` is of the gates that ended with an answer: INVALID ones say nothing about the candidate and
    are to be run again. ``low`` and ``high`` bound it with 95 % confidence. ``finding``: what
    is stated is "kept" or "broken" when the whole interval says so, else "open".
    """

    arm: str
    gates: int
    blocked: int
    passed: int
    inconclusive: int
    invalid: int
    rate: float
    low: float
    high: float
    stated: str
    finding: Finding
    injected_share: float
    median_s: float
    max_s: float
    median_restarts: float


def measure_rates(rows: Sequence[GateRow]) -> tuple[Rate, ...]:
    """One rate for each arm in ``rows``, in order of appearance."""
    return tuple(
        _measure(arm, [row for row in rows if row.arm == arm]) for arm in dict.fromkeys(r.arm for r in rows)
    )


def _measure(name: str, rows: Sequence[GateRow]) -> Rate:
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in _OUTCOMES}
    answered = len(rows) - counts["INVALID"]
    low, high = bound_rate(counts["BLOCK"], answered)
    stated, finding = _compare(name, low, high)
    shares = [row.injected_share for row in rows if not math.isnan(row.injected_share)]
    return Rate(
        arm=name,
        gates=len(rows),
        blocked=counts["BLOCK"],
        passed=counts["PASS"],
        inconclusive=counts["INCONCLUSIVE"],
        invalid=counts["INVALID"],
        rate=counts["BLOCK"] / answered if answered else math.nan,
        low=low,
        high=high,
        stated=stated,
        finding=finding,
        injected_share=fmean(shares) if shares else math.nan,
        median_s=median(row.seconds for row in rows),
        max_s=max(row.seconds for row in rows),
        median_restarts=median(row.restarts for row in rows),
    )


_OUTCOMES = ("PASS", "BLOCK", "INCONCLUSIVE", "INVALID")


def _compare(name: str, low: float, high: float) -> tuple[str, Finding]:
    arm = parse_arm(name)
    if arm.at_most is not None:
        finding: Finding = "broken" if low > arm.at_most else "kept" if high <= arm.at_most else "open"
        return f"<= {arm.at_most:.0%}", finding
    if arm.at_least is not None:
        finding = "broken" if high < arm.at_least else "kept" if low >= arm.at_least else "open"
        return f">= {arm.at_least:.0%}", finding
    return "", ""


def find_alarm(rows: Sequence[GateRow]) -> str:
    """What is wrong with the gate on this machine; "" when nothing is known to be.

    Identical versions that are blocked more often than is stated make every other verdict doubtful.
    """
    answered = [row for row in rows if parse_arm(row.arm).kind == "aa" and row.outcome != "INVALID"]
    blocked = sum(row.outcome == "BLOCK" for row in answered)
    low = bound_rate_below(blocked, len(answered))
    if low <= FALSE_BLOCK_RATE:
        return ""
    return (
        f"identical versions were blocked {blocked} times in {len(answered)}, at least {low:.1%} of the time "
        f"and not {FALSE_BLOCK_RATE:.0%}: calibrate this machine again, and believe no block until then"
    )


_HEAD = ("arm", "gates", "block", "pass", "inconclusive", "invalid", "block rate (95 %)", "stated", "finding")
_HEAD_MORE = ("injected", "median s", "max s", "restarts")


def format_rates(rates: Sequence[Rate]) -> str:
    """A table for people, as Markdown."""
    cells: list[tuple[str, ...]] = [_HEAD + _HEAD_MORE, *(_cells(rate) for rate in rates)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * max(width, 3) for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _cells(rate: Rate) -> tuple[str, ...]:
    counts = (rate.gates, rate.blocked, rate.passed, rate.inconclusive, rate.invalid)
    return (
        rate.arm,
        *map(str, counts),
        f"{rate.rate:.3f} ({rate.low:.3f} to {rate.high:.3f})",
        rate.stated,
        rate.finding,
        f"{rate.injected_share:.1%}" if rate.injected_share > 0 else "",
        f"{rate.median_s:.0f}",
        f"{rate.max_s:.0f}",
        f"{rate.median_restarts:g}",
    )
