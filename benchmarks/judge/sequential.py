"""What it costs to look more than once: boundaries of a group-sequential test.

A fixed level applied at every look is spent several times (nominal 1 % becomes 2.7 % after four
looks). Here the level is spent once over all looks; each look gets the share of its boundary.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

Shape = Literal["obrien-fleming", "pocock"]

# Gauss-Legendre nodes an interval; 96 already agree with 400 to 1e-10.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def look_levels(looks: tuple[int, ...], alpha: float, shape: Shape) -> tuple[float, ...]:
    """The one-sided nominal level of every look, so that all looks together spend ``alpha``.

    Args:
        looks: how many restarts have been seen at each look, increasing: ``(4, 8, 12)``.
        alpha: one-sided level of the whole test.
        shape: "obrien-fleming" (strict early, nearly the full level at the end) or "pocock" (the
            same level at every look).

    Source: Jennison & Turnbull, *Group Sequential Methods*, 2000, chapter 2 (boundaries) and
    section 19.2 (recursive integration); used with a t statistic through its nominal level, ibid.
    section 3.8 (significance-level approach).
    """
    constant = boundary_constant(looks, alpha, shape)
    return tuple(float(norm.sf(bound)) for bound in _boundary(constant, looks, shape))


@functools.lru_cache
def boundary_constant(looks: tuple[int, ...], alpha: float, shape: Shape) -> float:
    """C, so that a standard normal process crosses C (Pocock) or C sqrt(K / k) with chance ``alpha``."""
    if len(looks) == 1:
        return float(norm.isf(alpha))
    single = float(norm.isf(alpha))
    return float(
        brentq(
            lambda constant: _crossing_chance(_boundary(constant, looks, shape), looks) - alpha,
            single * 0.999,
            single * 2.0,
            xtol=1e-10,
        )
    )


def _boundary(constant: float, looks: tuple[int, ...], shape: Shape) -> list[float]:
    if shape == "pocock":
        return [constant] * len(looks)
    return [constant * math.sqrt(looks[-1] / look) for look in looks]


def _crossing_chance(boundary: list[float], looks: tuple[int, ...]) -> float:
    """Chance that Z_k > boundary_k at any look, when S_k = Z_k sqrt(I_k) is Brownian motion."""
    information = np.asarray(looks, dtype=float) / looks[0]
    bounds = np.asarray(boundary) * np.sqrt(information)
    crossed = float(norm.sf(boundary[0]))
    nodes, weights = _interval(-9.0, bounds[0])
    density = norm.pdf(nodes)
    for look in range(1, len(looks)):
        step = math.sqrt(information[look] - information[look - 1])
        crossed += float(np.sum(weights * density * norm.sf((bounds[look] - nodes) / step)))
        onward, onward_weights = _interval(-9.0 * math.sqrt(information[look]), bounds[look])
        kernel = norm.pdf((onward[:, None] - nodes[None, :]) / step) / step  # (onward, nodes)
        density = kernel @ (weights * density)
        nodes, weights = onward, onward_weights
    return crossed


def _interval(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    half = (high - low) / 2
    return low + half * (_NODES + 1), half * _WEIGHTS
