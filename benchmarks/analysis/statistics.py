"""The statistics of the gate: bounds, tests, levels and the rows that a judgement needs.

Pure: numbers in, numbers out. A version's answers are paired with another's: only rows on which exactly one
of the two is right carry information, ``lost`` (b: the champion right, the candidate wrong) and ``gained``
(c: the other way). The drop is D = (b - c) / N; psi (``rate``) is the share of rows on which exactly one is
right.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binom, norm, t
from scipy.stats import t as student

from timberline.benchmarks.errors import EvidenceError


@dataclass(frozen=True)
class Bounds:
    """A mean of ``count`` values with its one-sided bounds; the ``sd`` of restarts is moderated."""

    mean: float
    low: float
    high: float
    sd: float
    count: int


def moderate_sd(values: Sequence[float], s0: float, nu0: float) -> tuple[float, float]:
    """The SD of a few values, steadied by a stored one, and its degrees of freedom.

    s^2 = (nu0 s0^2 + (K - 1) s_K^2) / (nu0 + K - 1): four restarts alone would give a t with 3
    degrees of freedom; the spread known from earlier identical processes counts for nu0 more.

    Source: Smyth, *Linear models and empirical Bayes methods*, Stat. Appl. Genet. Mol. Biol. 3
    (2004), equation for the posterior variance.
    """
    count = len(values)
    freedom = nu0 + count - 1
    spread = float(np.var(values, ddof=1)) if count > 1 else 0.0
    return math.sqrt((nu0 * s0**2 + (count - 1) * spread) / freedom), freedom


def bound_mean(
    values: Sequence[float], *, s0: float, nu0: float, alpha_low: float, alpha_high: float
) -> Bounds:
    """The mean over restarts with a lower bound at ``alpha_low`` and an upper one at ``alpha_high``.

    mean -+ t(1 - alpha; nu0 + K - 1) s / sqrt(K), s moderated.

    Raises:
        EvidenceError: there is no value, or one is not finite.
    """
    if not values or not np.all(np.isfinite(values)):
        raise EvidenceError("a restart has no usable value", where="latencies")
    sd, freedom = moderate_sd(values, s0, nu0)
    error = sd / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Bounds(
        mean=mean,
        low=mean - float(student.isf(alpha_low, freedom)) * error,
        high=mean + float(student.isf(alpha_high, freedom)) * error,
        sd=sd,
        count=len(values),
    )


# Gauss-Legendre nodes an interval; 96 already agree with 400 to 1e-10.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
# A standard normal process is never seen below; 1e-19.
_LOWEST = -9.0
Floats = npt.NDArray[np.float64]


def spent_shares(looks: Sequence[int], plan: Sequence[tuple[int, float]]) -> tuple[float, ...]:
    """Share of the level that is spent until each look, increasing to 1 at the last one.

    Args:
        looks: how many restarts have been seen at each look, increasing: ``(4, 8, 16)``.
        plan: (restarts, share) points, increasing; between them, and from (0, 0) on, it is linear.
    """
    at, shares = zip((0, 0.0), *plan, strict=True)
    return (*(float(np.interp(look, at, shares)) for look in looks[:-1]), 1.0)


@functools.lru_cache
def look_levels(looks: tuple[int, ...], alpha: float, shares: tuple[float, ...]) -> tuple[float, ...]:
    """The one-sided nominal level of every look, so that all looks together spend ``alpha``.

    A fixed level applied at every look is spent several times (nominal 1 % becomes 2.7 % after four
    looks). Here the level is spent once over all looks, by a written plan.

    The bound of a look is where the chance to cross it there for the first time is what the plan
    gives to it, for a standard normal process; used with a t statistic through the nominal level.

    Args:
        looks: restarts seen at each look, increasing.
        alpha: one-sided level of the whole test.
        shares: of ``alpha`` spent until each look; see `spent_shares`.

    Source: Lan & DeMets, *Discrete sequential boundaries for clinical trials*, Biometrika 70 (1983)
    659-663; Jennison & Turnbull, *Group Sequential Methods*, 2000, section 7.2 (error spending),
    19.2 (recursive integration) and 3.8 (nominal levels of a t statistic).
    """
    information = [look / looks[0] for look in looks]
    levels: list[float] = []
    process = _Process()
    for look, share in enumerate(shares):
        chance = alpha * (share - (shares[look - 1] if look else 0.0))
        step = math.sqrt(information[look] - (information[look - 1] if look else 0.0))
        bound = process.find_bound(chance, step, math.sqrt(information[look]))
        levels.append(float(norm.sf(bound / math.sqrt(information[look]))))
        process.go_on(bound, step, math.sqrt(information[look]))
    return tuple(levels)


class _Process:
    """Brownian motion that has not crossed any bound so far: its density on Gauss-Legendre nodes."""

    def __init__(self) -> None:
        self.nodes: Floats = np.zeros(1)
        self.mass: Floats = np.ones(1)

    def find_bound(self, chance: float, step: float, scale: float) -> float:
        """The bound that is crossed next with ``chance``; ``scale`` is the SD from the beginning on."""
        if chance <= 0:
            return math.inf

        def excess(bound: float) -> float:
            crossed = float(np.sum(self.mass * norm.sf((bound - self.nodes) / step)))
            # Logarithms: the bounds of a strict first look are far out in the tail.
            return math.log(max(crossed, 1e-300)) - math.log(chance)

        return float(brentq(excess, -9.0 * scale, 15.0 * scale, xtol=1e-11))

    def go_on(self, bound: float, step: float, scale: float) -> None:
        """Keep what stayed below ``bound``."""
        low, high = _LOWEST * scale, min(bound, 9.0 * scale)
        half = (high - low) / 2
        onward, weights = low + half * (_NODES + 1), half * _WEIGHTS
        kernel = norm.pdf((onward[:, None] - self.nodes[None, :]) / step) / step  # (onward, nodes)
        self.nodes, self.mass = onward, weights * (kernel @ self.mass)


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
