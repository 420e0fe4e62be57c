"""The pictures of a run as PNG: learning curves, confusion matrix, reliability.

Drawn with matplotlib's own canvas, never with pyplot: no window system, no global state. Metadata
that would make equal pictures differ in bytes is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timberline.registry.manifest import Metrics
from timberline.registry.signature import ClassLabel
from timberline.training.model.checkpoints import Epoch

# Two hues that stay apart for colour-blind readers (Okabe & Ito, 2008).
_TRAIN, _VALIDATION = "#0072B2", "#D55E00"


def plot_learning_curves(path: Path, history: Sequence[Epoch]) -> None:
    """Loss (nats) and accuracy (0 to 1) of both splits over the epochs, side by side."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [line.epoch + 1 for line in history]  # shown from 1
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        train = [getattr(line, name) for line in history]
        validation = [getattr(line, f"validation_{name}") for line in history]
        axes.plot(epochs, train, color=_TRAIN, marker=".", label="train (with dropout)")
        axes.plot(epochs, validation, color=_VALIDATION, marker=".", label="validation")
        axes.set(xlabel="epoch", ylabel="log-loss (nats)" if name == "loss" else name)
        _tidy(axes)
        axes.legend(frameon=False)
    _save(figure, path)


def plot_confusion(path: Path, metrics: Metrics, classes: tuple[ClassLabel, ...]) -> None:
    """Rows of each true class by predicted class: share of the true class by colour, count as text."""
    counts = np.array(metrics.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.75 * len(classes)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [label.label for label in classes]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=_accuracy_title(metrics))
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    _save(figure, path)


def plot_reliability(
    path: Path,
    metrics: Metrics,
    confidence: npt.NDArray[np.float64],
    accuracy: npt.NDArray[np.float64],
) -> None:
    """Accuracy over mean top probability in equal-mass bins; on the diagonal a model is calibrated."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    low = min(float(confidence.min()), float(accuracy.min()), 0.9)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    axes.plot(confidence, accuracy, color=_TRAIN, marker="o", label="this model")
    axes.set(
        xlim=(low - 0.02, 1.01),
        ylim=(low - 0.02, 1.01),
        xlabel="mean probability of the predicted class",
        ylabel="share of rows predicted right",
        title=f"calibration error {metrics.ece:.4f}",
    )
    _tidy(axes)
    axes.legend(frameon=False)
    _save(figure, path)


def _accuracy_title(metrics: Metrics) -> str:
    interval = metrics.accuracy
    return f"accuracy {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] on {metrics.rows:,} rows"


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120, metadata={"Software": None})
