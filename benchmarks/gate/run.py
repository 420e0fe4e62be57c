"""The gate: candidate against champion, one verdict, stored with the candidate."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from timberline.benchmarks.gate.calibration import apply_calibration, load_calibration
from timberline.benchmarks.machine import machine_class
from timberline.benchmarks.measure.workload import load_workload
from timberline.benchmarks.report.record import PAGE_FILE
from timberline.benchmarks.settings import GATE_VERSION, GateSettings
from timberline.registry.aliases import open_target, read_alias, resolve
from timberline.registry.errors import RegistryError, after_change
from timberline.registry.names import CANDIDATE, PRODUCTION, ModelRef
from timberline.registry.promotion import find_all_objections
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.stages import digest_value
from timberline.registry.runtime.working_copy import name_path, share_folder
from timberline.registry.store import Store
from timberline.registry.verdict import VERDICT_FILE, Verdict, decode_verdict
from timberline.registry.version import Version


@dataclass(frozen=True)
class Comparison:
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


def find_comparison(store: Store, model: str, candidate: str | None, champion: str | None) -> Comparison:
    """The versions that ``candidate`` and ``champion`` name, by default the aliases candidate and production.

    Raises:
        VersionNotFoundError: there is no such version or alias (an absent `production` is no error).
        DamageError: an alias is damaged, or its version is lost or another one than it was moved to.
    """
    challenger = resolve(store, ModelRef.parse(candidate or f"{model}@{CANDIDATE}"))
    if champion is not None:
        return Comparison(model, challenger, resolve(store, ModelRef.parse(champion)))
    production = read_alias(store, model, PRODUCTION)
    if production:
        open_target(store, production)
    return Comparison(model, challenger, production.version if production else None)


logger = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class GateResult:
    """``verdict`` None when there was nothing to do; ``skipped`` says why nothing was measured."""

    comparison: Comparison
    verdict: Verdict | None
    skipped: str = ""
    report: Path | None = None
    seconds: float = 0.0

    def summary(self) -> dict[str, object]:
        """The result as it is printed for machines."""
        verdict = self.verdict
        return {
            "outcome": verdict.outcome if verdict else None,
            "model": self.comparison.model,
            "candidate": self.comparison.candidate,
            "champion": self.comparison.champion,
            "is_first": self.comparison.champion is None,
            "skipped": self.skipped or None,
            "report": name_path(self.report) if self.report else None,
            "seconds": round(self.seconds, 2),
            "lines": verdict.lines if verdict else (),
        }


def run_gate(
    store: Store,
    model: str,
    data: Path,
    settings: GateSettings,
    *,
    candidate: str | None = None,
    champion: str | None = None,
    again: bool = False,
    programs: Mapping[str, Sequence[str]] | None = None,
    calibrations: Path | None = None,
) -> GateResult:
    """Judge the candidate, write the report, store the verdict with the candidate.

    Args:
        store: the registry that both versions are in.
        model: its name.
        data: generated data, the training's too; raw observations and the report go to
            ``gates/<model>/`` in it, test rows of the candidate may be read from ``prepared/<model>/``.
        settings: how sure to be.
        candidate: a reference other than the alias `candidate`.
        champion: a reference other than the alias `production`; the verdict is then not stored,
            because it says nothing about taking over from what is in production.
        again: measure even if a passing verdict for these very digests and settings is there.
        programs: by arm, the module, and flags before its verb, that serve in the place of
            ``inference``; the verdict is then not stored, because it is about something else.
        calibrations: where spreads measured on machines of a class are kept; by default
            ``calibrations/`` in ``data``. That of this class takes the place of the settings' own.
    """
    started = time.monotonic()
    comparison = find_comparison(store, model, candidate, champion)
    if champion is None and comparison.candidate == comparison.champion:
        return GateResult(comparison, None, f"version {comparison.candidate} is in production already")
    settings = apply_calibration(
        settings, load_calibration(calibrations or data / "calibrations", machine_class())
    )
    workload = load_workload(settings.duet.workload)
    config_digest = digest_value([GATE_VERSION, settings, workload])
    opened = {arm: store.open_version(model, version) for arm, version in comparison.arms.items()}
    is_stored = champion is None and not programs
    if is_stored and not again:
        known = _find_passing(store, comparison, opened, config_digest)
        if known is not None:
            reason = f"version {comparison.candidate} passed already, for these very digests and settings"
            return GateResult(comparison, known, reason)
    target = data / "gates" / model / comparison.folder_name
    # Imported late: numpy, scipy and pyarrow take seconds, which a skipped gate need not wait for.
    from timberline.benchmarks.gate.comparison import run_comparison  # noqa: PLC0415

    with fresh_folder(target, mark="report.json") as folder:
        verdict, documents = run_comparison(
            store, opened, folder, settings, workload, config_digest, programs or {}, data
        )
        for name, content in documents.items():
            (folder / name).write_bytes(content)
    if is_stored:
        version = store.open_version(model, comparison.candidate)  # is it still there, after minutes?
        # The verdict last: it names the report.
        for name, content in documents.items():
            version.write_document(name, content)
    done = "the verdict is stored with the version" if is_stored else "the gate has been run"
    with after_change(done, where=name_path(target), hint=f"What was observed is in {target}."):
        share_folder(target, "gate")
    return GateResult(comparison, verdict, report=target / PAGE_FILE, seconds=time.monotonic() - started)


def _find_passing(
    store: Store, comparison: Comparison, opened: Mapping[str, Version], config_digest: str
) -> Verdict | None:
    data = store.read_document(comparison.model, comparison.candidate, VERDICT_FILE)
    if data is None:
        return None
    try:
        verdict = decode_verdict(data)
    except RegistryError as error:
        log_event(logger, "the stored verdict is not believed", logging.WARNING, reason=str(error))
        return None
    objections = find_all_objections(store, verdict, data, opened["candidate"], opened.get("champion"))
    return None if objections or verdict.config_digest != config_digest else verdict
