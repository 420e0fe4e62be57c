"""Everything that is measured and judged about two versions, as a verdict and its documents."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.analysis.fresh import SCORED_FILES
from timberline.benchmarks.analysis.latency import (
    OBSERVATIONS,
    judge_latencies,
    judge_model_size,
    judge_p50_ceiling,
    judge_resources,
    report_service,
)
from timberline.benchmarks.analysis.quality import judge_improvement
from timberline.benchmarks.analysis.validity import judge_answers, judge_error_rate, judge_fairness
from timberline.benchmarks.analysis.verdict import blank_line, combine_lines, required_lines
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.history.releases import read_releases
from timberline.benchmarks.machine import describe_machine
from timberline.benchmarks.measure.duet import Duet, open_duet
from timberline.benchmarks.measure.records import Restart
from timberline.benchmarks.measure.workload import Workload, draw_bodies
from timberline.benchmarks.report.documents import write_documents
from timberline.benchmarks.report.record import PAGE_FILE, GateRecord
from timberline.benchmarks.settings import GATE_VERSION, GateSettings
from timberline.registry.manifest import GateLimits, Manifest
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.files import digest_bytes, digest_file
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import Store
from timberline.registry.verdict import (
    VERDICT_FILE,
    VERDICT_SCHEMA_VERSION,
    Verdict,
    VerdictLine,
    encode_verdict,
)
from timberline.registry.version import Version

logger = logging.getLogger("benchmarks")


def run_comparison(
    store: Store,
    opened: Mapping[str, Version],
    folder: Path,
    settings: GateSettings,
    workload: Workload,
    config_digest: str,
    programs: Mapping[str, Sequence[str]],
    data: Path,
) -> tuple[Verdict, dict[str, bytes]]:
    """The verdict and its documents by name, ``verdict.json`` last; raw data go to ``folder``.

    ``data`` is where tables are prepared: the rows that versions of different tables are asked about.
    """
    versions = {arm: version.manifest for arm, version in opened.items()}
    model = versions["candidate"].model
    numbers = {arm: manifest.version for arm, manifest in versions.items()}
    log_event(logger, "gate started", model=model, **numbers)
    static = judge_static(store, opened, settings.accuracy, data=data, folder=folder)
    restarts: tuple[Restart, ...] = ()
    lines = (*static.lines, judge_model_size(versions))
    if static.can_run:
        restarts, measured = _measure(store.location, versions, folder, settings, workload, lines, programs)
        lines += measured
    limits, is_first = versions["candidate"].gate, "champion" not in versions
    if limits.require == "improvement" and not is_first:
        lines += (judge_improvement(static.comparison, lines, limits, settings.accuracy),)
    verdict = Verdict(
        schema_version=VERDICT_SCHEMA_VERSION,
        outcome=combine_lines(lines, required_lines(limits, is_first=is_first)),
        model=model,
        candidate=opened["candidate"].digests,
        champion=opened["champion"].digests if "champion" in opened else None,
        is_first=is_first,
        lines=lines,
        gate_version=GATE_VERSION,
        config_digest=config_digest,
        machine=describe_machine(),
        created_at=utc_now(),
        report=PAGE_FILE,
    )
    history = read_releases(store, model)
    documents = write_documents(GateRecord(verdict, restarts, static.comparison, settings, history))
    verdict = msgspec.structs.replace(verdict, evidence=_digest_evidence(documents, folder))
    return verdict, {**documents, VERDICT_FILE: encode_verdict(verdict)}


def _digest_evidence(documents: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """What the verdict rests on, so that none of it can be exchanged: documents and raw data."""
    written = {name: digest_bytes(content) for name, content in documents.items()}
    raw = [path for pattern in (OBSERVATIONS, SCORED_FILES) for path in sorted(folder.glob(pattern))]
    return written | {path.name: digest_file(path) for path in raw}


def _measure(
    registry: str,
    versions: dict[str, Manifest],
    folder: Path,
    settings: GateSettings,
    workload: Workload,
    known: Sequence[VerdictLine],
    programs: Mapping[str, Sequence[str]],
) -> tuple[tuple[Restart, ...], tuple[VerdictLine, ...]]:
    """Restart and measure until the latencies are decided; ``known`` lines were judged before."""
    try:
        bodies = draw_bodies(workload, versions)
    except BenchmarkError as error:
        return (), (blank_line("answers", "INVALID", str(error)),)
    with open_duet(registry, versions, bodies, settings.duet, folder, programs) as duet:
        restarts, lines = _restart_until_decided(duet, settings, known)
    answers = judge_answers(restarts), judge_error_rate(restarts, settings.validity.alpha_errors)
    if restarts[-1].problem:
        return restarts, answers
    return restarts, (*answers, *lines, *report_service(restarts, versions))


def _restart_until_decided(
    duet: Duet, settings: GateSettings, known: Sequence[VerdictLine]
) -> tuple[tuple[Restart, ...], tuple[VerdictLine, ...]]:
    restarts: list[Restart] = []
    lines: tuple[VerdictLine, ...] = ()
    for number in range(1, settings.duet.looks[-1] + 1):
        restarts.append(duet.run_restart(number))
        _log_restart(restarts[-1])
        if restarts[-1].problem:
            break
        if number not in settings.duet.looks:
            continue
        lines = _judge(restarts, duet.versions["candidate"].gate, settings)
        # Longer measuring cannot save a candidate that something else blocks.
        outcomes = {line.outcome for line in (*lines, *known)}
        if "INCONCLUSIVE" not in {line.outcome for line in lines} or outcomes & {"BLOCK", "INVALID"}:
            break
    return tuple(restarts), lines


def _judge(restarts: list[Restart], limits: GateLimits, settings: GateSettings) -> tuple[VerdictLine, ...]:
    ceiling = judge_p50_ceiling(restarts, limits, settings)
    if "champion" not in restarts[0].arms:
        return (ceiling,)
    return (
        *judge_latencies(restarts, limits, settings),
        judge_fairness(restarts, settings),
        ceiling,
        *judge_resources(restarts, limits, settings),
    )


def _log_restart(restart: Restart) -> None:
    if restart.problem:
        log_event(
            logger, "restart not believed", logging.WARNING, number=restart.number, problem=restart.problem
        )
        return
    p50: dict[str, Any] = {f"{arm}_p50_ms": run.p50_ms for arm, run in restart.arms.items()}
    log_event(logger, "restart measured", number=restart.number, pairs=restart.pairs, **p50)
