"""The networks that model.toml can ask for: features in, logits out, in few stock operators.

Everything learned from data before training (scaling, bins) lies in non-trainable weights, so a
saved model is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from timberline.training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from timberline.training.model.dataset import FeatureArray
from timberline.training.model.layers import (
    Affine,
    Correction,
    FillNull,
    PeriodicEmbedding,
    PiecewiseLinearEmbedding,
    QuantileScale,
    RefuseUndefined,
)
from timberline.training.model.scaling import (
    FeatureStatistics,
    IndexArray,
    piecewise_bins,
    quantile_edges,
    quantity_indexes,
    scale_affine,
)

FEATURES_INPUT = "features"
PROBABILITIES = "probabilities"
_FILL_NULL = "fill_null"


def build_network(
    config: Network,
    statistics: FeatureStatistics,
    class_count: int,
    *,
    seed: int,
    precision: str = "float32",
    nullable: Sequence[bool] = (),
) -> keras.Model:
    """The network to train: ``features`` (rows, features) float32 → logits (rows, classes).

    Weights are drawn from ``seed`` alone.

    Args:
        precision: Keras dtype policy of the hidden layers; weights and logits are float32.
        nullable: of each feature, whether a served row may hold NULL even if no training row does;
            empty for none. Such a feature, and one that is NULL in training, is filled with its mean.
    """
    width = len(statistics.mean)
    inputs = keras.Input((width,), name=FEATURES_INPUT, dtype="float32")
    x = inputs
    is_filled = (statistics.nulls > 0) | np.asarray(nullable or [False] * width)
    if is_filled.any():
        values = np.where(is_filled, statistics.mean, np.nan)
        x = FillNull.holding({"value": values}, name=_FILL_NULL)(x)
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
    if kind != "quantile":
        centre, scale = scale_affine(statistics, kind)
        return Affine.holding({"centre": centre, "scale": scale}, name="scaling")
    bins = 64  # enough that a straight line between two quantiles is within 1 % of the rows
    left, slope = piecewise_bins(statistics, np.arange(len(statistics.mean)), bins)
    arrays = {"left": left, "slope": slope, "height": _heights(statistics, bins)}
    return QuantileScale.holding(arrays, name="scaling")


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
        arrays = {"left": left, "slope": slope}
        return PiecewiseLinearEmbedding.holding(arrays, code_width=config.bins, **common)
    centre, scale = (array[indexes] for array in scale_affine(statistics, "standard"))
    arrays, code_width = {"centre": centre, "scale": scale}, 2 * config.frequencies
    return PeriodicEmbedding.holding(arrays, sigma=config.sigma, code_width=code_width, **common)


def build_serving_model(
    network: keras.Model, shift: npt.NDArray[np.floating], factor: float = 1.0
) -> keras.Model:
    """``network`` with its correction and softmax: features → {"probabilities"}, float32.

    A row with a feature that is not finite, once NULL is filled, has NaN for every probability.

    Args:
        shift: added to ``factor * logits``; shape (classes,).

    The layers are shared, not copied: training the result further trains ``network``.
    """
    correction = Correction.holding({"factor": np.array(factor), "shift": shift}, name="correction")
    logits = correction(network.output)
    softmax = keras.layers.Softmax(name="softmax", dtype="float32")(logits)
    filled = [layer.output for layer in network.layers if layer.name == _FILL_NULL]
    features = filled[0] if filled else network.input
    probabilities = RefuseUndefined(name=PROBABILITIES)(softmax, features)
    return keras.Model(network.input, {PROBABILITIES: probabilities}, name=network.name)


def reset_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Make every dropout layer's masks a function of (seed, epoch, layer) alone."""
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    for index, layer in enumerate(layers):
        state = np.random.SeedSequence((seed, epoch, index)).generate_state(2, np.uint32)
        layer.seed_generator.state.assign(state.astype(np.int64) % 2**31)
