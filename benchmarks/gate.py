"""The gate: candidate against champion, one verdict, stored with the candidate."""

from __future__ import annotations

import datetime
import logging
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.config import GateSettings
from benchmarks.duet import Duet
from benchmarks.errors import BenchmarkError
from benchmarks.evidence import StaticEvidence, judge_static
from benchmarks.judge_latency import judge_answers, judge_p50, judge_p50_ceiling, report_service
from benchmarks.measure import Restart
from benchmarks.report import write_markdown, write_report
from benchmarks.services import interruptible
from benchmarks.verdict import combine_lines, required_lines
from benchmarks.workload import Workload, draw_bodies, load_workload
from registry.aliases import read_alias, resolve
from registry.errors import RegistryError
from registry.ground.files import fresh_folder
from registry.ground.logs import log_event
from registry.ground.stages import digest_value
from registry.manifest import Manifest
from registry.names import CANDIDATE, PRODUCTION, ModelRef
from registry.store import Store
from registry.verdict import (
    VERDICT_FILE,
    VERDICT_SCHEMA_VERSION,
    Judged,
    Verdict,
    VerdictLine,
    decode_verdict,
    encode_verdict,
)

GATE_VERSION = "1"

logger = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Match:
    """Who is judged against whom; ``champion`` None when no version is in production."""

    model: str
    candidate: int
    champion: int | None

    @property
    def arms(self) -> dict[str, int]:
        """Version by arm."""
        arms = {} if self.champion is None else {"champion": self.champion}
        return arms | {"candidate": self.candidate}

    @property
    def folder_name(self) -> str:
        """``7-vs-5``, or ``1-first``."""
        return f"{self.candidate}-first" if self.champion is None else f"{self.candidate}-vs-{self.champion}"


@dataclass(frozen=True)
class GateResult:
    """``verdict`` None when there was nothing to do; ``skipped`` says why nothing was measured."""

    match: Match
    verdict: Verdict | None
    skipped: str = ""
    report: Path | None = None
    seconds: float = 0.0

    def summary(self) -> dict[str, object]:
        """The result as it is printed for machines."""
        verdict = self.verdict
        return {
            "outcome": verdict.outcome if verdict else None,
            "model": self.match.model,
            "candidate": self.match.candidate,
            "champion": self.match.champion,
            "is_first": self.match.champion is None,
            "skipped": self.skipped or None,
            "report": str(self.report) if self.report else None,
            "seconds": round(self.seconds, 2),
            "lines": verdict.lines if verdict else (),
        }


def find_match(store: Store, model: str, candidate: str | None, champion: str | None) -> Match:
    """The versions that ``candidate`` and ``champion`` name, by default the aliases candidate and production.

    Raises:
        VersionNotFoundError: there is no such version or alias (an absent `production` is no error).
    """
    challenger = resolve(store, ModelRef.parse(candidate or f"{model}@{CANDIDATE}"))
    if champion is not None:
        return Match(model, challenger, resolve(store, ModelRef.parse(champion)))
    production = read_alias(store, model, PRODUCTION)
    return Match(model, challenger, production.version if production else None)


def run_gate(
    store: Store,
    model: str,
    data: Path,
    settings: GateSettings,
    *,
    candidate: str | None = None,
    champion: str | None = None,
    again: bool = False,
) -> GateResult:
    """Judge the candidate, write the report, store the verdict with the candidate.

    Args:
        store: the registry that both versions are in.
        model: its name.
        data: generated data; raw observations and the report go to ``gates/<model>/`` in it.
        settings: how sure to be.
        candidate: a reference other than the alias `candidate`.
        champion: a reference other than the alias `production`; the verdict is then not stored,
            because it says nothing about taking over from what is in production.
        again: measure even if a passing verdict for these very digests and settings is there.
    """
    started = time.monotonic()
    match = find_match(store, model, candidate, champion)
    if champion is None and match.candidate == match.champion:
        return GateResult(match, None, f"version {match.candidate} is in production already")
    workload = load_workload(settings.duet.workload)
    config_digest = digest_value([GATE_VERSION, settings, workload])
    judged = {arm: store.identify(model, version) for arm, version in match.arms.items()}
    if champion is None and not again:
        known = _find_passing(store, match, judged, config_digest)
        if known is not None:
            reason = f"version {match.candidate} passed already, for these very digests and settings"
            return GateResult(match, known, reason)
    target = data / "gates" / model / match.folder_name
    with interruptible(), fresh_folder(target) as folder:
        verdict, documents = _judge(store, match, judged, folder, settings, workload, config_digest)
        for name, content in documents.items():
            (folder / name).write_bytes(content)
    if champion is None:
        # The verdict last: it names the report.
        for name, content in documents.items():
            store.write_document(model, match.candidate, name, content)
    return GateResult(match, verdict, report=target / "report.md", seconds=time.monotonic() - started)


def _find_passing(
    store: Store, match: Match, judged: dict[str, Judged], config_digest: str
) -> Verdict | None:
    data = store.read_document(match.model, match.candidate, VERDICT_FILE)
    if data is None:
        return None
    try:
        verdict = decode_verdict(data)
    except RegistryError as error:
        log_event(logger, "the stored verdict is not believed", logging.WARNING, reason=str(error))
        return None
    about = (verdict.model, verdict.candidate, verdict.champion, verdict.config_digest)
    now = (match.model, judged["candidate"], judged.get("champion"), config_digest)
    return verdict if about == now and verdict.outcome == "PASS" else None


def _judge(
    store: Store,
    match: Match,
    judged: dict[str, Judged],
    folder: Path,
    settings: GateSettings,
    workload: Workload,
    config_digest: str,
) -> tuple[Verdict, dict[str, bytes]]:
    """The verdict and its documents by name, ``verdict.json`` last."""
    versions = {arm: store.read_manifest(match.model, version) for arm, version in match.arms.items()}
    log_event(logger, "gate started", model=match.model, **match.arms)
    static = judge_static(store, versions, settings.accuracy)
    restarts: list[Restart] = []
    lines = static.lines
    if static.can_run:
        lines += _judge_running(store, versions, folder, settings, workload, static, restarts)
    limits, is_first = versions["candidate"].gate, match.champion is None
    verdict = Verdict(
        schema_version=VERDICT_SCHEMA_VERSION,
        outcome=combine_lines(lines, required_lines(limits, is_first=is_first)),
        model=match.model,
        candidate=judged["candidate"],
        champion=judged.get("champion"),
        is_first=is_first,
        lines=lines,
        gate_version=GATE_VERSION,
        config_digest=config_digest,
        machine=describe_machine(),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        report="report.md",
    )
    return verdict, {
        "report.md": write_markdown(verdict),
        "report.json": write_report(verdict, restarts, static.comparison, settings),
        VERDICT_FILE: encode_verdict(verdict),
    }


def _judge_running(
    store: Store,
    versions: dict[str, Manifest],
    folder: Path,
    settings: GateSettings,
    workload: Workload,
    static: StaticEvidence,
    restarts: list[Restart],
) -> tuple[VerdictLine, ...]:
    """Restart and measure until the latencies are decided; ``restarts`` is filled."""
    try:
        bodies = draw_bodies(workload, versions)
    except BenchmarkError as error:
        return (VerdictLine(name="answers", candidate=None, outcome="INVALID", reason=str(error)),)
    duet = Duet(store.location, versions, bodies, settings.duet, folder)
    lines: tuple[VerdictLine, ...] = ()
    for number in range(1, settings.duet.max_restarts + 1):
        restart = duet.run_restart(number)
        restarts.append(restart)
        _log_restart(restart)
        if restart.problem:
            return (judge_answers(restarts),)
        if number not in settings.duet.looks:
            continue
        lines = _judge_latencies(restarts, versions, settings)
        # Longer measuring cannot save a candidate that something else blocks.
        outcomes = {line.outcome for line in (*lines, *static.lines)}
        if "INCONCLUSIVE" not in {line.outcome for line in lines} or outcomes & {"BLOCK", "INVALID"}:
            break
    return (judge_answers(restarts), *lines, *report_service(restarts, versions))


def _judge_latencies(
    restarts: list[Restart], versions: dict[str, Manifest], settings: GateSettings
) -> tuple[VerdictLine, ...]:
    limits = versions["candidate"].gate
    ceiling = judge_p50_ceiling(restarts, limits, settings)
    return (judge_p50(restarts, limits, settings), ceiling) if "champion" in versions else (ceiling,)


def _log_restart(restart: Restart) -> None:
    if restart.problem:
        log_event(
            logger, "restart not believed", logging.WARNING, number=restart.number, problem=restart.problem
        )
        return
    p50: dict[str, Any] = {f"{arm}_p50_ms": run.p50_ms for arm, run in restart.arms.items()}
    log_event(logger, "restart measured", number=restart.number, pairs=restart.pairs, **p50)


def describe_machine() -> dict[str, str]:
    """The class of machine that a verdict was given on; nothing that names one machine."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu_count": str(os.cpu_count() or 0),
        "python": platform.python_version(),
    }
