"""The search for the highest rate under the objective, over services whose limit is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from timberline.benchmarks.load.measure import Bracket, Point, choose_start, next_rate, read_bracket
from timberline.benchmarks.load.settings import DEFAULT_LOAD, LoadSettings
from timberline.benchmarks.load.window import Result
from timberline.registry.runtime.settings import load_settings

SETTINGS = load_settings(DEFAULT_LOAD, LoadSettings)
OBJECTIVE = msgspec.structs.replace(SETTINGS.objective, tries=2, invalid_tries=3)
RULES = msgspec.structs.replace(SETTINGS.sweep, growth=1.6, resolution=0.06, max_windows=30, least_rps=10.0)


def search(start: float, measure: Callable[[float], Result]) -> tuple[Bracket, list[Point]]:
    """Run a whole sweep, ``measure`` being the service."""
    points: list[Point] = []
    while (rate := next_rate(points, start, RULES, OBJECTIVE)) is not None:
        points.append(Point(rate, measure(rate)))
    return read_bracket(points, OBJECTIVE), points


@pytest.mark.parametrize("limit", [37.0, 150.0, 151.0, 900.0, 4000.0])
@pytest.mark.parametrize("start", [100.0, 150.0, 2000.0])
def test_a_sharp_limit_is_found_from_below_and_from_above(limit: float, start: float) -> None:
    """The highest rate that was met is within the resolution of the true one, never beyond it."""
    bracket, points = search(start, lambda rate: "met" if rate <= limit else "missed")
    assert bracket.held_rps is not None
    assert bracket.missed_rps is not None
    assert bracket.held_rps <= limit < bracket.missed_rps <= bracket.held_rps * (1 + RULES.resolution)
    assert not bracket.is_censored
    assert len(points) < RULES.max_windows


def test_one_busy_moment_is_not_a_limit() -> None:
    """Neighbours spoil a window now and then; a search that believed each would stop far too low."""
    spoilt = iter([False, True])
    bracket, _ = search(100.0, lambda rate: "missed" if rate > 800 or next(spoilt, False) else "met")
    assert bracket.held_rps == pytest.approx(800, rel=RULES.resolution)


def test_windows_without_a_result_are_repeated_and_then_told() -> None:
    """What the load generator cannot drive the service has not missed: the rate is "at least"."""
    bracket, points = search(100.0, lambda rate: "met" if rate <= 700 else "invalid")
    assert bracket.is_censored
    assert bracket.held_rps is not None
    assert 700 / (1 + RULES.resolution) <= bracket.held_rps <= 700
    assert [point.result for point in points if point.rate_rps == bracket.missed_rps] == ["invalid"] * 3


def test_a_rate_that_was_met_once_has_been_met() -> None:
    """Doubtful windows are not held against a service that then met the objective."""
    seen: list[Result] = ["invalid", "missed", "invalid", "met"]
    points = [Point(100.0, result) for result in seen]
    assert read_bracket(points, OBJECTIVE) == Bracket(100.0, None, False)
    assert next_rate(points[:3], 100.0, RULES, OBJECTIVE) == 100.0
    assert next_rate(points, 100.0, RULES, OBJECTIVE) == 160.0


def test_a_service_that_holds_no_rate_is_given_up() -> None:
    """At a rate of nearly nothing a window takes minutes; somebody waits for the answer."""
    bracket, points = search(100.0, lambda _: "missed")
    assert bracket.held_rps is None
    assert bracket.missed_rps == min(point.rate_rps for point in points)
    assert bracket.missed_rps >= RULES.least_rps


def test_a_service_without_a_limit_ends_with_the_windows() -> None:
    """The number of windows is bounded whatever the service does."""
    bracket, points = search(100.0, lambda _: "met")
    assert len(points) == RULES.max_windows
    assert bracket == Bracket(points[-1].rate_rps, None, False)


def test_noisy_windows_end_near_the_limit_on_average() -> None:
    """Over rounds a service half as good comes out half as good, though each window is a gamble."""
    chance = random.Random(1)

    def measure(limit: float) -> Callable[[float], Result]:
        # The objective is missed with a chance that rises from 0 to 1 around the limit.
        return lambda rate: "missed" if chance.random() < 1 / (1 + (limit / rate) ** 12) else "met"

    ratios = []
    for _ in range(200):
        start = choose_start([], RULES, chance.random())
        found = [search(start, measure(limit))[0].held_rps or 0.0 for limit in (1000.0, 500.0)]
        ratios.append(found[1] / found[0])
    assert sum(ratios) / len(ratios) == pytest.approx(0.5, rel=0.05)


def test_rounds_begin_at_different_rates_near_what_was_held() -> None:
    """The same grid in every round would make two services a little apart equal every time."""
    assert choose_start([], RULES, 0.0) == RULES.start_rps
    assert choose_start([400.0, 900.0], RULES, 0.0) == pytest.approx(600.0 / RULES.growth)
    assert choose_start([400.0, 900.0], RULES, 0.999999) == pytest.approx(600.0, rel=1e-5)
