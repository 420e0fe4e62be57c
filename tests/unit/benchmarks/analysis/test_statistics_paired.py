"""Formulas of the accuracy judgement against published figures and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from timberline.benchmarks.analysis.statistics import (
    Discordance,
    adjust_holm,
    bound_average,
    bound_drop,
    bound_proportion,
    p_value_of_drop,
)


def test_mid_p_equals_the_published_value_for_the_airway_data() -> None:
    """Fagerland, Lydersen & Laake 2013, table 1: b = 7, c = 1 gives a two-sided mid-p of 0.039."""
    assert 2 * p_value_of_drop(Discordance(21, 7, 1)) == pytest.approx(0.039, abs=5e-4)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 0), (4, 9), (12, 12), (40, 21)])
def test_mid_p_equals_counting_every_split_of_the_discordant_rows(lost: int, gained: int) -> None:
    """The binomial tail is easily taken one step too far; counting cannot be."""
    count = lost + gained
    more = sum(math.comb(count, k) for k in range(lost + 1, count + 1))
    expected = (more + math.comb(count, lost) / 2) / 2**count
    assert p_value_of_drop(Discordance(100, lost, gained)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "lost", "gained", "alpha", "low", "high"),
    [
        # Tango 1998, section 6.2 (sleeping difficulties).
        (32, 9, 3, 0.025, -0.027, 0.390),
        # Fagerland, Lydersen & Laake 2014, airway data.
        (21, 1, 7, 0.025, -0.517, -0.026),
        # R package PropCIs: scoreci.mp(25, 28, 618, 0.90).
        (618, 28, 25, 0.05, -0.0148, 0.0247),
    ],
)
def test_tango_bounds_equal_published_ones(
    rows: int, lost: int, gained: int, alpha: float, low: float, high: float
) -> None:
    """PASS rests on this bound; three authors' figures are matched to their last digit."""
    found = bound_drop(Discordance(rows, lost, gained), alpha_low=alpha, alpha_high=alpha)
    digits = 5e-4 if rows < 100 else 5e-5
    assert found == pytest.approx((low, high), abs=digits)


@pytest.mark.parametrize(("rows", "lost", "gained"), [(50, 3, 8), (200, 0, 0), (200, 5, 0), (80, 30, 2)])
def test_tango_bounds_are_where_the_constrained_likelihood_says(rows: int, lost: int, gained: int) -> None:
    """The closed form of the restricted estimate is checked by maximising the likelihood on a grid."""
    for bound, sign in zip(
        bound_drop(Discordance(rows, lost, gained), alpha_low=0.05, alpha_high=0.05), (1, -1), strict=True
    ):
        shares = np.linspace(max(0.0, -bound) + 1e-9, (1 - bound) / 2 - 1e-9, 400_001)
        neither = rows - lost - gained
        with np.errstate(divide="ignore"):
            logs = [np.log(shares + bound), np.log(shares), np.log(1 - 2 * shares - bound)]
        likelihood = sum(
            n * part if n else 0 * part for n, part in zip((lost, gained, neither), logs, strict=True)
        )
        q = shares[np.nanargmax(likelihood)]
        score = (lost - gained - rows * bound) / math.sqrt(rows * (2 * q + bound * (1 - bound)))
        assert score == pytest.approx(sign * norm.isf(0.05), abs=0.02)


def test_upper_bound_holds_its_level_by_simulation() -> None:
    """A one-sided 95 % bound may lie below the true drop in about 5 % of samples, not in 10 %."""
    chance = np.random.default_rng(5)
    lost, gained, rows = 0.02, 0.015, 4000
    draws = chance.multinomial(rows, [lost, gained, 1 - lost - gained], size=1500)
    missed = [
        bound_drop(Discordance(rows, int(b), int(c)), alpha_low=0.05, alpha_high=0.05)[1] < lost - gained
        for b, c, _ in draws
    ]
    assert 0.03 < np.mean(missed) < 0.07


def test_holm_adjusts_as_the_textbook_example() -> None:
    """0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02 (R: p.adjust, method "holm")."""
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_rejects_what_its_definition_rejects() -> None:
    """Adjusted values are only a way to write the step-down rule; here is the rule itself."""
    for p_values in itertools.product((0.001, 0.012, 0.02, 0.3), repeat=3):
        rejected = set()
        for step, (p, index) in enumerate(sorted((p, i) for i, p in enumerate(p_values))):
            if p > 0.05 / (len(p_values) - step):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjust_holm(p_values)) if p <= 0.05} == rejected


def test_wilson_bounds_equal_the_published_example() -> None:
    """Newcombe 1998, method 3: 81 of 263 gives 0.2553 to 0.3662."""
    assert bound_proportion(81, 263, alpha=0.025) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_bounds_of_a_mean_are_those_of_the_t_test() -> None:
    """A library's own interval of the same numbers; with few rows the normal one is too narrow."""
    values = np.random.default_rng(2).normal(0.3, 2.0, 7)
    found = bound_average(values.mean(), values.std(ddof=1), 7, alpha=0.01)
    expected = ttest_1samp(values, 0.0).confidence_interval(0.98)
    assert found == pytest.approx((expected.low, expected.high))


def test_one_row_bounds_no_mean() -> None:
    """A spread takes two; without one, the mean of one row would pass for certain."""
    assert bound_average(0.1, 0.0, 1, alpha=0.05) == (-math.inf, math.inf)


@pytest.mark.parametrize(("rows", "rate"), [(2_000, 0.05), (500, 0.2)])
def test_equal_versions_are_rejected_as_often_as_the_level_says(rows: int, rate: float) -> None:
    """Of 40,000 equal candidates the mid-p test may reject about 1 in 100; the exact one is below that."""
    draws = np.random.default_rng(11).multinomial(rows, [rate / 2, rate / 2, 1 - rate], size=40_000)
    kinds, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    rejected = [p_value_of_drop(Discordance(rows, int(b), int(c))) <= 0.01 for b, c in kinds]
    assert 0.007 < counts[rejected].sum() / 40_000 < 0.0125


def test_bounds_of_a_drop_end_where_drops_do() -> None:
    """Where every row was gained, or lost, nothing beyond -1 or 1 is left to search."""
    assert bound_drop(Discordance(5, 0, 5), alpha_low=0.05, alpha_high=0.05)[0] == -1.0
    assert bound_drop(Discordance(5, 5, 0), alpha_low=0.05, alpha_high=0.05)[1] == 1.0


def test_each_bound_of_a_drop_has_its_own_level() -> None:
    """One is shown and the other decides."""
    pairs = Discordance(500, 20, 10)
    low, high = bound_drop(pairs, alpha_low=0.01, alpha_high=0.2)
    assert low == bound_drop(pairs, alpha_low=0.01, alpha_high=0.01)[0]
    assert high == bound_drop(pairs, alpha_low=0.2, alpha_high=0.2)[1]


def test_a_drop_and_a_rate_are_shares_of_all_rows() -> None:
    """b - c and b + c over N."""
    assert (Discordance(200, 12, 4).drop, Discordance(200, 12, 4).rate) == (0.04, 0.08)


@pytest.mark.parametrize(("successes", "rows"), [(0, 50), (50, 50)])
def test_wilson_bounds_stay_within_zero_and_one(successes: int, rows: int) -> None:
    """Rounding takes them a little beyond, and a share is none there."""
    low, high = bound_proportion(successes, rows, alpha=0.05)
    assert 0.0 <= low < high <= 1.0
    assert min(low, 1 - high) == pytest.approx(0.0, abs=1e-12)


def test_holm_adjusts_nothing_beyond_one() -> None:
    """A p-value of 3 has no meaning to anybody who reads a verdict."""
    assert adjust_holm([0.9, 0.5, 0.7]) == [1.0, 1.0, 1.0]
    assert adjust_holm([]) == []


def test_two_rows_bound_a_mean() -> None:
    """With one degree of freedom: t(0.975; 1) is 12.706."""
    low, high = bound_average(1.0, 2.0, 2, alpha=0.025)
    assert (low, high) == pytest.approx((1 - 12.7062 * math.sqrt(2), 1 + 12.7062 * math.sqrt(2)), rel=1e-5)
