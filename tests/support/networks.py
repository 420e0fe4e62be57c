"""Every kind of network that model.toml can ask for, with random weights, as training would save it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from timberline.exporter.graph.convert import KerasNetwork
from timberline.training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from timberline.training.model.dataset import FeatureArray
from timberline.training.model.network import build_network, build_serving_model
from timberline.training.model.saving import save_model
from timberline.training.model.scaling import measure_features

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
