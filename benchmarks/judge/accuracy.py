"""Held-out predictions → lines of the verdict. Pure.

A line's difference is candidate minus champion, so a drop is negative; bounds are one-sided.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.config import AccuracySettings
from benchmarks.judge.paired import (
    Discordance,
    adjust_holm,
    bound_average,
    bound_drop,
    bound_proportion,
    p_value_of_drop,
    provable_margin,
    rows_to_prove,
)
from benchmarks.judge.predictions import Comparison, Quality, RecallChange
from registry.manifest import GateLimits
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
                reason=f"normal bounds, one-sided {1 - alpha:.0%}, {quality.rows:,} rows",
            )
        )
    return tuple(lines)


def _short(is_proven: bool) -> Outcome:
    """The outcome of a line that did not pass: a proven no, or not enough rows to tell."""
    return "BLOCK" if is_proven else "INCONCLUSIVE"


def judge_drop(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK: mid-p McNemar rejects and the drop is material. PASS: Tango's bound excludes the limit."""
    pairs = comparison.pairs
    rise, fall = bound_drop(pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)
    p_value = p_value_of_drop(pairs)
    materiality = settings.materiality_share * limits.max_accuracy_drop
    outcome: Outcome
    needed = _rows_needed(pairs.rate, limits.max_accuracy_drop, settings)
    if p_value <= settings.alpha_block and pairs.drop >= materiality:
        outcome, why = "BLOCK", f"a drop of {materiality:.2%} or more, p <= {settings.alpha_block:g}"
    elif fall < limits.max_accuracy_drop:
        outcome, why = "PASS", f"a drop of {limits.max_accuracy_drop:.2%} is excluded"
    else:
        outcome = "INCONCLUSIVE"
        why = (
            f"a drop of {limits.max_accuracy_drop:.2%} is not excluded; rows needed: {needed}, these "
            f"{pairs.rows:,} can exclude {_provable(pairs, settings):.2%} if there is no drop"
        )
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
            f"{why}; {pairs.lost:,} rows lost, {pairs.gained:,} gained of {pairs.rows:,}; mid-p McNemar "
            f"{_say_p(p_value)}; Tango's bounds, one-sided {1 - settings.alpha_pass:.0%}"
        ),
    )


def _provable(pairs: Discordance, settings: AccuracySettings) -> float:
    return provable_margin(pairs.rate, pairs.rows, alpha=settings.alpha_pass, power=settings.power)


def _rows_needed(rate: float, margin: float, settings: AccuracySettings) -> str:
    if margin == 0:
        return "no number of rows proves a drop below 0"
    return f"{rows_to_prove(rate, margin, alpha=settings.alpha_pass, power=settings.power):,}"


def judge_recalls(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when a class's recall fell by more than the limit allows and Holm's test says it is real.

    Lack of proof blocks nothing here: a rare class never has the rows. It is said instead.
    """
    adjusted = adjust_holm([p_value_of_drop(recall.pairs) for recall in comparison.recalls])
    judged = list(zip(adjusted, comparison.recalls, strict=True))
    limit = limits.max_recall_drop
    fallen = [
        (p, recall) for p, recall in judged if p <= settings.alpha_recall and recall.pairs.drop >= limit
    ]
    p_value, worst = max(fallen or judged, key=lambda pair: (pair[1].pairs.drop, -pair[0]))
    rise, fall = bound_drop(worst.pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)
    return VerdictLine(
        name="recall",
        candidate=worst.candidate,
        champion=worst.champion,
        difference=0.0 - worst.pairs.drop,
        low=-fall,
        high=-rise,
        limit=-limit,
        unit="share of the class's rows",
        outcome="BLOCK" if fallen else "PASS",
        reason=(
            f"worst class: {worst.label}, {worst.pairs.rows:,} rows; mid-p McNemar with Holm over "
            f"{len(judged)} classes {_say_p(p_value)}"
            + (
                f"; fallen: class {_name([recall for _, recall in fallen])}"
                if fallen
                else _say_power(comparison.recalls, limit, settings)
            )
        ),
    )


def _say_power(recalls: Sequence[RecallChange], limit: float, settings: AccuracySettings) -> str:
    """Which classes could have fallen by the limit without anybody seeing it."""
    weak = [
        recall
        for recall in recalls
        if bound_drop(recall.pairs, alpha_low=0.05, alpha_high=settings.alpha_pass)[1] >= limit
    ]
    return f"; too few rows to exclude a drop of {limit:.1%} in class {_name(weak)}" if weak else ""


def _name(recalls: Sequence[RecallChange]) -> str:
    return ", ".join(recall.label for recall in recalls)[:80]


def _say_p(p_value: float) -> str:
    return f"p = {p_value:.3g}" if p_value >= 1e-15 else "p < 1e-15"


def report_log_loss(comparison: Comparison, settings: AccuracySettings) -> VerdictLine:
    """The paired log-loss difference; reported, decides nothing."""
    low, high = bound_average(
        comparison.loss_difference,
        comparison.loss_difference_sd,
        comparison.pairs.rows,
        alpha=settings.alpha_pass,
    )
    return VerdictLine(
        name="log_loss",
        candidate=comparison.candidate.loss,
        champion=comparison.champion.loss,
        difference=comparison.loss_difference,
        low=low,
        high=high,
        unit="nats",
        outcome="INFO",
        reason=f"paired difference, normal bounds, one-sided {1 - settings.alpha_pass:.0%}",
    )
