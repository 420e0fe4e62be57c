"""The networks that model.toml can ask for: features in, logits out, in few stock operators.

Everything learned from data before training (scaling, bins) lies in non-trainable weights, so a
saved model is whole. The layers are registered with Keras: `model.keras` loads wherever
`training.network` is imported; the SavedModel needs no import at all.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from training.dataset import FeatureArray
from training.scaling import (
    FeatureStatistics,
    IndexArray,
    piecewise_bins,
    quantile_edges,
    quantity_indexes,
    scale_affine,
)

FEATURES_INPUT = "features"
PROBABILITIES = "probabilities"
_PACKAGE = "timberline"


class _Constants(keras.layers.Layer):  # type: ignore[misc]  # Keras is not typed
    """A layer that holds arrays learned before training as non-trainable float32 weights.

    Always computes in float32, whatever the training precision: raw quantities such as 3,858 m
    have no room in the 8 bits of a bfloat16.
    """

    def __init__(self, shapes: dict[str, list[int]], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.constants = {
            name: self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)
            for name, shape in self.shapes.items()
        }

    def fill(self, **arrays: npt.NDArray[Any]) -> _Constants:
        """Give every constant its value; returns the layer itself."""
        for name, array in arrays.items():
            self.constants[name].assign(array)
        return self

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shapes": self.shapes}


@keras.saving.register_keras_serializable(_PACKAGE)
class FillNull(_Constants):
    """NaN (a NULL feature) → the training mean of that feature."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_nan(inputs), self.constants["value"], inputs)


@keras.saving.register_keras_serializable(_PACKAGE)
class Affine(_Constants):
    """x → (x − centre) · scale, feature by feature."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return (inputs - self.constants["centre"]) * self.constants["scale"]


@keras.saving.register_keras_serializable(_PACKAGE)
class QuantileScale(_Constants):
    """x → its quantile among the training rows, −1 to 1, linear between the quantiles kept."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        passed = (tf.expand_dims(inputs, 2) - self.constants["left"]) * self.constants["slope"]
        passed = tf.clip_by_value(passed, 0.0, 1.0)  # (rows, features) → (rows, features, bins)
        return tf.reduce_sum(passed * self.constants["height"], axis=2) - 1.0


class _Embedding(_Constants):
    """Each chosen feature → ReLU(W · code(x) + b) of ``width``: one batched product for all features.

    (rows, features) → (rows, embedded · width). The transposes put the features first, so that
    one MatMul serves them all, and move the small side: x before it is coded, the result after.
    """

    def __init__(
        self,
        indexes: list[int],
        code_width: int,
        width: int,
        shapes: dict[str, list[int]],
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shapes, **kwargs)
        self.indexes, self.code_width, self.width, self.seed = list(indexes), code_width, width, seed
        # Uniform as in a dense layer over one feature's code (Gorishniy et al. 2022 do the same).
        uniform = keras.initializers.RandomUniform(-(code_width**-0.5), code_width**-0.5, seed=seed)
        count = len(self.indexes)
        self.kernel = self.add_weight(name="kernel", shape=(count, code_width, width), initializer=uniform)
        self.bias = self.add_weight(name="bias", shape=(count * width,), initializer="zeros")

    def code(self, columns: tf.Tensor) -> tf.Tensor:
        """(embedded, rows, 1) → (embedded, rows, code width)."""
        raise NotImplementedError

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        columns = tf.transpose(tf.gather(inputs, self.indexes, axis=1))  # (rows, features) → (embedded, rows)
        embedded = tf.matmul(self.code(tf.expand_dims(columns, 2)), self.kernel)
        flat = tf.reshape(tf.transpose(embedded, (1, 0, 2)), (-1, len(self.indexes) * self.width))
        return tf.nn.relu(flat + self.bias)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("indexes", "code_width", "width", "seed")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(_PACKAGE)
class PiecewiseLinearEmbedding(_Embedding):
    """Codes x as the share of each quantile bin that it has passed."""

    def code(self, columns: tf.Tensor) -> tf.Tensor:
        left, slope = self.constants["left"][:, None, :], self.constants["slope"][:, None, :]
        return tf.clip_by_value((columns - left) * slope, 0.0, 1.0)


@keras.saving.register_keras_serializable(_PACKAGE)
class PeriodicEmbedding(_Embedding):
    """Codes the standardised x as sines and cosines of learned frequencies."""

    def __init__(self, sigma: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sigma = sigma
        normal = keras.initializers.RandomNormal(stddev=sigma, seed=self.seed)
        shape = (len(self.indexes), 1, self.code_width // 2)
        self.frequency = self.add_weight(name="frequency", shape=shape, initializer=normal)

    def code(self, columns: tf.Tensor) -> tf.Tensor:
        centre, scale = self.constants["centre"][:, None, None], self.constants["scale"][:, None, None]
        # The full turn goes into the small factor, so that it is one product a value.
        turned = ((columns - centre) * scale) * (self.frequency * (2.0 * np.pi))
        return tf.concat([tf.sin(turned), tf.cos(turned)], axis=2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma}


@keras.saving.register_keras_serializable(_PACKAGE)
class Correction(_Constants):
    """Logits · factor + shift: calibration and, as log(prior at deployment / in training), Bayes' rule."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(inputs, tf.float32) * self.constants["factor"] + self.constants["shift"]


def build_network(
    config: Network, statistics: FeatureStatistics, class_count: int, *, seed: int, precision: str = "float32"
) -> keras.Model:
    """The network to train: ``features`` (rows, features) float32 → logits (rows, classes).

    Hidden layers compute in ``precision`` (a Keras dtype policy), weights and logits are float32.
    Weights are drawn from ``seed`` alone.
    """
    width = len(statistics.mean)
    inputs = keras.Input((width,), name=FEATURES_INPUT, dtype="float32")
    x = inputs
    if statistics.nulls.any():
        x = FillNull({"value": [width]}, name="fill_null").fill(value=statistics.mean)(x)
    scaled = _scaling(config.scaling, statistics)(x)
    indexes = quantity_indexes(statistics)
    if not isinstance(config, MlpNetwork) and len(indexes):
        embedded = _embedding(config, statistics, indexes, seed)(x)
        scaled = keras.layers.Concatenate(name="inputs")([scaled, embedded])
    hidden = _hidden(scaled, config, seed, precision)
    logits = keras.layers.Dense(
        class_count, name="logits", dtype="float32", kernel_initializer=_glorot(seed, len(config.widths))
    )(hidden)
    return keras.Model(inputs, logits, name=type(config).__struct_config__.tag)


def _hidden(x: Any, config: Network, seed: int, precision: str) -> Any:
    for index, units in enumerate(config.widths):
        initializer = _glorot(seed, index)
        x = keras.layers.Dense(
            units, activation="relu", kernel_initializer=initializer, dtype=precision, name=f"hidden_{index}"
        )(x)
        if config.dropout:
            x = keras.layers.Dropout(config.dropout, seed=seed, dtype=precision, name=f"dropout_{index}")(x)
    return x


def _glorot(seed: int, index: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=seed * 1_000 + index)


def _scaling(kind: str, statistics: FeatureStatistics) -> keras.layers.Layer:
    width = len(statistics.mean)
    if kind != "quantile":
        centre, scale = scale_affine(statistics, kind)
        return Affine({"centre": [width], "scale": [width]}, name="scaling").fill(centre=centre, scale=scale)
    bins = 64  # enough that a straight line between two quantiles is within 1 % of the rows
    left, slope = piecewise_bins(statistics, np.arange(width), bins)
    shapes = {name: [width, bins] for name in ("left", "slope", "height")}
    heights = _heights(statistics, bins)
    return QuantileScale(shapes, name="scaling").fill(left=left, slope=slope, height=heights)


def _heights(statistics: FeatureStatistics, bins: int) -> FeatureArray:
    """How far each bin raises the quantile; rows sum to 2, for the range −1 to 1."""
    heights = np.zeros((len(statistics.mean), bins), np.float32)
    for feature in range(len(heights)):
        edges = quantile_edges(statistics, feature, bins)
        values = np.sort(statistics.sample[:, feature])
        values = values[~np.isnan(values)]
        # Ties are in the middle of the rows that share the value.
        rank = (np.searchsorted(values, edges, "left") + np.searchsorted(values, edges, "right")) / 2
        steps = np.diff(rank)
        heights[feature, : len(steps)] = 2.0 * steps / max(float(steps.sum()), 1.0)
    return heights


def _embedding(
    config: MlpPleNetwork | MlpPlrNetwork, statistics: FeatureStatistics, indexes: IndexArray, seed: int
) -> keras.layers.Layer:
    common: dict[str, Any] = {
        "indexes": indexes.tolist(),
        "width": config.embedding_width,
        "seed": seed,
        "name": "embedding",
    }
    if isinstance(config, MlpPleNetwork):
        left, slope = piecewise_bins(statistics, indexes, config.bins)
        shapes = {name: [len(indexes), config.bins] for name in ("left", "slope")}
        piecewise = PiecewiseLinearEmbedding(code_width=config.bins, shapes=shapes, **common)
        return piecewise.fill(left=left, slope=slope)
    centre, scale = (array[indexes] for array in scale_affine(statistics, "standard"))
    shapes = {name: [len(indexes)] for name in ("centre", "scale")}
    periodic = PeriodicEmbedding(config.sigma, code_width=2 * config.frequencies, shapes=shapes, **common)
    return periodic.fill(centre=centre, scale=scale)


def build_serving_model(
    network: keras.Model, shift: npt.NDArray[np.floating], factor: float = 1.0
) -> keras.Model:
    """``network`` with its correction and softmax: features → {"probabilities"}, float32.

    Args:
        shift: added to ``factor * logits``; shape (classes,).

    The layers are shared, not copied: training the result further trains ``network``.
    """
    correction = Correction({"factor": [], "shift": [len(shift)]}, name="correction")
    logits = correction.fill(factor=np.array(factor), shift=shift)(network.output)
    probabilities = keras.layers.Softmax(name=PROBABILITIES, dtype="float32")(logits)
    return keras.Model(network.input, {PROBABILITIES: probabilities}, name=network.name)


def reset_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Make every dropout layer's masks a function of (seed, epoch, layer) alone."""
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    for index, layer in enumerate(layers):
        state = np.random.SeedSequence((seed, epoch, index)).generate_state(2, np.uint32)
        layer.seed_generator.state.assign(state.astype(np.int64) % 2**31)
