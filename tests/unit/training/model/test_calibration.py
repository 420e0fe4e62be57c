"""Calibration and deployment: the constants between logits and served probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from timberline.training.errors import TrainingError
from timberline.training.model.calibration import fit_calibration
from timberline.training.model.prior import estimate_prior

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
