"""The baselines of a model: always the largest class, and logistic regression on the same features."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from timberline.registry.runtime.logs import log_event
from timberline.training.model.calibration import log_prior_shift
from timberline.training.model.dataset import FeatureArray, PreparedSplit

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int16]  # (rows,), class indexes

_logger = logging.getLogger(__name__)

# The fit takes the first rows, which lie in a seeded pseudo-random order, up to both bounds: more of them
# move a linear model by less than its own error.
_FIT_ROWS = 65_536
_FIT_BYTES = 256_000_000
# The fit is done at this greatest derivative of the mean loss, in nats, or where the loss falls no further.
_GRADIENT = 1e-4
_LOSS = 64 * np.finfo(float).eps
_MAX_ITERATIONS = 2_000


class LogisticRegression:
    """Multinomial logistic regression on standardised features, fitted to convergence.

    The minimum of the summed log-loss + ½‖W‖², biases left out: what scikit-learn's LogisticRegression
    minimises by default (C = 1). By L-BFGS-B: Byrd, Lu, Nocedal, Zhu, SIAM J. Sci. Comput. 16 (1995)
    1190-1208, as SciPy has it. It starts from zero and draws nothing, so it is the same for every seed.
    """

    def __init__(self, split: PreparedSplit, classes: int) -> None:
        features, truth = _read_first(split)
        self._mean, self._scale = _standardise(features)
        design = self._design(features)
        shape = (design.shape[1], classes)  # the last row is the bias
        found = minimize(
            lambda weights: _objective(weights.reshape(shape), design, truth),
            np.zeros(shape).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={
                "gtol": _GRADIENT,
                "ftol": _LOSS,
                "maxiter": _MAX_ITERATIONS,
                "maxfun": 2 * _MAX_ITERATIONS,
            },
        )
        self._weights = found.x.reshape(shape)
        if not found.success:
            log_event(
                _logger,
                "the baseline's fit has not converged",
                logging.WARNING,
                iterations=found.nit,
                gradient=float(np.abs(found.jac).max()),
            )

    def predict(self, features: FeatureArray, shift: FloatArray) -> Labels:
        """Class indexes, shape (rows,), after adding ``shift`` (classes,) to the logits."""
        chosen: Labels = (self._design(features) @ self._weights + shift).argmax(axis=1).astype(np.int16)
        return chosen

    def _design(self, features: FeatureArray) -> FloatArray:
        design = np.ones((len(features), features.shape[1] + 1))
        np.subtract(features, self._mean, out=design[:, :-1])
        design[:, :-1] *= self._scale
        return design


def _objective(
    weights: FloatArray, design: FloatArray, truth: npt.NDArray[np.int32]
) -> tuple[float, FloatArray]:
    """The mean loss with its share of the penalty, and its gradient, flat."""
    kept = weights.copy()
    kept[-1] = 0.0
    rows = np.arange(len(truth))
    logarithms = log_softmax(design @ weights, axis=1)
    loss = 0.5 * float((kept**2).sum()) - float(logarithms[rows, truth].sum())
    residual = np.exp(logarithms)
    residual[rows, truth] -= 1.0
    gradient = kept + design.T @ residual
    return loss / len(truth), gradient.ravel() / len(truth)


def _read_first(split: PreparedSplit) -> tuple[FeatureArray, npt.NDArray[np.int32]]:
    rows = min(_FIT_ROWS, max(1, _FIT_BYTES // (8 * (len(split.features) + 1))))
    held, count = [], 0
    for features, truth in split.read_batches():
        held.append((features, truth))
        count += len(truth)
        if count >= rows:
            break
    return np.concatenate([f for f, _ in held])[:rows], np.concatenate([t for _, t in held])[:rows]


def _standardise(features: FeatureArray) -> tuple[FloatArray, FloatArray]:
    """Mean and 1 / standard deviation of every feature; a constant feature gets scale 0."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.zeros_like(mean)
    for index, column in enumerate(features.T):  # no copy of the whole as doubles
        deviation[index] = (column.astype(np.float64) - mean[index]).std()
    is_constant = deviation <= 1e-9 * np.abs(mean)  # what summing a constant leaves is smaller
    return mean, np.where(is_constant, 0.0, 1.0 / np.where(is_constant, 1.0, deviation))


def predict_baselines(
    train: PreparedSplit, test: PreparedSplit, *, training_prior: FloatArray, deployment_prior: FloatArray
) -> dict[str, Labels]:
    """What each baseline answers for the rows of ``test``, in file order; class indexes by its name.

    Logistic regression gets the same prior correction as the model, so that the difference between
    the two is the network's. ``majority_class`` predicts the largest class of the training rows.
    """
    regression = LogisticRegression(train, len(training_prior))
    shift = log_prior_shift(training_prior, deployment_prior)
    return {
        "majority_class": np.full(test.rows, training_prior.argmax(), np.int16),
        "logistic_regression": np.concatenate(
            [regression.predict(features, shift) for features, _ in test.read_batches()]
        ),
    }
