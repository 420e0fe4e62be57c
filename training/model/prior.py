"""Correct a classifier for a class prior that differs between training and deployment.

With p(x | y) unchanged, Bayes gives q(y | x) ∝ p(y | x) · q(y) / p(y). On logits that is one
constant vector, log q(y) − log p(y), so the exported graph carries it as a bias.

Source: Saerens, Latinne, Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
Probabilities: A Simple Procedure", Neural Computation 14(1), 2002, equations 2.4 and 2.9.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from timberline.training.errors import TrainingError

FloatArray = npt.NDArray[np.float64]

# A class that no unlabelled row belongs to would get −∞ as its logit; one row in a million is
# below what any sample here could tell from none.
SMALLEST_PRIOR = 1e-6


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
