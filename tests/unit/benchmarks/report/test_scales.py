"""Every value of a plot goes through a scale."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from timberline.benchmarks.report.scales import Scale


@pytest.mark.parametrize(
    ("scale", "values", "places"),
    [
        (Scale(-1, 3, 0, 100), (-1, 0, 3), (0, 25, 100)),
        (Scale(0, 10, 200, 0), (0, 5, 10), (200, 100, 0)),
        (Scale(0.1, 10, 0, 100, "log"), (0.1, 1, 10), (0, 50, 100)),
        (Scale(0.01, 0.99, 0, 100, "normal"), (0.01, 0.5, 0.99), (0, 50, 100)),
    ],
)
def test_values_go_to_their_places(
    scale: Scale, values: tuple[float, ...], places: tuple[float, ...]
) -> None:
    """A picture that is off is worse than none."""
    assert [scale(value) for value in values] == pytest.approx(places)


@pytest.mark.parametrize(
    "scale", [Scale(0, 1, 0, 100), Scale(0.1, 1, 0, 100, "log"), Scale(0.01, 0.9, 0, 100, "normal")]
)
def test_what_lies_outside_is_drawn_at_the_edge(scale: Scale) -> None:
    """One frozen second must not draw over the rest of the page."""
    assert (scale(-5), scale(5)) == (0, 100)


@pytest.mark.parametrize("scale", [Scale(2, 2, 0, 100), Scale(2, 2, 0, 100, "log")])
def test_a_scale_without_length_puts_all_into_the_middle(scale: Scale) -> None:
    """Twice the same version: every difference may be 0."""
    assert scale(2) == 50


def test_normal_places_are_those_of_scipy() -> None:
    """The percentile axis is the normal quantile function."""
    scale = Scale(0.01, 0.99, norm.ppf(0.01), norm.ppf(0.99), "normal")
    assert [scale(share) for share in (0.05, 0.3, 0.97)] == pytest.approx(norm.ppf([0.05, 0.3, 0.97]))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-0.013, 0.022, [-0.01, -0.005, 0, 0.005, 0.01, 0.015, 0.02]),
        (0.99, 1.21, [1.0, 1.05, 1.1, 1.15, 1.2]),
        (5, 5, [5]),
    ],
)
def test_linear_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    """Nobody reads an axis of 0.0137."""
    assert Scale(low, high, 0, 1).ticks(5) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.3, 12, [0.5, 1, 2, 5, 10]),
        (0.2, 1000, [0.3, 1, 3, 10, 30, 100, 300, 1000]),
        (1e-3, 1e5, [1e-3, 1e-2, 1e-1, 1, 10, 100, 1e3, 1e4, 1e5]),
    ],
)
def test_log_ticks_thin_out_with_the_range(low: float, high: float, ticks: list[float]) -> None:
    """Latencies span two decades on a good day and five on a bad one."""
    assert Scale(low, high, 0, 1, "log").ticks(7) == pytest.approx(ticks)


def test_normal_ticks_are_named_percentiles() -> None:
    """p50 and p99 are what is judged."""
    scale = Scale(0.01, 0.99, 0, 100, "normal")
    assert {0.01, 0.5, 0.99} <= set(scale.ticks(7))


def test_no_number_is_lost_to_a_log_scale() -> None:
    """A time of 0 has no logarithm, but it may be measured."""
    assert math.isfinite(Scale(0.1, 1, 0, 100, "log")(0.0))
