"""Stated limits and the noise of training → the limits that a candidate is judged by. Pure.

Two runs of one recipe differ by their seeds, on every test row there is. A limit below that blocks
equals. So where the recipe was run several times, the limit in force is the larger of the stated one
and what the difference of two equal runs exceeds in 1 % of the cases, over all lines together; and never
more than twice the stated one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import variance

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import norm, t

from timberline.benchmarks.settings import AccuracySettings
from timberline.registry.manifest import GateLimits
from timberline.registry.runs import TrainingNoise

# Accuracy, recalls (all classes together), log-loss and calibration share the level.
_LINES = 4
# Runs that are alike to the last digit have no spread; its logarithm is wanted all the same.
_SMALLEST = 1e-24


@dataclass(frozen=True)
class Limit:
    """One limit: as stated, and what equal recipes exceed seldom (``noise``, 0 where it is not known).

    Beyond ``block_above`` a proven change for the worse blocks, below ``pass_below`` an excluded one passes.
    They are one number, the limit in force, but for a recipe that is too noisy: then what lies between is
    neither. ``source`` is where the noise is known from.
    """

    stated: float
    noise: float = 0.0
    factor: float = 2.0
    source: str = ""

    @property
    def in_force(self) -> float:
        """The larger of the two, at most ``factor`` times the stated one."""
        return max(self.stated, min(self.noise, self.factor * self.stated))

    @property
    def is_too_noisy(self) -> bool:
        """Whether equal recipes would exceed more than may be allowed."""
        return self.noise > self.factor * self.stated

    @property
    def block_above(self) -> float:
        """What has to be exceeded for a BLOCK."""
        return max(self.stated, self.noise)

    @property
    def pass_below(self) -> float:
        """What has to be excluded for a PASS."""
        return self.stated if self.is_too_noisy else self.in_force

    def describe(self, show: str = ".2%") -> str:
        """Both limits in words; empty where no noise is known."""
        if not self.noise:
            return ""
        if self.is_too_noisy:
            return (
                f"this recipe is too noisy for its test split: equal runs exceed {self.noise:{show}}, more "
                f"than {self.factor:g} times the stated limit of {self.stated:{show}}"
            )
        return (
            f"limit in force {self.in_force:{show}}: stated {self.stated:{show}}, equal runs exceed "
            f"{self.noise:{show}}"
        )

    def describe_noise(self, show: str = ".2%") -> str:
        """`describe` behind a semicolon, with the source of the noise."""
        text = self.describe(show)
        return f"; {text} ({self.source})" if text else ""


@dataclass(frozen=True)
class InForce:
    """The limits of the lines about held-out rows; ``recalls`` by class value."""

    accuracy: Limit
    total: Limit
    recall: Limit
    slices: Limit
    log_loss: Limit
    calibration: Limit
    recalls: Mapping[str, Limit] = field(default_factory=dict)

    def of_class(self, value: str) -> Limit:
        """The limit of one class's recall."""
        return self.recalls.get(value, self.recall)


def limits_in_force(
    limits: GateLimits, noise: TrainingNoise | None, settings: AccuracySettings, *, source: str = ""
) -> InForce:
    """The limits that a candidate is judged by.

    Args:
        limits: as model.toml states them.
        noise: runs of the champion's recipe; None where it was not calibrated.
        settings: ``alpha_noise`` is spent over accuracy, recalls, log-loss and calibration together.
        source: where ``noise`` comes from, for the reasons.
    """
    exceeded = measure_noise(noise, settings.alpha_noise) if noise else Exceeded()
    drop, total = limits.max_accuracy_drop, limits.max_accuracy_drop_total

    def limit(stated: float, noise: float = 0.0) -> Limit:
        return Limit(stated, noise, settings.max_noise_factor, source)

    return InForce(
        accuracy=limit(drop, exceeded.accuracy),
        total=limit(drop if total is None else total, exceeded.accuracy),
        recall=limit(limits.max_recall_drop),
        slices=limit(limits.max_slice_drop),
        log_loss=limit(limits.max_log_loss_increase, exceeded.log_loss),
        calibration=limit(limits.max_ece_increase, exceeded.ece),
        recalls={value: limit(limits.max_recall_drop, drop) for value, drop in exceeded.recalls.items()},
    )


@dataclass(frozen=True)
class Exceeded:
    """By how much one of two equal runs is the worse in as many cases as the level allows."""

    accuracy: float = 0.0
    log_loss: float = 0.0
    ece: float = 0.0
    recalls: Mapping[str, float] = field(default_factory=dict)


def measure_noise(noise: TrainingNoise, alpha: float) -> Exceeded:
    """What the difference of two runs exceeds with chance ``alpha``, over all lines together (Bonferroni).

    s sqrt(2) t(1 - alpha / 4; k - 1) for a quantity of which k runs have the standard deviation s: the
    difference of two more runs has the variance 2 s^2 (Student, Biometrika 6 (1908) 1-25). The recalls
    share their part of the level, and what they know of their variances; see `moderate_variances`.
    """
    runs, level = noise.runs, alpha / _LINES
    freedom = len(runs) - 1

    def exceed(values: Sequence[float]) -> float:
        return math.sqrt(2 * variance(values)) * float(t.isf(level, freedom))

    values = list(runs[0].recalls)
    spreads, known = moderate_variances([variance([run.recalls[v] for run in runs]) for v in values], freedom)
    quantile = (
        float(t.isf(level / max(len(values), 1), known))
        if math.isfinite(known)
        else float(norm.isf(level / len(values)))
    )
    return Exceeded(
        accuracy=exceed([run.accuracy for run in runs]),
        log_loss=exceed([run.log_loss for run in runs]),
        ece=exceed([run.ece for run in runs]),
        recalls={v: math.sqrt(2 * s2) * quantile for v, s2 in zip(values, spreads, strict=True)},
    )


def moderate_variances(variances: Sequence[float], freedom: float) -> tuple[list[float], float]:
    """Variances of alike quantities, each drawn towards what is common to them, and their degrees of freedom.

    Five runs know a variance badly, and the recalls of seven classes badly seven times. That they differ
    less than chance would have it (or as much, or more) shows how much a common variance s0^2 may count
    for: nu0 degrees of freedom. s^2 = (nu0 s0^2 + nu s_c^2) / (nu0 + nu). With fewer than three nothing is
    known of how they differ, and each stays as it is.

    Source: Smyth, *Linear models and empirical Bayes methods*, Stat. Appl. Genet. Mol. Biol. 3 (2004),
    section 6.2 (nu0 and s0 by the moments of the logarithms).
    """
    if len(variances) < 3:
        return list(variances), freedom
    logs = np.log(np.maximum(variances, _SMALLEST)) - digamma(freedom / 2) + math.log(freedom / 2)
    surplus = float(np.var(logs, ddof=1) - polygamma(1, freedom / 2))
    if surplus <= 0:
        common = math.exp(float(logs.mean()))
        return [common] * len(variances), math.inf
    nu0 = 2 * _invert_trigamma(surplus)
    common = math.exp(float(logs.mean()) + float(digamma(nu0 / 2)) - math.log(nu0 / 2))
    return [(nu0 * common + freedom * s2) / (nu0 + freedom) for s2 in variances], nu0 + freedom


def _invert_trigamma(value: float) -> float:
    """The x of which ``value`` is the trigamma function; it falls from infinity to 0."""

    def excess(logarithm: float) -> float:
        return math.log(float(polygamma(1, math.exp(logarithm)))) - math.log(value)

    return math.exp(float(brentq(excess, -20.0, 20.0)))
