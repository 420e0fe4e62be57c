"""Make a network's probabilities mean what they say, before anything is concluded from them.

EM on an overconfident (or unconfident) classifier drifts to a wrong prior, at worst to one that
leaves a class out. One factor for all logits and one offset a class, fitted on the validation
split, mend most of it and stay a constant in the exported graph.

Source: Alexandari, Kundaje, Shrikumar, "Maximum Likelihood with Bias-Corrected Calibration is
Hard-To-Beat at Label Shift Adaptation", ICML 2020 (bias-corrected temperature scaling).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from timberline.training.errors import TrainingError

FloatArray = npt.NDArray[np.float64]

# Pulls factor and offsets towards 1 and 0 as much as one row's loss would: without it, a class that
# the network never gets wrong would be given an infinite factor.
_RIDGE = 1.0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibrated logits are ``factor * logits + offset``; offset has shape (classes,)."""

    factor: float
    offset: FloatArray


def fit_calibration(
    logits: npt.NDArray[np.floating],
    classes: npt.NDArray[np.integer],
    *,
    with_offsets: bool = True,
    max_steps: int = 100,
) -> Calibration:
    """The factor and offsets of least log-loss on labelled rows; a convex problem, by Newton's method.

    Args:
        logits: shape (rows, classes), of rows that the network was not trained on.
        classes: true class indexes, shape (rows,).
        with_offsets: False leaves every offset 0, and with it the most probable class of every row.
        max_steps: Newton steps before giving up.

    Raises:
        TrainingError: no convergence, as when a logit is not finite.
    """
    rows, count = logits.shape
    scores = np.asarray(logits, np.float64)
    scores = scores - scores.mean(axis=1, keepdims=True)  # softmax does not see a row's common part
    truth = np.eye(count)[classes]
    start = np.concatenate([[1.0], np.zeros(count)])
    free = len(start) if with_offsets else 1
    found = start.copy()
    loss = _loss(found, scores, classes, start)
    for _ in range(max_steps):
        gradient, hessian = _derivatives(found, scores, truth, start)
        step = np.zeros_like(found)
        step[:free] = np.linalg.solve(hessian[:free, :free], gradient[:free])
        length = 1.0
        while _loss(found - length * step, scores, classes, start) > loss and length > 1e-9:
            length /= 2.0
        found = found - length * step
        loss = _loss(found, scores, classes, start)
        if float(gradient @ step) < 1e-10 * rows:
            return Calibration(float(found[0]), found[1:])
    raise TrainingError(
        f"no convergence in {max_steps} steps",
        where="calibration",
        hint="Is the loss finite? See history.json.",
    )


def _loss(
    parameters: FloatArray, scores: FloatArray, classes: npt.NDArray[np.integer], start: FloatArray
) -> float:
    calibrated = parameters[0] * scores + parameters[1:]
    top = calibrated.max(axis=1)
    normal = top + np.log(np.exp(calibrated - top[:, None]).sum(axis=1))
    likelihood = calibrated[np.arange(len(classes)), classes] - normal
    return float(-likelihood.sum() + 0.5 * _RIDGE * ((parameters - start) ** 2).sum())


def _derivatives(
    parameters: FloatArray, scores: FloatArray, truth: FloatArray, start: FloatArray
) -> tuple[FloatArray, FloatArray]:
    calibrated = parameters[0] * scores + parameters[1:]
    calibrated -= calibrated.max(axis=1, keepdims=True)
    shares = np.exp(calibrated)
    shares /= shares.sum(axis=1, keepdims=True)
    error = shares - truth  # (rows, classes)
    gradient = np.concatenate([[(error * scores).sum()], error.sum(axis=0)]) + _RIDGE * (parameters - start)
    # The Hessian of softmax is diag(p) − p pᵀ, seen through (score, 1, …, 1).
    expected = (shares * scores).sum(axis=1)  # (rows,)
    cross = (shares * (scores - expected[:, None])).sum(axis=0)
    hessian = np.empty((len(parameters), len(parameters)))
    hessian[0, 0] = ((shares * scores**2).sum(axis=1) - expected**2).sum()
    hessian[0, 1:] = hessian[1:, 0] = cross
    hessian[1:, 1:] = np.diag(shares.sum(axis=0)) - shares.T @ shares
    return gradient, hessian + _RIDGE * np.eye(len(parameters))
