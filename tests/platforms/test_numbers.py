"""One small table's whole way, whatever the kernels: trained, exported, NULLs served, releases judged.

`tests/platforms/matrix.py` runs this file under other settings of the numeric libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.prepared import forced_precision
from tests.support.registry_tree import folder_of
from tests.support.tables import NAME, SmallTable, rows
from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.settings import load_gate_settings
from timberline.exporter.export import export_run
from timberline.exporter.graph.convert import KerasNetwork
from timberline.exporter.graph.runtime import open_session
from timberline.exporter.inputs import ReleaseSettings, load_inputs
from timberline.exporter.parity.rows import RawValue, rows_to_feeds
from timberline.registry.manifest import Manifest
from timberline.registry.runs import ExportSettings, find_run
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.training.evaluation.evaluate import run_evaluate
from timberline.training.fit import run_train

# weight may be NULL and never is; sqrt has no answer below a height of 0, and the quotient none at -1.
FEATURES = (
    "SELECT height, weight, red, sqrt(height) AS root, height / (height + 1) AS quotient, "
    "weight * height AS product FROM raw"
)
NETWORK = """
[network]
kind = "mlp_ple"
widths = [16, 16]
bins = 8
embedding_width = 4

[training]
epochs = 2
batch_rows = 64
"""
# One row in five is present: the first is right in four of five rows, the second in one of five.
BETTER, WORSE = (
    'prior.method="given" prior.values=[0.9999,0.0001]',
    'prior.method="given" prior.values=[0.0001,0.9999]',
)


@dataclass(frozen=True)
class Shop:
    """Two versions of the small table's model: 1 is worse, 2 is better, by their priors alone."""

    table: SmallTable
    store: Store

    def manifest(self, version: int) -> Manifest:
        """What a version says of itself."""
        return self.store.open_version(NAME, version).manifest

    def answer(self, version: int, row: list[RawValue]) -> np.ndarray:
        """Probabilities of one raw row, as a service computes them; float32 (classes,)."""
        graph = (folder_of(self.store.open_version(NAME, version)) / MODEL_FILE).read_bytes()
        feeds = rows_to_feeds([row], self.manifest(version).signature.columns)
        probabilities: np.ndarray = open_session(graph, threads=1).run(["probabilities"], feeds)[0][0]
        return probabilities

    def accuracy(self, champion: int, candidate: int) -> str:
        """What the gate says of the candidate's accuracy."""
        numbers = {"champion": champion, "candidate": candidate}
        versions = {arm: self.store.open_version(NAME, number) for arm, number in numbers.items()}
        lines = judge_static(self.store, versions, load_gate_settings().accuracy).lines
        (line,) = [line for line in lines if line.name == "accuracy"]
        return line.outcome


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Fetched, prepared, trained twice, evaluated and exported; every export has proven its parity."""
    root = tmp_path_factory.mktemp("shop")
    table = SmallTable(root, rows(1500), features=FEATURES, rest=NETWORK)
    store = open_store(root / "registry")
    table.etl()
    settings = ReleaseSettings(export=ExportSettings(golden_rows=12))
    for prior in (WORSE, BETTER):
        config = table.config(*prior.split(), f'training.precision="{forced_precision()}"')
        run_train(config, table.models, table.data)
        run_evaluate(config, table.data)
        assert export_run(load_inputs(table.data, NAME, settings), store).outcome == "published"
    return Shop(table, store)


def raw(height: int, weight: float | None) -> list[RawValue]:
    """One row of the table in the order of its columns."""
    return [height, weight, 1, 0, "north", True]


def test_null_is_answered_as_the_training_mean(shop: Shop) -> None:
    """The rule in place of what a kernel would make of NaN, for every feature that reads the column."""
    means = shop.table.query("avg(weight), avg(CAST(product AS DOUBLE))")[0]
    network = KerasNetwork(
        shop.table.data / f"runs/{NAME}" / find_run(shop.table.data, NAME).name / "saved_model", 6
    )
    features = np.array([[25, means[0], 1, 5, 25 / 26, means[1]]], np.float32)
    # tolerances.toml: float32 sums in another order, ten times what was measured.
    np.testing.assert_allclose(shop.answer(2, raw(25, None)), network.predict(features)[0], rtol=0, atol=1e-5)
    assert np.isfinite(shop.answer(2, raw(25, None))).all()


@pytest.mark.parametrize("row", [raw(-4, 1.0), raw(-1, 1.0), raw(25, 1e39), raw(-4, None)])
def test_a_row_with_a_feature_that_is_not_finite_has_no_answer(shop: Shop, row: list[RawValue]) -> None:
    """The service refuses what is not finite: NULL from sqrt(-4), -1/0, more than a float32 holds."""
    assert np.isnan(shop.answer(2, row)).all()


def test_a_worse_release_is_blocked_and_a_better_one_is_not(shop: Shop) -> None:
    """A decision that one processor takes otherwise than another is none."""
    assert shop.accuracy(champion=2, candidate=1) == "BLOCK"
    assert shop.accuracy(champion=1, candidate=2) == "PASS"
