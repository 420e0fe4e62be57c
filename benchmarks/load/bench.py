"""Drive one version alone: percentiles, throughput, start-up, memory. Closed loop; no verdict."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.duet import build_target
from timberline.benchmarks.measure.records import Plan, read_observations, summarize_latencies
from timberline.benchmarks.measure.services import Service, drive, launch_driver, launch_service
from timberline.benchmarks.measure.workload import draw_bodies, load_workload
from timberline.benchmarks.settings import GateSettings
from timberline.registry.manifest import Manifest
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import Store

logger = logging.getLogger("benchmarks")


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What ``users`` closed-loop clients saw; latencies in milliseconds, over pooled requests."""

    users: int
    requests: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    load_generator_cpu_share: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One version on this machine; ``ready_s`` from process start to the announcement of readiness."""

    model: str
    version: int
    workload: str
    window_s: float
    ready_s: float
    resident_bytes_ready: int
    resident_bytes_after: int
    loads: tuple[Load, ...]


def run_bench(
    store: Store, model: str, version: int, settings: GateSettings, users: Sequence[int]
) -> Measurement:
    """Start the version and drive it with each number of users in turn.

    More users than the service can serve measure their own queue: latency then grows with users.

    Raises:
        BenchmarkError: the service did not start, or a request failed.
    """
    manifest = store.verify(model, version)
    duet = settings.duet
    with (
        tempfile.TemporaryDirectory() as scratch,
        launch_service(
            store.location,
            model,
            version,
            log=Path(scratch, "service.log"),
            stop_timeout_s=duet.stop_timeout_s,
        ) as launch,
    ):
        service = launch.await_ready(duet.start_timeout_s)
        resident = service.resident_bytes()
        loads = tuple(_load(service, manifest, settings, Path(scratch), count) for count in users)
        return Measurement(
            model=model,
            version=version,
            workload=duet.workload,
            window_s=duet.window_s,
            ready_s=service.ready_s,
            resident_bytes_ready=resident,
            resident_bytes_after=service.resident_bytes(),
            loads=loads,
        )


def _load(service: Service, manifest: Manifest, settings: GateSettings, scratch: Path, users: int) -> Load:
    duet = settings.duet
    plan = Plan(
        targets=(build_target("candidate", manifest, service),),
        bodies=draw_bodies(load_workload(duet.workload), {"candidate": manifest}),
        users=users,
        window_s=duet.window_s,
        warmup_cycles=duet.warmup_pairs,
        seed=str(duet.seed),
        request_timeout_s=duet.request_timeout_s,
        observations=str(scratch / f"users-{users}.csv.gz"),
    )
    log = scratch / f"users-{users}.log"
    with launch_driver(log=log, stop_timeout_s=duet.stop_timeout_s) as driver:
        outcome = drive(driver, plan, timeout_s=duet.window_s + 60.0, log=log)
    if outcome.failures:
        raise BenchmarkError(
            f"{outcome.failures} failed requests, the first: {outcome.first_failure}",
            where=f"{manifest.model}@{manifest.version}, {users} users",
        )
    seen = summarize_latencies([o.latency_ms for o in read_observations(Path(plan.observations))])
    log_event(logger, "load measured", users=users, requests=seen.count, p50_ms=seen.p50_ms)
    return Load(
        users=users,
        requests=seen.count,
        requests_per_s=seen.count / outcome.elapsed_s,
        p50_ms=seen.p50_ms,
        p95_ms=seen.p95_ms,
        p99_ms=seen.p99_ms,
        max_ms=seen.max_ms,
        load_generator_cpu_share=outcome.cpu_share,
    )


def format_bench(measured: Measurement) -> str:
    """The measurement as a table for a terminal."""
    lines = [
        f"{measured.model}@{measured.version}, workload {measured.workload}, closed loop, "
        f"{measured.window_s:g} s each",
        f"ready after {measured.ready_s:.2f} s, memory {measured.resident_bytes_ready / 1e6:.0f} MB, "
        f"after load {measured.resident_bytes_after / 1e6:.0f} MB",
        f"{'users':>5} {'requests/s':>11} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'max ms':>9}",
    ]
    lines += [
        f"{load.users:>5} {load.requests_per_s:>11,.0f} {load.p50_ms:>9.3f} {load.p95_ms:>9.3f} "
        f"{load.p99_ms:>9.3f} {load.max_ms:>9.3f}"
        for load in measured.loads
    ]
    return "\n".join(lines)
