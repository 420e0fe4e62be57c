"""Restarts → lines of the verdict. Pure.

Only client p50 is judged: between identical processes on a shared machine, client p95 and p99
differ by half their value from restart to restart, so no rule can hold them; they are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from benchmarks.config import GateSettings
from benchmarks.judge.measure import Bounds, Restart, bound_mean, pool_latencies
from benchmarks.judge.sequential import look_levels
from registry.manifest import GateLimits, Manifest
from registry.verdict import Outcome, VerdictLine


def judge_answers(restarts: Sequence[Restart]) -> VerdictLine:
    """Every request was answered rightly by the version that was asked; INVALID otherwise, never PASS."""
    problem = next((f"restart {r.number}: {r.problem}" for r in restarts if r.problem), "")
    if not restarts:
        problem = "nothing was measured"
    pairs = sum(restart.pairs for restart in restarts)
    return VerdictLine(
        name="answers",
        candidate=float(pairs),
        unit="pairs",
        outcome="INVALID" if problem else "PASS",
        reason=problem
        or f"all answers right in {len(restarts)} restarts: model, version, golden probabilities",
    )


def judge_p50(restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings) -> VerdictLine:
    """Client p50 of the candidate over the champion's.

    BLOCK: the lower bound of the mean log ratio exceeds ``block_share`` of the allowed increase.
    PASS: the upper bound is below the allowed increase. Both levels are spent over all looks.
    """
    allowed = limits.max_p50_increase
    bounds = _bound([restart.log_ratio for restart in restarts], settings)
    if bounds is None:
        return _not_at_a_look("p50", len(restarts))
    margin = settings.latency.block_share * allowed
    outcome: Outcome
    if bounds.low > math.log1p(margin):
        outcome, why = "BLOCK", f"more than {margin:.1%} slower"
    elif bounds.high < math.log1p(allowed):
        outcome, why = "PASS", f"{allowed:.0%} slower is excluded"
    else:
        outcome, why = "INCONCLUSIVE", f"{allowed:.0%} slower is not excluded"
    p50 = {arm: median(r.arms[arm].p50_ms for r in restarts) for arm in ("candidate", "champion")}
    return VerdictLine(
        name="p50",
        candidate=p50["candidate"],
        champion=p50["champion"],
        difference=math.exp(bounds.mean),
        low=math.exp(bounds.low),
        high=math.exp(bounds.high),
        limit=1 + allowed,
        unit="ms, ratio",
        outcome=outcome,
        reason=f"{why}; {_describe(bounds, settings)}",
    )


def judge_p50_ceiling(restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings) -> VerdictLine:
    """Client p50 of the candidate against the absolute limit, bounded in the same way."""
    values = [math.log(restart.arms["candidate"].p50_ms) for restart in restarts]
    bounds = _bound(values, settings)
    if bounds is None:
        return _not_at_a_look("p50_ceiling", len(restarts))
    ceiling = math.log(limits.max_p50_ms)
    outcome: Outcome
    outcome = "PASS" if bounds.high < ceiling else "BLOCK" if bounds.low > ceiling else "INCONCLUSIVE"
    return VerdictLine(
        name="p50_ceiling",
        candidate=math.exp(bounds.mean),
        low=math.exp(bounds.low),
        high=math.exp(bounds.high),
        limit=limits.max_p50_ms,
        unit="ms",
        outcome=outcome,
        reason=_describe(bounds, settings),
    )


def _bound(values: list[float], settings: GateSettings) -> Bounds | None:
    """Bounds at the levels of this look, or None when these restarts are no look."""
    looks = settings.duet.looks
    if len(values) not in looks:
        return None
    look, latency = looks.index(len(values)), settings.latency
    return bound_mean(
        values,
        s0=latency.s0,
        nu0=latency.nu0,
        alpha_low=look_levels(looks, latency.alpha_block, "obrien-fleming")[look],
        alpha_high=look_levels(looks, latency.alpha_pass, "pocock")[look],
    )


def _describe(bounds: Bounds, settings: GateSettings) -> str:
    looks = settings.duet.looks
    return (
        f"{bounds.count} restarts (look {looks.index(bounds.count) + 1} of {len(looks)}), "
        f"moderated SD of the logarithm {bounds.sd:.3f}"
    )


def _not_at_a_look(name: str, count: int) -> VerdictLine:
    return VerdictLine(
        name=name, candidate=None, outcome="INVALID", reason=f"{count} complete restarts are too few to judge"
    )


def report_service(restarts: Sequence[Restart], versions: dict[str, Manifest]) -> tuple[VerdictLine, ...]:
    """Tail latencies, start-up, memory and size; reported, decide nothing."""
    pooled = {arm: pool_latencies(restarts, arm) for arm in versions}
    measured: dict[str, tuple[str, dict[str, float]]] = {
        "p95": ("ms", {arm: pooled[arm].p95_ms for arm in versions}),
        "p99": ("ms", {arm: pooled[arm].p99_ms for arm in versions}),
        "start_up": ("s", {arm: median(r.arms[arm].ready_s for r in restarts) for arm in versions}),
        "memory": (
            "bytes",
            {arm: float(median(r.arms[arm].resident_bytes for r in restarts)) for arm in versions},
        ),
        "model_size": ("bytes", {arm: float(m.files["model.onnx"].size) for arm, m in versions.items()}),
    }
    return tuple(
        VerdictLine(
            name=name,
            candidate=values["candidate"],
            champion=values.get("champion"),
            difference=values["candidate"] - values["champion"] if "champion" in values else None,
            unit=unit,
            outcome="INFO",
            reason="reported, not judged",
        )
        for name, (unit, values) in measured.items()
    )
