"""The pictures are there, are PNG, and show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from timberline.registry.signature import ClassLabel
from timberline.training.evaluation.plots import plot_confusion, plot_learning_curves, plot_reliability
from timberline.training.evaluation.scores import calibration_table, score
from timberline.training.model.checkpoints import Epoch

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
CLASSES = (ClassLabel(value="0", label="down"), ClassLabel(value="1", label="up"))


def draw(folder: Path, share: float) -> dict[str, bytes]:
    """Draw all three pictures of a made-up run; ``share`` of the rows is predicted right."""
    truth = np.arange(1000) % 2
    predicted = np.where(np.arange(1000) < share * 1000, truth, 1 - truth)
    probabilities = np.eye(2)[predicted] * 0.6 + 0.2
    metrics = score(probabilities, truth, CLASSES, {})
    confidence, accuracy, _ = calibration_table(probabilities, truth)
    history = [
        Epoch(
            epoch=epoch,
            loss=value,
            accuracy=value,
            validation_loss=value,
            validation_accuracy=value,
            learning_rate=0.1,
            seconds=1.0,
        )
        for epoch, value in enumerate([share, share / 2])
    ]
    plot_learning_curves(folder / "curves.png", history)
    plot_confusion(folder / "confusion.png", metrics, CLASSES)
    plot_reliability(folder / "reliability.png", metrics, confidence, accuracy)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_pictures_are_png_and_follow_the_figures(tmp_path: Path) -> None:
    """Other figures must give other pictures, equal figures equal bytes (a stage's receipt needs that)."""
    first, again, other = (
        draw(tmp_path / name, share) for name, share in (("a", 0.8), ("b", 0.8), ("c", 0.6))
    )
    assert sorted(first) == ["confusion.png", "curves.png", "reliability.png"]
    assert all(data.startswith(PNG_MAGIC) for data in first.values())
    assert first == again
    assert all(first[name] != other[name] for name in first)
