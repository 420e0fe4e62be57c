"""What stands between the trained logits and the served probabilities: calibration and class prior.

Both are constants of the graph: ``factor * logits + shift``. The prior at deployment is that of
training, given, or estimated by EM from unlabelled rows.
"""

from __future__ import annotations

import dataclasses
import logging

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Prior
from timberline.registry.runtime.logs import log_event
from timberline.training.config import PriorSection
from timberline.training.model.calibration import Calibration, fit_calibration
from timberline.training.model.dataset import PreparedSplit
from timberline.training.model.prior import FloatArray, estimate_prior, log_prior_shift

_logger = logging.getLogger("training.model.logit_correction")

# More rows than this move a share or a factor by less than 0.001, and would only take memory.
_MOST_ROWS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Deployment:
    """``factor * logits + shift`` are the logits to serve; ``prior`` says what for."""

    factor: float
    shift: FloatArray
    prior: Prior


def fit_deployment(
    config: PriorSection,
    network: keras.Model,
    training_prior: FloatArray,
    validation: PreparedSplit,
    unlabelled: PreparedSplit,
) -> Deployment:
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
        deployment = estimate_prior(_softmax(calibration.factor * logits + calibration.offset), reference)
        log_event(_logger, "estimated the prior", prior=_rounded(deployment))
    shift = calibration.offset
    if config.method != "none":
        shift = shift + log_prior_shift(reference, deployment)
    prior = Prior(
        method=config.method, training=tuple(training_prior.tolist()), deployment=tuple(deployment.tolist())
    )
    return Deployment(calibration.factor, shift, prior)


def _normalised(values: tuple[float, ...], class_count: int) -> FloatArray:
    if len(values) != class_count:
        raise ConfigError(
            f"has {len(values)} values, the data has {class_count} classes", where="prior.values"
        )
    given = np.array(values)
    return np.asarray(given / given.sum())


def _rounded(values: FloatArray) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


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
