"""Memory, start-up and size → lines of the verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, stdev

import msgspec
import numpy as np

from timberline.benchmarks.analysis.statistics import Bounds, bound_mean, look_levels, spent_shares
from timberline.benchmarks.measure.records import ArmRun, Contrasts, Restart, average_slowest, pool_latencies
from timberline.benchmarks.settings import GateSettings
from timberline.registry.manifest import GateLimits, Manifest
from timberline.registry.store import MODEL_FILE
from timberline.registry.verdict import Outcome, VerdictLine

OBSERVATIONS = "restart-*.csv.gz"


@dataclass(frozen=True)
class Criterion:
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


def judge_criterion(criterion: Criterion, settings: GateSettings) -> VerdictLine:
    """BLOCK when more than the limit is proven, PASS when the limit is excluded.

    A line that passes is marked WARN when the increase is proven to exceed the margin. The levels of the
    bounds are spent over all looks.
    """
    bounds = bound_at_look(criterion.values, criterion.s0, criterion.alpha, settings)
    if bounds is None:
        return not_at_a_look(criterion.name, len(criterion.values))
    is_last = bounds.count == settings.duet.looks[-1]
    outcome, why = _decide(criterion, bounds, settings, is_last=is_last)
    margin = criterion.margin
    is_marked = outcome == "PASS" and margin is not None and bounds.low > margin
    if is_marked and margin is not None:
        why += f", one of more than {_say_increase(criterion, margin)} is proven"
    return VerdictLine(
        name=criterion.name,
        candidate=criterion.medians["candidate"],
        champion=criterion.medians["champion"],
        difference=criterion.show(bounds.mean),
        low=criterion.show(bounds.low),
        high=criterion.show(bounds.high),
        limit=criterion.show(criterion.limit),
        unit=criterion.unit,
        outcome=outcome,
        reason=f"{why}; {describe_bounds(bounds, settings)}",
        evidence=OBSERVATIONS,
        mark="WARN" if is_marked else msgspec.UNSET,
    )


def _decide(
    criterion: Criterion, bounds: Bounds, settings: GateSettings, *, is_last: bool
) -> tuple[Outcome, str]:
    limit = _say_increase(criterion, criterion.limit)
    if bounds.low > criterion.limit:
        return "BLOCK", f"an increase of more than {limit} is proven"
    if criterion.margin is None:
        return "PASS", f"no increase of more than {limit} is proven"
    spread = stdev(criterion.values) if bounds.count > 1 else 0.0
    if spread > settings.latency.max_spread * criterion.s0:
        # No yes can come of it; more restarts may still prove a no, or be quieter.
        why = f"restarts differ by an SD of {spread:.3f}, identical ones by {criterion.s0:.3f}"
        return "INVALID" if is_last else "INCONCLUSIVE", why
    if bounds.high < criterion.limit:
        return "PASS", f"an increase of {limit} is excluded"
    return "INCONCLUSIVE", f"an increase of {limit} is not excluded"


def _say_increase(criterion: Criterion, value: float) -> str:
    return f"{criterion.show(value) - criterion.show(0.0):.1%}"


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
    criteria = (
        Criterion(
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
        Criterion(
            "service_p50",
            "ms, ratio",
            values["service_p50"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.net_ms, 0.50)),
            latency.s0.service_p50,
            latency.alpha_service_p50,
            limit=math.log1p(limits.max_service_p50_increase),
            margin=math.log1p(latency.service_margin * limits.max_service_p50_increase),
        ),
        Criterion(
            "net_p99",
            "ms, ratio",
            values["net_p99"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.net_ms, 0.99)),
            latency.s0.net_p99,
            latency.alpha_net_p99,
            *tail,
        ),
        Criterion(
            "net_tail",
            "ms, ratio",
            values["net_tail"],
            medians_by_arm(restarts, lambda arm: average_slowest(arm.net_ms) if arm.net_ms else math.nan),
            latency.s0.net_tail,
            latency.alpha_net_tail,
            limit=math.log1p(p99),
            margin=None,
        ),
        Criterion(
            "p50",
            "ms, ratio",
            values["p50"],
            medians_by_arm(restarts, lambda arm: arm.p50_ms),
            latency.s0.client_p50,
            latency.alpha_client_p50,
            limit=math.log1p(p50),
            margin=math.log1p(latency.client_p50_margin * p50),
        ),
        Criterion(
            "client_p99",
            "ms, ratio",
            values["client_p99"],
            medians_by_arm(restarts, lambda arm: _quantile(arm.client_net_ms, 0.99)),
            latency.s0.client_p99,
            latency.alpha_client_p99,
            *tail,
        ),
        Criterion(
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
        judge_criterion(criterion, settings) if len(criterion.values) == len(restarts) else _untold(criterion)
        for criterion in criteria
        # Without run-queue times there is no client time net of them: said by its absence.
        if criterion.name != "client_p99" or criterion.values
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else math.nan


def _untold(criterion: Criterion) -> VerdictLine:
    reason = "the service did not tell its times"
    if criterion.name == "cpu_per_request":
        reason = "the processor time of the service could not be read"
    return VerdictLine(name=criterion.name, candidate=None, outcome="INVALID", reason=reason)


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


def judge_resources(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """Memory and start-up beside the champion's; they block what is proven and keep nothing waiting."""
    latency = settings.latency
    return (
        judge_criterion(
            _ratio_criterion(
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
        judge_criterion(
            _ratio_criterion(
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


def _ratio_criterion(
    name: str,
    unit: str,
    restarts: Sequence[Restart],
    read: Callable[[ArmRun], float],
    s0: float,
    alpha: float,
    increase: float,
) -> Criterion:
    values = tuple(math.log(read(r.arms["candidate"]) / read(r.arms["champion"])) for r in restarts)
    limit = math.log1p(increase)
    return Criterion(name, unit, values, medians_by_arm(restarts, read), s0, alpha, limit, margin=None)


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
