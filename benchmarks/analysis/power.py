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


def rows_to_block(rate: float, drop: float, limit: float, *, alpha: float, power: float) -> int:
    """Rows needed to show that the drop is beyond ``limit`` when in truth it is ``drop``, which is greater.

    N = (z_{1-alpha} sqrt(psi - m^2) + z_{power} sqrt(psi - D^2))^2 / (D - m)^2, of a limit of 0 the rows
    to find any drop.

    Source: Miettinen, *The matched pairs design in the case of all-or-none responses*, Biometrics
    24 (1968) 339-352; Connor (1987).
    """
    psi = max(rate, drop)
    root = norm.isf(alpha) * math.sqrt(psi - limit**2) + norm.ppf(power) * math.sqrt(psi - drop**2)
    return math.ceil(float(root) ** 2 / (drop - limit) ** 2)


def power_to_block(rate: float, drop: float, limit: float, rows: int, *, alpha: float) -> float:
    """The chance that so many rows show a drop of this size to be beyond ``limit``."""
    psi = max(rate, drop)
    surplus = (drop - limit) * math.sqrt(rows) - float(norm.isf(alpha)) * math.sqrt(psi - limit**2)
    spread = math.sqrt(psi - drop**2)
    # Every row is lost: no chance is left in it.
    return float(norm.cdf(surplus / spread)) if spread > 0 else float(surplus >= 0)


def blockable_drop(rate: float, limit: float, rows: int, *, alpha: float, power: float) -> float:
    """The smallest drop that so many rows show to be beyond ``limit`` with this power; a little too large."""
    return min(1.0, limit + _smallest(max(rate, limit), rows, alpha=alpha, power=power))


def _smallest(rate: float, rows: int, *, alpha: float, power: float) -> float:
    """(z_{1-alpha} + z_{power}) sqrt(psi / N): N solved for m or D, with psi - D^2 rounded up to psi.

    psi is at least D: versions that never disagreed may, in the worst case, disagree on D of the rows.
    """
    quantiles = float(norm.isf(alpha) + norm.ppf(power))
    smallest = quantiles * math.sqrt(rate / rows)
    return min(1.0, smallest if 0 < smallest <= rate else quantiles**2 / rows)
