"""Boundaries of the group-sequential test against published constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from timberline.benchmarks.analysis.statistics import look_levels, spent_shares

LOOKS = (1, 2, 3, 4, 5)


def spend(shape: Callable[[float], float], alpha: float) -> tuple[float, ...]:
    """Shares of ``alpha`` that a spending function spends until each of five equal looks."""
    return tuple(shape(look / 5) / alpha for look in LOOKS)


def test_bounds_equal_the_published_ones_of_obrien_fleming_spending() -> None:
    """Lan & DeMets 1983, one-sided 2.5 %, five equal looks: 4.877, 3.357, 2.680, 2.290, 2.031."""
    shares = spend(lambda t: 2 * norm.sf(norm.isf(0.0125) / math.sqrt(t)), 0.025)
    bounds = norm.isf(look_levels(LOOKS, 0.025, shares))
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)


def test_bounds_equal_the_published_ones_of_pocock_spending() -> None:
    """Lan & DeMets 1983, one-sided 2.5 %, five equal looks: 2.438, 2.427, 2.410, 2.397, 2.386."""
    shares = spend(lambda t: 0.025 * math.log(1 + (math.e - 1) * t), 0.025)
    bounds = norm.isf(look_levels(LOOKS, 0.025, shares))
    assert bounds == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=1e-3)


def test_one_look_costs_nothing() -> None:
    """Without a second look the test is the ordinary one."""
    assert look_levels((4,), 0.05, (1.0,)) == pytest.approx((0.05,))


@pytest.mark.parametrize("shares", [(0.2, 0.7, 1.0), (0.0, 0.5, 1.0)])
def test_all_looks_together_spend_the_level_by_simulation(shares: tuple[float, ...]) -> None:
    """Looks need not be equally far apart, and the sum must still be the stated 5 %."""
    looks = (2, 5, 6)
    steps = np.random.default_rng(1).normal(size=(60_000, looks[-1])).cumsum(axis=1)
    bounds = norm.isf(look_levels(looks, 0.05, shares))
    scores = np.stack([steps[:, look - 1] / np.sqrt(look) for look in looks], axis=1)
    crossed = scores > bounds
    assert np.mean(crossed.any(axis=1)) == pytest.approx(0.05, abs=0.004)
    assert np.mean(crossed[:, 0]) == pytest.approx(0.05 * shares[0], abs=0.004)


def test_small_levels_of_many_looks_are_found() -> None:
    """The committed levels are far out in the tail; the search must not stop before them."""
    levels = look_levels((4, 8, 16, 24, 40), 0.0005, (0.2, 0.7, 0.8, 0.9, 1.0))
    assert levels[0] == pytest.approx(0.0001, rel=1e-6)
    assert 0.00025 < levels[1] < 0.0004
    assert all(0 < level < 0.0005 for level in levels)


def test_the_plan_is_linear_between_its_points_and_spends_all_at_the_last_look() -> None:
    """A gate that may look only twice must not leave a part of its level unspent."""
    plan = ((4, 0.2), (8, 0.7), (40, 1.0))
    assert spent_shares((4, 8, 24, 40), plan) == pytest.approx((0.2, 0.7, 0.85, 1.0))
    assert spent_shares((2, 6), plan) == pytest.approx((0.1, 1.0))
    assert spent_shares((1,), plan) == (1.0,)


def test_a_look_that_may_spend_nothing_never_stops() -> None:
    """Its level is 0, and the next look is as if it were the first."""
    levels = look_levels((4, 8), 0.05, (0.0, 1.0))
    assert levels[0] == 0.0
    assert levels[1] == pytest.approx(0.05, rel=1e-6)


def test_only_how_far_apart_looks_are_counts() -> None:
    """Twice as many restarts at every look spend alike; looks that crowd together do not."""
    shares = (0.3, 0.6, 1.0)
    assert look_levels((8, 16, 32), 0.01, shares) == pytest.approx(look_levels((4, 8, 16), 0.01, shares))
    crowded = look_levels((8, 9, 10), 0.01, shares)
    assert crowded[0] == pytest.approx(0.003)
    assert crowded[2] > 1.2 * look_levels((4, 8, 16), 0.01, shares)[2]


def test_two_equal_looks_are_those_of_the_bivariate_normal() -> None:
    """P(first crossed) + P(not at the first, crossed at the second), from a library's own integral."""
    first, second = norm.isf(look_levels((5, 10), 0.02, (0.5, 1.0)))
    correlation = math.sqrt(0.5)
    both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    assert norm.sf(first) == pytest.approx(0.01, rel=1e-6)
    assert 1 - both.cdf([first, second]) == pytest.approx(0.02, abs=2e-6)
