"""Is the candidate less accurate? Champion and candidate answer the same rows, so the data are paired.

Only rows on which exactly one of the two is right carry news: ``lost`` (b: the champion right, the
candidate wrong) and ``gained`` (c: the other way). The drop is D = (b - c) / N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import binom, norm


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


def rows_to_prove(rate: float, margin: float, *, alpha: float, power: float) -> int:
    """Rows needed to show that the drop is below ``margin`` when in truth it is 0.

    N = (z_{1-alpha} sqrt(psi - m^2) + z_{power} sqrt(psi))^2 / m^2, psi = ``rate``.

    Source: Connor, *Sample size for testing differences in proportions for the paired-sample
    design*, Biometrics 43 (1987) 207-211, in the form of a non-inferiority test.
    """
    psi = max(rate, margin)
    root = norm.isf(alpha) * math.sqrt(psi - margin**2) + norm.ppf(power) * math.sqrt(psi)
    return math.ceil(float(root) ** 2 / margin**2)


def provable_margin(rate: float, rows: int, *, alpha: float, power: float) -> float:
    """The smallest margin that so many rows can prove when the true drop is 0; a little too large.

    `rows_to_prove` solved for m, with psi - m^2 rounded up to psi; psi is at least m.
    """
    quantiles = float(norm.isf(alpha) + norm.ppf(power))
    margin = quantiles * math.sqrt(rate / rows)
    return margin if 0 < margin <= rate else quantiles**2 / rows


def rows_to_find(rate: float, drop: float, *, alpha: float, power: float) -> int:
    """Rows needed to find a drop of this size.

    N = (z_{1-alpha} sqrt(psi) + z_{power} sqrt(psi - D^2))^2 / D^2, psi = ``rate``.

    Source: Miettinen, *The matched pairs design in the case of all-or-none responses*, Biometrics
    24 (1968) 339-352; Connor (1987).
    """
    psi = max(rate, drop)
    root = norm.isf(alpha) * math.sqrt(psi) + norm.ppf(power) * math.sqrt(psi - drop**2)
    return math.ceil(float(root) ** 2 / drop**2)


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
    """One-sided bounds of a mean over many rows (normal)."""
    half = float(norm.isf(alpha)) * sd / math.sqrt(rows)
    return mean - half, mean + half
