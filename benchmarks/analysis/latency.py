"""Restarts → lines of the verdict: times, processor time, memory, start-up and size. Pure.

A contrast of two versions is a `Criterion`, with one value a restart. Seven contrasts of times are judged.
Net time is time less every wait for a processor that others had, which is what a loaded machine hardly
disturbs: p50, p99 and the slowest twentieth of the net time in the service, p99 of the net time that the
client saw. The p50 is judged in two units: as a share of what the client waits for (`net_p50`), and of the
time in the service itself (`service_p50`), since the client's own half millisecond makes any service look
alike. What a version computes besides its requests is in the processor time of its process
(`cpu_per_request`). The client's p50 with all waits holds what net time cannot see: waits that a version
makes itself. Raw client p95 and p99 are reported: on a shared machine they are others'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, stdev

import msgspec
import numpy as np

from timberline.benchmarks.analysis.statistics import Bounds, bound_mean, look_levels, spent_shares
from timberline.benchmarks.analysis.verdict import blank_line
from timberline.benchmarks.measure.records import ArmRun, Restart, average_slowest, pool_latencies
from timberline.benchmarks.settings import GateSettings, LatencySettings
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
    """The median over restarts of what ``read`` returns for an arm; empty without restarts."""
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
        why += f", one of more than {_format_increase(criterion, margin)} is proven"
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
    limit = _format_increase(criterion, criterion.limit)
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


def _format_increase(criterion: Criterion, value: float) -> str:
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
    return blank_line(name, "INVALID", f"{count} complete restarts are too few to judge")


def judge_latencies(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """The candidate's times beside the champion's: p50, p99 and tail in the service, the client's, its CPU.

    BLOCK: the lower bound of the mean over restarts exceeds the limit. PASS: the upper bound is below the
    limit; marked WARN when the lower one exceeds the margin. All levels are spent over all looks. No PASS
    when the restarts differ far more than identical processes do on this kind of machine: the size of the
    difference is then unknown, and the line is INVALID at the last look. INVALID, too, when the service
    did not report its times, or its processor time could not be read.
    """
    criteria = _list_criteria(restarts, limits, settings.latency)
    return tuple(
        judge_criterion(criterion, settings) if len(criterion.values) == len(restarts) else _miss(criterion)
        for criterion in criteria
        # Without run-queue times there is no client time net of them, and so no line about it.
        if criterion.name != "client_p99" or criterion.values
    )


def _list_criteria(
    restarts: Sequence[Restart], limits: GateLimits, latency: LatencySettings
) -> list[Criterion]:
    p50, p99 = limits.max_p50_increase, limits.max_p99_increase
    service, cpu = limits.max_service_p50_increase, limits.max_cpu_increase
    # Contrast, median of an arm, level, largest increase, margin as a share of that.
    ratios: tuple[tuple[str, Callable[[ArmRun], float], float, float, float | None], ...] = (
        ("service_p50", _net_p50, latency.alpha_service_p50, service, latency.service_margin),
        ("net_p99", lambda arm: _quantile(arm.net_ms, 0.99), latency.alpha_net_p99, p99, latency.p99_margin),
        ("net_tail", _net_tail, latency.alpha_net_tail, p99, None),
        ("client_p50", lambda arm: arm.p50_ms, latency.alpha_client_p50, p50, latency.client_p50_margin),
        ("client_p99", _client_p99, latency.alpha_client_p99, p99, latency.p99_margin),
        ("cpu_per_request", lambda arm: arm.cpu_ms, latency.alpha_cpu, cpu, latency.service_margin),
    )
    contrasts = [restart.contrasts for restart in restarts]

    def values(contrast: str) -> tuple[float, ...]:
        return tuple(value for c in contrasts if (value := getattr(c, contrast)) is not None)

    criteria = [
        Criterion(
            "net_p50",
            "ms, share of client p50",
            values("net_p50"),
            medians_by_arm(restarts, _net_p50),
            latency.s0.net_p50,
            latency.alpha_net_p50,
            limit=latency.net_p50_limit * p50,
            margin=latency.net_p50_margin * p50,
            show=float,
        )
    ]
    criteria += [
        Criterion(
            "p50" if contrast == "client_p50" else contrast,
            "ms, ratio",
            values(contrast),
            medians_by_arm(restarts, read),
            getattr(latency.s0, contrast),
            alpha,
            limit=math.log1p(increase),
            margin=None if share is None else math.log1p(share * increase),
        )
        for contrast, read, alpha, increase, share in ratios
    ]
    return criteria


def _net_p50(arm: ArmRun) -> float:
    return _quantile(arm.net_ms, 0.50)


def _net_tail(arm: ArmRun) -> float:
    return average_slowest(arm.net_ms) if arm.net_ms else math.nan


def _client_p99(arm: ArmRun) -> float:
    return _quantile(arm.client_net_ms, 0.99)


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else math.nan


def _miss(criterion: Criterion) -> VerdictLine:
    reason = "the service did not report its times"
    if criterion.name == "cpu_per_request":
        reason = "the processor time of the service could not be read"
    return blank_line(criterion.name, "INVALID", reason)


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
    return (
        _report("p95", {arm: pooled[arm].p95_ms for arm in versions}),
        _report("p99", {arm: pooled[arm].p99_ms for arm in versions}),
    )


def _report(name: str, values: dict[str, float]) -> VerdictLine:
    return VerdictLine(
        name=name,
        candidate=values["candidate"],
        champion=values.get("champion"),
        difference=values["candidate"] - values["champion"] if "champion" in values else None,
        unit="ms",
        outcome="INFO",
        reason="client latency, reported and not judged",
        evidence=OBSERVATIONS,
    )


def judge_resources(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """Memory and start-up beside the champion's; they block what is proven and keep nothing waiting."""
    s0, alpha = settings.latency.s0, settings.latency.alpha_resources
    resources: tuple[tuple[str, str, Callable[[ArmRun], float], float, float], ...] = (
        ("memory", "bytes", lambda arm: float(arm.resident_bytes), s0.memory, limits.max_memory_increase),
        ("start_up", "s", lambda arm: arm.ready_s, s0.start_up, limits.max_start_up_increase),
    )
    lines = []
    for name, unit, read, spread, increase in resources:
        values = tuple(math.log(read(r.arms["candidate"]) / read(r.arms["champion"])) for r in restarts)
        medians, limit = medians_by_arm(restarts, read), math.log1p(increase)
        criterion = Criterion(name, f"{unit}, ratio", values, medians, spread, alpha, limit, margin=None)
        lines.append(judge_criterion(criterion, settings))
    return tuple(lines)


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
