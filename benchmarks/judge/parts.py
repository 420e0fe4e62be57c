"""Classes and slices → lines of the verdict: one part can be lost for a gain elsewhere. Pure.

Lack of proof blocks nothing here: a rare class never has the rows. It is said instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.config import AccuracySettings
from benchmarks.judge.accuracy import say_p
from benchmarks.judge.paired import adjust_holm, bound_drop, p_value_of_drop
from benchmarks.judge.power import findable_drop, power_to_find, rows_to_find
from benchmarks.judge.predictions import Comparison, PartChange
from registry.manifest import GateLimits
from registry.store import EVALUATION_FILE
from registry.verdict import VerdictLine

# Parts without power that are told one by one; the rest is counted.
_TOLD = 4


def judge_recalls(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when a class's recall fell by at least the limit and Holm's test says it is real."""
    return _judge("recall", "class", comparison.recalls, comparison, limits.max_recall_drop, settings)


def judge_slices(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the accuracy in a slice fell by at least the limit and Holm's test says it is real.

    INCONCLUSIVE when a slice has no row, which an export refuses: the rows left to compare are few.
    """
    empty = [part.label for part in comparison.slices if not part.pairs.rows]
    if empty:
        return VerdictLine(
            name="slices",
            candidate=None,
            limit=-limits.max_slice_drop,
            unit="share of the slice's rows",
            outcome="INCONCLUSIVE",
            reason=f"no row is left of slice {', '.join(empty)[:80]}",
            evidence=EVALUATION_FILE,
        )
    return _judge("slices", "slice", comparison.slices, comparison, limits.max_slice_drop, settings)


def _judge(
    name: str,
    kind: str,
    parts: Sequence[PartChange],
    comparison: Comparison,
    limit: float,
    settings: AccuracySettings,
) -> VerdictLine:
    # Classes and slices share one level: both ask whether some part of the rows got worse.
    family = [part for part in (*comparison.recalls, *comparison.slices) if part.pairs.rows]
    adjusted = dict(zip(map(id, family), adjust_holm([_p_value(part) for part in family]), strict=True))
    fallen = [
        part for part in parts if adjusted[id(part)] <= settings.alpha_recall and part.pairs.drop >= limit
    ]
    worst = max(fallen or parts, key=lambda part: (part.pairs.drop, -adjusted[id(part)]))
    rise, fall = bound_drop(worst.pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)
    first_step = settings.alpha_recall / len(family)
    return VerdictLine(
        name=name,
        candidate=worst.candidate,
        champion=worst.champion,
        difference=0.0 - worst.pairs.drop,
        low=-fall,
        high=-rise,
        limit=-limit,
        unit=f"share of the {kind}'s rows",
        outcome="BLOCK" if fallen else "PASS",
        reason=(
            f"worst {kind}: {worst.label}, {worst.pairs.rows:,} rows; mid-p McNemar with Holm over "
            f"{len(family)} classes and slices {say_p(adjusted[id(worst)])}"
            + (f"; fallen: {kind} {', '.join(part.label for part in fallen)[:80]}" if fallen else "")
            + _say_power(kind, parts, limit, first_step, settings.power)
        ),
        evidence=EVALUATION_FILE,
    )


def _p_value(part: PartChange) -> float:
    return p_value_of_drop(part.pairs)


def _say_power(kind: str, parts: Sequence[PartChange], limit: float, alpha: float, power: float) -> str:
    """Which parts could have fallen by the limit without anybody seeing it, at Holm's first step."""
    if limit == 0:
        return ""
    powers = [(power_to_find(p.pairs.rate, limit, p.pairs.rows, alpha=alpha), p) for p in parts]
    weak = sorted((pair for pair in powers if pair[0] < power), key=lambda pair: pair[0])
    if not weak:
        needed = max(rows_to_find(p.pairs.rate, limit, alpha=alpha, power=power) for p in parts)
        fewest = min(p.pairs.rows for p in parts)
        return f"; rows to find a drop of {limit:.1%}: {needed:,} at most, there are {fewest:,} or more"
    told = "; ".join(
        f"{part.label} (power {has:.0%}, rows to find it: "
        f"{rows_to_find(part.pairs.rate, limit, alpha=alpha, power=power):,}, there are "
        f"{part.pairs.rows:,}, which find {_finds(part, alpha, power):.1%})"
        for has, part in weak[:_TOLD]
    )
    more = f"; and {len(weak) - _TOLD} more" if len(weak) > _TOLD else ""
    return f"; underpowered for a drop of {limit:.1%} in {kind} {told}{more}"


def _finds(part: PartChange, alpha: float, power: float) -> float:
    return findable_drop(part.pairs.rate, part.pairs.rows, alpha=alpha, power=power)
