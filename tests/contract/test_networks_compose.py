"""Every network that model.toml can ask for becomes a graph of stock operators with the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.exporter_graphs import feature_graph
from timberline.exporter.graph.compose import compose_graph, serialise
from timberline.exporter.graph.convert import KerasNetwork
from timberline.exporter.graph.runtime import open_session
from timberline.training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from timberline.training.model.network import build_network, build_serving_model
from timberline.training.model.saving import save_model
from timberline.training.model.scaling import measure_features

WIDTH, CLASSES = 6, 3


def make_rows() -> np.ndarray:
    """Float32 (500, WIDTH): quantities, one with NULLs, and a flag at the end."""
    rows = np.random.default_rng(0).normal(size=(500, WIDTH)).astype(np.float32)
    rows[::7, 2] = np.nan
    rows[:, -1] = rows[:, -1] > 0
    return rows


@pytest.mark.parametrize(
    "config",
    [
        MlpNetwork(scaling="minmax"),
        MlpNetwork(scaling="quantile"),
        MlpPleNetwork(scaling="standard"),
        MlpPlrNetwork(),
    ],
    ids=lambda config: f"{type(config).__name__}-{config.scaling}",
)
def test_network_converts_with_the_same_answers(config: Network, tmp_path: Path) -> None:
    """A layer that trains for minutes and cannot be exported is found here, and not by a user."""
    rows = make_rows()
    classes = np.random.default_rng(1).integers(0, CLASSES, len(rows)).astype(np.int32)
    statistics = measure_features([(rows, classes)], tuple("abcdef"), CLASSES)
    network = build_network(config, statistics, CLASSES, seed=1)
    generator = np.random.default_rng(2)
    for weight in network.trainable_weights:  # biases start at zero; a lost one would not show
        weight.assign(np.asarray(weight) + generator.normal(scale=0.05, size=weight.shape))
    save_model(build_serving_model(network, np.array([0.1, -0.3, 0.2]), 1.1), tmp_path)

    trained = KerasNetwork(tmp_path / "saved_model", WIDTH)
    model = compose_graph(feature_graph(range(WIDTH), width=WIDTH), trained.convert(18), class_count=CLASSES)
    session = open_session(serialise(model), threads=1)
    (answer,) = session.run(["probabilities"], {"numeric": rows.astype(np.float64)})

    # NaN on both sides would be equal; every row is answered, those with NULL too.
    assert np.isfinite(answer).all()
    # Three layers of float32 sums in another order: 4e-7 measured, tolerances.toml allows 1e-5.
    np.testing.assert_allclose(answer, trained.predict(rows), rtol=0, atol=1e-5)
    assert {node.domain for node in model.graph.node} == {""}
