"""A really worse model: the same graph, whose held-out answers are wrong on more rows; and hundreds of them.

Two trained models of the same quality still disagree about many rows, those that are hard. So beside
the rows that make it worse, rows change sides in both directions: in every class as many are lost
as are gained, and they are those where the model was in doubt. A model that is worse by nothing is then
worse by nothing in its recalls and its log-loss either.

Draws measure how often the rule for held-out answers blocks such models, by how many rows it has. They start
no service: each is a version of its own in a registry of its own, judged by what the gate judges before it
starts anything.
"""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.analysis.statistics import rows_to_block
from timberline.benchmarks.analysis.verdict import find_gravest
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.selftest.ledger import append_in_batches, locked, read_rows
from timberline.benchmarks.selftest.scenarios import (
    FALSE_BLOCK_RATE,
    FOUND_RATE,
    bound_rate,
    format_bounded,
    format_table,
)
from timberline.benchmarks.settings import GateSettings
from timberline.registry.runtime.stages import digest_value
from timberline.registry.store import EVALUATION_FILE, Store, open_store

# Rate of discordance between two trainings of one network: 3 to 10 % in the field's tables.
CHURN = 0.05
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Answers to held-out rows: ``truth`` and ``label`` of shape (rows,), ``chances`` (rows, classes)."""

    truth: Integers
    label: Integers
    chances: Floats

    @property
    def correct(self) -> Flags:
        """Whether the label is the truth, per row."""
        correct: Flags = self.label == self.truth
        return correct

    def take(self, chosen: Integers) -> Answers:
        """Those of the chosen rows."""
        return Answers(self.truth[chosen], self.label[chosen], self.chances[chosen])


@dataclass(frozen=True)
class FlipWeights:
    """How likely each row is to be lost or gained, 1 on average; all arrays have shape (rows,).

    ``rival`` is the class that a row falls to: the second most probable one.
    """

    lost: Floats
    gained: Floats
    rival: Integers

    def take(self, chosen: Integers) -> FlipWeights:
        """That of the chosen rows, as likely as among all: the drop is one of all rows there could be."""
        return FlipWeights(self.lost[chosen], self.gained[chosen], self.rival[chosen])


def weigh_flips(answers: Answers) -> FlipWeights:
    """Which rows another training of the same model would answer otherwise.

    A wrong row whose truth comes second is gained with a chance of p2 / p1, so that the nearly right
    ones come first. Of a calibrated model, p1 rows are right for p2 that are wrong, so a right row
    is lost with (p2 / p1)^2: as many, as much in doubt. Per class, the sums are then made equal.
    """
    order = np.argsort(answers.chances, axis=1)
    rival = np.where(order[:, -1] == answers.label, order[:, -2], order[:, -1])
    rows = np.arange(rival.size)
    ratio = answers.chances[rows, rival] / np.maximum(answers.chances[rows, answers.label], 1e-12)
    gained = np.where(~answers.correct & (rival == answers.truth), ratio, 0.0)
    lost = np.where(answers.correct, ratio**2, 0.0)
    classes = answers.chances.shape[1]
    per_class = [np.bincount(answers.truth, weights, classes) for weights in (gained, lost)]
    lost *= (per_class[0] / np.maximum(per_class[1], 1e-12))[answers.truth]
    return FlipWeights(lost / lost.mean(), gained / gained.mean(), rival)


def draw_worse(
    answers: Answers, weights: FlipWeights, *, drop: float, churn: float, chance: np.random.Generator
) -> Answers:
    """Answers that are right on a share ``drop`` fewer rows in expectation.

    Args:
        answers: of the model as it is.
        weights: `weigh_flips` of them.
        drop: D, expected share of rows lost less those gained.
        churn: psi, expected share of rows that change sides; at least ``drop``.
        chance: decides row by row.

    Raises:
        EvidenceError: there are not enough rows in doubt for so much churn.
    """
    rows = answers.truth.size
    lost = weights.lost * (churn + drop) / 2
    gained = weights.gained * (churn - drop) / 2
    if max(lost.max(), gained.max()) > 1:
        raise EvidenceError(
            f"has too few rows in doubt for a churn of {churn:.1%}",
            where=EVALUATION_FILE,
            hint="A more accurate model has less churn: give a smaller one.",
        )
    draws = chance.random(rows)
    changed = np.flatnonzero(draws < lost + gained)  # a row has one of the two chances, never both
    old, new = answers.label[changed], weights.rival[changed]
    label, chances = answers.label.copy(), answers.chances.copy()
    label[changed] = new
    chances[changed, old], chances[changed, new] = (
        answers.chances[changed, new],
        answers.chances[changed, old],
    )
    return Answers(answers.truth, label, chances)


def read_answers(path: Path) -> tuple[Answers, pa.Table]:
    """The answers in an ``evaluation.parquet``, in its order, and the whole table."""
    table: Any = pq.read_table(path)
    names = [name for name in table.column_names if name.startswith("p_")]
    columns = {name: table[name].to_numpy() for name in ("class_index", "label_index", *names)}
    answers = Answers(
        truth=columns["class_index"].astype(np.int64),
        label=columns["label_index"].astype(np.int64),
        chances=np.stack([columns[name] for name in names], axis=1).astype(float),  # (rows, classes)
    )
    return answers, table


def _replace_answers(table: Any, answers: Answers) -> Any:
    given = {"label_index": answers.label}
    given |= {f"p_{index}": column for index, column in enumerate(answers.chances.T)}
    for name, values in given.items():
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(values).cast(field.type, safe=False))
    return table


@dataclass(frozen=True)
class Staged:
    """A registry of its own with the champion and a worse candidate."""

    store: Store
    champion: int
    candidate: int


def stage_worse(
    source: Store,
    model: str,
    version: int,
    folder: Path,
    *,
    drop: float,
    seed: int,
    churn: float = CHURN,
    rows: int | None = None,
) -> Staged:
    """Publish ``model@version`` and a worse version of it into a new registry in ``folder``.

    The manifest's metrics are left as they were: a gate that believed them would see no difference.

    Args:
        source: where the version is; nothing is written there.
        model: its name.
        version: its number.
        folder: of the new registry; numbers begin at 1 in it.
        drop: expected drop of accuracy.
        seed: of the draw.
        churn: expected rate of discordance.
        rows: how many held-out rows both versions keep, drawn from those there are; None is all.
    """
    chance = np.random.default_rng(seed)
    answers, weights, table = _read(source.open_version(model, version).open_file(EVALUATION_FILE))
    if rows is not None:
        chosen = np.sort(chance.choice(answers.truth.size, rows, replace=False))
        answers, weights, table = answers.take(chosen), weights.take(chosen), table.take(pa.array(chosen))
    worse = draw_worse(answers, weights, drop=drop, churn=churn, chance=chance)
    target = open_store(folder)
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        numbers = []
        for given in (table, _replace_answers(table, worse)):
            path = Path(scratch) / EVALUATION_FILE
            pq.write_table(given, path)
            numbers.append(_publish_copy(source, model, version, target, {EVALUATION_FILE: path}))
    return Staged(target, *numbers)


@functools.lru_cache(maxsize=1)  # read for every one of a thousand draws
def _read(path: Path) -> tuple[Answers, FlipWeights, Any]:
    answers, table = read_answers(path)
    return answers, weigh_flips(answers), table


def _publish_copy(source: Store, model: str, version: int, target: Store, instead: dict[str, Path]) -> int:
    opened = source.open_version(model, version)
    manifest = opened.manifest
    files = {name: opened.open_file(name) for name in manifest.files} | instead
    return target.publish(
        model,
        files,
        lambda number, digests: msgspec.structs.replace(manifest, version=number, files=digests),
    )


# A draw takes milliseconds; writing each one down takes longer.
_AT_ONCE = 25


class DrawRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worse candidate: what was asked for, what was drawn, what the gate decided and by which lines.

    ``rows`` 0 stands for all rows there are; ``drop`` and ``churn`` are expected, ``seen_drop`` and
    ``seen_churn`` what came out.
    """

    config_digest: str
    rows: int
    drop: float
    churn: float
    seed: int
    seen_rows: int
    seen_drop: float
    seen_churn: float
    outcome: str
    deciding: str


@dataclass(frozen=True)
class DrawRate:
    """Block rate of draws of one drop and number of rows, with 95 % bounds.

    ``needed`` is how many rows block such a drop with the power of the settings, 0 within the limit.
    ``by`` counts which lines blocked.
    """

    rows: int
    drop: float
    churn: float
    draws: int
    blocked: int
    passed: int
    rate: float
    low: float
    high: float
    needed: int
    stated: str
    by: dict[str, int]


@dataclass(frozen=True)
class Draws:
    """What is drawn from and where it is written."""

    store: Store
    model: str
    version: int
    settings: GateSettings
    path: Path

    def digest_config(self) -> str:
        """What two draws must share to be counted together."""
        identity = self.store.open_version(self.model, self.version).digests
        return digest_value([self.settings.accuracy, identity])

    @property
    def limit(self) -> float:
        """The drop of accuracy that the model allows."""
        return self.store.open_version(self.model, self.version).manifest.gate.max_accuracy_drop

    def read_done(self) -> list[DrawRow]:
        """The draws that count here and now."""
        digest = self.digest_config()
        return [row for row in read_rows(self.path, DrawRow) if row.config_digest == digest]


def run_draws(draws: Draws, *, drops: Sequence[float], sizes: Sequence[int], count: int) -> None:
    """Draw until there are ``count`` of each drop and number of rows (0: all); goes on where it was.

    Numbers of rows that the test split does not have are left out.
    """
    held_out = pq.read_metadata(
        draws.store.open_version(draws.model, draws.version).open_file(EVALUATION_FILE)
    )
    there = [rows for rows in sizes if rows <= held_out.num_rows]
    with locked(draws.path):
        append_in_batches(draws.path, _draw_all(draws, drops, there, count), _AT_ONCE)


def _draw_all(draws: Draws, drops: Sequence[float], sizes: Sequence[int], count: int) -> Iterator[DrawRow]:
    done = draws.read_done()
    for rows, drop in itertools.product(sizes, drops):
        seeds = {row.seed for row in done if (row.rows, row.drop) == (rows, drop)}
        for seed in sorted(set(range(count)) - seeds):
            yield _draw(draws, rows, drop, seed)


def _draw(draws: Draws, rows: int, drop: float, seed: int) -> DrawRow:
    with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
        staged = stage_worse(
            draws.store, draws.model, draws.version, Path(folder), drop=drop, seed=seed, rows=rows or None
        )
        arms = {"champion": staged.champion, "candidate": staged.candidate}
        versions = {arm: staged.store.open_version(draws.model, number) for arm, number in arms.items()}
        static = judge_static(staged.store, versions, draws.settings.accuracy)
    outcome, deciding = find_gravest(static.lines)
    pairs = static.comparison.pairs if static.comparison else None
    return DrawRow(
        config_digest=draws.digest_config(),
        rows=rows,
        drop=drop,
        churn=CHURN,
        seed=seed,
        seen_rows=pairs.rows if pairs else 0,
        seen_drop=pairs.drop if pairs else math.nan,
        seen_churn=pairs.rate if pairs else math.nan,
        outcome=outcome,
        deciding=deciding,
    )


def measure_draws(rows: Sequence[DrawRow], settings: GateSettings, limit: float) -> tuple[DrawRate, ...]:
    """A rate for each number of rows and drop; ``limit`` is the drop that the model allows."""
    return tuple(_measure(group, settings, limit) for group in _group(rows))


def _group(rows: Sequence[DrawRow]) -> Iterator[list[DrawRow]]:
    keys = sorted({(row.rows, row.drop) for row in rows}, key=lambda key: (key[0] or math.inf, key[1]))
    return ([row for row in rows if (row.rows, row.drop) == key] for key in keys)


def _measure(rows: Sequence[DrawRow], settings: GateSettings, limit: float) -> DrawRate:
    first = rows[0]
    blocks = [row.deciding for row in rows if row.outcome == "BLOCK"]
    low, high = bound_rate(len(blocks), len(rows))
    accuracy = settings.accuracy
    needed = (
        rows_to_block(first.churn, first.drop, limit, alpha=accuracy.alpha_block, power=accuracy.power)
        if first.drop > limit
        else 0
    )
    if needed:
        stated = f">= {FOUND_RATE:.0%}" if first.seen_rows >= needed else f"needs {needed:,} rows"
    else:
        stated = "within the limit" if first.drop else f"<= {FALSE_BLOCK_RATE:.0%}"
    names = [name for block in blocks for name in block.split("+")]
    return DrawRate(
        rows=first.seen_rows,
        drop=first.drop,
        churn=first.churn,
        draws=len(rows),
        blocked=len(blocks),
        passed=sum(row.outcome == "PASS" for row in rows),
        rate=len(blocks) / len(rows),
        low=low,
        high=high,
        needed=needed,
        stated=stated,
        by={name: names.count(name) for name in dict.fromkeys(names)},
    )


_HEAD = ("rows", "accuracy", "draws", "block", "pass", "block rate (95 %)", "stated", "blocked by")


def format_draws(rates: Sequence[DrawRate]) -> str:
    """A table for people, as Markdown."""
    return format_table(
        _HEAD,
        [
            (
                f"{rate.rows:,}",
                f"-{rate.drop:.1%}" if rate.drop else "same",
                str(rate.draws),
                str(rate.blocked),
                str(rate.passed),
                format_bounded(rate.rate, rate.low, rate.high),
                rate.stated,
                ", ".join(f"{name} {count}" for name, count in rate.by.items()),
            )
            for rate in rates
        ],
    )
