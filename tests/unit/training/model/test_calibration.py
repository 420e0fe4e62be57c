"""Calibration and deployment: the constants between logits and served probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from timberline.training.errors import TrainingError
from timberline.training.model.calibration import (
    SMALLEST_PRIOR,
    estimate_prior,
    fit_calibration,
    log_prior_shift,
)

FloatArray = npt.NDArray[np.float64]


def softmax(logits: FloatArray) -> FloatArray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def draw(rows: int, prior: list[float], seed: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Points around three centres, and their exact logits under equal priors."""
    random = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    classes = random.choice(3, rows, p=prior)
    points = random.normal(centres[classes])
    return -0.5 * ((points[:, None] - centres) ** 2).sum(axis=2), classes


def test_calibration_finds_the_factor_and_offsets_that_were_applied() -> None:
    """Only then do the served probabilities mean what they say."""
    logits, classes = draw(50_000, [1 / 3] * 3, 0)
    spoiled = 3.0 * logits + np.array([1.0, 0.0, -1.0])
    found = fit_calibration(spoiled, classes)
    assert found.factor == pytest.approx(1 / 3, rel=0.05)
    np.testing.assert_allclose(softmax(found.factor * spoiled + found.offset), softmax(logits), atol=0.02)


def test_em_on_calibrated_posteriors_finds_a_prior_that_overconfidence_hides() -> None:
    """This is why calibration comes before EM: the same rows, the same classifier, a wrong answer without."""
    held_out, classes = draw(4000, [1 / 3] * 3, 1)
    truth = [0.85, 0.1, 0.05]
    unlabelled, _ = draw(40_000, truth, 2)
    found = fit_calibration(3 * held_out, classes)
    calibrated = estimate_prior(softmax(found.factor * 3 * unlabelled + found.offset), np.full(3, 1 / 3))
    overconfident = estimate_prior(softmax(3 * unlabelled), np.full(3, 1 / 3))
    assert np.abs(calibrated - truth).max() < 0.03
    assert np.abs(overconfident - truth).max() > 0.04


def test_without_offsets_no_answer_changes() -> None:
    """A model whose prior is not corrected keeps the accuracy that its training reported."""
    logits, classes = draw(5000, [0.6, 0.3, 0.1], 5)
    found = fit_calibration(3.0 * logits, classes, with_offsets=False)
    assert found.offset.tolist() == [0.0, 0.0, 0.0]
    assert 0.2 < found.factor < 0.5


def test_a_network_that_is_never_wrong_gets_a_finite_factor() -> None:
    """Least log-loss alone would ask for an infinite one."""
    classes = np.arange(90) % 3
    found = fit_calibration(np.eye(3)[classes] * 8.0, classes)
    assert np.isfinite(found.factor)
    assert 0.5 < found.factor < 3


def test_a_class_without_validation_rows_keeps_its_logit_finite() -> None:
    """A rare class may miss the validation split; it must still be possible to answer it."""
    logits, classes = draw(500, [0.5, 0.5, 0.0], 3)
    assert np.isfinite(fit_calibration(logits, classes).offset).all()


def test_calibration_of_logits_that_are_not_finite_fails() -> None:
    """The network is broken; a constant in the graph would only hide it."""
    logits, classes = draw(50, [1 / 3] * 3, 4)
    logits[7] = np.nan
    with pytest.raises(TrainingError, match="no convergence"):
        fit_calibration(logits, classes)


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
