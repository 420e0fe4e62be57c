"""What it costs to look more than once: boundaries of a group-sequential test.

A fixed level applied at every look is spent several times (nominal 1 % becomes 2.7 % after four
looks). Here the level is spent once over all looks, as a written plan says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm

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
