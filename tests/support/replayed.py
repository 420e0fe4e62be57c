"""Folders of runs as calibrating a recipe leaves them, made without training."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.registry.signature import ClassLabel
from timberline.training.evaluation.scores import score

LABELS = tuple(ClassLabel(value=value, label=value) for value in ("1", "a b=c", "7"))


def write_runs(
    folder: Path, seeds: range | list[int], *, rows: int = 6000, wrong: float = 0.1, doubt: float = 0.05
) -> None:
    """Runs of one recipe: wrong on the same ``wrong`` rows and on half of ``doubt``, which the seed draws."""
    hard = np.random.default_rng(0)
    truth, rank = hard.integers(0, 3, rows), hard.random(rows)
    left = hard.random(rows) < 0.3
    for seed in seeds:
        chance = np.random.default_rng(seed + 1)
        is_wrong = (rank < wrong) | ((rank > 1 - doubt) & (chance.random(rows) < 0.5))
        label = np.where(is_wrong, (truth + 1) % 3, truth)
        _write_run(folder / str(seed), truth, label, left, chance)


def _write_run(
    folder: Path,
    truth: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64],
    left: npt.NDArray[np.bool_],
    chance: np.random.Generator,
) -> None:
    top = chance.uniform(0.7, 0.95, truth.size)
    chances = np.repeat((1 - top)[:, None] / 2, 3, axis=1)
    chances[np.arange(truth.size), label] = top
    probabilities = chances.astype(np.float32)
    columns = {
        "row": pa.array(np.arange(truth.size), pa.int64()),
        "class_index": pa.array(truth, pa.int16()),
        "label_index": pa.array(label, pa.int16()),
        **{f"p_{index}": pa.array(column) for index, column in enumerate(probabilities.T)},
        "slice_left": pa.array(left),
    }
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "evaluation.parquet")
    metrics = score(probabilities, truth, LABELS, {})
    (folder / "metrics.json").write_bytes(msgspec.json.encode(metrics))
