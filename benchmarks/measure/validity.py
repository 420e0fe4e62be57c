"""Can one restart be believed? Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from timberline.benchmarks.analysis.fairness import find_starved
from timberline.benchmarks.analysis.statistics import ArmRun
from timberline.benchmarks.gate.settings import DuetSettings
from timberline.benchmarks.measure.records import Observation, Outcome


def find_problem(
    outcome: Outcome, observations: Sequence[Observation], arms: Mapping[str, ArmRun], settings: DuetSettings
) -> str:
    """Why a restart cannot be believed; "" when it can.

    Args:
        outcome: of the load generator.
        observations: of the window, in the order sent.
        arms: the same by arm.
        settings: what is too little, and what too much.
    """
    return next(_list_problems(outcome, observations, arms, settings), "")


def _list_problems(
    outcome: Outcome, observations: Sequence[Observation], arms: Mapping[str, ArmRun], settings: DuetSettings
) -> Iterator[str]:
    if outcome.failures:
        yield f"{outcome.failures} failed requests, the first: {outcome.first_failure}"
    if outcome.cycles < settings.min_pairs:
        yield f"{outcome.cycles} pairs, expected at least {settings.min_pairs}"
    if outcome.clock_jump_s > settings.max_clock_jump_s:
        yield f"a clock jumped by {outcome.clock_jump_s:.1f} s"
    shares = {arm: len(run.latencies_ms) for arm, run in arms.items()}
    if set(shares.values()) != {outcome.cycles}:
        yield f"unequal shares: {shares} observations of {outcome.cycles} pairs"
    silence = find_standstill(observations)
    if silence > settings.max_standstill_share * settings.window_s:
        yield f"nothing came or went for {silence:.2f} s of a window of {settings.window_s:g} s"
    starved = find_starved(arms, settings.max_outside_ratio)
    if starved:
        yield starved


def find_standstill(observations: Sequence[Observation]) -> float:
    """The longest time, in seconds, in which no service worked and no request was sent or answered.

    That is between an answer and the next request, where only the load generator can linger, or
    within a request beyond its service's own time. Only one request is in flight at any time.
    """
    between = [
        after.sent_s - before.sent_s - before.latency_ms / 1e3 for before, after in pairwise(observations)
    ]
    within = [
        (seen.latency_ms - (0.0 if math.isnan(seen.handler_ms) else seen.handler_ms)) / 1e3
        for seen in observations
    ]
    return max([0.0, *between, *within])
