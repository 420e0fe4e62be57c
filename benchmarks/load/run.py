"""The verbs `load` and `bench`: which versions are measured, and where the files go.

`load` drives one version, or two side by side, and writes a report. `bench` drives one version alone with
some numbers of closed-loop users: percentiles, throughput, start-up, memory; no verdict.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.gate.run import find_comparison
from timberline.benchmarks.load.measure import Load, measure_load
from timberline.benchmarks.load.report import LoadReport, build_report, format_markdown, lay_out
from timberline.benchmarks.load.settings import LoadSettings
from timberline.benchmarks.measure.duet import build_target
from timberline.benchmarks.measure.records import Plan, read_observations, summarize_latencies
from timberline.benchmarks.measure.services import Service, drive, launch_driver, launch_service
from timberline.benchmarks.measure.workload import draw_bodies, load_workload
from timberline.benchmarks.settings import GateSettings
from timberline.registry.aliases import resolve
from timberline.registry.manifest import Manifest
from timberline.registry.names import ModelRef
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.working_copy import share_folder
from timberline.registry.store import Store

logger = logging.getLogger("benchmarks")


class LoadResult(NamedTuple):
    """The report, and the folder that it is in beside the raw observations."""

    report: LoadReport
    folder: Path


def run_load(
    store: Store,
    ref: ModelRef,
    data: Path,
    settings: LoadSettings,
    loads: Sequence[Load],
    *,
    candidate: str | None = None,
    champion: str | None = None,
) -> LoadResult:
    """Measure ``ref`` alone, or a candidate and a champion side by side when either is given.

    Args:
        store: the registry.
        ref: the version to measure alone; of two, only the model's name counts.
        data: generated data; the files go to ``load/<model>/`` in it.
        settings: see load.toml.
        loads: fixed loads; none is a sweep.
        candidate: a reference; by default the alias `candidate`.
        champion: a reference; by default the alias `production`.

    Raises:
        VersionNotFoundError: there is no such version or alias.
        BenchmarkError: the load generator or the workload failed before anything was measured.
    """
    if candidate is None and champion is None:
        arms = {"candidate": resolve(store, ref)}
        name = str(arms["candidate"])
    else:
        match = find_comparison(store, ref.model, candidate, champion)
        arms, name = match.arms, match.folder_name
    kind = "-".join(load.name for load in loads) or "sweep"
    target = data / "load" / ref.model / f"{name}-{kind}"
    with fresh_folder(target, mark="load.json") as folder:
        measured = measure_load(store, ref.model, arms, settings, loads, folder)
        versions = {arm: f"{ref.model}@{version}" for arm, version in arms.items()}
        report = build_report(versions, measured, loads, settings)
        (folder / "load.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        (folder / "load.md").write_text(format_markdown(report), "utf-8")
    share_folder(target, "load")
    return LoadResult(report, target)


class ClosedLoopLoad(msgspec.Struct, frozen=True, kw_only=True):
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
    loads: tuple[ClosedLoopLoad, ...]


def run_bench(
    store: Store, model: str, version: int, settings: GateSettings, users: Sequence[int]
) -> Measurement:
    """Start the version and drive it with each number of users in turn.

    More users than the service can serve measure their own queue: latency then grows with users.

    Raises:
        BenchmarkError: the service did not start, or a request failed.
    """
    manifest = store.open_version(model, version).verify().manifest
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


def _load(
    service: Service, manifest: Manifest, settings: GateSettings, scratch: Path, users: int
) -> ClosedLoopLoad:
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
    return ClosedLoopLoad(
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
    ]
    rows: list[tuple[str, ...]] = [("users", "requests/s", "p50 ms", "p95 ms", "p99 ms", "max ms")]
    for load in measured.loads:
        latencies = (load.p50_ms, load.p95_ms, load.p99_ms, load.max_ms)
        rows.append((str(load.users), f"{load.requests_per_s:,.0f}", *(f"{ms:.3f}" for ms in latencies)))
    return "\n".join([*lines, *lay_out(rows)])
