"""The class prior that the served model corrects for: as in training, given, or estimated by EM."""

from __future__ import annotations

import logging

import keras
import numpy as np
import tensorflow as tf

from registry.errors import ConfigError
from registry.ground.logs import log_event
from registry.manifest import Prior
from training.config import PriorSection
from training.dataset import PreparedSplit
from training.prior import FloatArray, estimate_prior

_logger = logging.getLogger("training.deployment")

# More rows than this move an estimated share by less than 0.001, and would only take memory.
_ESTIMATION_ROWS = 1_000_000


def find_prior(
    config: PriorSection, network: keras.Model, training_prior: FloatArray, unlabelled: PreparedSplit
) -> Prior:
    """The training rows' class prior beside the one at deployment.

    Args:
        network: features → logits, trained; asked only with ``method = "em"``.
        unlabelled: rows as at deployment; their features are read, their classes are not used.

    Raises:
        ConfigError: as many values are given as there are no classes.
    """
    deployment = training_prior
    if config.method == "given" and config.values is not None:
        deployment = _normalised(config.values, len(training_prior))
    if config.method == "em":
        deployment = estimate_prior(_posteriors(network, unlabelled), training_prior)
        log_event(_logger, "estimated the prior", prior=np.round(deployment, 4).tolist())
    return Prior(
        method=config.method, training=tuple(training_prior.tolist()), deployment=tuple(deployment.tolist())
    )


def _normalised(values: tuple[float, ...], class_count: int) -> FloatArray:
    if len(values) != class_count:
        raise ConfigError(
            f"has {len(values)} values, the data has {class_count} classes", where="prior.values"
        )
    given = np.array(values)
    return np.asarray(given / given.sum())


def _posteriors(network: keras.Model, split: PreparedSplit) -> FloatArray:
    """Class probabilities of every row, or of every k-th where there are very many; (rows, classes)."""
    stride = -(-split.rows // _ESTIMATION_ROWS)
    signature = tf.TensorSpec((None, len(split.features)), tf.float32)
    score = tf.function(lambda features: tf.nn.softmax(network(features, training=False)), [signature])
    return np.concatenate(
        [score(tf.constant(features[::stride])).numpy() for features, _ in split.read_batches()]
    )
