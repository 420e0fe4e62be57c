"""One contrast of two versions over restarts → one line of the verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, stdev

import msgspec

from timberline.benchmarks.analysis.sequential import look_levels, spent_shares
from timberline.benchmarks.analysis.statistics import ArmRun, Bounds, Restart, bound_mean
from timberline.benchmarks.gate.settings import GateSettings
from timberline.registry.verdict import Outcome, VerdictLine

OBSERVATIONS = "restart-*.csv.gz"


@dataclass(frozen=True)
class Question:
    """One contrast and how it is judged; everything on the contrast's own scale.

    ``values`` has one number a restart, ``medians`` are what is shown of each arm. More than ``limit``
    blocks; a line that passes is marked when more than ``margin`` is proven. ``margin`` None: the line can
    block and never keeps a release waiting.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    medians: dict[str, float]
    s0: float
    alpha: float
    limit: float
    margin: float | None
    show: Callable[[float], float] = math.exp


def medians_by_arm(restarts: Sequence[Restart], read: Callable[[ArmRun], float]) -> dict[str, float]:
    """The median over restarts of what ``read`` says of an arm; empty without restarts."""
    return {arm: median(read(r.arms[arm]) for r in restarts) for arm in ("champion", "candidate") if restarts}


def judge_question(asked: Question, settings: GateSettings) -> VerdictLine:
    """BLOCK when more than the limit is proven, PASS when the limit is excluded.

    A line that passes is marked WARN when the increase is proven to exceed the margin. The levels of the
    bounds are spent over all looks.
    """
    bounds = bound_at_look(asked.values, asked.s0, asked.alpha, settings)
    if bounds is None:
        return not_at_a_look(asked.name, len(asked.values))
    is_last = bounds.count == settings.duet.looks[-1]
    outcome, why = _decide(asked, bounds, settings, is_last=is_last)
    margin = asked.margin
    is_marked = outcome == "PASS" and margin is not None and bounds.low > margin
    if is_marked and margin is not None:
        why += f", one of more than {_say_increase(asked, margin)} is proven"
    return VerdictLine(
        name=asked.name,
        candidate=asked.medians["candidate"],
        champion=asked.medians["champion"],
        difference=asked.show(bounds.mean),
        low=asked.show(bounds.low),
        high=asked.show(bounds.high),
        limit=asked.show(asked.limit),
        unit=asked.unit,
        outcome=outcome,
        reason=f"{why}; {describe_bounds(bounds, settings)}",
        evidence=OBSERVATIONS,
        mark="WARN" if is_marked else msgspec.UNSET,
    )


def _decide(asked: Question, bounds: Bounds, settings: GateSettings, *, is_last: bool) -> tuple[Outcome, str]:
    limit = _say_increase(asked, asked.limit)
    if bounds.low > asked.limit:
        return "BLOCK", f"an increase of more than {limit} is proven"
    if asked.margin is None:
        return "PASS", f"no increase of more than {limit} is proven"
    spread = stdev(asked.values) if bounds.count > 1 else 0.0
    if spread > settings.latency.max_spread * asked.s0:
        # No yes can come of it; more restarts may still prove a no, or be quieter.
        why = f"restarts differ by an SD of {spread:.3f}, identical ones by {asked.s0:.3f}"
        return "INVALID" if is_last else "INCONCLUSIVE", why
    if bounds.high < asked.limit:
        return "PASS", f"an increase of {limit} is excluded"
    return "INCONCLUSIVE", f"an increase of {limit} is not excluded"


def _say_increase(asked: Question, value: float) -> str:
    return f"{asked.show(value) - asked.show(0.0):.1%}"


def bound_at_look(values: Sequence[float], s0: float, alpha: float, settings: GateSettings) -> Bounds | None:
    """Bounds at the levels of this look, or None when these restarts are no look."""
    looks = settings.duet.looks
    if len(values) not in looks:
        return None
    look, latency = looks.index(len(values)), settings.latency
    block, accept = (spent_shares(looks, plan) for plan in (latency.spend_block, latency.spend_pass))
    return bound_mean(
        values,
        s0=s0,
        nu0=latency.nu0,
        alpha_low=look_levels(looks, alpha, block)[look],
        alpha_high=look_levels(looks, latency.alpha_pass, accept)[look],
    )


def describe_bounds(bounds: Bounds, settings: GateSettings) -> str:
    """From how much the bounds come, in words."""
    looks = settings.duet.looks
    return (
        f"{bounds.count} restarts (look {looks.index(bounds.count) + 1} of {len(looks)}), "
        f"moderated SD {bounds.sd:.4f}"
    )


def not_at_a_look(name: str, count: int) -> VerdictLine:
    """The line of a contrast that was asked for between two looks."""
    return VerdictLine(
        name=name, candidate=None, outcome="INVALID", reason=f"{count} complete restarts are too few to judge"
    )
