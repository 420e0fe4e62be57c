"""What is known of the two versions before anything is started: digests, signatures, held-out rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from benchmarks.config import AccuracySettings
from benchmarks.errors import EvidenceError
from benchmarks.judge.accuracy import judge_drop, judge_floors
from benchmarks.judge.baseline import judge_baseline
from benchmarks.judge.compatibility import find_breaks
from benchmarks.judge.limits import limits_in_force
from benchmarks.judge.parts import judge_recalls, judge_slices
from benchmarks.judge.predictions import (
    Comparison,
    Predictions,
    compare_predictions,
    keep_common,
    measure_quality,
    read_predictions,
)
from benchmarks.judge.probabilities import judge_calibration, judge_log_loss
from registry.errors import DamageError
from registry.manifest import Manifest, ParityTensor
from registry.signature import FEATURES, PROBABILITIES_OUTPUT
from registry.store import EVALUATION_FILE, Store
from registry.verdict import Outcome, VerdictLine
from registry.verification import MANIFEST_FILE


@dataclass(frozen=True)
class StaticEvidence:
    """Lines that need no running service; ``can_run`` False when starting one makes no sense."""

    lines: tuple[VerdictLine, ...]
    can_run: bool
    comparison: Comparison | None = None


@dataclass
class _Lines:
    lines: list[VerdictLine] = field(default_factory=list)

    def say(self, name: str, outcome: Outcome, reason: str, evidence: str = MANIFEST_FILE) -> None:
        self.lines.append(
            VerdictLine(name=name, candidate=None, outcome=outcome, reason=reason, evidence=evidence)
        )


def judge_static(store: Store, versions: dict[str, Manifest], settings: AccuracySettings) -> StaticEvidence:
    """Verify both versions, compare their signatures and their held-out predictions.

    Bytes that are not the manifest's are not looked into any further. Signatures that do not fit
    end it too: the two could not be asked the same questions.
    """
    said = _Lines()
    try:
        for manifest in versions.values():
            store.verify(manifest.model, manifest.version)
    except DamageError as error:
        said.say("digests", "INVALID", str(error))
        return StaticEvidence(tuple(said.lines), can_run=False)
    said.say("digests", "PASS", "every file is the one that its manifest names")
    said.lines.append(judge_parity(versions))
    is_compatible = True
    if "champion" in versions:
        breaks = find_breaks(versions["champion"], versions["candidate"])
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
        own = _read(store, candidate, limits.slices)
        said.lines += judge_floors(measure_quality(own), limits, settings)
        said.lines.append(judge_baseline(own, limits, settings))
        if "champion" not in versions or not is_compatible:
            return None
        champion = versions["champion"]
        comparison = _compare(champion, candidate, _read(store, champion), own)
    except EvidenceError as error:
        said.say("held_out_rows", "INVALID", str(error), EVALUATION_FILE)
        return None
    judges = [judge_drop, judge_recalls, judge_log_loss, judge_calibration]
    if limits.slices:
        judges.insert(2, judge_slices)
    in_force = limits_in_force(limits, None, settings)
    said.lines += [judge(comparison, in_force, settings) for judge in judges]
    return comparison


def _read(store: Store, manifest: Manifest, slices: Iterable[str] = ()) -> Predictions:
    folder = store.open_folder(manifest.model, manifest.version)
    return read_predictions(folder / EVALUATION_FILE, len(manifest.signature.classes), slices)


def _compare(champion: Manifest, candidate: Manifest, before: Predictions, after: Predictions) -> Comparison:
    """Lay the two side by side, on the rows that both were tested on if their test splits differ.

    Raises:
        EvidenceError: they come from different tables, have no row in common, or disagree about a truth.
    """
    labels = [label.value for label in candidate.signature.classes]
    if champion.lineage.test_fingerprint == candidate.lineage.test_fingerprint:
        return compare_predictions(before, after, labels)
    _require_one_table(champion, candidate)
    comparison = compare_predictions(*keep_common(before, after), labels)
    return replace(comparison, test_rows=(before.rows.size, after.rows.size))


def _require_one_table(champion: Manifest, candidate: Manifest) -> None:
    """Row numbers mean the same rows only in the same table.

    A table in another order has the same fingerprint; then the truths do not agree.
    """
    if champion.lineage.data_fingerprint != candidate.lineage.data_fingerprint:
        before, after = champion.lineage.test_fingerprint, candidate.lineage.test_fingerprint
        raise EvidenceError(
            f"the test splits differ: version {champion.version} was tested on {before[:16]}, "
            f"version {candidate.version} on {after[:16]}, which are parts of different tables",
            where=candidate.model,
            hint="Export the champion's run again on the present test split, or restore the split.",
        )


def judge_parity(versions: dict[str, Manifest]) -> VerdictLine:
    """Worst error of each graph against the network it was made from; BLOCK beyond the bound.

    The exporter refuses such a graph, so this catches one that came another way. The bound of a
    feature depends on the feature's value, which no manifest keeps: its error is told only.
    """
    candidate = versions["candidate"].parity
    probabilities = candidate.get(PROBABILITIES_OUTPUT)
    broken = [
        name
        for name, tensor in candidate.items()
        if name != FEATURES and not tensor.worst_absolute_error <= _bound(tensor)
    ]
    told = "; ".join(
        f"{arm}: "
        + ", ".join(f"{name} {tensor.worst_absolute_error:.2g}" for name, tensor in manifest.parity.items())
        for arm, manifest in versions.items()
    )
    champion = versions["champion"].parity.get(PROBABILITIES_OUTPUT) if "champion" in versions else None
    outcome: Outcome = "INVALID" if probabilities is None else "BLOCK" if broken else "PASS"
    why = {
        "INVALID": "no parity of the probabilities is known",
        "BLOCK": f"beyond the bound: {', '.join(broken)}",
    }
    return VerdictLine(
        name="parity",
        candidate=probabilities.worst_absolute_error if probabilities else None,
        champion=champion.worst_absolute_error if champion else None,
        limit=_bound(probabilities) if probabilities else None,
        outcome=outcome,
        reason=f"{why.get(outcome, 'worst errors over all test rows are within their bounds')}; {told}",
        evidence=MANIFEST_FILE,
    )


def _bound(tensor: ParityTensor) -> float:
    """atol + rtol x |reference|, where the reference is a probability and so at most 1."""
    return tensor.atol + tensor.rtol
