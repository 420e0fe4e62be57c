"""What is computed for the pictures alone; everything else was judged before."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from timberline.benchmarks.report.plots.distributions import bin_shares, format_ms
from timberline.benchmarks.report.plots.quantiles import bound_shift, shift_quantiles


def test_a_cost_of_every_request_is_a_level_line() -> None:
    """A shape that is not in the data would send somebody after the wrong cause."""
    champion = np.random.default_rng(0).lognormal(size=5000)
    assert shift_quantiles(champion.tolist(), (1.1 * champion).tolist()) == pytest.approx(0.1)


def test_a_cost_of_few_requests_shows_in_the_tail_alone() -> None:
    """This is what the plot is for."""
    champion = np.random.default_rng(0).lognormal(size=5000)
    candidate = np.where(np.arange(5000) % 50 == 0, champion + 50, champion)
    shift = shift_quantiles(champion.tolist(), candidate.tolist())
    assert abs(shift[49]) < 0.05
    assert shift[98] > 1


def test_percentiles_of_next_to_no_time_are_left_out() -> None:
    """Net of waits a time may come out as 0 or less; a ratio of it fills the plot with nonsense."""
    champion = np.concatenate([np.full(50, -1e-6), np.full(950, 1.0)])
    shift = shift_quantiles(champion.tolist(), (champion + 0.1).tolist())
    assert np.isnan(shift[:4]).all()
    assert shift[10:] == pytest.approx(0.1)


def test_the_band_is_the_t_interval_of_scipy() -> None:
    """It lies between restarts, not between requests."""
    shifts = np.random.default_rng(1).normal(size=(6, 99))
    mean, low, high = bound_shift(shifts)
    wanted = stats.t.interval(0.95, 5, loc=shifts.mean(axis=0), scale=stats.sem(shifts, axis=0))
    assert (mean, low, high) == (
        pytest.approx(shifts.mean(axis=0)),
        pytest.approx(wanted[0]),
        pytest.approx(wanted[1]),
    )


def test_one_restart_has_no_band() -> None:
    """A single start has no spread that could be drawn."""
    mean, low, high = bound_shift(np.ones((1, 99)))
    assert (mean == low).all()
    assert (mean == high).all()


def test_bins_hold_every_request() -> None:
    """What lies beyond the axis is drawn in its outer bins and not lost."""
    shares = bin_shares(np.array([0.01, 1.5, 2.5, 900.0]), np.array([1.0, 2.0, 3.0]))
    assert shares.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("value", "text"), [(0.08992, "0.0899"), (12.0, "12"), (1234.5, "1230"), (0.00012345, "0.00012")]
)
def test_milliseconds_have_three_digits(value: float, text: str) -> None:
    """A tick that reads 1e-01 is not read."""
    assert format_ms(value) == text
