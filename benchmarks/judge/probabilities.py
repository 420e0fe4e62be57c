"""Probabilities → lines of the verdict: log-loss and calibration, candidate beside champion. Pure.

Both see what accuracy does not: a model that is as often right and no longer knows how sure to be.
They block what is proven and keep nothing waiting; the level is split evenly between the two.
"""

from __future__ import annotations

from scipy.stats import norm

from benchmarks.config import AccuracySettings
from benchmarks.judge.calibration_error import bound_calibration
from benchmarks.judge.paired import bound_average
from benchmarks.judge.predictions import Comparison
from registry.manifest import GateLimits
from registry.store import EVALUATION_FILE
from registry.verdict import VerdictLine


def judge_log_loss(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the lower bound of the mean of -ln q(truth) + ln p(truth) exceeds the limit.

    q is the candidate's probability and p the champion's, of the same row; both at least 1e-7.
    """
    rows, mean, sd = comparison.pairs.rows, comparison.loss_difference, comparison.loss_difference_sd
    alpha = settings.alpha_probabilities / 2
    low, _ = bound_average(mean, sd, rows, alpha=alpha)
    _, high = bound_average(mean, sd, rows, alpha=settings.alpha_pass)
    return VerdictLine(
        name="log_loss",
        candidate=comparison.candidate.loss,
        champion=comparison.champion.loss,
        difference=mean,
        low=low,
        high=high,
        limit=limits.max_log_loss_increase,
        unit="nats",
        outcome="BLOCK" if low > limits.max_log_loss_increase else "PASS",
        reason=_say("nats", low, limits.max_log_loss_increase, sd / rows**0.5, "paired, Student's", settings),
        evidence=EVALUATION_FILE,
    )


def judge_calibration(comparison: Comparison, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the lower bound of the increase of the calibration error exceeds the limit."""
    change = comparison.calibration
    bounds = bound_calibration(
        change, alpha_low=settings.alpha_probabilities / 2, alpha_high=settings.alpha_pass
    )
    return VerdictLine(
        name="calibration",
        candidate=change.candidate_error,
        champion=change.champion_error,
        difference=change.difference,
        low=bounds.low,
        high=bounds.high,
        limit=limits.max_ece_increase,
        outcome="BLOCK" if bounds.low > limits.max_ece_increase else "PASS",
        reason=_say("ECE", bounds.low, limits.max_ece_increase, bounds.sd, "paired, bootstrap", settings),
        evidence=EVALUATION_FILE,
    )


def _say(what: str, low: float, limit: float, error: float, how: str, settings: AccuracySettings) -> str:
    proven = "is proven" if low > limit else "is not proven"
    alpha = settings.alpha_probabilities / 2
    found = limit + float(norm.isf(alpha) + norm.ppf(settings.power)) * error
    return (
        f"an increase of more than {limit:g} {what} {proven}; {how} bounds, one-sided "
        f"{1 - alpha:.3%} and {1 - settings.alpha_pass:.0%}; smallest increase found with power "
        f"{settings.power:.0%}: {found:.4f}"
    )
