"""Versions that learned from different tables, on the same rows: the candidate's test rows, asked afresh.

Row numbers of two tables say nothing about each other. So both graphs answer the candidate's test rows
again, less those that the other version has learned from; truth and slices are the candidate's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from timberline.benchmarks.analysis.power import rows_to_prove
from timberline.benchmarks.analysis.predictions import Integers, Predictions, read_predictions
from timberline.benchmarks.analysis.raw_rows import RawRows, find_refused, find_unseen, open_rows, read_seen
from timberline.benchmarks.analysis.scoring import SCORED_FILES, drop_chances, name_scored, score_rows
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.gate.settings import AccuracySettings
from timberline.registry.manifest import GateLimits, Manifest
from timberline.registry.rows import SeenRows
from timberline.registry.store import EVALUATION_FILE, Store
from timberline.registry.verdict import VerdictLine

# Of the rows whose label another machine or release of the runtime may give otherwise.
_OTHER_LABELS = 1e-3
# Two labels are tied when their probabilities differ by less; neither is then above a half by more.
_TIE = 1e-3


def is_same_table(one: Manifest, other: Manifest) -> bool:
    """Whether both have the same rows; in what order is not said, see `is_reordered`."""
    return one.lineage.data_fingerprint == other.lineage.data_fingerprint


def is_reordered(one: Predictions, other: Predictions) -> bool:
    """Whether the same row number means another row: two versions of one table disagree about a truth."""
    _, here, there = np.intersect1d(one.rows, other.rows, assume_unique=True, return_indices=True)
    return not np.array_equal(one.truth[here], other.truth[there])


@dataclass(frozen=True)
class Asked:
    """Another version and the candidate on the rows that the other has not learned from; None without one.

    ``rows`` are the candidate's test rows, ``left_out`` those that the other version has learned from, or
    seems to: ``seen`` says how often a row that it never saw is taken for one. ``refused`` are others that
    hold NULL where it takes none, so that it has no answer to them.
    """

    other: Predictions | None
    candidate: Predictions | None
    rows: int
    left_out: int
    refused: int
    seen: SeenRows

    @property
    def judged(self) -> int:
        """Rows that both answer."""
        return self.rows - self.left_out - self.refused

    @property
    def by_chance(self) -> float:
        """About how many of the rows left out were never seen: every unseen row has the same chance."""
        rate = self.seen.false_positive_rate
        return (self.rows - self.left_out) * rate / (1 - rate)


class FreshRows:
    """The candidate's test rows, found and answered by the candidate when first needed.

    Args:
        store: where the versions are.
        candidate: whose rows.
        own: its evaluation, with its slices.
        data: the folder in which its table was prepared, if it is here.
        folder: where answers are kept.
    """

    def __init__(
        self, store: Store, candidate: Manifest, own: Predictions, data: Path | None, folder: Path
    ) -> None:
        self._store = store
        self._candidate = candidate
        self._own = own
        self._data = data
        self._folder = folder

    def ask(self, other: Manifest, who: str, *, keeps_labels_only: bool = False) -> Asked:
        """Let another version answer; its answers are kept as ``scored-<who>.parquet``.

        Args:
            other: the version.
            who: its arm, or its number.
            keeps_labels_only: probabilities, nine tenths of the file, are used here and not kept.

        Raises:
            EvidenceError: the rows are not there or are not the candidate's, they lack a column that the
                other version takes or knows rows by, or what it has learned from is not known.
        """
        seen = read_seen(self._store, other)
        unseen = find_unseen(self._rows, seen)
        kept = np.setdiff1d(unseen, find_refused(self._rows, other), assume_unique=True)
        own = self._answers
        counts = own.rows.size, own.rows.size - unseen.size, unseen.size - kept.size
        if not kept.size:
            return Asked(None, None, *counts, seen.about)
        answers = self._score(other, who, kept)
        if keeps_labels_only:
            drop_chances(self._folder / name_scored(who))
        return Asked(answers, own.take(np.isin(own.rows, kept)), *counts, seen.about)

    @cached_property
    def _rows(self) -> RawRows:
        return open_rows(self._store, self._candidate, self._data)

    @cached_property
    def _answers(self) -> Predictions:
        """The candidate's own, of all rows, in the order of its evaluation."""
        scored = self._score(self._candidate, "candidate", None)
        _require_same(self._own, scored, f"{self._candidate.model}@{self._candidate.version}")
        return replace(scored, slices=self._own.slices)

    def _score(self, manifest: Manifest, who: str, chosen: Integers | None) -> Predictions:
        onto, path = self._candidate.signature, self._folder / name_scored(who)
        score_rows(self._store, manifest, self._rows, chosen, onto, path)
        return read_predictions(path, len(onto.classes))


def _require_same(own: Predictions, scored: Predictions, where: str) -> None:
    """Hold the rows and the fresh answers to the version's own evaluation.

    Raises:
        EvidenceError: it is about other rows, or the answers of another graph.
    """
    if not (np.array_equal(own.rows, scored.rows) and np.array_equal(own.truth, scored.truth)):
        raise EvidenceError(f"{EVALUATION_FILE} is not about the test rows", where=where)
    differ = own.label != scored.label
    is_tied = (np.abs(own.confidence - scored.confidence) <= _TIE) & (scored.confidence <= 0.5 + _TIE)
    allowed = _OTHER_LABELS * own.rows.size
    if (differ & ~is_tied).sum() > allowed or differ.sum() > max(1, allowed):
        raise EvidenceError(
            f"{EVALUATION_FILE} is not this graph's: of {own.rows.size:,} rows it answers {differ.sum():,} "
            "with another label",
            where=where,
            hint="Export its run again.",
        )


def describe_asked(asked: Asked, champion: Manifest, candidate: Manifest) -> VerdictLine:
    """The line that says on which rows the two are judged; INCONCLUSIVE when none is left."""
    judged, refused = asked.judged, asked.refused
    table = "the same rows in another order" if is_same_table(champion, candidate) else "another table"
    said = [
        f"version {champion.version} learned from {table}; both were asked afresh about the "
        f"{asked.rows:,} test rows of version {candidate.version}",
        f"{asked.left_out:,} left out because version {champion.version} trained or validated on them (about "
        f"{asked.by_chance:,.0f} of them by chance)",
        *([f"{refused:,} because it takes no NULL where they have one"] if refused else []),
        f"{judged:,} are judged" if judged else "none is left to judge",
        *_say_unlabelled(champion, candidate),
    ]
    return VerdictLine(
        name="held_out_rows",
        candidate=float(judged),
        unit="rows",
        outcome="INFO" if judged else "INCONCLUSIVE",
        reason="; ".join(said),
        evidence=SCORED_FILES,
    )


def _say_unlabelled(*versions: Manifest) -> Iterable[str]:
    for manifest in versions:
        if splits := manifest.lineage.unlabelled_splits:
            yield (
                f"version {manifest.version} has seen the features, without labels, of its "
                f"{' and '.join(splits)} rows"
            )


def miss_rows(names: Iterable[str], limits: GateLimits, settings: AccuracySettings) -> list[VerdictLine]:
    """The lines that could not be judged because no row is left, and how many rows it takes at least."""
    margin, said = limits.max_accuracy_drop, ""
    if margin:
        needed = rows_to_prove(margin, margin, alpha=settings.alpha_pass, power=settings.power)
        said = f"; rows needed: {needed:,} at least, there are 0"
    return [
        VerdictLine(
            name=name,
            candidate=None,
            outcome="INCONCLUSIVE",
            reason=f"no test row is left that the champion has not learned from{said}",
            evidence=SCORED_FILES,
        )
        for name in names
    ]
