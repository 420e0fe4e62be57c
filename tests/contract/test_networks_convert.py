"""Every network that model.toml can ask for crosses the wall from training to the exporter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from exporter.convert import KerasNetwork
from training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from training.network import build_network, build_serving_model
from training.persist import save_model
from training.scaling import measure_features

FEATURES = 6
NETWORKS: tuple[Network, ...] = (
    MlpNetwork(),
    MlpNetwork(widths=(8,), scaling="quantile"),
    MlpPleNetwork(widths=(8, 8), bins=4, embedding_width=2),
    MlpPlrNetwork(widths=(8, 8), frequencies=4, embedding_width=2),
)


@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_a_network_converts_to_a_few_stock_operators_and_answers_alike(
    config: Network, tmp_path: Path
) -> None:
    """A layer that does not convert would be found out after the training it was asked for."""
    random = np.random.default_rng(0)
    features = random.normal(100.0, 30.0, (500, FEATURES)).astype(np.float32)
    features[::9, 3] = np.nan
    classes = (np.arange(500) % 4).astype(np.int32)
    statistics = measure_features([(features, classes)], tuple("abcdef"), 4)
    network = build_network(config, statistics, 4, seed=0)
    save_model(build_serving_model(network, random.normal(size=4), 0.7), tmp_path)
    keras_side = KerasNetwork(tmp_path / "saved_model", FEATURES)
    model = keras_side.convert(18)
    # 30 for any number of features: the measured networks have 21 to 28, and each costs a microsecond a row.
    assert len(model.graph.node) <= 30
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    [found] = session.run(["probabilities"], {"features": features})
    # Float32 sums in another order; probabilities are at most 1, so this is some 80 roundings.
    np.testing.assert_allclose(found, keras_side.predict(features), atol=1e-5)
