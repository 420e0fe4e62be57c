"""A really worse model: the same graph, whose held-out answers are wrong on more rows.

Two trained models of the same quality still disagree about many rows, those that are hard. So beside
the rows that make it worse, rows change sides in both directions: in every class as many are lost
as are gained, and they are those where the model was in doubt. A model that is worse by nothing is then
worse by nothing in its recalls and its log-loss either.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.benchmarks.errors import EvidenceError
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
class Doubt:
    """How likely each row is to be lost or gained, 1 on average; all arrays have shape (rows,).

    ``rival`` is the class that a row falls to: the second most probable one.
    """

    lost: Floats
    gained: Floats
    rival: Integers

    def take(self, chosen: Integers) -> Doubt:
        """That of the chosen rows, as likely as among all: the drop is one of all rows there could be."""
        return Doubt(self.lost[chosen], self.gained[chosen], self.rival[chosen])


def weigh_doubt(answers: Answers) -> Doubt:
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
    return Doubt(lost / lost.mean(), gained / gained.mean(), rival)


def draw_worse(
    answers: Answers, doubt: Doubt, *, drop: float, churn: float, chance: np.random.Generator
) -> Answers:
    """Answers that are right on a share ``drop`` fewer rows in expectation.

    Args:
        answers: of the model as it is.
        doubt: `weigh_doubt` of them.
        drop: D, expected share of rows lost less those gained.
        churn: psi, expected share of rows that change sides; at least ``drop``.
        chance: decides row by row.

    Raises:
        EvidenceError: there are not enough rows in doubt for so much churn.
    """
    rows = answers.truth.size
    lost = doubt.lost * (churn + drop) / 2
    gained = doubt.gained * (churn - drop) / 2
    if max(lost.max(), gained.max()) > 1:
        raise EvidenceError(
            f"has too few rows in doubt for a churn of {churn:.1%}",
            where=EVALUATION_FILE,
            hint="A more accurate model has less churn: give a smaller one.",
        )
    draws = chance.random(rows)
    changed = np.flatnonzero(draws < lost + gained)  # a row has one of the two chances, never both
    old, new = answers.label[changed], doubt.rival[changed]
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
    answers, doubt, table = _read(source.open_version(model, version).folder / EVALUATION_FILE)
    if rows is not None:
        chosen = np.sort(chance.choice(answers.truth.size, rows, replace=False))
        answers, doubt, table = answers.take(chosen), doubt.take(chosen), table.take(pa.array(chosen))
    worse = draw_worse(answers, doubt, drop=drop, churn=churn, chance=chance)
    target = open_store(folder)
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        numbers = []
        for given in (table, _replace_answers(table, worse)):
            path = Path(scratch) / EVALUATION_FILE
            pq.write_table(given, path)
            numbers.append(_publish_copy(source, model, version, target, {EVALUATION_FILE: path}))
    return Staged(target, *numbers)


@functools.lru_cache(maxsize=1)  # read for every one of a thousand draws
def _read(path: Path) -> tuple[Answers, Doubt, Any]:
    answers, table = read_answers(path)
    return answers, weigh_doubt(answers), table


def _publish_copy(source: Store, model: str, version: int, target: Store, instead: dict[str, Path]) -> int:
    opened = source.open_version(model, version)
    manifest, folder = opened.manifest, opened.folder
    files = {name: folder / name for name in manifest.files} | instead
    return target.publish(
        model,
        files,
        lambda number, digests: msgspec.structs.replace(manifest, version=number, files=digests),
    )
