"""Held-out predictions → lines of the verdict. Pure.

A line's difference is candidate minus champion, so a drop is negative; bounds are one-sided.
"""

from __future__ import annotations

import msgspec

from timberline.benchmarks.analysis.limits import InForce, Limit
from timberline.benchmarks.analysis.paired import (
    Discordance,
    bound_average,
    bound_drop,
    bound_proportion,
    p_value_of_drop,
)
from timberline.benchmarks.analysis.power import (
    blockable_drop,
    power_to_block,
    provable_margin,
    rows_to_block,
    rows_to_prove,
)
from timberline.benchmarks.analysis.predictions import Comparison, Quality
from timberline.benchmarks.gate.settings import AccuracySettings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import EVALUATION_FILE
from timberline.registry.verdict import Outcome, VerdictLine


def judge_floors(quality: Quality, limits: GateLimits, settings: AccuracySettings) -> tuple[VerdictLine, ...]:
    """The absolute floors: PASS only when the bound, not just the estimate, keeps the limit."""
    alpha = settings.alpha_pass
    low, high = bound_proportion(quality.correct, quality.rows, alpha=alpha)
    lines = [
        VerdictLine(
            name="accuracy_floor",
            candidate=quality.accuracy,
            low=low,
            high=high,
            limit=limits.min_accuracy,
            unit="share of rows",
            outcome="PASS" if low >= limits.min_accuracy else _short(high < limits.min_accuracy),
            reason=f"Wilson bounds, one-sided {1 - alpha:.0%}, {quality.rows:,} rows",
            evidence=EVALUATION_FILE,
        )
    ]
    if limits.max_log_loss is not None:
        low, high = bound_average(quality.loss, quality.loss_sd, quality.rows, alpha=alpha)
        lines.append(
            VerdictLine(
                name="log_loss_ceiling",
                candidate=quality.loss,
                low=low,
                high=high,
                limit=limits.max_log_loss,
                unit="nats",
                outcome="PASS" if high <= limits.max_log_loss else _short(low > limits.max_log_loss),
                reason=f"Student's bounds, one-sided {1 - alpha:.0%}, {quality.rows:,} rows",
                evidence=EVALUATION_FILE,
            )
        )
    return tuple(lines)


def _short(is_proven: bool) -> Outcome:
    """The outcome of a line that did not pass: a proven no, or not enough rows to tell."""
    return "BLOCK" if is_proven else "INCONCLUSIVE"


def judge_drop(comparison: Comparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK: a drop beyond the limit is proven. PASS: it is excluded; marked WARN when some drop is proven.

    Proven by Tango's lower bound, excluded by his upper one; a drop at all by mid-p McNemar. What these
    rows can find is said whatever the outcome.
    """
    pairs, limit = comparison.pairs, limits.accuracy
    rise, fall = bound_drop(pairs, alpha_low=settings.alpha_block, alpha_high=settings.alpha_pass)
    p_value = p_value_of_drop(pairs)
    is_worse = p_value <= settings.alpha_block
    outcome: Outcome
    if rise > limit.block_above:
        outcome, why = "BLOCK", f"a drop of more than {limit.block_above:.2%} is proven"
    elif fall < limit.pass_below:
        outcome, why = "PASS", f"a drop of {limit.pass_below:.2%} is excluded"
    elif limit.is_too_noisy:
        outcome, why = "INCONCLUSIVE", limit.describe()
    else:
        outcome, why = "INCONCLUSIVE", _say_unproven(pairs, limit.pass_below, settings)
    if is_worse and outcome == "PASS":
        why = f"some drop is proven, within the limit; {why}"
    line = VerdictLine(
        name="accuracy",
        candidate=comparison.candidate.accuracy,
        champion=comparison.champion.accuracy,
        difference=0.0 - pairs.drop,
        low=-fall,
        high=-rise,
        limit=-limit.in_force,
        unit="share of rows",
        outcome=outcome,
        reason=(
            f"{_say_common(comparison)}{why}; {pairs.lost:,} rows lost, {pairs.gained:,} gained of "
            f"{pairs.rows:,}; mid-p McNemar {say_p(p_value)}; Tango's bounds, one-sided "
            f"{1 - settings.alpha_pass:.0%} and {1 - settings.alpha_block:.2%}; "
            f"{say_power(pairs, limit.block_above, settings)}{say_noise(limit, limits)}"
        ),
        evidence=EVALUATION_FILE,
    )
    return mark_if(line, is_worse)


def mark_if(line: VerdictLine, is_worse: bool) -> VerdictLine:
    """The line marked WARN where it passed although something is proven to be worse."""
    return msgspec.structs.replace(line, mark="WARN") if is_worse and line.outcome == "PASS" else line


def say_noise(limit: Limit, limits: InForce, show: str = ".2%") -> str:
    """Both limits, stated and in force, and where the noise of training comes from."""
    said = limit.describe(show)
    return f"; {said} ({limits.source})" if said else ""


def _say_common(comparison: Comparison) -> str:
    if comparison.test_rows is None:
        return ""
    before, after = comparison.test_rows
    return (
        f"other test rows than the champion's: judged on the {comparison.pairs.rows:,} that both have "
        f"(champion {before:,}, candidate {after:,}); "
    )


def _say_unproven(pairs: Discordance, margin: float, settings: AccuracySettings) -> str:
    alpha, power = settings.alpha_pass, settings.power
    needed = (
        f"{rows_to_prove(pairs.rate, margin, alpha=alpha, power=power):,}"
        if margin
        else "no number of rows proves a drop below 0"
    )
    provable = provable_margin(pairs.rate, pairs.rows, alpha=alpha, power=power)
    return (
        f"a drop of {margin:.2%} is not excluded; rows needed: {needed}, these {pairs.rows:,} can "
        f"exclude {provable:.2%} if there is no drop"
    )


def say_power(pairs: Discordance, limit: float, settings: AccuracySettings) -> str:
    """Which drop these rows block, and how many block one of twice the limit; "underpowered" when too few."""
    alpha, power = settings.alpha_block, settings.power
    smallest = blockable_drop(pairs.rate, limit, pairs.rows, alpha=alpha, power=power)
    blocks = f"smallest drop blocked with power {power:.0%}: {smallest:.2%}"
    drop = 2 * limit
    if not 0 < drop < 1:
        return blocks
    needed = rows_to_block(pairs.rate, drop, limit, alpha=alpha, power=power)
    has = power_to_block(pairs.rate, drop, limit, pairs.rows, alpha=alpha)
    short = (
        f"underpowered, a drop of {drop:.2%} is blocked with power {has:.0%} only; " if has < power else ""
    )
    return f"{short}rows to block a drop of {drop:.2%}: {needed:,}, there are {pairs.rows:,}; {blocks}"


def say_p(p_value: float) -> str:
    """A p-value as people read it."""
    return f"p = {p_value:.3g}" if p_value >= 1e-15 else "p < 1e-15"
