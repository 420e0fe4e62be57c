"""Quality figures against hand-computed and published examples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timberline.registry.signature import ClassLabel
from timberline.training.evaluation.scores import (
    CALIBRATION_BINS,
    calibration_table,
    confusion_matrix,
    expected_calibration_error,
    log_loss,
    score,
    wilson_interval,
)

CLASSES = tuple(ClassLabel(value=value, label=value.upper()) for value in "abc")


def test_wilson_interval_agrees_with_the_published_example() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 is (0.2553, 0.3662)."""
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


def test_wilson_interval_stays_inside_zero_and_one() -> None:
    """Newcombe 1998, table I: 0 of 20 is (0, 0.1611) and 29 of 29 reaches 1."""
    assert (wilson_interval(0, 20).low, round(wilson_interval(0, 20).high, 4)) == (0.0, 0.1611)
    assert wilson_interval(29, 29).high == 1.0


def test_confusion_counts_true_class_by_row() -> None:
    """A transposed matrix would swap precision and recall."""
    matrix = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_log_loss_is_the_mean_surprise_and_is_clipped() -> None:
    """One row with probability zero must not make the figure infinite."""
    probabilities = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert log_loss(probabilities, np.array([0, 0])) == pytest.approx(math.log(2) / 2)
    assert log_loss(probabilities, np.array([0, 1])) == pytest.approx((math.log(2) + 7 * math.log(10)) / 2)


def test_calibration_error_of_known_bins() -> None:
    """Half the rows say 0.9 and are always right, half say 0.6 and are right half the time."""
    probabilities = np.array([[0.9, 0.1]] * 1500 + [[0.6, 0.4]] * 1500)
    truth = np.array([0] * 1500 + [0, 1] * 750)
    confidence, accuracy, rows = calibration_table(probabilities, truth)
    assert len(rows) == CALIBRATION_BINS
    assert rows.sum() == 3000
    assert np.all(np.diff(confidence) >= -1e-12)
    assert accuracy[-1] == 1.0
    # 0.1 for one half, 0.1 for the other; the one bin that spans both partly cancels.
    assert expected_calibration_error(probabilities, truth) == pytest.approx(0.1, abs=0.01)


def test_score_gives_precision_recall_and_f1_of_each_class() -> None:
    """The figures that the manifest and the gate quote, worked by hand."""
    probabilities = np.eye(3)[[0, 1, 1, 0]] * 0.7 + 0.1
    metrics = score(probabilities, np.array([0, 0, 1, 2]), CLASSES, {"majority": 0.5})
    assert metrics.accuracy.value == 0.5
    assert (metrics.classes["a"].precision, metrics.classes["a"].recall) == (0.5, 0.5)
    assert (metrics.classes["b"].precision, metrics.classes["b"].recall) == (0.5, 1.0)
    assert metrics.classes["b"].f1 == pytest.approx(2 / 3)
    assert (metrics.classes["c"].precision, metrics.classes["c"].f1, metrics.classes["c"].rows) == (0, 0, 1)
    assert metrics.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 0))
    assert metrics.baselines == {"majority": 0.5}
