"""Every network that model.toml can ask for crosses the wall from training to the exporter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from exporter.compose import compose_graph, serialise
from exporter.convert import KerasNetwork
from exporter.quantise import quantise_graph
from exporter.runtime import open_session
from tests.support.exporter_graphs import feature_graph
from training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from training.dataset import FeatureArray
from training.network import build_network, build_serving_model
from training.persist import save_model
from training.scaling import measure_features

FEATURES = 6
FILLED = 3  # the feature that is NULL in training
NETWORKS: tuple[Network, ...] = (
    MlpNetwork(),
    MlpNetwork(widths=(8,), scaling="quantile"),
    MlpPleNetwork(widths=(8, 8), bins=4, embedding_width=2),
    MlpPlrNetwork(widths=(8, 8), frequencies=4, embedding_width=2),
)


def make_rows() -> FeatureArray:
    """Float32 (500, FEATURES): quantities, some of them NULL in one feature."""
    rows = np.random.default_rng(0).normal(100.0, 30.0, (500, FEATURES)).astype(np.float32)
    rows[::9, FILLED] = np.nan
    return rows


def save_network(config: Network, folder: Path) -> KerasNetwork:
    """A network of random weights over `make_rows`, through its SavedModel."""
    rows = make_rows()
    classes = (np.arange(500) % 4).astype(np.int32)
    statistics = measure_features([(rows, classes)], tuple("abcdef"), 4)
    network = build_network(config, statistics, 4, seed=0)
    save_model(build_serving_model(network, np.random.default_rng(1).normal(size=4), 0.7), folder)
    return KerasNetwork(folder / "saved_model", FEATURES)


@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_a_network_converts_to_a_few_stock_operators_and_answers_alike(
    config: Network, tmp_path: Path
) -> None:
    """A layer that does not convert would be found out after the training it was asked for."""
    features = make_rows()
    keras_side = save_network(config, tmp_path)
    model = keras_side.convert(18)
    # 30 for any number of features: the measured networks have 15 to 28, and each costs a microsecond a row.
    assert len(model.graph.node) <= 30
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    [found] = session.run(["probabilities"], {"features": features})
    # Float32 sums in another order; probabilities are at most 1, so this is some 80 roundings.
    np.testing.assert_allclose(found, keras_side.predict(features), atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_null_is_filled_and_what_is_not_finite_has_no_answer_on_both_sides(
    config: Network, precision: str, tmp_path: Path
) -> None:
    """Kernels make of NaN what they please: 0, a bound, a whole number. An answer may not depend on it."""
    keras_side = save_network(config, tmp_path)
    model = compose_graph(
        feature_graph(range(FEATURES), width=FEATURES),
        keras_side.convert(18),
        class_count=4,
        precision=precision,
    )
    session = open_session(serialise(quantise_graph(model) if precision == "int8" else model), threads=1)
    rows = make_rows()[1:6].astype(np.float64)
    rows[0, FILLED] = np.nan
    rows[1, 0] = np.nan
    rows[2, FILLED] = np.inf
    rows[3, 5] = -1e39  # infinite once it is a float32
    with np.errstate(over="ignore"):
        expected = np.isfinite(keras_side.predict(rows.astype(np.float32)))
    # One row at a time, as an int8 graph is served.
    found = [np.isfinite(session.run(["probabilities"], {"numeric": row[None]})[0][0]) for row in rows]
    assert expected.all(axis=1).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(found, expected)
