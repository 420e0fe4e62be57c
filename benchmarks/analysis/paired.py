"""Is the candidate less accurate? Champion and candidate answer the same rows, so the data are paired.

Only rows on which exactly one of the two is right carry news: ``lost`` (b: the champion right, the
candidate wrong) and ``gained`` (c: the other way). The drop is D = (b - c) / N.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import binom, norm, t


@dataclass(frozen=True)
class Discordance:
    """Rows in all, and those that only the champion (``lost``) or the candidate (``gained``) got right."""

    rows: int
    lost: int
    gained: int

    @property
    def drop(self) -> float:
        """Accuracy of the champion minus accuracy of the candidate."""
        return (self.lost - self.gained) / self.rows

    @property
    def rate(self) -> float:
        """psi: share of rows on which exactly one of the two is right."""
        return (self.lost + self.gained) / self.rows


def p_value_of_drop(pairs: Discordance) -> float:
    """One-sided mid-p McNemar: small when the candidate is worse.

    P(X > b) + P(X = b) / 2 for X ~ Bin(b + c, 1/2).

    Source: Fagerland, Lydersen, Laake, *The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional*, BMC Med. Res. Methodol. 13:91 (2013).
    """
    discordant = pairs.lost + pairs.gained
    tail = binom.sf(pairs.lost, discordant, 0.5) + binom.pmf(pairs.lost, discordant, 0.5) / 2
    return float(tail)


# Chains of releases ask for the same pair again and again.
@functools.lru_cache(maxsize=65_536)
def p_value_beyond(pairs: Discordance, margin: float) -> float:
    """One-sided: small when the drop is greater than ``margin``.

    Tango's score statistic at the margin; mid-p McNemar, which few rows do not mislead, where that is 0.
    """
    if margin <= 0:
        return p_value_of_drop(pairs)
    return float(norm.sf(_score(pairs, min(margin, _EDGE))))


@functools.lru_cache(maxsize=65_536)
def bound_drop(pairs: Discordance, *, alpha_low: float, alpha_high: float) -> tuple[float, float]:
    """Lower and upper one-sided score bounds of the drop.

    The bound is where Tango's score statistic reaches the normal quantile.

    Source: Tango, *Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design*, Stat. Med. 17 (1998) 891-908.
    """
    return _solve(pairs, float(norm.isf(alpha_low))), _solve(pairs, -float(norm.isf(alpha_high)))


# The statistic is infinite at -1 and 1; the bounds of any sample lie inside.
_EDGE = 1 - 1e-12


def _solve(pairs: Discordance, quantile: float) -> float:
    """The difference at which the score statistic, which falls with it, equals ``quantile``."""

    def excess(difference: float) -> float:
        return _score(pairs, difference) - quantile

    if excess(-_EDGE) <= 0:
        return -1.0
    if excess(_EDGE) >= 0:
        return 1.0
    return float(brentq(excess, -_EDGE, _EDGE, xtol=1e-12))


def _score(pairs: Discordance, difference: float) -> float:
    """(b - c - N d) / sqrt(N (2 q + d (1 - d))), q the estimate of P(only candidate right) under d."""
    n, b, c, d = pairs.rows, pairs.lost, pairs.gained, difference
    linear = -b - c + (2 * n - b + c) * d
    constant = -c * d * (1 - d)
    q = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * q + d * (1 - d))
    surplus = b - c - n * d
    return surplus / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, surplus) * bool(surplus)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """p-values for several questions at once: reject where the adjusted value is at most the family's level.

    Source: Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Stat. 6
    (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = running
    return adjusted


def bound_proportion(successes: int, rows: int, *, alpha: float) -> tuple[float, float]:
    """One-sided score bounds of a proportion (Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212)."""
    z = float(norm.isf(alpha))
    share = successes / rows
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bound_average(mean: float, sd: float, rows: int, *, alpha: float) -> tuple[float, float]:
    """One-sided bounds of a mean (Student, Biometrika 6 (1908) 1-25); one row bounds nothing."""
    if rows < 2:
        return -math.inf, math.inf
    half = float(t.isf(alpha, rows - 1)) * sd / math.sqrt(rows)
    return mean - half, mean + half
