"""Class-prior correction: the estimate finds a shifted prior and the shift undoes it."""

from __future__ import annotations

import numpy as np
import pytest

from timberline.training.errors import TrainingError
from timberline.training.model.prior import SMALLEST_PRIOR, estimate_prior, log_prior_shift


def two_gaussians(rows: int, share_of_second: float, seed: int) -> np.ndarray:
    """Exact posteriors under an even prior for N(−1, 1) and N(+1, 1) rows; shape (rows, 2)."""
    generator = np.random.default_rng(seed)
    second = generator.random(rows) < share_of_second
    x = generator.normal(np.where(second, 1.0, -1.0))
    posterior = 1.0 / (1.0 + np.exp(-2.0 * x))  # the log-odds of these two densities are 2x
    return np.column_stack([1.0 - posterior, posterior])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_em_finds_the_prior_of_unlabelled_rows(share: float) -> None:
    """A model trained on even classes must learn from unlabelled rows how uneven the field is."""
    estimate = estimate_prior(two_gaussians(40_000, share, seed=3), np.array([0.5, 0.5]))
    # The binomial standard error at 40,000 rows is 0.0025; overlap of the classes triples it.
    assert estimate[1] == pytest.approx(share, abs=0.015)
    assert estimate.sum() == pytest.approx(1.0)


def test_the_estimate_is_a_fixed_point_of_the_published_step() -> None:
    """The returned prior satisfies equation 2.9: it is the mean of its own adjusted posteriors."""
    posteriors = two_gaussians(5_000, 0.3, seed=1)
    training = np.array([0.5, 0.5])
    prior = estimate_prior(posteriors, training, tolerance=1e-12)
    adjusted = posteriors * prior / training
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(adjusted.mean(axis=0), prior, atol=1e-9)


def test_a_class_that_never_occurs_keeps_a_finite_logit() -> None:
    """A prior of exactly zero would put minus infinity into the exported graph."""
    posteriors = np.tile([0.98, 0.01, 0.01], (1000, 1))
    prior = estimate_prior(posteriors, np.array([1 / 3, 1 / 3, 1 / 3]))
    assert prior.min() >= SMALLEST_PRIOR / 2
    assert np.isfinite(log_prior_shift(np.array([1 / 3] * 3), prior)).all()


def test_the_shift_on_logits_is_bayes_rule_on_probabilities() -> None:
    """The constant in the graph must do what re-weighting and normalising would do."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, 3))
    training, deployment = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = probabilities * deployment / training
    expected /= expected.sum(axis=1, keepdims=True)
    shifted = np.exp(logits + log_prior_shift(training, deployment))
    np.testing.assert_allclose(shifted / shifted.sum(axis=1, keepdims=True), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "prior"), [((0, 2), [0.5, 0.5]), ((5, 2), [0.2, 0.3, 0.5]), ((5, 2), [0.0, 1.0])]
)
def test_rows_and_prior_that_do_not_fit_are_refused(shape: tuple[int, int], prior: list[float]) -> None:
    """A silent broadcast would correct for the wrong classes."""
    with pytest.raises(TrainingError, match="prior"):
        estimate_prior(np.full(shape, 0.5), np.array(prior))


def test_no_convergence_is_said_not_hidden() -> None:
    """A prior that is still moving is no estimate."""
    with pytest.raises(TrainingError, match="no convergence in 1 steps"):
        estimate_prior(two_gaussians(1000, 0.9, seed=2), np.array([0.5, 0.5]), max_iterations=1)
