"""Rows with categories among numbers, and networks over them: what text becomes once it is codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import numpy.typing as npt

from timberline.registry.signature import FIRST_CODE
from timberline.training.config import MlpNetwork, MlpPleNetwork, MlpPlrNetwork, Network
from timberline.training.model.dataset import FeatureArray
from timberline.training.model.network import build_network, fill_unseen
from timberline.training.model.scaling import FeatureStatistics, measure_features

CLASSES = 3
NETWORKS: tuple[Network, ...] = (
    MlpNetwork(widths=(8,), one_hot_values=5),
    MlpPleNetwork(widths=(8, 8), bins=4, embedding_width=2, one_hot_values=5),
    MlpPlrNetwork(widths=(8,), frequencies=4, embedding_width=2, one_hot_values=5),
)


@dataclass(frozen=True)
class CodedTable:
    """500 rows of these columns: None is a number with NULLs, n a category of n values.

    No training row has the code of the last value, nor that of NULL or of unknown values.
    """

    values: tuple[int | None, ...] = (None, 4, None, 300, 3, 20)
    rows: int = 500
    seed: int = 0
    features: FeatureArray = field(init=False)
    classes: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        columns = [
            random.integers(FIRST_CODE, FIRST_CODE + values - 1, self.rows)
            if values
            else np.where(random.random(self.rows) < 0.1, np.nan, random.normal(100, 30, self.rows))
            for values in self.values
        ]
        object.__setattr__(self, "features", np.stack(columns, axis=1).astype(np.float32))
        object.__setattr__(self, "classes", (np.arange(self.rows) % CLASSES).astype(np.int32))

    @property
    def sizes(self) -> list[int | None]:
        """How many codes each category has."""
        return [values and values + FIRST_CODE for values in self.values]

    @property
    def categories(self) -> list[int]:
        """The places of the categories."""
        return [index for index, values in enumerate(self.values) if values]

    def measure(self) -> FeatureStatistics:
        """What a network learns from the rows before its first step."""
        names = tuple(f"f{index}" for index in range(len(self.values)))
        return measure_features([(self.features, self.classes)], names, CLASSES, category_sizes=self.sizes)

    def build(self, config: Network, *, seed: int = 0, nullable: Sequence[bool] = ()) -> keras.Model:
        """A network with random weights, those of its biases too, as a training would leave it."""
        network = build_network(config, self.measure(), CLASSES, seed=seed, nullable=nullable)
        random = np.random.default_rng(seed)
        for weight in network.trainable_weights:
            weight.assign(np.asarray(weight) + random.normal(scale=0.1, size=weight.shape))
        fill_unseen(network)
        return network
