"""Save a trained network for its two readers, and check that the saved forms answer as the trained one.

``model.keras`` is for training on; ``saved_model/`` (endpoint ``serve``) is for the exporter.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from timberline.training.errors import TrainingError
from timberline.training.model.dataset import FeatureArray
from timberline.training.model.network import FEATURES_INPUT, PROBABILITIES

KERAS_FILE = "model.keras"
SAVED_MODEL = "saved_model"

ProbabilityArray = npt.NDArray[np.float32]  # (rows, classes)


def save_model(model: keras.Model, folder: Path) -> None:
    """Write ``model.keras`` and ``saved_model/`` into ``folder``.

    ``serve`` takes one float32 tensor (rows, features) named ``features``, rows free, and answers
    ``{"probabilities": float32 (rows, classes)}``.
    """
    model.save(folder / KERAS_FILE)
    signature = tf.TensorSpec((None, model.input.shape[1]), tf.float32, name=FEATURES_INPUT)
    model.export(folder / SAVED_MODEL, input_signature=[signature], verbose=False)
    for path in (folder / SAVED_MODEL, *(folder / SAVED_MODEL).rglob("*")):
        if path.is_dir():
            shutil.copymode(folder, path)  # TensorFlow makes them 0755, whatever the umask says


def scorer(model: keras.Model) -> Callable[[FeatureArray], ProbabilityArray]:
    """``model`` as a compiled function from features to probabilities."""
    signature = tf.TensorSpec((None, model.input.shape[1]), tf.float32)
    score = tf.function(lambda features: model(features, training=False)[PROBABILITIES], [signature])
    return lambda features: score(tf.constant(features)).numpy()


def load_scorer(folder: Path) -> Callable[[FeatureArray], ProbabilityArray]:
    """The SavedModel in ``folder`` as a function from features to probabilities."""
    saved = tf.saved_model.load(str(folder))  # held: `serve` alone does not keep its variables alive

    def score(features: FeatureArray) -> ProbabilityArray:
        probabilities: ProbabilityArray = saved.serve(tf.constant(features))[PROBABILITIES].numpy()
        return probabilities

    return score


def check_saved_model(model: keras.Model, folder: Path, sample: FeatureArray) -> None:
    """Reload both forms from disk and score ``sample`` with them.

    Identical means equal bit for bit: the same float32 weights through the same operators on the
    same machine leave no room for a tolerance.

    Raises:
        TrainingError: a reloaded form gives another probability anywhere.
    """
    expected = scorer(model)(sample)
    answers = {
        KERAS_FILE: scorer(keras.models.load_model(folder / KERAS_FILE))(sample),
        SAVED_MODEL: load_scorer(folder / SAVED_MODEL)(sample),
    }
    for name, found in answers.items():
        different = np.flatnonzero((found != expected).any(axis=1))
        if len(different):
            row = int(different[0])
            raise TrainingError(
                f"gives other probabilities than the network that was trained in {len(different)} of "
                f"{len(sample)} rows, by up to {np.abs(found - expected).max():.3g}",
                where=f"{name}, row {row} of the sample",
                hint="The run is not kept. This is a defect of saving; please report it.",
            )
