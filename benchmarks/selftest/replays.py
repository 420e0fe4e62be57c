"""Runs of one recipe laid side by side, two by two: what the gate would have judged, had they been releases.

The runs' answers to the test rows are in ``FOLDER/<seed>/``, where ``timberline calibrate-training``
leaves them.
No service is started. What is kept of a pair is what the lines about held-out rows are judged from, in a
row of a CSV file, so that another rule can judge it again without the answers.

Scenarios, the column ``arm``:

- ``retrained``: all ordered pairs of runs of one recipe, which are equal but for their seed.
- any other name: pairs of such a run and one of a recipe that is known to be worse.
- ``drip``: chains of releases, each of which answers `DRIP_SHARE` more of the rows wrong than the one before.
- ``drip_retrained``: likewise, and each is another run, which its seed makes better or worse as well.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from timberline.benchmarks.analysis.predictions import (
    BINS,
    CalibrationChange,
    Confusion,
    Gaps,
    PartChange,
    Predictions,
    Quality,
    QualityComparison,
    bound_calibration,
    compare_gaps,
    measure_gaps,
    read_predictions,
)
from timberline.benchmarks.analysis.statistics import Discordance
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.selftest.ledger import append_in_batches, append_rows, locked, read_rows
from timberline.benchmarks.selftest.scenarios import DRIP, DRIP_RETRAINED, DRIPS, RETRAINED
from timberline.benchmarks.selftest.worse import CHURN, Answers, draw_worse, read_answers, weigh_flips
from timberline.registry.manifest import Metrics
from timberline.registry.runs import RunQuality
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.registry.store import EVALUATION_FILE

_logger = logging.getLogger("benchmarks")

# How much more of the rows each release of a drip answers wrong, and how many releases there are.
DRIP_SHARE = 0.003
RELEASES = {DRIP: 5, DRIP_RETRAINED: 3}
_METRICS_FILE = "metrics.json"
# Bounds of the calibration error are taken here, and a normal distribution laid through them.
_ALPHA_LOW, _ALPHA_HIGH = 0.00075, 0.05
_SMALLEST = 1e-7
_SLICE = "slice_"
_AT_ONCE = 22


class RunRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run's figures. ``parts`` are test rows by class and slice, ``recalls`` shares right by class.

    Both are written as ``label=number`` with blanks between; a slice's label begins with ``slice_``. Labels
    are quoted as in a URL.
    """

    arm: str
    seed: int
    rows: int
    accuracy: float
    log_loss: float
    ece: float
    recalls: str
    parts: str

    @property
    def quality(self) -> RunQuality:
        """The run as one of those that the noise of training is known from."""
        recalls = {label: float(value) for label, value in _split(self.recalls)}
        return RunQuality(
            seed=self.seed, accuracy=self.accuracy, log_loss=self.log_loss, ece=self.ece, recalls=recalls
        )


class PairRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A champion and a candidate on the same rows.

    ``champion`` and ``candidate`` are seeds; of a drip ``seed+n`` is the n-th release, ``chain`` counts its
    chains. ``parts`` is what changed in each class and slice, as ``label=lost/gained``. ``ece_change`` and
    ``ece_sd`` are of the normal distribution with the bounds of the change of the calibration error.
    ``stated`` is how the pair ended by the limits as stated and ``noise`` with the noise of training in them;
    ``stated_by`` and ``noise_by`` name the lines.
    """

    arm: str
    chain: int
    champion: str
    candidate: str
    lost: int
    gained: int
    parts: str
    loss_change: float
    loss_sd: float
    ece_change: float
    ece_sd: float
    stated: str = ""
    stated_by: str = ""
    noise: str = ""
    noise_by: str = ""

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What names the pair."""
        return self.arm, self.chain, self.champion, self.candidate

    @property
    def seeds(self) -> tuple[int, int]:
        """The runs that the two are or were made from."""
        champion, candidate = (int(name.partition("+")[0]) for name in (self.champion, self.candidate))
        return champion, candidate


def _split(text: str) -> Iterator[tuple[str, str]]:
    """What `_join` joined."""
    for entry in text.split():
        label, _, value = entry.rpartition("=")
        yield unquote(label), value


def _join(entries: Iterable[tuple[str, object]]) -> str:
    return " ".join(f"{quote(label, safe='')}={value}" for label, value in entries)


@dataclass(frozen=True)
class Replays:
    """Where pairs are written, and the folders of their runs by scenario, `RETRAINED` among them."""

    path: Path
    folders: Mapping[str, Path]

    @property
    def runs_path(self) -> Path:
        """Where the runs are written."""
        return self.path.with_name(f"{self.path.stem}-runs.csv")

    def read_pairs(self) -> list[PairRow]:
        """The pairs that are there."""
        return read_rows(self.path, PairRow)

    def read_runs(self) -> list[RunRow]:
        """The runs that are there."""
        return read_rows(self.runs_path, RunRow)


def measure_replays(replays: Replays, *, slices: Sequence[str], chains: Mapping[str, int]) -> None:
    """Write down every pair that is not there yet; goes on where it was.

    Args:
        replays: what is compared.
        slices: of the model's ``[gate]``; the answers name the rows that are in them.
        chains: how many drips of each kind there are to be.

    Raises:
        EvidenceError: a folder has no run, or its answers are not those to the same rows.
        BenchmarkError: another run writes to the file.
    """
    with locked(replays.path):
        runs = {arm: _read_runs(folder) for arm, folder in replays.folders.items()}
        good, classes = runs[RETRAINED], _list_classes(runs)
        held = {seed: _read(folder, len(classes), slices) for seed, folder in good.items()}
        _require_same_rows(held)
        _write_runs(replays, runs, held, classes, slices)
        done = {row.key for row in replays.read_pairs()}
        wanted = [
            *_list_retrained(held),
            *(pair for arm in runs if arm != RETRAINED for pair in _list_worse(arm, runs[arm], held)),
            *(pair for arm, count in chains.items() for pair in _list_drips(arm, good, count)),
        ]
        todo = [key for key in wanted if key not in done]
        log_event(_logger, "pairs to compare", pairs=len(todo), done=len(done))
        versions = _Versions(runs, held, classes, slices)
        with Progress("compare", len(todo), "pairs", logger=_logger) as progress:
            append_in_batches(replays.path, _compare_all(todo, versions, progress), _AT_ONCE)


def _compare_all(keys: Iterable[Key], versions: _Versions, progress: Progress) -> Iterator[PairRow]:
    for key in keys:
        arm, chain, one, other = key
        champion = versions.find(arm, chain, one, is_champion=True)
        candidate = versions.find(arm, chain, other, is_champion=False)
        yield compare_sides(key, champion, candidate, versions.classes)
        progress.advance(1)


Key = tuple[str, int, str, str]


def write_pairs(replays: Replays, rows: Sequence[PairRow]) -> None:
    """Write all pairs again, with how they end."""
    with locked(replays.path):
        fresh = replays.path.with_name(f"{replays.path.name}.partial")
        fresh.unlink(missing_ok=True)
        append_rows(fresh, rows)
        fresh.replace(replays.path)


def _list_retrained(held: Mapping[int, Side]) -> list[Key]:
    return [(RETRAINED, 0, str(one), str(other)) for one, other in itertools.permutations(sorted(held), 2)]


def _list_worse(arm: str, worse: Mapping[int, Path], held: Mapping[int, Side]) -> list[Key]:
    # Ordered by the worse run, which is read from disk for its row of champions.
    return [(arm, 0, str(one), str(other)) for other in sorted(worse) for one in sorted(held)]


def _list_drips(arm: str, good: Mapping[int, Path], chains: int) -> list[Key]:
    """Of each chain, every release beside every later one; the runs are taken from a seeded circle."""
    order = np.random.default_rng(0).permutation(sorted(good)).tolist()
    stride = 1 if arm == DRIP_RETRAINED else 0
    releases = [
        [f"{order[(chain + stride * step) % len(order)]}+{step}" for step in range(RELEASES[arm] + 1)]
        for chain in range(chains)
    ]
    return [
        (arm, chain, *pair)
        for chain, names in enumerate(releases)
        for pair in itertools.combinations(names, 2)
    ]


def _read_runs(folder: Path) -> dict[int, Path]:
    runs = {int(path.parent.name): path.parent for path in folder.glob(f"[0-9]*/{EVALUATION_FILE}")}
    if not runs:
        raise EvidenceError(
            "has no run", where=str(folder), hint="`timberline calibrate-training` leaves them there."
        )
    return dict(sorted(runs.items()))


def _read_metrics(folder: Path) -> Metrics:
    try:
        return decode_json((folder / _METRICS_FILE).read_bytes(), Metrics)
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(f"cannot be read: {error}", where=str(folder / _METRICS_FILE)) from error


def _list_classes(runs: Mapping[str, Mapping[int, Path]]) -> tuple[str, ...]:
    found = {tuple(_read_metrics(folder).classes) for folders in runs.values() for folder in folders.values()}
    if len(found) > 1:
        raise EvidenceError("the runs have different classes", where=str(min(found)))
    return found.pop()


@dataclass(frozen=True)
class Side:
    """One version's answers and what is wanted of them in every pair; arrays have shape (rows,)."""

    predictions: Predictions
    correct: npt.NDArray[np.bool_]
    gaps: Gaps

    @classmethod
    def of(cls, predictions: Predictions) -> Side:
        """What is wanted of these answers."""
        correct = predictions.correct
        return cls(predictions, correct, measure_gaps(predictions.confidence, correct))


def _read(folder: Path, classes: int, slices: Sequence[str]) -> Side:
    return Side.of(read_predictions(folder / EVALUATION_FILE, classes, slices))


def _require_same_rows(sides: Mapping[int, Side]) -> None:
    first = next(iter(sides.values())).predictions
    for seed, side in sides.items():
        other = side.predictions
        if not (np.array_equal(first.rows, other.rows) and np.array_equal(first.truth, other.truth)):
            raise EvidenceError("answers other rows than the first run", where=f"run {seed}")


def _write_runs(
    replays: Replays,
    runs: Mapping[str, Mapping[int, Path]],
    held: Mapping[int, Side],
    classes: Sequence[str],
    slices: Sequence[str],
) -> None:
    any_run = next(iter(held.values())).predictions
    counts = dict(zip(classes, np.bincount(any_run.truth, minlength=len(classes)).tolist(), strict=True))
    counts |= {f"{_SLICE}{name}": int(any_run.slices[name].sum()) for name in slices}
    parts = _join((label, rows) for label, rows in counts.items() if rows)
    known = {(row.arm, row.seed) for row in replays.read_runs()}
    rows = [
        _describe_run(arm, seed, _read_metrics(folder), parts)
        for arm, folders in runs.items()
        for seed, folder in folders.items()
        if (arm, seed) not in known
    ]
    if rows:
        append_rows(replays.runs_path, rows)


def _describe_run(arm: str, seed: int, metrics: Metrics, parts: str) -> RunRow:
    recalls = [(value, f"{one.recall:.6g}") for value, one in metrics.classes.items() if one.rows]
    return RunRow(
        arm=arm,
        seed=seed,
        rows=metrics.rows,
        accuracy=metrics.accuracy.value,
        log_loss=metrics.log_loss,
        ece=metrics.ece,
        recalls=_join(recalls),
        parts=parts,
    )


@dataclass
class _Versions:
    """Answers by scenario and name; those of a drip's chain are kept until the next one."""

    runs: Mapping[str, Mapping[int, Path]]
    held: Mapping[int, Side]
    classes: tuple[str, ...]
    slices: Sequence[str]
    made: dict[tuple[str, int, str], Side] = field(default_factory=dict)

    def find(self, arm: str, chain: int, name: str, *, is_champion: bool) -> Side:
        """The answers of one side of a pair."""
        seed, _, step = name.partition("+")
        if arm == RETRAINED or step == "0" or (is_champion and arm not in DRIPS):
            return self.held[int(seed)]
        key = (arm, chain, name)
        if key not in self.made:
            if arm not in DRIPS or not any((arm, chain) == one[:2] for one in self.made):
                self.made.clear()
            self.made[key] = (
                self._drip(arm, int(seed), chain, int(step))
                if arm in DRIPS
                else _read(self.runs[arm][int(seed)], len(self.classes), self.slices)
            )
        return self.made[key]

    def _drip(self, arm: str, seed: int, chain: int, step: int) -> Side:
        """The run made worse by ``step`` times `DRIP_SHARE` in expectation.

        Where releases are runs of one seed, rows change sides in both directions, as between two runs: 5 % of
        them, or as many as are in doubt.
        """
        answers, _ = read_answers(self.runs[RETRAINED][seed] / EVALUATION_FILE)
        share = step * DRIP_SHARE
        weights, chance = weigh_flips(answers), np.random.default_rng([chain, step])
        most = min(2 / weights.lost.max() - share, 2 / weights.gained.max() + share) * (1 - 1e-9)
        churn = max(share, min(CHURN, most)) if arm == DRIP else share
        worse = draw_worse(answers, weights, drop=share, churn=churn, chance=chance)
        return Side.of(_replace_answers(self.held[seed].predictions, worse))


def _replace_answers(predictions: Predictions, answers: Answers) -> Predictions:
    true_chance = answers.chances[np.arange(answers.truth.size), answers.truth]
    return replace(
        predictions,
        label=answers.label,
        loss=-np.log(np.clip(true_chance, _SMALLEST, 1.0)),
        confidence=answers.chances.max(axis=1),
    )


def compare_sides(key: Key, champion: Side, candidate: Side, classes: Sequence[str]) -> PairRow:
    """What the lines about held-out rows are judged from; `compare_predictions` in a tenth of the time."""
    before, after = champion.predictions, candidate.predictions
    if not np.array_equal(before.truth, after.truth):
        raise EvidenceError("the two do not answer the same rows", where=" and ".join(key[2:]))
    changed = [champion.correct & ~candidate.correct, ~champion.correct & candidate.correct]
    lost, gained = (np.bincount(after.truth[flags], minlength=len(classes)).tolist() for flags in changed)
    counts = np.bincount(after.truth, minlength=len(classes))
    parts = [(label, f"{lost[i]}/{gained[i]}") for i, label in enumerate(classes) if counts[i]]
    for name, inside in after.slices.items():
        parts.append((f"{_SLICE}{name}", "/".join(str(int((flags & inside).sum())) for flags in changed)))
    difference = after.loss - before.loss
    bounds = bound_calibration(
        compare_gaps(champion.gaps, candidate.gaps), alpha_low=_ALPHA_LOW, alpha_high=_ALPHA_HIGH
    )
    below, above = float(norm.isf(_ALPHA_LOW)), float(norm.isf(_ALPHA_HIGH))
    arm, chain, one, other = key
    return PairRow(
        arm=arm,
        chain=chain,
        champion=one,
        candidate=other,
        lost=sum(lost),
        gained=sum(gained),
        parts=_join(parts),
        loss_change=float(difference.mean()),
        loss_sd=float(difference.std(ddof=1)),
        ece_change=(bounds.low * above + bounds.high * below) / (below + above),
        ece_sd=(bounds.high - bounds.low) / (below + above),
    )


def restore_comparison(row: PairRow, run: RunRow) -> QualityComparison:
    """The pair as the judges take it; ``run`` is one of the runs, for the numbers of rows.

    Shares and figures of each side alone are not kept: they are 0 and judge nothing. The calibration error
    has one bin, so far from 0 that its change is normal with the mean and the deviation of the row.
    """
    counts = {label: int(rows) for label, rows in _split(run.parts)}
    parts = []
    for label, changed in _split(row.parts):
        lost, _, gained = changed.partition("/")
        pairs = Discordance(counts[label], int(lost), int(gained))
        parts.append(PartChange(label, 0.0, -pairs.drop, pairs))
    champion, candidate = np.zeros(BINS), np.zeros(BINS)
    champion[0], candidate[0] = 1.0, 1.0 + row.ece_change
    covariance = np.zeros((2 * BINS, 2 * BINS))
    covariance[BINS, BINS] = row.ece_sd**2
    nothing = Quality(rows=run.rows, correct=0, loss=0.0, loss_sd=0.0)
    return QualityComparison(
        champion=nothing,
        candidate=nothing,
        pairs=Discordance(run.rows, row.lost, row.gained),
        recalls=tuple(part for part in parts if not part.label.startswith(_SLICE)),
        slices=tuple(part for part in parts if part.label.startswith(_SLICE)),
        loss_difference=row.loss_change,
        loss_difference_sd=row.loss_sd,
        calibration=CalibrationChange(champion, candidate, covariance),
        confusion=Confusion(classes=(), champion=(), candidate=()),
    )
