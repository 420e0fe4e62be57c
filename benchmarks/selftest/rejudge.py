"""The rule as it stands, applied to restarts that were recorded under any rule. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from timberline.benchmarks.analysis.latency import judge_latencies
from timberline.benchmarks.analysis.resources import judge_resources
from timberline.benchmarks.analysis.statistics import Restart
from timberline.benchmarks.gate.settings import GateSettings
from timberline.benchmarks.selftest.ledger import GateRow, RestartRow
from timberline.benchmarks.selftest.recorded import read_row
from timberline.registry.manifest import GateLimits


def rejudge(
    gates: Sequence[GateRow], restarts: Sequence[RestartRow], limits: GateLimits, settings: GateSettings
) -> list[GateRow]:
    """The gates as the present rule would have ended them.

    Only latency, memory and start-up are judged: of gates that something else decided, nothing can be
    learned about them. A gate whose restarts ended before the present rule is sure is INCONCLUSIVE,
    even if more of them would have decided it; a rule that looks longer is judged too hard.
    """
    by_gate: dict[str, list[Restart]] = {}
    for row in restarts:
        by_gate.setdefault(row.started_at, []).append(read_row(row))
    judged = [gate for gate in gates if by_gate.get(gate.started_at) and not gate.arm.startswith("worse")]
    return [_rejudge(gate, by_gate[gate.started_at], limits, settings) for gate in judged]


def _rejudge(
    gate: GateRow, restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> GateRow:
    outcome, deciding, used = judge_restarts(restarts, limits, settings)
    return msgspec.structs.replace(
        gate,
        outcome=outcome,
        deciding=deciding,
        restarts=used,
        seconds=gate.seconds * used / len(restarts),
    )


def judge_restarts(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[str, str, int]:
    """Outcome, deciding lines and restarts used, looking when the rule looks."""
    outcome, deciding, used = "INCONCLUSIVE", "restarts", len(restarts)
    for look in settings.duet.looks:
        seen = restarts[:look]
        if any(restart.problem for restart in seen):
            return "INVALID", "answers", len(seen)
        if len(seen) < look:
            break
        lines = (*judge_latencies(seen, limits, settings), *judge_resources(seen, limits, settings))
        by_outcome: Mapping[str, list[str]] = {
            name: [line.name for line in lines if line.outcome == name] for name in _GRAVEST_FIRST
        }
        outcome = next(name for name in _GRAVEST_FIRST if by_outcome[name])
        deciding, used = "" if outcome == "PASS" else "+".join(by_outcome[outcome]), look
        if outcome != "INCONCLUSIVE":
            break
    return outcome, deciding, used


_GRAVEST_FIRST = ("BLOCK", "INVALID", "INCONCLUSIVE", "PASS")
