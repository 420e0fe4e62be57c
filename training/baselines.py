"""What a model has to beat: always the largest class, and logistic regression on the same features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.dataset import FeatureArray, PreparedSplit
from training.prior import log_prior_shift

FloatArray = npt.NDArray[np.float64]

_EPOCHS = 4
_BATCH_ROWS = 1024
_LEARNING_RATE = 0.05


class LogisticRegression:
    """Multinomial logistic regression on standardised features, fitted by mini-batch Adam.

    It streams, so it costs no memory that grows with rows. Adam: Kingma & Ba, ICLR 2015, with the
    paper's constants; the step falls linearly to zero, which stands in for averaging.
    """

    def __init__(self, split: PreparedSplit, classes: int, seed: int) -> None:
        self._mean, self._scale = _moments(split)
        self._weights = np.zeros((len(split.features) + 1, classes))  # the last row is the bias
        steps = _EPOCHS * max(1, -(-split.rows // _BATCH_ROWS))
        first = np.zeros_like(self._weights)
        second = np.zeros_like(self._weights)
        step = 0
        for epoch in range(_EPOCHS):
            for features, truth in split.shuffled_batches(_BATCH_ROWS, 65_536, (seed, epoch)):
                step += 1
                gradient = self._gradient(features, truth)
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                corrected = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                self._weights -= _LEARNING_RATE * max(0.0, 1 - step / (steps + 1)) * corrected

    def predict(self, features: FeatureArray, shift: FloatArray) -> npt.NDArray[np.int64]:
        """Class indexes, shape (rows,), after adding ``shift`` (classes,) to the logits."""
        chosen: npt.NDArray[np.int64] = (self._design(features) @ self._weights + shift).argmax(axis=1)
        return chosen

    def _gradient(self, features: FeatureArray, truth: npt.NDArray[np.int32]) -> FloatArray:
        design = self._design(features)
        logits = design @ self._weights
        residual = np.exp(logits - logits.max(axis=1, keepdims=True))
        residual /= residual.sum(axis=1, keepdims=True)
        residual[np.arange(len(truth)), truth] -= 1.0
        gradient: FloatArray = design.T @ residual / len(truth)
        return gradient

    def _design(self, features: FeatureArray) -> FloatArray:
        scaled = (features - self._mean) * self._scale
        return np.column_stack([scaled, np.ones(len(features))])


def _moments(split: PreparedSplit) -> tuple[FloatArray, FloatArray]:
    """Mean and 1 / standard deviation of every feature; a constant feature gets scale 0."""
    count, total, squares = 0, np.zeros(len(split.features)), np.zeros(len(split.features))
    for features, _ in split.read_batches():
        block = features.astype(np.float64)
        count += len(block)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return mean, np.where(deviation > 1e-9, 1.0 / np.maximum(deviation, 1e-9), 0.0)


def score_baselines(
    train: PreparedSplit,
    test: PreparedSplit,
    *,
    training_prior: FloatArray,
    deployment_prior: FloatArray,
    seed: int,
) -> dict[str, float]:
    """Test accuracies (0 to 1) of the baselines.

    Logistic regression gets the same prior correction as the model, so that the difference between
    the two is the network's. ``majority_class`` predicts the largest class of the training rows.
    """
    regression = LogisticRegression(train, len(training_prior), seed)
    shift = log_prior_shift(training_prior, deployment_prior)
    counts = np.zeros(len(training_prior), np.int64)
    for _, truth in train.read_batches():
        counts += np.bincount(truth, minlength=len(counts))
    majority = int(counts.argmax())
    hits = {"majority_class": 0, "logistic_regression": 0}
    for features, truth in test.read_batches():
        hits["majority_class"] += int((truth == majority).sum())
        hits["logistic_regression"] += int((regression.predict(features, shift) == truth).sum())
    return {name: count / test.rows for name, count in hits.items()}
