"""How well a rate is known from a count of gates."""

from __future__ import annotations

from scipy.stats import binomtest


def bound_rate(count: int, of: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of a rate seen ``count`` times in ``of``; nothing seen bounds nothing.

    Source: Clopper & Pearson, *The use of confidence or fiducial limits illustrated in the case of the
    binomial*, Biometrika 26 (1934) 404-413, as scipy's "exact" method.
    """
    if of == 0:
        return 0.0, 1.0
    interval = binomtest(count, of).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def bound_rate_below(count: int, of: int, *, confidence: float = 0.95) -> float:
    """The exact one-sided lower bound: an alarm that uses it is wrong once in 20 machines that are right."""
    if of == 0:
        return 0.0
    return float(binomtest(count, of, alternative="greater").proportion_ci(confidence, method="exact").low)
