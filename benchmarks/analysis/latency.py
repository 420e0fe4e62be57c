"""Restarts → lines of the verdict. Pure.

Seven contrasts are judged. Net time is time less every wait for a processor that others had, which is
what a loaded machine hardly disturbs: p50, p99 and the slowest twentieth of the net time in the
service, p99 of the net time that the client saw. The p50 is judged in two units: as a share of what
the client waits for (`net_p50`), and of the time in the service itself (`service_p50`), since the client's
own half millisecond makes any service look alike. What a version computes besides its requests is in
the processor time of its process (`cpu_per_request`). The client's p50 with all waits holds what net time
cannot see: waits that a version makes itself. Raw client p95 and p99 are reported: on a shared
machine they are others'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from timberline.benchmarks.analysis.question import (
    OBSERVATIONS,
    Question,
    bound_at_look,
    describe_bounds,
    judge_question,
    medians_by_arm,
    not_at_a_look,
)
from timberline.benchmarks.analysis.statistics import Contrasts, Restart, average_slowest, pool_latencies
from timberline.benchmarks.gate.settings import GateSettings
from timberline.registry.manifest import GateLimits, Manifest
from timberline.registry.verdict import Outcome, VerdictLine


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


def judge_latencies(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """The candidate's times beside the champion's: p50, p99 and tail in the service, the client's, its CPU.

    BLOCK: the lower bound of the mean over restarts exceeds the limit. PASS: the upper bound is below the
    limit; marked WARN when the lower one exceeds the margin. All levels are spent over all looks. No PASS
    when the restarts differ far more than identical processes do on this kind of machine: what they
    differ by is then not known, and the line is INVALID at the last look. INVALID, too, when the service
    did not tell its times, or its processor time could not be read.
    """
    latency = settings.latency
    contrasts = [restart.contrasts for restart in restarts]
    p50, p99 = limits.max_p50_increase, limits.max_p99_increase
    told: dict[str, Callable[[Contrasts], float | None]] = {
        "net_p50": lambda c: c.net_p50,
        "service_p50": lambda c: c.service_p50,
        "net_p99": lambda c: c.net_p99,
        "net_tail": lambda c: c.net_tail,
        "p50": lambda c: c.client_p50,
        "client_p99": lambda c: c.client_p99,
        "cpu_per_request": lambda c: c.cpu_per_request,
    }
    values = {
        name: tuple(value for c in contrasts if (value := read(c)) is not None) for name, read in told.items()
    }
    tail = math.log1p(p99), math.log1p(latency.p99_margin * p99)
    questions = (
        Question(
            "net_p50",
            "ms, share of client p50",
            values["net_p50"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.net_ms, 0.50)),
            latency.s0.net_p50,
            latency.alpha_net_p50,
            limit=latency.net_p50_limit * p50,
            margin=latency.net_p50_margin * p50,
            show=float,
        ),
        Question(
            "service_p50",
            "ms, ratio",
            values["service_p50"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.net_ms, 0.50)),
            latency.s0.service_p50,
            latency.alpha_service_p50,
            limit=math.log1p(limits.max_service_p50_increase),
            margin=math.log1p(latency.service_margin * limits.max_service_p50_increase),
        ),
        Question(
            "net_p99",
            "ms, ratio",
            values["net_p99"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.net_ms, 0.99)),
            latency.s0.net_p99,
            latency.alpha_net_p99,
            *tail,
        ),
        Question(
            "net_tail",
            "ms, ratio",
            values["net_tail"],
            medians_by_arm(restarts, lambda arm: average_slowest(arm.net_ms) if arm.net_ms else math.nan),
            latency.s0.net_tail,
            latency.alpha_net_tail,
            limit=math.log1p(p99),
            margin=None,
        ),
        Question(
            "p50",
            "ms, ratio",
            values["p50"],
            medians_by_arm(restarts, lambda arm: arm.p50_ms),
            latency.s0.client_p50,
            latency.alpha_client_p50,
            limit=math.log1p(p50),
            margin=math.log1p(latency.client_p50_margin * p50),
        ),
        Question(
            "client_p99",
            "ms, ratio",
            values["client_p99"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.client_net_ms, 0.99)),
            latency.s0.client_p99,
            latency.alpha_client_p99,
            *tail,
        ),
        Question(
            "cpu_per_request",
            "ms, ratio",
            values["cpu_per_request"],
            medians_by_arm(restarts, lambda arm: arm.cpu_ms),
            latency.s0.cpu_per_request,
            latency.alpha_cpu,
            limit=math.log1p(limits.max_cpu_increase),
            margin=math.log1p(latency.service_margin * limits.max_cpu_increase),
        ),
    )
    return tuple(
        judge_question(question, settings) if len(question.values) == len(restarts) else _untold(question)
        for question in questions
        # Without run-queue times there is no client time net of them: said by its absence.
        if question.name != "client_p99" or question.values
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else math.nan


def _untold(asked: Question) -> VerdictLine:
    reason = "the service did not tell its times"
    if asked.name == "cpu_per_request":
        reason = "the processor time of the service could not be read"
    return VerdictLine(name=asked.name, candidate=None, outcome="INVALID", reason=reason)


def judge_p50_ceiling(restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings) -> VerdictLine:
    """Client p50 of the candidate against the absolute limit, bounded in the same way."""
    values = [math.log(restart.arms["candidate"].p50_ms) for restart in restarts]
    latency = settings.latency
    bounds = bound_at_look(values, latency.s0.client_p50, latency.alpha_client_p50, settings)
    if bounds is None:
        return not_at_a_look("p50_ceiling", len(restarts))
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
        reason=describe_bounds(bounds, settings),
        evidence=OBSERVATIONS,
    )


def report_service(restarts: Sequence[Restart], versions: dict[str, Manifest]) -> tuple[VerdictLine, ...]:
    """Tail latencies of the client; reported, decide nothing."""
    pooled = {arm: pool_latencies(restarts, arm) for arm in versions}
    measured = {
        "p95": {arm: pooled[arm].p95_ms for arm in versions},
        "p99": {arm: pooled[arm].p99_ms for arm in versions},
    }
    return tuple(
        VerdictLine(
            name=name,
            candidate=values["candidate"],
            champion=values.get("champion"),
            difference=values["candidate"] - values["champion"] if "champion" in values else None,
            unit="ms",
            outcome="INFO",
            reason="client latency, reported and not judged",
            evidence=OBSERVATIONS,
        )
        for name, values in measured.items()
    )
