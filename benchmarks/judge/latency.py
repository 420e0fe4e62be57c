"""Restarts → lines of the verdict. Pure.

Five contrasts are judged. Net time is time less every wait for a processor that others had, which is
what a loaded machine hardly disturbs: p50, p99 and the slowest twentieth of the net time in the
service, p99 of the net time that the client saw. The client's p50 with all waits holds what net time
cannot see: waits that a version makes itself. Raw client p95 and p99 are reported: on a shared
machine they are others'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, stdev

import numpy as np

from benchmarks.config import GateSettings
from benchmarks.judge.measure import (
    ArmRun,
    Bounds,
    Contrasts,
    Restart,
    average_slowest,
    bound_mean,
    pool_latencies,
)
from benchmarks.judge.sequential import look_levels, spent_shares
from registry.manifest import GateLimits, Manifest
from registry.store import MODEL_FILE
from registry.verdict import Outcome, VerdictLine

OBSERVATIONS = "restart-*.csv.gz"


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


@dataclass(frozen=True)
class _Question:
    """One contrast and how it is judged; everything on the contrast's own scale.

    ``values`` has one number a restart, ``medians`` are what is shown of each arm. ``limit`` None:
    the line can block and never keeps a release waiting.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    medians: dict[str, float]
    s0: float
    alpha: float
    margin: float
    limit: float | None
    show: Callable[[float], float] = math.exp


def judge_latencies(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """Net p50, p99 and tail, client p50 and net client p99 of the candidate beside the champion's.

    BLOCK: the lower bound of the mean over restarts exceeds the margin. PASS: the upper bound is below the
    limit. All levels are spent over all looks. No PASS when the restarts differ far more than
    identical processes do on this kind of machine: what they differ by is then not known, and the
    line is INVALID at the last look. INVALID, too, when the service did not tell its times.
    """
    latency = settings.latency
    contrasts = [restart.contrasts for restart in restarts]
    p50, p99 = limits.max_p50_increase, limits.max_p99_increase
    told: dict[str, Callable[[Contrasts], float | None]] = {
        "net_p50": lambda c: c.net_p50,
        "net_p99": lambda c: c.net_p99,
        "net_tail": lambda c: c.net_tail,
        "p50": lambda c: c.client_p50,
        "client_p99": lambda c: c.client_p99,
    }
    values = {
        name: tuple(value for c in contrasts if (value := read(c)) is not None) for name, read in told.items()
    }
    tail = math.log1p(latency.p99_margin * p99), math.log1p(p99)
    questions = (
        _Question(
            "net_p50",
            "ms, share of client p50",
            values["net_p50"],
            _medians(restarts, lambda arm: _quantile(arm.net_ms, 0.50)),
            latency.s0.net_p50,
            latency.alpha_net_p50,
            margin=latency.net_p50_margin * p50,
            limit=latency.net_p50_limit * p50,
            show=float,
        ),
        _Question(
            "net_p99",
            "ms, ratio",
            values["net_p99"],
            _medians(restarts, lambda arm: _quantile(arm.net_ms, 0.99)),
            latency.s0.net_p99,
            latency.alpha_net_p99,
            *tail,
        ),
        _Question(
            "net_tail",
            "ms, ratio",
            values["net_tail"],
            _medians(restarts, lambda arm: average_slowest(arm.net_ms) if arm.net_ms else math.nan),
            latency.s0.net_tail,
            latency.alpha_net_tail,
            margin=math.log1p(p99),
            limit=None,
        ),
        _Question(
            "p50",
            "ms, ratio",
            values["p50"],
            _medians(restarts, lambda arm: arm.p50_ms),
            latency.s0.client_p50,
            latency.alpha_client_p50,
            margin=math.log1p(latency.client_p50_margin * p50),
            limit=math.log1p(p50),
        ),
        _Question(
            "client_p99",
            "ms, ratio",
            values["client_p99"],
            _medians(restarts, lambda arm: _quantile(arm.client_net_ms, 0.99)),
            latency.s0.client_p99,
            latency.alpha_client_p99,
            *tail,
        ),
    )
    return tuple(
        _judge(question, settings) if len(question.values) == len(restarts) else _untold(question)
        for question in questions
        # Without run-queue times there is no client time net of them: said by its absence.
        if question.name != "client_p99" or question.values
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else math.nan


def _untold(asked: _Question) -> VerdictLine:
    return VerdictLine(
        name=asked.name, candidate=None, outcome="INVALID", reason="the service did not tell its times"
    )


def judge_resources(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """Memory and start-up beside the champion's; they block what is proven and keep nothing waiting."""
    latency = settings.latency
    return (
        _judge(
            _ratio_question(
                "memory",
                "bytes, ratio",
                restarts,
                lambda arm: float(arm.resident_bytes),
                latency.s0.memory,
                latency.alpha_resources,
                limits.max_memory_increase,
            ),
            settings,
        ),
        _judge(
            _ratio_question(
                "start_up",
                "s, ratio",
                restarts,
                lambda arm: arm.ready_s,
                latency.s0.start_up,
                latency.alpha_resources,
                limits.max_start_up_increase,
            ),
            settings,
        ),
    )


def _ratio_question(
    name: str,
    unit: str,
    restarts: Sequence[Restart],
    read: Callable[[ArmRun], float],
    s0: float,
    alpha: float,
    increase: float,
) -> _Question:
    values = tuple(math.log(read(r.arms["candidate"]) / read(r.arms["champion"])) for r in restarts)
    margin = math.log1p(increase)
    return _Question(name, unit, values, _medians(restarts, read), s0, alpha, margin, limit=None)


def _medians(restarts: Sequence[Restart], read: Callable[[ArmRun], float]) -> dict[str, float]:
    return {arm: median(read(r.arms[arm]) for r in restarts) for arm in ("champion", "candidate") if restarts}


def _judge(asked: _Question, settings: GateSettings) -> VerdictLine:
    bounds = _bound(asked.values, asked.s0, asked.alpha, settings)
    if bounds is None:
        return _not_at_a_look(asked.name, len(asked.values))
    is_last = bounds.count == settings.duet.looks[-1]
    outcome, why = _decide(asked, bounds, settings, is_last=is_last)
    return VerdictLine(
        name=asked.name,
        candidate=asked.medians["candidate"],
        champion=asked.medians["champion"],
        difference=asked.show(bounds.mean),
        low=asked.show(bounds.low),
        high=asked.show(bounds.high),
        limit=asked.show(asked.margin if asked.limit is None else asked.limit),
        unit=asked.unit,
        outcome=outcome,
        reason=f"{why}; {_describe(bounds, settings)}",
        evidence=OBSERVATIONS,
    )


def _decide(
    asked: _Question, bounds: Bounds, settings: GateSettings, *, is_last: bool
) -> tuple[Outcome, str]:
    margin = _say_increase(asked, asked.margin)
    if bounds.low > asked.margin:
        return "BLOCK", f"an increase of more than {margin} is proven"
    if asked.limit is None:
        return "PASS", f"no increase of more than {margin} is proven"
    spread = stdev(asked.values) if bounds.count > 1 else 0.0
    if spread > settings.latency.max_spread * asked.s0:
        # No yes can come of it; more restarts may still prove a no, or be quieter.
        why = f"restarts differ by an SD of {spread:.3f}, identical ones by {asked.s0:.3f}"
        return "INVALID" if is_last else "INCONCLUSIVE", why
    limit = _say_increase(asked, asked.limit)
    if bounds.high < asked.limit:
        return "PASS", f"an increase of {limit} is excluded"
    return "INCONCLUSIVE", f"an increase of {limit} is not excluded"


def _say_increase(asked: _Question, value: float) -> str:
    return f"{asked.show(value) - asked.show(0.0):.1%}"


def judge_p50_ceiling(restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings) -> VerdictLine:
    """Client p50 of the candidate against the absolute limit, bounded in the same way."""
    values = [math.log(restart.arms["candidate"].p50_ms) for restart in restarts]
    latency = settings.latency
    bounds = _bound(values, latency.s0.client_p50, latency.alpha_client_p50, settings)
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
        evidence=OBSERVATIONS,
    )


def _bound(values: Sequence[float], s0: float, alpha: float, settings: GateSettings) -> Bounds | None:
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


def _describe(bounds: Bounds, settings: GateSettings) -> str:
    looks = settings.duet.looks
    return (
        f"{bounds.count} restarts (look {looks.index(bounds.count) + 1} of {len(looks)}), "
        f"moderated SD {bounds.sd:.4f}"
    )


def _not_at_a_look(name: str, count: int) -> VerdictLine:
    return VerdictLine(
        name=name, candidate=None, outcome="INVALID", reason=f"{count} complete restarts are too few to judge"
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


def judge_model_size(versions: dict[str, Manifest]) -> VerdictLine:
    """Bytes of model.onnx against the absolute limit."""
    sizes = {arm: float(manifest.files[MODEL_FILE].size) for arm, manifest in versions.items()}
    limit = versions["candidate"].gate.max_model_bytes
    return VerdictLine(
        name="model_size",
        candidate=sizes["candidate"],
        champion=sizes.get("champion"),
        difference=sizes["candidate"] - sizes["champion"] if "champion" in sizes else None,
        limit=float(limit),
        unit="bytes",
        outcome="BLOCK" if sizes["candidate"] > limit else "PASS",
        reason="size of model.onnx, an absolute limit",
        evidence="manifest.json",
    )
