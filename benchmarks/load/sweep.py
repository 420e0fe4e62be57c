"""The highest rate under the objective: which rate to try next, and what is known so far. Pure.

First up in geometric steps until a rate misses the objective (or down until one meets it), then
bisect in the logarithm. One window is a noisy oracle, so that a miss has to be repeated before it
stands; a rate that was met once has been met.

Source: the search of a bracket and its bisection are those for a root of a monotonic function; e.g.
Press et al., *Numerical Recipes* (3rd ed., 2007), sections 9.0 and 9.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from timberline.benchmarks.load.settings import Objective, SweepSettings
from timberline.benchmarks.load.validity import Result


@dataclass(frozen=True)
class Point:
    """One window at one rate; ``result`` "invalid" is one that the load generator could not drive."""

    rate_rps: float
    result: Result


@dataclass(frozen=True)
class Bracket:
    """What a sweep has found, in requests a second.

    - ``held_rps``: the highest rate that met the objective; None when none did.
    - ``missed_rps``: the lowest rate above that did not; None when there was none.
    - ``is_censored``: the load generator could not go on, so that the service may hold more.
    """

    held_rps: float | None
    missed_rps: float | None
    is_censored: bool


def read_bracket(points: Sequence[Point], objective: Objective) -> Bracket:
    """What the windows so far say.

    A rate counts as missed after ``objective.tries`` windows that missed it, or after
    ``objective.invalid_tries`` that the load generator could not drive.
    """
    results: dict[float, list[Result]] = {}
    for point in points:
        results.setdefault(point.rate_rps, []).append(point.result)
    held = max((rate for rate, seen in results.items() if "met" in seen), default=None)
    above = {rate: seen for rate, seen in results.items() if held is None or rate > held}
    missed = {rate for rate, seen in above.items() if seen.count("missed") >= objective.tries}
    undriven = {rate for rate, seen in above.items() if seen.count("invalid") >= objective.invalid_tries}
    lowest = min(missed | undriven, default=None)
    return Bracket(held, lowest, lowest is not None and lowest not in missed)


def next_rate(
    points: Sequence[Point], start_rps: float, rules: SweepSettings, objective: Objective
) -> float | None:
    """The rate to measure next; None when the sweep is over.

    It is over when the bracket is as narrow as ``rules.resolution``, when ``rules.max_windows`` are
    used up, or when ``rules.least_rps`` was missed.
    """
    if not points:
        return start_rps
    last = points[-1].rate_rps
    bracket = read_bracket(points, objective)
    held, missed = bracket.held_rps, bracket.missed_rps
    if len(points) >= rules.max_windows or (held and missed and missed / held <= 1 + rules.resolution):
        return None
    if last not in (held, missed):
        return last  # once more: what it said does not stand yet
    if held and missed:
        return math.sqrt(held * missed)
    if held:
        return last * rules.growth
    return last / rules.growth if last / rules.growth >= rules.least_rps else None


def choose_start(held_before: Sequence[float], rules: SweepSettings, chance: float) -> float:
    """Where a round's sweeps begin, the same for all arms.

    A random part of a step, so that the rates tried differ from round to round: with the same grid
    in every round, two services a little apart would look equal every time.

    Args:
        held_before: rates that arms held in rounds before; the next round begins one step below.
        rules: steps and the first start.
        chance: uniform on [0, 1).
    """
    start = rules.start_rps
    if held_before:
        start = geometric_mean(held_before) / rules.growth
    return start * math.exp(chance * math.log(rules.growth))
