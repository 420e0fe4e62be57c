"""Bounds of a rate that was counted."""

from __future__ import annotations

import pytest
from scipy.stats import beta

from timberline.benchmarks.selftest.scenarios import bound_rate, bound_rate_below


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 5 (Clopper-Pearson).
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_bounds_are_the_published_ones(count: int, of: int, low: float, high: float) -> None:
    """The rate of the gate's mistakes is what people are asked to believe; a wrong interval is a lie."""
    assert bound_rate(count, of) == pytest.approx((low, high), abs=5e-5)


def test_bounds_are_quantiles_of_the_beta_distribution() -> None:
    """The closed form of the method, so that a change of library default does not go unnoticed."""
    expected = beta.ppf(0.025, 7, 94), beta.ppf(0.975, 8, 93)
    assert bound_rate(7, 100) == pytest.approx(expected, rel=1e-9)
    assert bound_rate_below(7, 100) == pytest.approx(beta.ppf(0.05, 7, 94), rel=1e-9)


def test_no_gate_bounds_nothing() -> None:
    """Before the first gate every rate is possible, and none is an alarm."""
    assert bound_rate(0, 0) == (0.0, 1.0)
    assert bound_rate_below(0, 0) == 0.0
