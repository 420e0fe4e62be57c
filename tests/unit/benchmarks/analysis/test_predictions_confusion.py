"""Which classes are taken for which others."""

from __future__ import annotations

import numpy as np

from timberline.benchmarks.analysis.predictions import Predictions, compare_predictions

TRUTH = np.array([0, 0, 1, 2, 2])


def predict(*labels: int) -> Predictions:
    """These labels for the five rows; a class of the signature need not be in the rows."""
    return Predictions(np.arange(5), TRUTH, np.array(labels), np.ones(5), np.ones(5))


def test_confusion_counts_rows_by_truth_and_label() -> None:
    """Transposed, the report would blame the wrong class."""
    comparison = compare_predictions(predict(0, 1, 1, 2, 2), predict(0, 0, 1, 2, 0), ("a", "b", "c", "d"))
    assert comparison.confusion.classes == ("a", "b", "c", "d")
    assert comparison.confusion.champion == ((1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 2, 0), (0, 0, 0, 0))
    assert comparison.confusion.candidate == ((2, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (0, 0, 0, 0))
