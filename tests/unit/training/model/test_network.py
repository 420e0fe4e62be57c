"""The networks: what they compute, and that they survive saving and conversion."""

from __future__ import annotations

import collections
from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest
import tensorflow as tf

from timberline.training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from timberline.training.errors import TrainingError
from timberline.training.model.calibration import log_prior_shift
from timberline.training.model.dataset import FeatureArray
from timberline.training.model.network import build_network, build_serving_model, reset_dropout
from timberline.training.model.saving import check_saved_model, save_model, scorer
from timberline.training.model.scaling import FeatureStatistics, measure_features

CLASSES = 3
NETWORKS: tuple[Network, ...] = (
    MlpNetwork(widths=(8,)),
    MlpNetwork(widths=(8, 8), scaling="quantile"),
    MlpPleNetwork(widths=(8, 8), bins=4, embedding_width=2),
    MlpPlrNetwork(widths=(8,), frequencies=4, embedding_width=2),
)


def table(*, nulls: bool = False) -> FeatureArray:
    """300 rows of two quantities, an indicator and a constant."""
    random = np.random.default_rng(0)
    columns = [
        random.normal(3000, 300, 300),
        random.gamma(2, 9, 300),
        random.integers(0, 2, 300),
        np.ones(300),
    ]
    features = np.stack(columns, axis=1).astype(np.float32)
    if nulls:
        features[::7, 1] = np.nan
    return features


def measured(features: FeatureArray) -> FeatureStatistics:
    classes = (np.arange(len(features)) % CLASSES).astype(np.int32)
    return measure_features([(features, classes)], tuple("abcd"), CLASSES)


def serving(config: Network, features: FeatureArray) -> keras.Model:
    return build_serving_model(build_network(config, measured(features), CLASSES, seed=0), np.zeros(CLASSES))


@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_probabilities_sum_to_one_even_far_outside_the_training_range(config: Network) -> None:
    """A served row may be anything; the answer must still be a distribution."""
    features = table()
    probabilities = scorer(serving(config, features))(np.concatenate([features, features * 1000, -features]))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_null_counts_as_the_training_mean_where_training_saw_null(config: Network) -> None:
    """NaN through one MatMul would make every probability of the row NaN."""
    features = table(nulls=True)
    model = serving(msgspec.structs.replace(config, missing_flags=False), features)
    filled = np.where(np.isnan(features), np.nanmean(features.astype(np.float64), axis=0), features)
    np.testing.assert_array_equal(scorer(model)(features), scorer(model)(filled.astype(np.float32)))


def test_null_is_answered_where_only_a_served_row_has_it() -> None:
    """A nullable column without one NULL in training is no reason to answer NaN."""
    nullable = (False, True, False, False)
    network = build_network(NETWORKS[2], measured(table()), CLASSES, seed=0, nullable=nullable)
    answers = scorer(build_serving_model(network, np.zeros(CLASSES)))
    filled = np.where(np.isnan(table(nulls=True)), table().astype(np.float64).mean(axis=0), table())
    np.testing.assert_array_equal(answers(table(nulls=True)), answers(filled.astype(np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_a_feature_that_is_not_finite_and_not_filled_has_no_answer(config: Network, value: float) -> None:
    """A fused kernel makes 0 of NaN on one processor and NaN on another; so no kernel is asked."""
    network = build_network(config, measured(table()), CLASSES, seed=0, nullable=(True, False, False, False))
    answers = scorer(build_serving_model(network, np.zeros(CLASSES)))
    features = table()
    features[5, 1] = value
    is_undefined = np.isnan(answers(features))
    assert is_undefined[5].all()
    assert not np.delete(is_undefined, 5, axis=0).any()
    np.testing.assert_array_equal(
        np.delete(answers(features), 5, axis=0), np.delete(answers(table()), 5, axis=0)
    )


def test_quantile_scaling_spreads_a_skewed_feature_evenly() -> None:
    """That is what it is for: as many training rows in each tenth of the range."""
    network = build_network(MlpNetwork(scaling="quantile"), measured(table()), CLASSES, seed=0)
    scaled = network.get_layer("scaling")(table()).numpy()[:, 1]
    counts, _ = np.histogram(scaled, bins=10, range=(-1, 1))
    # 30 of the 300 rows each; a row or two lies on a bin's edge, where the last bit decides.
    assert counts.min() >= 25
    assert counts.max() <= 35


def test_the_embedding_equals_its_formula_feature_by_feature() -> None:
    """The batched product with its transposes must not mix features or rows."""
    features = table()
    network = build_network(NETWORKS[2], measured(features), CLASSES, seed=0)
    layer = network.get_layer("embedding")
    kernel, left, slope = (
        np.asarray(value) for value in (layer.kernel, layer.constants["left"], layer.constants["slope"])
    )
    expected = np.concatenate(
        [
            np.maximum(np.clip((features[:, [index]] - left[row]) * slope[row], 0, 1) @ kernel[row], 0)
            for row, index in enumerate([0, 1])
        ],
        axis=1,
    )
    np.testing.assert_allclose(layer(features).numpy(), expected, atol=1e-6)


def test_the_prior_shift_is_bayes_rule() -> None:
    """A wrong sign would push rare classes up instead of down, and accuracy alone might not tell."""
    features = table()
    network = build_network(NETWORKS[0], measured(features), CLASSES, seed=0)
    before, after = np.full(3, 1 / 3), np.array([0.7, 0.2, 0.1])
    posterior = scorer(build_serving_model(network, np.zeros(3)))(features)
    expected = posterior * after / before
    expected /= expected.sum(axis=1, keepdims=True)
    shifted = scorer(build_serving_model(network, log_prior_shift(before, after)))(features)
    np.testing.assert_allclose(shifted, expected, atol=1e-6)


def test_the_correction_scales_before_it_shifts() -> None:
    """The shift is in units of calibrated logits; the other order would scale the prior too."""
    features = table()
    network = build_network(NETWORKS[0], measured(features), CLASSES, seed=0)
    shift = np.array([0.5, 0.0, -0.5])
    expected = keras.ops.softmax(2.0 * network(features) + shift.astype(np.float32)).numpy()
    np.testing.assert_allclose(
        scorer(build_serving_model(network, shift, 2.0))(features), expected, atol=1e-6
    )


def test_weights_are_drawn_from_the_seed() -> None:
    """Two runs start from the same point, and two seeds do not."""
    first, again, other = (
        np.concatenate(
            [w.ravel() for w in build_network(NETWORKS[2], measured(table()), 3, seed=seed).get_weights()]
        )
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_dropout_masks_depend_on_seed_and_epoch_alone() -> None:
    """A resumed run has not drawn the masks of the epochs before, and must still go on with the same ones."""
    network = build_network(MlpNetwork(widths=(32,), dropout=0.5), measured(table()), CLASSES, seed=0)

    def answers(epoch: int) -> list[float]:
        reset_dropout(network, 0, epoch)
        found: list[float] = network(table(), training=True).numpy().ravel().tolist()
        return found

    first = answers(1)
    assert answers(2) != first
    assert answers(1) == first


@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_the_saved_forms_answer_bit_for_bit(config: Network, tmp_path: Path) -> None:
    """The exporter and the next training start from disk, not from this process's memory."""
    features = table(nulls=True)
    model = serving(config, features)
    save_model(model, tmp_path)
    check_saved_model(model, tmp_path, features)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    [name] = loaded.serve.input_signature
    assert name.name == "features"
    assert loaded.serve(tf.constant(features)).keys() == {"probabilities"}


def test_a_saved_form_that_answers_otherwise_fails_the_run(tmp_path: Path) -> None:
    """A run whose files are not the network that was scored must not be kept."""
    features = table()
    save_model(serving(NETWORKS[0], features), tmp_path)
    other = serving(NETWORKS[0], features)
    other.get_layer("logits").bias.assign([1.0, 0.0, 0.0])
    with pytest.raises(TrainingError, match=r"model\.keras, row 0"):
        check_saved_model(other, tmp_path, features)


def test_a_loaded_model_trains_on(tmp_path: Path) -> None:
    """model.keras is kept to retrain; a form without trainable weights would be dead."""
    features = table()
    save_model(serving(NETWORKS[2], features), tmp_path)
    model = keras.models.load_model(tmp_path / "model.keras")
    model.compile(optimizer="sgd", loss={"probabilities": "sparse_categorical_crossentropy"})
    before = model.get_weights()
    model.fit(features, {"probabilities": np.zeros(300)}, verbose=0)
    assert any((new != old).any() for new, old in zip(model.get_weights(), before, strict=True))


def test_the_embedding_is_one_chain_of_operators_however_many_features() -> None:
    """A single row's latency is mostly operators; one chain a feature would multiply it by 32."""
    counts = []
    for width in (3, 30):
        features = np.random.default_rng(0).normal(size=(200, width)).astype(np.float32)
        classes = (np.arange(200) % CLASSES).astype(np.int32)
        statistics = measure_features([(features, classes)], tuple(map(str, range(width))), CLASSES)
        model = build_serving_model(
            build_network(NETWORKS[2], statistics, CLASSES, seed=0), np.zeros(CLASSES)
        )
        signature = tf.TensorSpec((None, width), tf.float32)
        graph = tf.function(
            lambda x, model=model: model(x), input_signature=[signature]
        ).get_concrete_function()
        counts.append(collections.Counter(operation.type for operation in graph.graph.get_operations()))
    assert counts[0] == counts[1]
