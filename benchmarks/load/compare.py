"""From rounds to figures with intervals; the round, with its fresh processes, is the unit. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from timberline.benchmarks.analysis.statistics import bound_mean
from timberline.benchmarks.load.settings import CompareSettings

# By arm, the figure's value in every round, in the order of the rounds.
Rounds = Mapping[str, Sequence[float]]


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A geometric mean over rounds and its one-sided bounds."""

    mean: float
    low: float
    high: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of each arm; ``ratio`` is candidate over champion, None for one version alone."""

    name: str
    unit: str
    arms: dict[str, Span]
    ratio: Span | None


def compare_rounds(
    name: str, unit: str, rounds: Rounds, rules: CompareSettings, *, is_stepped: bool = False
) -> Figure:
    """Means over rounds, and of the paired ratio, each with Student's bounds at ``rules.alpha``.

    All in the logarithm: a rate or a latency cannot be negative, and half is as far as double. The
    ratio is taken within each round, where both arms had the same machine, and then averaged.

    Args:
        name, unit: of the quantity.
        rounds: its values; at least two.
        rules: the level, and the spread that stepped values have at least.
        is_stepped: the values are steps of a sweep, so that those of a few rounds may all be equal
            without being sure; then the SD is moderated by ``rules.s0``.

    Raises:
        EvidenceError: there is no round, or a value is not positive.
    """
    logs = {
        arm: [math.log(value) if value > 0 else math.nan for value in seen] for arm, seen in rounds.items()
    }
    ratio = None
    if "champion" in logs:
        pairs = zip(logs["candidate"], logs["champion"], strict=True)
        ratio = _span([candidate - champion for candidate, champion in pairs], rules, is_stepped)
    return Figure(
        name=name,
        unit=unit,
        arms={arm: _span(seen, rules, is_stepped) for arm, seen in logs.items()},
        ratio=ratio,
    )


def _span(logs: Sequence[float], rules: CompareSettings, is_stepped: bool) -> Span:
    bounds = bound_mean(
        logs,
        s0=rules.s0,
        nu0=rules.nu0 if is_stepped else 0,
        alpha_low=rules.alpha,
        alpha_high=rules.alpha,
    )
    return Span(mean=math.exp(bounds.mean), low=math.exp(bounds.low), high=math.exp(bounds.high))
