"""Classes and slices → lines of the verdict: one part can be lost for a gain elsewhere. Pure.

Lack of proof blocks nothing here: a rare class never has the rows. It is said instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timberline.benchmarks.analysis.accuracy import mark_if, say_noise, say_p
from timberline.benchmarks.analysis.limits import InForce, Limit
from timberline.benchmarks.analysis.paired import adjust_holm, bound_drop, p_value_beyond
from timberline.benchmarks.analysis.power import blockable_drop, power_to_block, rows_to_block
from timberline.benchmarks.analysis.predictions import Comparison, PartChange
from timberline.benchmarks.gate.settings import AccuracySettings
from timberline.registry.store import EVALUATION_FILE
from timberline.registry.verdict import Outcome, VerdictLine

# Parts without power that are told one by one; the rest is counted.
_TOLD = 4


def judge_recalls(comparison: Comparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the recall of a class is proven to have fallen beyond its limit."""
    return _judge("recall", "class", comparison.recalls, comparison, limits, settings)


def judge_slices(comparison: Comparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the accuracy in a slice is proven to have fallen beyond the limit.

    INCONCLUSIVE when a slice has no row, which an export refuses: the rows left to compare are few.
    """
    empty = [part.label for part in comparison.slices if not part.pairs.rows]
    if empty:
        return VerdictLine(
            name="slices",
            candidate=None,
            limit=-limits.slices.in_force,
            unit="share of the slice's rows",
            outcome="INCONCLUSIVE",
            reason=f"no row is left of slice {', '.join(empty)[:80]}",
            evidence=EVALUATION_FILE,
        )
    return _judge("slices", "slice", comparison.slices, comparison, limits, settings)


@dataclass(frozen=True)
class _Tested:
    """A class or slice with its limit, and Holm-adjusted p-values of a drop beyond three limits.

    ``beyond`` what blocks, ``beyond_stated`` what the recipe's noise may not hide, ``at_all`` 0.
    """

    part: PartChange
    limit: Limit
    beyond: float
    beyond_stated: float
    at_all: float


def _test(comparison: Comparison, limits: InForce) -> dict[int, _Tested]:
    """By identity of the part. Classes and slices share one level: both ask whether some rows got worse."""
    family = [(part, limits.of_class(part.label)) for part in comparison.recalls]
    family += [(part, limits.slices) for part in comparison.slices if part.pairs.rows]
    adjusted = (
        adjust_holm([p_value_beyond(part.pairs, choose(limit)) for part, limit in family])
        for choose in (_block_above, _pass_below, _nothing)
    )
    return {
        id(part): _Tested(part, limit, *p_values)
        for (part, limit), *p_values in zip(family, *adjusted, strict=True)
    }


def _block_above(limit: Limit) -> float:
    return limit.block_above


def _pass_below(limit: Limit) -> float:
    return limit.pass_below


def _nothing(_: Limit) -> float:
    return 0.0


def _judge(
    name: str,
    kind: str,
    parts: Sequence[PartChange],
    comparison: Comparison,
    limits: InForce,
    settings: AccuracySettings,
) -> VerdictLine:
    tested = _test(comparison, limits)
    mine, alpha = [tested[id(part)] for part in parts], settings.alpha_recall
    fallen = [one for one in mine if one.beyond <= alpha]
    noisy = [one for one in mine if one.limit.is_too_noisy and one.beyond_stated <= alpha]
    lower = [one for one in mine if one.at_all <= alpha]
    worst = max(
        fallen or noisy or mine, key=lambda one: (one.part.pairs.drop - one.limit.in_force, -one.at_all)
    )
    pairs, limit = worst.part.pairs, worst.limit
    rise, fall = bound_drop(pairs, alpha_low=alpha / len(tested), alpha_high=settings.alpha_pass)
    outcome: Outcome = "BLOCK" if fallen else "INCONCLUSIVE" if noisy else "PASS"
    line = VerdictLine(
        name=name,
        candidate=worst.part.candidate,
        champion=worst.part.champion,
        difference=0.0 - pairs.drop,
        low=-fall,
        high=-rise,
        limit=-limit.in_force,
        unit=f"share of the {kind}'s rows",
        outcome=outcome,
        reason=(
            f"worst {kind}: {worst.part.label}, {pairs.rows:,} rows; a drop beyond {limit.block_above:.1%}: "
            f"{say_p(worst.beyond)} by Tango's score, any drop: {say_p(worst.at_all)} by mid-p McNemar, with "
            f"Holm over {len(tested)} classes and slices"
            + _name(f"fallen beyond the limit: {kind}", fallen)
            + _name(f"proven lower, within the limit: {kind}", [one for one in lower if one not in fallen])
            + _say_power(kind, mine, alpha / len(tested), settings.power)
            + say_noise(limit, limits)
        ),
        evidence=EVALUATION_FILE,
    )
    return mark_if(line, bool(lower))


def _name(what: str, parts: Sequence[_Tested]) -> str:
    return f"; {what} {', '.join(one.part.label for one in parts)[:80]}" if parts else ""


def _say_power(kind: str, parts: Sequence[_Tested], alpha: float, power: float) -> str:
    """Which parts could fall by twice the limit without anybody seeing it, at Holm's first step."""
    asked = [one for one in parts if 0 < 2 * one.limit.block_above < 1]
    powers = [(_power(one, alpha), one) for one in asked]
    weak = sorted((pair for pair in powers if pair[0] < power), key=lambda pair: pair[0])
    if not asked:
        return ""
    if not weak:
        needed = max(_needed(one, alpha, power) for one in asked)
        fewest = min(one.part.pairs.rows for one in asked)
        return f"; rows to block a drop of twice the limit: {needed:,} at most, there are {fewest:,} or more"
    told = "; ".join(
        f"{one.part.label} (power {has:.0%}, rows to block it: {_needed(one, alpha, power):,}, there are "
        f"{one.part.pairs.rows:,}, which block {_blocks(one, alpha, power):.1%})"
        for has, one in weak[:_TOLD]
    )
    more = f"; and {len(weak) - _TOLD} more" if len(weak) > _TOLD else ""
    return f"; underpowered for a drop of twice the limit in {kind} {told}{more}"


def _power(one: _Tested, alpha: float) -> float:
    pairs, limit = one.part.pairs, one.limit.block_above
    return power_to_block(pairs.rate, 2 * limit, limit, pairs.rows, alpha=alpha)


def _needed(one: _Tested, alpha: float, power: float) -> int:
    limit = one.limit.block_above
    return rows_to_block(one.part.pairs.rate, 2 * limit, limit, alpha=alpha, power=power)


def _blocks(one: _Tested, alpha: float, power: float) -> float:
    pairs = one.part.pairs
    return blockable_drop(pairs.rate, one.limit.block_above, pairs.rows, alpha=alpha, power=power)
