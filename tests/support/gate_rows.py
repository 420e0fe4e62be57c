"""Rows of gates and restarts as a self-test writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.selftest.ledger import GateRow

GATE = GateRow(
    started_at="2026-11-22T08:00:00.000+00:00",
    machine_class="linux-x86_64-2cpu-amd-epyc-7b13",
    gate_version="4",
    config_digest="ab" * 32,
    model="tiny@1",
    arm="aa",
    number=1,
    seed=20260102,
    injected_us=0.0,
    injected_share=0.0,
    outcome="PASS",
    deciding="",
    marked="",
    restarts=8,
    seconds=61.5,
    load_average=2.25,
    base_p50_ms=0.45,
    base_service_ms=0.1,
    base_cpu_ms=0.2,
    champion_p50_ms=0.5,
    candidate_p50_ms=0.501,
    net_p50=0.0005,
    service_p50=0.002,
    net_p99=-0.01,
    net_tail=0.0,
    client_p50=0.002,
    client_p99=0.01,
    cpu_per_request=-0.003,
)


def build_gate(**changes: Any) -> GateRow:
    """One gate that passed; ``changes`` replaces fields."""
    return msgspec.structs.replace(GATE, **changes)


def build_restart(number: int, *, slower_ms: float = 0.0, tail: float = 1.0, work_ms: float = 0.0) -> Restart:
    """A restart of 500 pairs: p50 0.5 ms, net 0.1 ms, processor time 0.2 ms a request.

    Args:
        number: of the restart.
        slower_ms: what every request of the candidate takes more.
        tail: by what the candidate's slowest net times are multiplied.
        work_ms: what the candidate computes besides each request.
    """
    wobble = 1 + 0.001 * (-1) ** number  # restarts never agree exactly
    net = [0.1 * wobble] * 490 + [0.3 * wobble] * 10
    slow = [value * (tail if value > 0.2 else 1.0) + slower_ms for value in net]
    champion, candidate = (
        ArmRun(
            latencies_ms=(times[0] + 0.4,) * 500,
            ready_s=0.6,
            resident_bytes=90_000_000,
            net_ms=tuple(times),
            client_net_ms=tuple(time + 0.35 for time in times),
            cpu_s=500 * (times[0] + 0.1 * wobble + more) / 1e3,
        )
        for times, more in ((net, 0.0), (slow, work_ms))
    )
    return Restart(number, 500, {"champion": champion, "candidate": candidate})
