"""Quality of class probabilities against the truth: pure sums over arrays, no I/O.

Inputs everywhere: ``probabilities`` float, shape (rows, classes), rows sum to 1; ``truth`` integer
class indexes, shape (rows,).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from timberline.registry.manifest import ClassMetrics, Interval, Metrics
from timberline.registry.signature import ClassLabel

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

# The 97.5 % quantile of the standard normal distribution: two-sided 95 %.
_Z95 = 1.959963984540054
# Log-loss clips at this probability, so that one confident mistake costs at most 16 nats.
_SMALLEST_PROBABILITY = 1e-7
CALIBRATION_BINS = 15


def wilson_interval(successes: int, trials: int) -> Interval:
    """A share with its 95 % interval.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA
    22, 1927; holds its level near 0 and 1, where the normal interval does not.
    """
    share = successes / trials
    squared = _Z95 * _Z95
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = (_Z95 / (1 + squared / trials)) * math.sqrt(
        share * (1 - share) / trials + squared / (4 * trials * trials)
    )
    return Interval(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def confusion_matrix(truth: IntArray, predicted: IntArray, classes: int) -> npt.NDArray[np.int64]:
    """Counts of rows of true class i predicted as j; shape (classes, classes)."""
    flat = np.bincount(truth.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def log_loss(probabilities: FloatArray, truth: IntArray) -> float:
    """Mean −ln of the probability of the true class, in nats."""
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.maximum(chosen, _SMALLEST_PROBABILITY)).mean())


def calibration_table(
    probabilities: FloatArray, truth: IntArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean top probability, accuracy and number of rows in each of 15 equal-mass bins, ascending."""
    top = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    order = np.argsort(top, kind="stable")
    parts = [part for part in np.array_split(order, CALIBRATION_BINS) if len(part)]
    confidence = np.array([top[part].mean() for part in parts])
    accuracy = np.array([right[part].mean() for part in parts])
    rows = np.array([len(part) for part in parts])
    return confidence, accuracy, rows


def expected_calibration_error(probabilities: FloatArray, truth: IntArray) -> float:
    """Row-weighted mean |confidence − accuracy| over the bins of `calibration_table` (0 to 1).

    Source: Naeini, Cooper, Hauskrecht, AAAI 2015, with equal-mass bins after Nguyen & O'Connor 2015.
    """
    confidence, accuracy, rows = calibration_table(probabilities, truth)
    return float(np.average(np.abs(confidence - accuracy), weights=rows))


def score(
    probabilities: FloatArray,
    truth: IntArray,
    classes: tuple[ClassLabel, ...],
    baselines: dict[str, float],
) -> Metrics:
    """Every quality figure of one split; a class with no row or no prediction scores 0 there."""
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, len(classes))
    return Metrics(
        rows=len(truth),
        accuracy=wilson_interval(int(np.trace(confusion)), len(truth)),
        log_loss=log_loss(probabilities, truth),
        ece=expected_calibration_error(probabilities, truth),
        classes={label.value: _class_metrics(confusion, index) for index, label in enumerate(classes)},
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        baselines=baselines,
    )


def _class_metrics(confusion: npt.NDArray[np.int64], index: int) -> ClassMetrics:
    hits = int(confusion[index, index])
    rows = int(confusion[index].sum())
    predictions = int(confusion[:, index].sum())
    precision = hits / predictions if predictions else 0.0
    recall = hits / rows if rows else 0.0
    f1 = 2 * hits / (rows + predictions) if rows + predictions else 0.0
    return ClassMetrics(precision=precision, recall=recall, f1=f1, rows=rows)
