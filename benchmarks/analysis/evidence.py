"""What is known of the two versions before anything is started: digests, signatures, held-out rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from timberline.benchmarks.analysis.earlier import (
    compare_releases,
    find_noise,
    judge_total,
    keep_champion,
    list_releases,
)
from timberline.benchmarks.analysis.fresh import (
    SCORED_FILES,
    FreshRows,
    describe_asked,
    is_reordered,
    is_same_table,
    miss_rows,
)
from timberline.benchmarks.analysis.limits import limits_in_force
from timberline.benchmarks.analysis.predictions import (
    Predictions,
    QualityComparison,
    compare_predictions,
    keep_common,
    measure_quality,
    read_predictions,
)
from timberline.benchmarks.analysis.quality import (
    judge_baseline,
    judge_calibration,
    judge_drop,
    judge_floors,
    judge_log_loss,
    judge_recalls,
    judge_slices,
)
from timberline.benchmarks.analysis.verdict import blank_line
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.settings import AccuracySettings
from timberline.registry.errors import DamageError
from timberline.registry.manifest import Manifest, ParityTensor
from timberline.registry.rows import SEEN_FILE
from timberline.registry.signature import FEATURES, PROBABILITIES_OUTPUT, Column
from timberline.registry.store import EVALUATION_FILE, Store
from timberline.registry.verdict import Outcome, VerdictLine
from timberline.registry.version import MANIFEST_FILE, Version


def find_breaks(champion: Manifest, candidate: Manifest) -> list[str]:
    """What a client of ``champion`` would trip over with ``candidate``; empty when nothing.

    A new column that may be left out is no break, nor is one that became optional, nor one that is not
    read any more: clients that go on sending it are answered. They are not when its table has lost it. Nor
    are new classes behind the old ones.
    """
    before = {column.name: column for column in champion.signature.columns}
    after = {column.name: column for column in candidate.signature.columns}
    sent = [*before, *(name for name, role in champion.table.unread.items() if role == "input")]
    taken = after.keys() | candidate.table.unread.keys()
    breaks = [f"column {name} was removed" for name in sent if name not in taken]
    for name, column in after.items():
        if name not in before:
            if not column.may_be_absent:
                breaks.append(f"column {name} is new and required")
        else:
            breaks += _compare_columns(before[name], column)
    return breaks + _compare_classes(champion, candidate)


def list_new_classes(champion: Manifest, candidate: Manifest) -> list[str]:
    """The classes that the candidate has behind the champion's own, which are all there in their order."""
    old, new = _classes(champion), _classes(candidate)
    return new[len(old) :] if new[: len(old)] == old else []


def _compare_classes(champion: Manifest, candidate: Manifest) -> list[str]:
    """Classes behind the old ones are no break.

    JSON names every probability, so a client finds those that it knows; in tensors of the Open Inference
    Protocol and in bare float32 rows the old ones keep their place, and the shape, or the number of bytes
    a row, shows how many there are. One in front of an old class, or in its place, would be taken for it.
    """
    old, new = _classes(champion), _classes(candidate)
    if new[: len(old)] == old:
        return []
    hint = "; list the new ones last in [target]" if set(old) < set(new) else ""
    return [f"classes were {', '.join(old)[:80]}, are {', '.join(new)[:80]}{hint}"]


def _classes(manifest: Manifest) -> list[str]:
    return [label.value for label in manifest.signature.classes]


def _compare_columns(before: Column, after: Column) -> list[str]:
    breaks = []
    # An integer is also a number on the wire, so INT64 may widen to FP64.
    if after.datatype != before.datatype and (before.datatype, after.datatype) != ("INT64", "FP64"):
        breaks.append(f"column {before.name} was {before.datatype}, is {after.datatype}")
    if before.may_be_absent and not after.may_be_absent:
        breaks.append(f"column {before.name} became required")
    if before.is_nullable and not after.is_nullable:
        breaks.append(f"column {before.name} may no longer be null")
    return breaks


@dataclass(frozen=True)
class StaticEvidence:
    """Lines that need no running service; ``can_run`` False when starting one makes no sense."""

    lines: tuple[VerdictLine, ...]
    can_run: bool
    comparison: QualityComparison | None = None


def judge_static(
    store: Store,
    opened: Mapping[str, Version],
    settings: AccuracySettings,
    *,
    data: Path | None = None,
    folder: Path | None = None,
) -> StaticEvidence:
    """Verify both versions, compare their signatures and their held-out predictions.

    Bytes that are not the manifest's are not looked into any further. Signatures that do not fit
    end it too: the two could not be asked the same questions.

    Args:
        store: where the versions are.
        opened: the versions by arm.
        settings: how sure to be.
        data: the folder in which the candidate's table was prepared. Its test rows are read there when the
            two learned from different tables and the version does not bring them along.
        folder: where answers that are given afresh are kept; without it they are forgotten.
    """
    versions = {arm: version.manifest for arm, version in opened.items()}
    try:
        for version in opened.values():
            version.verify()
    except DamageError as error:
        line = blank_line("digests", "INVALID", str(error), MANIFEST_FILE)
        return StaticEvidence((line,), can_run=False)
    reason = "every file is the one that its manifest names"
    lines = [blank_line("digests", "PASS", reason, MANIFEST_FILE), judge_parity(versions)]
    is_compatible = True
    if "champion" in versions:
        lines.append(_judge_signature(versions["champion"], versions["candidate"]))
        is_compatible = lines[-1].outcome == "PASS"
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        rows = _HeldOut(store, versions, settings, data, folder or Path(scratch), lines)
        comparison = rows.judge(is_compatible=is_compatible)
    return StaticEvidence(tuple(lines), is_compatible, comparison)


def _judge_signature(champion: Manifest, candidate: Manifest) -> VerdictLine:
    breaks = find_breaks(champion, candidate)
    added = [] if breaks else list_new_classes(champion, candidate)
    reason = "; ".join(breaks)[:300] or "every body that the champion takes, the candidate takes"
    if added:
        reason += f"; new, behind the others: class {', '.join(added)[:80]}"
    line = blank_line("signature", "BLOCK" if breaks else "PASS", reason, MANIFEST_FILE)
    return msgspec.structs.replace(line, mark="WARN") if added else line


@dataclass(frozen=True)
class _HeldOut:
    """What the predictions are judged with, see `judge_static`; ``lines`` are added to."""

    store: Store
    versions: dict[str, Manifest]
    settings: AccuracySettings
    data: Path | None
    folder: Path
    lines: list[VerdictLine]

    def judge(self, *, is_compatible: bool) -> QualityComparison | None:
        """The candidate by itself, and beside what was in production."""
        candidate, settings = self.versions["candidate"], self.settings
        try:
            own = _read(self.store, candidate, candidate.gate.slices)
            self.lines.extend(judge_floors(measure_quality(own), candidate.gate, settings))
            self.lines.append(judge_baseline(own, candidate.gate, settings))
            if "champion" not in self.versions or not is_compatible:
                return None
            return self._judge_beside(own)
        except (EvidenceError, DamageError) as error:
            self.lines.append(blank_line("held_out_rows", "INVALID", str(error), EVALUATION_FILE))
            return None

    def _judge_beside(self, own: Predictions) -> QualityComparison | None:
        """The candidate beside the champion, and beside the releases before it.

        Raises:
            EvidenceError: champion and candidate cannot be compared, or the noise of training cannot be read.
        """
        store, champion, candidate = self.store, self.versions["champion"], self.versions["candidate"]
        earlier = list_releases(store, champion, candidate, self.settings.releases)
        noise, source = find_noise(store, champion, earlier)
        limits = limits_in_force(candidate.gate, noise, self.settings, source=source)
        fresh = FreshRows(store, candidate, own, self.data, self.folder)
        comparison = self._compare(own, fresh)
        judges = {"accuracy": judge_drop, "recall": judge_recalls, "slices": judge_slices}
        judges |= {"log_loss": judge_log_loss, "calibration": judge_calibration}
        if not candidate.gate.slices:
            del judges["slices"]
        if comparison is None:
            lines = miss_rows(judges, candidate.gate, self.settings)
            releases = compare_releases(store, earlier, candidate, own, fresh)
        else:
            lines = [judge(comparison, limits, self.settings) for judge in judges.values()]
            if comparison.is_fresh:
                lines = [msgspec.structs.replace(line, evidence=SCORED_FILES) for line in lines]
            # The champion, first of them, was compared just now.
            releases = compare_releases(store, earlier[1:], candidate, own, fresh)
            known = keep_champion(champion.version, comparison)
            releases = replace(releases, compared=(known, *releases.compared))
        lines.insert(1, judge_total(releases, limits, self.settings))
        self.lines.extend(lines)
        return comparison

    def _compare(self, own: Predictions, fresh: FreshRows) -> QualityComparison | None:
        """Lay the two side by side, on the rows that both were tested on if their test splits differ.

        Row numbers mean the same rows only in the same table, in the same order; otherwise both are asked
        afresh. None when no row is left that the champion has not learned from.

        Raises:
            EvidenceError: they have no row in common, disagree about a truth, or cannot be asked afresh.
        """
        champion, candidate = self.versions["champion"], self.versions["candidate"]
        labels = _classes(candidate)
        if is_same_table(champion, candidate):
            before = _read(self.store, champion)
            if not (is_reordered(before, own) and SEEN_FILE in champion.files):
                if champion.lineage.test_fingerprint == candidate.lineage.test_fingerprint:
                    return compare_predictions(before, own, labels)
                comparison = compare_predictions(*keep_common(before, own), labels)
                return replace(comparison, test_rows=(before.rows.size, own.rows.size))
        asked = fresh.ask(champion, "champion")
        self.lines.append(describe_asked(asked, champion, candidate))
        if asked.other is None or asked.candidate is None:
            return None
        comparison = compare_predictions(asked.other, asked.candidate, labels)
        return replace(comparison, is_fresh=True)


def _read(store: Store, manifest: Manifest, slices: Iterable[str] = ()) -> Predictions:
    path = store.open_file(manifest, EVALUATION_FILE)
    return read_predictions(path, len(manifest.signature.classes), slices)


def judge_parity(versions: dict[str, Manifest]) -> VerdictLine:
    """Worst error of each graph against the network it was made from; BLOCK beyond the bound.

    The exporter refuses such a graph, so this catches one that came another way. The bound of a
    feature depends on the feature's value, which no manifest keeps: its error is only reported.
    """
    candidate = versions["candidate"].parity
    probabilities = candidate.get(PROBABILITIES_OUTPUT)
    broken = [
        name
        for name, tensor in candidate.items()
        if name != FEATURES and not tensor.worst_absolute_error <= _bound(tensor)
    ]
    text = "; ".join(
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
        reason=f"{why.get(outcome, 'worst errors over all test rows are within their bounds')}; {text}",
        evidence=MANIFEST_FILE,
    )


def _bound(tensor: ParityTensor) -> float:
    """atol + rtol x |reference|, where the reference is a probability and so at most 1."""
    return tensor.atol + tensor.rtol
