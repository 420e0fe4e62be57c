"""Held-out predictions → lines of the verdict. Pure.

A line's difference is candidate minus champion, so a drop is negative; bounds are one-sided.
"""

from __future__ import annotations

from benchmarks.config import AccuracySettings
from benchmarks.judge.paired import (
    Discordance,
    bound_average,
    bound_drop,
    bound_proportion,
    p_value_of_drop,
)
from benchmarks.judge.power import (
    findable_drop,
    power_to_find,
    provable_margin,
    rows_to_find,
    rows_to_prove,
)
from benchmarks.judge.predictions import Comparison, Quality
from registry.manifest import GateLimits
from registry.store import EVALUATION_FILE
from registry.verdict import Outcome, VerdictLine


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


def judge_drop(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK: mid-p McNemar rejects and the drop is material. PASS: Tango's bound excludes the limit.

    What these rows can find at all is said whatever the outcome.
    """
    pairs = comparison.pairs
    rise, fall = bound_drop(pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)
    p_value = p_value_of_drop(pairs)
    materiality = settings.materiality_share * limits.max_accuracy_drop
    outcome: Outcome
    if p_value <= settings.alpha_block and pairs.drop >= materiality:
        outcome, why = "BLOCK", f"a drop of {materiality:.2%} or more, p <= {settings.alpha_block:g}"
    elif fall < limits.max_accuracy_drop:
        outcome, why = "PASS", f"a drop of {limits.max_accuracy_drop:.2%} is excluded"
    else:
        outcome, why = "INCONCLUSIVE", _say_unproven(pairs, limits.max_accuracy_drop, settings)
    return VerdictLine(
        name="accuracy",
        candidate=comparison.candidate.accuracy,
        champion=comparison.champion.accuracy,
        difference=0.0 - pairs.drop,
        low=-fall,
        high=-rise,
        limit=-limits.max_accuracy_drop,
        unit="share of rows",
        outcome=outcome,
        reason=(
            f"{_say_common(comparison)}{why}; {pairs.lost:,} rows lost, {pairs.gained:,} gained of "
            f"{pairs.rows:,}; mid-p McNemar {say_p(p_value)}; Tango's bounds, one-sided "
            f"{1 - settings.alpha_pass:.0%}; "
            f"{say_power(pairs, limits.max_accuracy_drop, settings.alpha_block, settings.power)}"
        ),
        evidence=EVALUATION_FILE,
    )


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


def say_power(pairs: Discordance, drop: float, alpha: float, power: float) -> str:
    """How many rows finding ``drop`` takes, and what those at hand find; "underpowered" when too few."""
    smallest = findable_drop(pairs.rate, pairs.rows, alpha=alpha, power=power)
    finds = f"smallest drop found with power {power:.0%}: {smallest:.2%}"
    if drop == 0:
        return finds
    needed = rows_to_find(pairs.rate, drop, alpha=alpha, power=power)
    has = power_to_find(pairs.rate, drop, pairs.rows, alpha=alpha)
    short = f"underpowered, a drop of {drop:.2%} is found with power {has:.0%} only; " if has < power else ""
    return f"{short}rows to find {drop:.2%}: {needed:,}, there are {pairs.rows:,}; {finds}"


def say_p(p_value: float) -> str:
    """A p-value as people read it."""
    return f"p = {p_value:.3g}" if p_value >= 1e-15 else "p < 1e-15"
