"""What is known of the two versions before anything is started: digests, signatures, held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.config import AccuracySettings
from benchmarks.errors import EvidenceError
from benchmarks.judge.accuracy import judge_drop, judge_floors, judge_recalls, report_log_loss
from benchmarks.judge.compatibility import find_breaks
from benchmarks.judge.predictions import (
    Comparison,
    Predictions,
    compare_predictions,
    measure_quality,
    read_predictions,
)
from registry.errors import DigestMismatchError
from registry.manifest import Manifest
from registry.store import EVALUATION_FILE, Store
from registry.verdict import Outcome, VerdictLine


@dataclass(frozen=True)
class StaticEvidence:
    """Lines that need no running service; ``can_run`` False when starting one makes no sense."""

    lines: tuple[VerdictLine, ...]
    can_run: bool
    comparison: Comparison | None = None


@dataclass
class _Lines:
    lines: list[VerdictLine] = field(default_factory=list)

    def say(self, name: str, outcome: Outcome, reason: str) -> None:
        self.lines.append(VerdictLine(name=name, candidate=None, outcome=outcome, reason=reason))


def judge_static(store: Store, versions: dict[str, Manifest], settings: AccuracySettings) -> StaticEvidence:
    """Verify both versions, compare their signatures and their held-out predictions.

    Bytes that are not the manifest's are not looked into any further. Signatures that do not fit
    end it too: the two could not be asked the same questions.
    """
    said = _Lines()
    try:
        for manifest in versions.values():
            store.verify(manifest.model, manifest.version)
    except DigestMismatchError as error:
        said.say("digests", "INVALID", str(error))
        return StaticEvidence(tuple(said.lines), can_run=False)
    said.say("digests", "PASS", "every file is the one that its manifest names")
    is_compatible = True
    if "champion" in versions:
        breaks = find_breaks(versions["champion"].signature, versions["candidate"].signature)
        is_compatible = not breaks
        said.say(
            "signature",
            "BLOCK" if breaks else "PASS",
            "; ".join(breaks)[:300] or "every body that the champion takes, the candidate takes",
        )
    comparison = _judge_predictions(store, versions, settings, said, is_compatible=is_compatible)
    return StaticEvidence(tuple(said.lines), is_compatible, comparison)


def _judge_predictions(
    store: Store,
    versions: dict[str, Manifest],
    settings: AccuracySettings,
    said: _Lines,
    *,
    is_compatible: bool,
) -> Comparison | None:
    candidate = versions["candidate"]
    limits = candidate.gate
    try:
        own = _read(store, candidate)
        said.lines += judge_floors(measure_quality(own), limits, settings)
        if "champion" not in versions or not is_compatible:
            return None
        champion = versions["champion"]
        _check_fingerprints(champion, candidate)
        labels = [label.value for label in candidate.signature.classes]
        comparison = compare_predictions(_read(store, champion), own, labels)
    except EvidenceError as error:
        said.say("held_out_rows", "INVALID", str(error))
        return None
    said.lines += [
        judge_drop(comparison, limits, settings),
        judge_recalls(comparison, limits, settings),
        report_log_loss(comparison, settings),
    ]
    return comparison


def _read(store: Store, manifest: Manifest) -> Predictions:
    folder = store.open_folder(manifest.model, manifest.version)
    return read_predictions(folder / EVALUATION_FILE, len(manifest.signature.classes))


def _check_fingerprints(champion: Manifest, candidate: Manifest) -> None:
    before, after = champion.lineage.test_fingerprint, candidate.lineage.test_fingerprint
    if before != after:
        raise EvidenceError(
            f"the test splits differ: version {champion.version} was tested on {before[:16]}, "
            f"version {candidate.version} on {after[:16]}",
            where=candidate.model,
            hint="Export the champion's run again on the present test split, or restore the split.",
        )
