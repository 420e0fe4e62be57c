"""How many rows a judgement needs, and what those at hand can show. Pure.

psi (``rate``) is the share of rows on which exactly one of the two versions is right: how much two
versions disagree decides how many rows it takes to tell them apart, not how accurate they are.
"""

from __future__ import annotations

import math

from scipy.stats import norm


def rows_to_prove(rate: float, margin: float, *, alpha: float, power: float) -> int:
    """Rows needed to show that the drop is below ``margin`` when in truth it is 0.

    N = (z_{1-alpha} sqrt(psi - m^2) + z_{power} sqrt(psi))^2 / m^2.

    Source: Connor, *Sample size for testing differences in proportions for the paired-sample
    design*, Biometrics 43 (1987) 207-211, in the form of a non-inferiority test.
    """
    psi = max(rate, margin)
    root = norm.isf(alpha) * math.sqrt(psi - margin**2) + norm.ppf(power) * math.sqrt(psi)
    return math.ceil(float(root) ** 2 / margin**2)


def provable_margin(rate: float, rows: int, *, alpha: float, power: float) -> float:
    """The smallest margin that so many rows can prove when the true drop is 0; a little too large."""
    return _smallest(rate, rows, alpha=alpha, power=power)


def rows_to_find(rate: float, drop: float, *, alpha: float, power: float) -> int:
    """Rows needed to find a drop of this size.

    N = (z_{1-alpha} sqrt(psi) + z_{power} sqrt(psi - D^2))^2 / D^2.

    Source: Miettinen, *The matched pairs design in the case of all-or-none responses*, Biometrics
    24 (1968) 339-352; Connor (1987).
    """
    psi = max(rate, drop)
    root = norm.isf(alpha) * math.sqrt(psi) + norm.ppf(power) * math.sqrt(psi - drop**2)
    return math.ceil(float(root) ** 2 / drop**2)


def power_to_find(rate: float, drop: float, rows: int, *, alpha: float) -> float:
    """The chance that so many rows find a drop of this size: `rows_to_find` solved for the power."""
    psi = max(rate, drop)
    surplus = drop * math.sqrt(rows) - float(norm.isf(alpha)) * math.sqrt(psi)
    spread = math.sqrt(psi - drop**2)
    # Every row is lost: no chance is left in it.
    return float(norm.cdf(surplus / spread)) if spread > 0 else float(surplus >= 0)


def findable_drop(rate: float, rows: int, *, alpha: float, power: float) -> float:
    """The smallest drop that so many rows find with this power; a little too large."""
    return _smallest(rate, rows, alpha=alpha, power=power)


def _smallest(rate: float, rows: int, *, alpha: float, power: float) -> float:
    """(z_{1-alpha} + z_{power}) sqrt(psi / N): N solved for m or D, with psi - D^2 rounded up to psi.

    psi is at least D: versions that never disagreed may, in the worst case, disagree on D of the rows.
    """
    quantiles = float(norm.isf(alpha) + norm.ppf(power))
    smallest = quantiles * math.sqrt(rate / rows)
    return min(1.0, smallest if 0 < smallest <= rate else quantiles**2 / rows)
