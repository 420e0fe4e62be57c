"""What the evaluation says of a model that is no better than its baselines."""

from __future__ import annotations

import numpy as np
import pytest

from timberline.registry.signature import ClassLabel
from timberline.training.evaluation.evaluate import find_warnings
from timberline.training.evaluation.scores import score

CLASSES = (ClassLabel(value="0", label="no"), ClassLabel(value="1", label="yes"))


def warnings(truth: list[int], label: list[int], **baselines: float) -> list[str]:
    """Of a model that gives these labels."""
    probabilities = np.eye(2, dtype=np.float32)[label] * 0.8 + 0.1
    return find_warnings(score(probabilities, np.array(truth), CLASSES, baselines))


def test_a_model_with_one_answer_warns() -> None:
    """It may be right in 84 % of the rows and still know nothing."""
    assert "the model predicts one class only" in warnings([0, 0, 0, 1], [0, 0, 0, 0], majority_class=0.75)


@pytest.mark.parametrize("accuracy", [0.75, 0.8])
def test_a_model_that_does_not_beat_a_baseline_warns(accuracy: float) -> None:
    """As good as the baseline is not better."""
    (warning,) = warnings([0, 0, 1, 1], [0, 1, 1, 1], majority_class=0.5, logistic_regression=accuracy)
    assert warning.startswith(
        "the model is right in 0.7500 of the test rows, its baseline logistic_regression"
    )


def test_a_model_that_beats_its_baselines_does_not_warn() -> None:
    """Most do."""
    assert warnings([0, 0, 1, 1], [0, 1, 1, 1], majority_class=0.5, logistic_regression=0.6) == []
