"""Memory, start-up and size → lines of the verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from timberline.benchmarks.analysis.question import Question, judge_question, medians_by_arm
from timberline.benchmarks.analysis.statistics import ArmRun, Restart
from timberline.benchmarks.gate.settings import GateSettings
from timberline.registry.manifest import GateLimits, Manifest
from timberline.registry.store import MODEL_FILE
from timberline.registry.verdict import VerdictLine


def judge_resources(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[VerdictLine, ...]:
    """Memory and start-up beside the champion's; they block what is proven and keep nothing waiting."""
    latency = settings.latency
    return (
        judge_question(
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
        judge_question(
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
) -> Question:
    values = tuple(math.log(read(r.arms["candidate"]) / read(r.arms["champion"])) for r in restarts)
    limit = math.log1p(increase)
    return Question(name, unit, values, medians_by_arm(restarts, read), s0, alpha, limit, margin=None)


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
