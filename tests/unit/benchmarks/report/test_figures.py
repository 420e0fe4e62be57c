"""What is computed for the figures alone; everything else was judged before."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.support.records import build_record
from timberline.benchmarks.report.figures import bound_shift, draw_latency, format_ms, shift_quantiles


def test_a_cost_of_every_request_is_the_same_at_every_percentile() -> None:
    """A shape that is not in the data would send a reader after the wrong cause."""
    champion = np.random.default_rng(0).lognormal(size=5000)
    assert shift_quantiles(champion.tolist(), (1.1 * champion).tolist()) == pytest.approx(0.1)


def test_a_cost_of_few_requests_shows_in_the_tail_alone() -> None:
    """The table below the plot is for this case."""
    champion = np.random.default_rng(0).lognormal(size=5000)
    candidate = np.where(np.arange(5000) % 50 == 0, champion + 50, champion)
    shift = shift_quantiles(champion.tolist(), candidate.tolist())
    assert abs(shift[0]) < 0.05
    assert shift[2] > 1


def test_a_percentile_that_is_no_time_has_no_difference() -> None:
    """Net of waits a time may come out as 0 or less; a ratio of it is nonsense."""
    champion = np.concatenate([np.full(900, -1e-6), np.full(100, 1.0)])
    shift = shift_quantiles(champion.tolist(), (champion + 0.1).tolist())
    assert np.isnan(shift[0])
    assert shift[1:] == pytest.approx(0.1)


def test_the_bounds_are_the_t_interval_of_scipy() -> None:
    """It lies between restarts, not between requests."""
    shifts = np.random.default_rng(1).normal(size=(6, 3))
    mean, low, high = bound_shift(shifts)
    wanted = stats.t.interval(0.95, 5, loc=shifts.mean(axis=0), scale=stats.sem(shifts, axis=0))
    assert mean == pytest.approx(shifts.mean(axis=0))
    assert low == pytest.approx(wanted[0])
    assert high == pytest.approx(wanted[1])


def test_one_restart_has_no_bounds() -> None:
    """A single start has no spread."""
    mean, low, high = bound_shift(np.ones((1, 3)))
    assert (mean == low).all()
    assert (mean == high).all()


@pytest.mark.parametrize(
    ("value", "text"), [(0.08992, "0.0899"), (12.0, "12"), (1234.5, "1230"), (0.00012345, "0.00012")]
)
def test_milliseconds_have_three_digits(value: float, text: str) -> None:
    """A tick that reads 1e-01 is not read."""
    assert format_ms(value) == text


def test_percentiles_stand_beside_their_difference() -> None:
    """The curves show the shape, the table the numbers; times of 0 or less are in neither."""
    record = build_record(restarts=4, pairs=300, slower=0.1)
    figure = draw_latency(record)
    assert figure is not None
    client, *_ = figure.panels
    assert list(client.head) == ["ms", "champion", "candidate", "difference"]
    pooled = [value for restart in record.restarts for value in restart.arms["candidate"].latencies_ms]
    for (name, cells), wanted in zip(client.rows, np.quantile(pooled, [0.5, 0.95, 0.99]), strict=True):
        assert cells[1] == format_ms(float(wanted)), name
    shift = [
        shift_quantiles(restart.arms["champion"].latencies_ms, restart.arms["candidate"].latencies_ms)[0]
        for restart in record.restarts
    ]
    assert client.rows[0][1][2].startswith(f"{np.mean(shift):+.1%}\n")


def test_a_first_version_has_percentiles_without_a_difference() -> None:
    """There is nothing to compare with, but its times are read all the same."""
    figure = draw_latency(build_record(restarts=4, pairs=300, is_first=True))
    assert figure is not None
    assert [list(panel.head) for panel in figure.panels] == [["ms", "candidate"]] * 3
    assert "difference" not in figure.caption
