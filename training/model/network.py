"""The networks that model.toml can ask for: features in, logits out, in few stock operators.

Everything learned from data before training (scaling, bins) lies in non-trainable weights, so a
saved model is whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from timberline.registry.signature import FIRST_CODE
from timberline.training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from timberline.training.model.dataset import FeatureArray
from timberline.training.model.layers import (
    Affine,
    CategoryCodes,
    CategoryEmbedding,
    CategoryTable,
    Correction,
    FillNull,
    MissingFlags,
    Numbers,
    OneHotProduct,
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
_NUMBERS, _FILL_NULL = "numbers", "fill_null"
# An embedding is as wide as the fourth root of the number of values, Google's rule of thumb ("Introducing
# TensorFlow Feature Columns", developers.googleblog.com, 2017), raised to a power of two: few widths, each a
# matrix of its own in the graph, serve all columns. 4 up to 256 values, 8 up to 4,096, 16 up to 65,536.
_LEAST_WIDTH = 4
# A value of so many training rows has half its row. Of 100,000 flights with 4,037 tail numbers the validation
# loss rose from .502 to .514 in 8 epochs without, and fell to .498 with it (.494 without the tail numbers).
_HALF_TRUSTED_ROWS = 100
_SPREAD = 0.05  # of an embedding's rows at first; Keras' own default


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
            empty for none. Such a number, and one that is NULL in training, is filled.
    """
    width = len(statistics.numbers) + len(statistics.categories)
    inputs = keras.Input((width,), name=FEATURES_INPUT, dtype="float32")
    is_nullable = np.asarray(nullable or [False] * width, bool)[statistics.numbers]
    parts = _code_numbers(inputs, config, statistics, is_nullable, seed) if len(statistics.numbers) else []
    units = (*config.widths, class_count)
    one_hots = None
    if statistics.categories:
        embedded, one_hots = _code_categories(inputs, config, statistics, units[0], seed)
        parts += embedded
    x = keras.layers.Concatenate(name="inputs")(parts) if len(parts) > 1 else (parts or [None])[0]
    for index, count in enumerate(config.widths):
        x = _dense(x, one_hots, count, "relu", f"hidden_{index}", precision, _glorot(seed, index))
        if config.dropout:
            x = keras.layers.Dropout(config.dropout, seed=seed, dtype=precision, name=f"dropout_{index}")(x)
        one_hots = None
    logits = _dense(x, one_hots, class_count, None, "logits", "float32", _glorot(seed, len(config.widths)))
    return keras.Model(inputs, logits, name=type(config).__struct_config__.tag)


def _dense(
    x: Any | None,
    one_hots: Any | None,
    units: int,
    activation: str | None,
    name: str,
    precision: str,
    initializer: keras.initializers.Initializer,
) -> Any:
    """A dense layer over ``x`` and over one-hots, of which the product is given; either may be None."""
    options = {"kernel_initializer": initializer, "dtype": precision, "name": name}
    if one_hots is None:
        return keras.layers.Dense(units, activation=activation, **options)(x)
    if x is not None:
        # Each row has one code of each category, so a bias is a part of the rows already.
        product = keras.layers.Dense(units, use_bias=False, **options)(x)
        one_hots = keras.layers.Add(dtype=precision, name=f"{name}_sum")([product, one_hots])
    return keras.layers.Activation(activation, dtype=precision, name=f"{name}_activation")(one_hots)


def _code_numbers(
    inputs: Any, config: Network, statistics: FeatureStatistics, is_nullable: npt.NDArray[np.bool_], seed: int
) -> list[Any]:
    """The numbers as the first layer gets them: scaled, embedded, and flags of those that are NULL.

    A flag is of a number that some training row lacks; another's weights would stay as they were drawn.
    """
    x = inputs
    if statistics.categories:
        x = Numbers(statistics.numbers.tolist(), name=_NUMBERS)(x)
    is_null, flags = statistics.nulls > 0, []
    if config.missing_flags and is_null.any():
        flags = [MissingFlags(np.flatnonzero(is_null).tolist(), name="missing_flags")(x)]
    is_filled = is_null | is_nullable
    if is_filled.any():
        values = statistics.mean if config.fill == "mean" else statistics.median
        x = FillNull.holding({"value": np.where(is_filled, values, np.nan)}, name=_FILL_NULL)(x)
    parts = [_scaling(config.scaling, statistics)(x)]
    indexes = quantity_indexes(statistics)
    if not isinstance(config, MlpNetwork) and len(indexes):
        parts.append(_embedding(config, statistics, indexes, seed)(x))
    return parts + flags


def _code_categories(
    inputs: Any, config: Network, statistics: FeatureStatistics, units: int, seed: int
) -> tuple[list[Any], Any | None]:
    """The categories as the first layer, of ``units``, gets them: embeddings, and the product of one-hots."""
    counts = list(statistics.categories.values())
    by_width: dict[int, list[int]] = {}  # 0: one-hot
    for place, rows_by_code in enumerate(counts):
        values = len(rows_by_code) - FIRST_CODE
        width = 0 if values <= config.one_hot_values else config.category_width or choose_width(values)
        by_width.setdefault(width, []).append(place)
    codes = CategoryCodes(list(statistics.categories), name="codes")(inputs)
    embedded, one_hots = [], None
    for width, places in sorted(by_width.items()):
        drawn = seed * 1_000 + 500 + width
        options: dict[str, Any] = {"places": places, "sizes": [len(counts[place]) for place in places]}
        rows = np.concatenate([counts[place] for place in places])
        arrays = {
            "share": rows / statistics.rows,
            "trust": np.where(rows > 0, rows / (rows + _HALF_TRUSTED_ROWS), 1.0),
        }
        if width:
            uniform = keras.initializers.RandomUniform(-_SPREAD, _SPREAD, seed=drawn)
            options |= {"width": width, "initializer": uniform, "name": f"categories_{width}"}
            embedded.append(CategoryEmbedding.holding(arrays, **options)(codes))
        else:
            glorot = keras.initializers.GlorotUniform(seed=drawn)
            options |= {"width": units, "initializer": glorot, "name": "one_hots"}
            one_hots = OneHotProduct.holding(arrays, **options)(codes)
    return embedded, one_hots


def choose_width(values: int) -> int:
    """How many numbers the embedding of a category of so many values has."""
    return max(_LEAST_WIDTH, 1 << math.ceil(math.log2(max(values, 1)) / 4))


def fill_unseen(network: keras.Model) -> None:
    """Give each code that no training row has the mean row of its category, as `CategoryTable` says."""
    for layer in network.layers:
        if isinstance(layer, CategoryTable):
            layer.fill_unseen()


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

    A row with a number that is not finite, once NULL is filled, has NaN for every probability.

    Args:
        shift: added to ``factor * logits``; shape (classes,).

    The layers are shared, not copied: training the result further trains ``network``.
    """
    correction = Correction.holding({"factor": np.array(factor), "shift": shift}, name="correction")
    logits = correction(network.output)
    probabilities = keras.layers.Softmax(name="softmax", dtype="float32")(logits)
    outputs = {layer.name: layer.output for layer in network.layers}
    if "scaling" in outputs:  # there are numbers
        numbers = outputs.get(_FILL_NULL, outputs.get(_NUMBERS, network.input))
        probabilities = RefuseUndefined(name=PROBABILITIES)(probabilities, numbers)
    return keras.Model(network.input, {PROBABILITIES: probabilities}, name=network.name)


def reset_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Make every dropout layer's masks a function of (seed, epoch, layer) alone."""
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    for index, layer in enumerate(layers):
        state = np.random.SeedSequence((seed, epoch, index)).generate_state(2, np.uint32)
        layer.seed_generator.state.assign(state.astype(np.int64) % 2**31)
