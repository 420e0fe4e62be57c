"""Categories and NULL in the networks: what their layers compute, and what nothing was learned of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest
import tensorflow as tf

from tests.support.categories import NETWORKS, CodedTable
from timberline.registry.signature import FIRST_CODE, NULL_CODE, UNKNOWN_CODE
from timberline.training.config import MlpNetwork, MlpPleNetwork, Network
from timberline.training.model.network import build_network, build_serving_model, choose_width
from timberline.training.model.saving import check_saved_model, save_model, scorer

TABLE = CodedTable()
# Numbers and both kinds of category; either kind alone; no number.
TABLES = (TABLE, CodedTable((None, 3)), CodedTable((40, None)), CodedTable((3, 4)), CodedTable((20, 400)))


def serving(network: keras.Model) -> keras.Model:
    return build_serving_model(network, np.zeros(3))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.values))
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_every_mixture_of_features_is_answered_and_saved(
    config: Network, table: CodedTable, tmp_path: Path
) -> None:
    """A table of text alone, or with one kind of category, is a table that people have."""
    rows = table.features.copy()
    rows[0, table.categories], rows[1, table.categories] = UNKNOWN_CODE, NULL_CODE
    model = serving(table.build(config))
    probabilities = scorer(model)(rows)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    save_model(model, tmp_path)
    check_saved_model(model, tmp_path, rows)


@pytest.mark.parametrize("widths", [(8,), ()])
def test_one_hots_are_a_dense_layer_over_explicit_one_hots(widths: tuple[int, ...]) -> None:
    """Gathering rows is another order of the same sum; a row of another column would be another network."""
    table = CodedTable((None, 3, 4))
    network = table.build(MlpNetwork(widths=widths, missing_flags=False))
    layer = network.get_layer("one_hots")
    codes = table.features[:, 1:].astype(int)
    explicit = np.concatenate([np.eye(5)[codes[:, 0]], np.eye(6)[codes[:, 1]]], axis=1)
    numbers = network.get_layer("scaling")(network.get_layer("fill_null")(table.features[:, :1])).numpy()
    first = network.get_layer("hidden_0" if widths else "logits")
    expected = numbers @ first.kernel.numpy() + explicit @ layer.weights_by_code.numpy()
    if widths:
        logits = network.get_layer("logits")
        expected = np.maximum(expected, 0) @ logits.kernel.numpy() + logits.bias.numpy()
    np.testing.assert_allclose(network(table.features).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("values", [(3, 4), (3, 3000)])
def test_training_and_answering_add_up_the_same_rows(values: tuple[int, ...]) -> None:
    """Training multiplies by one-hots where they are few; what is served gathers."""
    table = CodedTable(values)
    network = table.build(MlpNetwork(widths=(8,), dropout=0.0, one_hot_values=4000))
    trained, served = (network(table.features, training=training).numpy() for training in (True, False))
    np.testing.assert_allclose(trained, served, atol=1e-5)


def test_an_embedding_is_a_row_of_its_own_column() -> None:
    """All columns of a width share a matrix, and must not share its rows."""
    table = CodedTable((20, 30, 300))
    network = table.build(MlpNetwork(one_hot_values=0))
    codes = table.features.astype(np.int64)
    for layer, places, starts in (("categories_4", [0, 1], [0, 22]), ("categories_8", [2], [0])):
        rows = network.get_layer(layer).weights_by_code.numpy()[codes[:, places] + starts]
        np.testing.assert_array_equal(network.get_layer(layer)(codes).numpy(), rows.reshape(500, -1))


@pytest.mark.parametrize(
    ("values", "width"),
    [(1, 4), (13, 4), (256, 4), (257, 8), (1000, 8), (4096, 8), (4097, 16), (100_000, 32)],
)
def test_a_width_is_the_fourth_root_of_the_values_as_a_power_of_two(values: int, width: int) -> None:
    """The width is in the reference; each width more is a matrix more in the graph."""
    assert choose_width(values) == width
    assert width == 4 or width / 2 < values**0.25 <= width


def test_a_given_width_is_that_of_every_embedding() -> None:
    """One width is one matrix and one look-up, whatever the numbers of values."""
    network = CodedTable((20, 300, 3)).build(MlpNetwork(category_width=6, one_hot_values=5))
    layers = {layer.name: layer for layer in network.layers}
    assert layers["categories_6"].sizes == [22, 302]
    assert layers["one_hots"].sizes == [5]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_a_code_without_training_rows_has_the_mean_row_of_its_category(config: Network) -> None:
    """An unknown breed is answered like an average one, and not as its row happened to be drawn."""
    network = TABLE.build(config)
    for layer in network.layers:
        if layer.name != "one_hots" and not layer.name.startswith("categories_"):
            continue
        rows = layer.weights_by_code.numpy()
        for place, start, size in zip(layer.places, layer.starts, layer.sizes, strict=True):
            codes = TABLE.features[:, TABLE.categories[place]].astype(int)
            mean = rows[start : start + size][codes].astype(np.float64).mean(axis=0)
            unseen = [UNKNOWN_CODE, NULL_CODE, *set(range(FIRST_CODE, size)).difference(codes)]
            assert len(unseen) >= 3
            for code in unseen:
                np.testing.assert_allclose(rows[start + code], mean, rtol=0, atol=1e-6)


def test_a_row_counts_for_more_the_more_training_rows_have_it() -> None:
    """What five rows have is learned by heart by an optimiser that moves every row as far."""
    table = CodedTable((3,))
    layer = table.build(MlpNetwork(one_hot_values=0)).get_layer("categories_4")
    rows = np.bincount(table.features[:, 0].astype(int), minlength=5)
    seen = rows > 0
    np.testing.assert_allclose(layer.constants["trust"].numpy()[seen], (rows / (rows + 100))[seen], rtol=1e-6)


def test_a_missing_number_has_a_flag_where_training_rows_miss_it() -> None:
    """That a value is missing is often the best that is known of a row."""
    network = CodedTable((None, None, 5)).build(MlpNetwork())
    rows = np.array([[np.nan, 1, 2], [1, np.nan, 2], [1, 1, 2]], np.float32)
    inputs = keras.Model(network.input, network.get_layer("missing_flags").output)
    np.testing.assert_array_equal(inputs(rows).numpy(), [[1, 0], [0, 1], [0, 0]])


def test_a_number_that_no_training_row_misses_is_filled_and_has_no_flag() -> None:
    """Nothing is learned of a flag that is 0 in every row: it would answer as it was drawn."""
    table = CodedTable((None, 5))
    table.features[:, 0] = np.nan_to_num(table.features[:, 0], nan=50.0)
    network = table.build(MlpNetwork(), nullable=(True, False))
    assert "missing_flags" not in {layer.name for layer in network.layers}
    absent = np.array([[np.nan, 2]], np.float32)
    filled = np.array([[table.features[:, 0].astype(np.float64).mean(), 2]], np.float32)
    np.testing.assert_array_equal(scorer(serving(network))(absent), scorer(serving(network))(filled))


def test_the_flags_can_be_left_out() -> None:
    """`missing_flags` is a setting: where NULL is an accident, a flag is noise."""
    network = TABLE.build(MlpNetwork(missing_flags=False))
    assert "missing_flags" not in {layer.name for layer in network.layers}


def test_null_is_filled_with_the_median_where_that_is_asked_for() -> None:
    """The mean of a skewed number is where no row is."""
    table = CodedTable((None,))
    known = table.features[~np.isnan(table.features)]
    config = MlpNetwork(fill="median", missing_flags=False)
    model = serving(table.build(config))
    filled = np.full((1, 1), np.median(known), np.float32)
    np.testing.assert_array_equal(scorer(model)(np.full((1, 1), np.nan, np.float32)), scorer(model)(filled))
    mean = np.full((1, 1), known.mean(), np.float32)
    assert (scorer(model)(mean) != scorer(model)(filled)).any()


def test_only_a_number_can_make_an_answer_undefined() -> None:
    """Codes are finite by their making; a number without NULL in training has no stand-in."""
    table = CodedTable((3, None))
    table.features[:, 1] = np.nan_to_num(table.features[:, 1], nan=50.0)
    rows = np.array([[UNKNOWN_CODE, 1.0], [FIRST_CODE, np.nan], [FIRST_CODE, np.inf]], np.float32)
    answers = scorer(serving(table.build(NETWORKS[0])))(rows)
    assert np.isfinite(answers).all(axis=1).tolist() == [True, False, False]


def test_a_network_over_numbers_alone_is_what_it_was() -> None:
    """A table without text must not pay for it, in layers or in weights."""
    table = CodedTable((None, None))
    table.features[:] = np.nan_to_num(table.features, nan=50.0)
    network = build_network(MlpPleNetwork(widths=(8,)), table.measure(), 3, seed=0)
    names = [layer.name for layer in network.layers]
    assert names == ["features", "scaling", "embedding", "inputs", "hidden_0", "dropout_0", "logits"]


def test_the_rows_are_drawn_from_the_seed() -> None:
    """Two runs start from the same point, and two seeds do not."""

    def draw(seed: int) -> np.ndarray:
        network = build_network(NETWORKS[1], TABLE.measure(), 3, seed=seed)
        return np.concatenate([weight.ravel() for weight in network.get_weights()])

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


def test_the_layers_are_as_many_however_many_columns_there_are() -> None:
    """A single row's latency is mostly operators; one chain a column would multiply it."""
    counts = []
    for columns in (2, 30):
        table = CodedTable((None, *([3] * columns), *([300] * columns)))
        model = serving(table.build(NETWORKS[1]))
        signature = tf.TensorSpec((None, 1 + 2 * columns), tf.float32)
        traced = tf.function(lambda x, model=model: model(x), input_signature=[signature])
        counts.append(len(traced.get_concrete_function().graph.get_operations()))
    assert counts[0] == counts[1]


def test_statistics_are_of_numbers_and_counts_are_of_codes() -> None:
    """The mean of a code says nothing, and scaled by it a code would be another row."""
    statistics = TABLE.measure()
    assert statistics.numbers.tolist() == [0, 2]
    np.testing.assert_allclose(
        statistics.mean, np.nanmean(TABLE.features[:, [0, 2]].astype(np.float64), axis=0)
    )
    assert list(statistics.categories) == TABLE.categories
    for place, rows in statistics.categories.items():
        np.testing.assert_array_equal(
            rows, np.bincount(TABLE.features[:, place].astype(int), minlength=TABLE.sizes[place] or 0)
        )
    of_numbers = dataclasses.replace(TABLE, values=(None, None)).measure()
    assert of_numbers.categories == {}


def test_what_is_one_hot_is_a_setting() -> None:
    """With more values as one-hots, or none, the same table is another network."""
    of_none = TABLE.build(msgspec.structs.replace(NETWORKS[0], one_hot_values=0))
    assert "one_hots" not in {layer.name for layer in of_none.layers}
    of_all = TABLE.build(msgspec.structs.replace(NETWORKS[0], one_hot_values=300))
    assert of_all.get_layer("one_hots").sizes == [6, 302, 5, 22]
