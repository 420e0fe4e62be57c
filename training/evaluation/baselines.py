"""The baselines of a model: always the largest class, and logistic regression on the same features."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax

from timberline.registry.runtime.logs import log_event
from timberline.registry.signature import FIRST_CODE
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
# The commonest values of a category that have a weight of their own; the others share none. Codes are in the
# order of their training rows, and what so few rows have moves a linear model little.
_MOST_VALUES = 1_000


class LogisticRegression:
    """Multinomial logistic regression on standardised numbers and one-hots, fitted to convergence.

    NULL in a number is filled with the mean, and has a flag where a row of the fit has it.

    The minimum of the summed log-loss + ½‖W‖², biases left out: what scikit-learn's LogisticRegression
    minimises by default (C = 1). By L-BFGS-B: Byrd, Lu, Nocedal, Zhu, SIAM J. Sci. Comput. 16 (1995)
    1190-1208, as SciPy has it. It starts from zero and draws nothing, so it is the same for every seed.
    """

    def __init__(self, split: PreparedSplit, classes: int) -> None:
        features, truth = _read_first(split)
        sizes = split.category_sizes
        self._numbers = [index for index, size in enumerate(sizes) if size is None]
        self._values = {
            i: min(size, FIRST_CODE + _MOST_VALUES) for i, size in enumerate(sizes) if size is not None
        }
        numbers = features[:, self._numbers]
        self._is_flagged = np.isnan(numbers).any(axis=0)
        self._mean, self._scale = _standardise(numbers)
        design = self._design(features)
        shape = (design.width, classes)
        scale = design.spread[:, None]

        def objective(weights: FloatArray) -> tuple[float, FloatArray]:
            loss, gradient = _objective(weights.reshape(shape) * scale, design, truth)
            return loss, (gradient * scale).ravel()

        found = minimize(
            objective,
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
        self._weights = found.x.reshape(shape) * scale
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
        chosen: Labels = (self._design(features).times(self._weights) + shift).argmax(axis=1).astype(np.int16)
        return chosen

    def _design(self, features: FeatureArray) -> _Design:
        count = len(self._numbers)
        flags = np.isnan(features[:, self._numbers])
        dense = np.ones((len(features), count + int(self._is_flagged.sum()) + 1))
        scaled = dense[:, :count]
        np.subtract(features[:, self._numbers], self._mean, out=scaled)
        scaled *= self._scale
        scaled[flags] = 0.0
        dense[:, count:-1] = flags[:, self._is_flagged]
        return _Design(dense, _one_hots(features, self._values) if self._values else None)


@dataclasses.dataclass(frozen=True)
class _Design:
    """Numbers, flags and 1 (for the bias), (rows, k); and the one-hots of categories, (rows, values)."""

    dense: FloatArray
    one_hots: Any | None  # a sparse array of SciPy

    @property
    def bias(self) -> int:
        return int(self.dense.shape[1]) - 1

    @property
    def width(self) -> int:
        return self.bias + 1 + (0 if self.one_hots is None else int(self.one_hots.shape[1]))

    @property
    def spread(self) -> FloatArray:
        """What each weight is searched in units of, (width,): 1 of a number, more where few rows have a 1.

        By the curvature, at most a quarter of the sum of squares and that of the penalty. A fit to 2,700
        values took 40 s without, and takes 5.
        """
        rows = len(self.dense)
        ones = np.full(self.width, float(rows))
        if self.one_hots is not None:
            ones[self.bias + 1 :] = self.one_hots.sum(axis=0)
        return np.sqrt((rows + 4.0) / (ones + 4.0))

    def times(self, weights: FloatArray) -> FloatArray:
        """(width, classes) → (rows, classes)."""
        product = self.dense @ weights[: self.bias + 1]
        return product if self.one_hots is None else product + self.one_hots @ weights[self.bias + 1 :]

    def transposed_times(self, residual: FloatArray) -> FloatArray:
        """(rows, classes) → (width, classes)."""
        product = self.dense.T @ residual
        return product if self.one_hots is None else np.concatenate([product, self.one_hots.T @ residual])


def _one_hots(features: FeatureArray, values: Mapping[int, int]) -> Any:
    codes = features[:, list(values)].astype(np.int64)  # (rows, categories)
    sizes = np.array(list(values.values()))
    has_own = codes < sizes
    columns = (codes + np.cumsum([0, *sizes[:-1]]))[has_own]
    starts = np.concatenate([[0], np.cumsum(has_own.sum(axis=1))])
    return sparse.csr_array((np.ones(len(columns)), columns, starts), shape=(len(codes), int(sizes.sum())))


def _objective(
    weights: FloatArray, design: _Design, truth: npt.NDArray[np.int32]
) -> tuple[float, FloatArray]:
    """The mean loss with its share of the penalty, and its gradient."""
    kept = weights.copy()
    kept[design.bias] = 0.0
    rows = np.arange(len(truth))
    logarithms = log_softmax(design.times(weights), axis=1)
    loss = 0.5 * float((kept**2).sum()) - float(logarithms[rows, truth].sum())
    residual = np.exp(logarithms)
    residual[rows, truth] -= 1.0
    gradient = kept + design.transposed_times(residual)
    return loss / len(truth), gradient / len(truth)


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
    """Mean and 1 / standard deviation of every number that is not NULL; a constant one gets scale 0."""
    mean, deviation = np.zeros((2, features.shape[1]))
    for index, column in enumerate(features.T):  # no copy of the whole as doubles
        known = column[~np.isnan(column)].astype(np.float64)
        if len(known):
            mean[index] = known.mean()
            deviation[index] = (known - mean[index]).std()
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
