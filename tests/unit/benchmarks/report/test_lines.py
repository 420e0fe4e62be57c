"""Every line on the scale of its own limit."""

from __future__ import annotations

from typing import Any

import pytest

from timberline.benchmarks.report.lines import limit_usage, margin_shares, relative_change
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.verdict import VerdictLine


def line(name: str = "p50", **given: Any) -> VerdictLine:
    """A line with these numbers."""
    return VerdictLine(name=name, outcome="PASS", reason="made up", **({"candidate": None} | given))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (
            line(unit="ms, ratio", candidate=1, difference=1.05, low=0.95, high=1.15, limit=1.1),
            (0.5, -0.5, 1.5),
        ),
        (
            line(unit="share of rows", candidate=1, difference=-0.001, low=-0.004, high=0.002, limit=-0.005),
            (0.2, -0.4, 0.8),
        ),
        (line(unit="ms", candidate=10, low=5, high=20, limit=50), (0.2, 0.1, 0.4)),
        (
            line("accuracy_floor", unit="share of rows", candidate=0.9, low=0.88, high=0.92, limit=0.8),
            (0.5, 0.4, 0.6),
        ),
        (line(unit="bytes", candidate=20, champion=10, difference=10, limit=100), (0.2, 0.2, 0.2)),
    ],
    ids=["ratio", "drop", "ceiling", "floor", "size"],
)
def test_use_is_a_share_of_the_limit(given: VerdictLine, used: tuple[float, float, float]) -> None:
    """Better than the champion is below 0, and an interval never has its ends exchanged."""
    found = limit_usage(given)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx(used)


@pytest.mark.parametrize(
    "given",
    [
        line(candidate=1.0),
        line(limit=1.0),
        line(unit="share of rows", candidate=1, difference=0.0, low=0.0, high=0.0, limit=0.0),
    ],
    ids=["no limit", "no value", "limit of nothing"],
)
def test_what_has_no_scale_is_left_out(given: VerdictLine) -> None:
    """Division by a limit of 0 must not take the whole report away."""
    assert limit_usage(given) is None


def test_a_ratio_is_a_change_from_one() -> None:
    """The plots of the three contrasts share the unit: per cent more than the champion."""
    change = relative_change(line(unit="ms, ratio", candidate=1, difference=1.05, low=0.95, limit=1.1))
    assert change is not None
    assert (change.mean, change.low, change.limit) == pytest.approx((0.05, -0.05, 0.1))
    assert change.high is None
    assert relative_change(line(candidate=1.0)) is None


def test_margins_are_those_of_the_rules() -> None:
    """A margin that is drawn elsewhere than where the gate marks would be a lie."""
    shares = margin_shares(load_gate_settings())
    assert shares["net_p50"] == pytest.approx(0.2)
    assert shares["p50"] == 0.5
    assert shares["service_p50"] == shares["cpu_per_request"] == 0.2
