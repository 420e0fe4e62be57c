"""From trained logits to served ones: calibration, then the class prior at deployment.

Both are constants of the graph: ``factor * logits + shift``.

Calibration comes first: EM on an overconfident (or underconfident) classifier drifts to a wrong
prior, at worst to one that leaves a class out. One factor for all logits and one offset a class are
fitted on the validation split. Source: Alexandari, Kundaje, Shrikumar, "Maximum Likelihood with
Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation", ICML 2020 (bias-corrected
temperature scaling).

The prior at deployment is that of training, given, or estimated by EM from unlabelled rows. With
p(x | y) unchanged, Bayes gives q(y | x) ∝ p(y | x) · q(y) / p(y). On logits that is one constant
vector, log q(y) − log p(y). Source: Saerens, Latinne, Decaestecker, "Adjusting the Outputs of a
Classifier to New a Priori Probabilities: A Simple Procedure", Neural Computation 14(1), 2002,
equations 2.4 and 2.9.
"""

from __future__ import annotations

import dataclasses
import logging

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import log_softmax, softmax

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Prior
from timberline.registry.runtime.logs import log_event
from timberline.training.config import PriorSection
from timberline.training.errors import TrainingError
from timberline.training.model.dataset import PreparedSplit

FloatArray = npt.NDArray[np.float64]

_logger = logging.getLogger("training.model.calibration")

# Pulls factor and offsets towards 1 and 0 as much as one row's loss would: without it, a class that
# the network never gets wrong would be given an infinite factor.
_RIDGE = 1.0
_MAX_STEPS = 100  # of Newton's method
# A class that no unlabelled row belongs to would get −∞ as its logit; one row in a million is
# less than any sample here can distinguish from none.
SMALLEST_PRIOR = 1e-6
# More rows than this move a share or a factor by less than 0.001, and would only take memory.
_MOST_ROWS = 1_000_000


@dataclasses.dataclass(frozen=True)
class LogitCorrection:
    """``factor * logits + shift`` are the logits to serve; ``prior`` is the one they are for."""

    factor: float
    shift: FloatArray
    prior: Prior


def fit_logit_correction(
    config: PriorSection,
    network: keras.Model,
    training_prior: FloatArray,
    validation: PreparedSplit,
    unlabelled: PreparedSplit,
) -> LogitCorrection:
    """Calibrate ``network`` on the validation split and correct it for the prior at deployment.

    Args:
        network: features → logits, trained.
        training_prior: class shares of the training rows, shape (classes,).
        unlabelled: rows as at deployment; read only for EM: their features, never their classes.

    Raises:
        ConfigError: as many prior values are given as there are no classes.
        TrainingError: calibration or EM does not converge.
    """
    calibration, reference = Calibration(1.0, np.zeros_like(training_prior)), training_prior
    if config.calibrate:
        logits, classes = score_split(network, validation)
        # Offsets carry a prior too; without a prior to correct for, no row's answer is to change.
        calibration = fit_calibration(logits, classes, with_offsets=config.method != "none")
        # Calibrated posteriors are those of the validation rows' prior; one row a class keeps it positive.
        counts = np.bincount(classes, minlength=len(training_prior)) + 1.0
        reference = counts / counts.sum()
        log_event(_logger, "calibrated", factor=calibration.factor, offset=_rounded(calibration.offset))
    deployment = training_prior
    if config.method == "given" and config.values is not None:
        deployment = _normalised(config.values, len(training_prior))
    elif config.method == "em":
        logits, _ = score_split(network, unlabelled)
        deployment = estimate_prior(
            softmax(calibration.factor * logits + calibration.offset, axis=1), reference
        )
        log_event(_logger, "estimated the prior", prior=_rounded(deployment))
    shift = calibration.offset
    if config.method != "none":
        shift = shift + log_prior_shift(reference, deployment)
    prior = Prior(
        method=config.method, training=tuple(training_prior.tolist()), deployment=tuple(deployment.tolist())
    )
    return LogitCorrection(calibration.factor, shift, prior)


def _normalised(values: tuple[float, ...], class_count: int) -> FloatArray:
    if len(values) != class_count:
        raise ConfigError(
            f"has {len(values)} values, the data has {class_count} classes", where="prior.values"
        )
    given = np.array(values)
    return np.asarray(given / given.sum())


def _rounded(values: FloatArray) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def score_split(
    network: keras.Model, split: PreparedSplit
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Logits (rows, classes) and classes (rows,) of every row, or of every k-th where there are very many."""
    stride = -(-split.rows // _MOST_ROWS)
    signature = tf.TensorSpec((None, len(split.features)), tf.float32)
    score = tf.function(lambda features: network(features, training=False), [signature])
    logits, classes = [], []
    for features, truth in split.read_batches():
        logits.append(score(tf.constant(features[::stride])).numpy())
        classes.append(truth[::stride])
    return np.concatenate(logits), np.concatenate(classes)


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
) -> Calibration:
    """The factor and offsets of least log-loss on labelled rows; a convex problem, by Newton's method.

    Args:
        logits: shape (rows, classes), of rows that the network was not trained on.
        classes: true class indexes, shape (rows,).
        with_offsets: False leaves every offset 0, and with it the most probable class of every row.

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
    for _ in range(_MAX_STEPS):
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
        f"no convergence in {_MAX_STEPS} steps",
        where="calibration",
        hint="Is the loss finite? See history.json.",
    )


def _loss(
    parameters: FloatArray, scores: FloatArray, classes: npt.NDArray[np.integer], start: FloatArray
) -> float:
    logarithms = log_softmax(parameters[0] * scores + parameters[1:], axis=1)
    likelihood = logarithms[np.arange(len(classes)), classes]
    return float(-likelihood.sum() + 0.5 * _RIDGE * ((parameters - start) ** 2).sum())


def _derivatives(
    parameters: FloatArray, scores: FloatArray, truth: FloatArray, start: FloatArray
) -> tuple[FloatArray, FloatArray]:
    shares = softmax(parameters[0] * scores + parameters[1:], axis=1)
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


def estimate_prior(
    probabilities: npt.NDArray[np.floating],
    training_prior: FloatArray,
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 10_000,
) -> FloatArray:
    """Estimate the class prior of unlabelled rows from a classifier's answers to them.

    Expectation: re-weight every row's posterior to the prior of the step before. Maximisation:
    the new prior is the mean posterior. The likelihood never falls, so the fixed point is a
    local maximum; it is biased where the posteriors are not calibrated.

    Args:
        probabilities: posteriors under ``training_prior``; shape (rows, classes), rows sum to 1.
        training_prior: class shares of the training rows; shape (classes,), sums to 1.
        tolerance: stop when no class moves by more than this (probability, 0 to 1).
        max_iterations: give up after so many steps.

    Returns:
        The estimated prior; shape (classes,), every entry at least `SMALLEST_PRIOR`, sums to 1.

    Raises:
        TrainingError: no rows, shapes that do not fit, or no convergence.
    """
    if probabilities.ndim != 2 or probabilities.shape[0] == 0:
        raise TrainingError(f"needs rows of posteriors, got shape {probabilities.shape}", where="prior")
    if training_prior.shape != probabilities.shape[1:] or not np.all(training_prior > 0):
        raise TrainingError(
            f"needs a positive prior for each of {probabilities.shape[1]} classes, got {training_prior}",
            where="prior",
        )
    # 565,892 rows × 7 classes converge in some dozens of passes; float64 keeps the sums exact enough.
    likelihood_ratio = np.asarray(probabilities, np.float64) / training_prior  # (rows, classes)
    prior = training_prior.astype(np.float64)
    for _ in range(max_iterations):
        evidence = likelihood_ratio @ prior  # (rows, classes) → (rows,)
        updated = prior * (likelihood_ratio.T @ (1.0 / evidence)) / len(likelihood_ratio)
        updated = _bounded(updated)
        step = float(np.max(np.abs(updated - prior)))
        prior = updated
        if step <= tolerance:
            return prior
    raise TrainingError(
        f"no convergence in {max_iterations} steps (last step {step:.2g})",
        where="prior",
        hint='Give the prior yourself: method = "given" with values.',
    )


def log_prior_shift(training_prior: FloatArray, deployment_prior: FloatArray) -> FloatArray:
    """The constant to add to the logits: log q(y) − log p(y); shape (classes,)."""
    return np.log(_bounded(deployment_prior)) - np.log(_bounded(training_prior))


def _bounded(prior: FloatArray) -> FloatArray:
    raised = np.maximum(np.asarray(prior, np.float64), SMALLEST_PRIOR)
    return np.asarray(raised / raised.sum())
