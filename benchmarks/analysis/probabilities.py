"""Probabilities → lines of the verdict: log-loss and calibration, candidate beside champion. Pure.

Both see what accuracy does not: a model that is as often right and no longer knows how sure to be.
They block what is proven and keep nothing waiting, but for a recipe that is too noisy; the level is split
evenly between the two.
"""

from __future__ import annotations

from scipy.stats import norm

from timberline.benchmarks.analysis.accuracy import mark_if, say_noise
from timberline.benchmarks.analysis.calibration_error import bound_calibration
from timberline.benchmarks.analysis.limits import InForce, Limit
from timberline.benchmarks.analysis.paired import bound_average
from timberline.benchmarks.analysis.predictions import Comparison
from timberline.benchmarks.gate.settings import AccuracySettings
from timberline.registry.store import EVALUATION_FILE
from timberline.registry.verdict import Outcome, VerdictLine


def judge_log_loss(comparison: Comparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the lower bound of the mean of -ln q(truth) + ln p(truth) exceeds the limit.

    q is the candidate's probability and p the champion's, of the same row; both at least 1e-7.
    """
    rows, mean, sd = comparison.pairs.rows, comparison.loss_difference, comparison.loss_difference_sd
    low, _ = bound_average(mean, sd, rows, alpha=settings.alpha_probabilities / 2)
    _, high = bound_average(mean, sd, rows, alpha=settings.alpha_pass)
    line = VerdictLine(
        name="log_loss",
        candidate=comparison.candidate.loss,
        champion=comparison.champion.loss,
        difference=mean,
        low=low,
        high=high,
        limit=limits.log_loss.in_force,
        unit="nats",
        outcome=_decide(low, limits.log_loss),
        reason=_say("nats", low, limits.log_loss, sd / rows**0.5, "paired, Student's", limits, settings),
        evidence=EVALUATION_FILE,
    )
    return mark_if(line, low > 0)


def judge_calibration(comparison: Comparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the lower bound of the increase of the calibration error exceeds the limit."""
    change = comparison.calibration
    bounds = bound_calibration(
        change, alpha_low=settings.alpha_probabilities / 2, alpha_high=settings.alpha_pass
    )
    line = VerdictLine(
        name="calibration",
        candidate=change.candidate_error,
        champion=change.champion_error,
        difference=change.difference,
        low=bounds.low,
        high=bounds.high,
        limit=limits.calibration.in_force,
        outcome=_decide(bounds.low, limits.calibration),
        reason=_say("ECE", bounds.low, limits.calibration, bounds.sd, "paired, bootstrap", limits, settings),
        evidence=EVALUATION_FILE,
    )
    return mark_if(line, bounds.low > 0)


def _decide(low: float, limit: Limit) -> Outcome:
    if low > limit.block_above:
        return "BLOCK"
    return "INCONCLUSIVE" if limit.is_too_noisy and low > limit.pass_below else "PASS"


def _say(
    what: str,
    low: float,
    limit: Limit,
    error: float,
    how: str,
    limits: InForce,
    settings: AccuracySettings,
) -> str:
    alpha, most = settings.alpha_probabilities / 2, limit.block_above
    proven = "is proven" if low > most else "is not proven"
    some = "; some increase is proven, within the limit" if 0 < low <= most else ""
    blocked = most + float(norm.isf(alpha) + norm.ppf(settings.power)) * error
    return (
        f"an increase of more than {most:.3g} {what} {proven}{some}; {how} bounds, one-sided "
        f"{1 - alpha:.3%} and {1 - settings.alpha_pass:.0%}; smallest increase blocked with power "
        f"{settings.power:.0%}: {blocked:.4f}{say_noise(limit, limits, '.3g')}"
    )
