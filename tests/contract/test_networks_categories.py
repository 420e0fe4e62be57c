"""Categories cross the wall from training to the exporter: their codes become an output of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.categories import CLASSES, NETWORKS, CodedTable
from tests.support.exporter_graphs import feature_graph
from timberline.exporter.graph.compose import compose_graph, quantise_graph, serialise
from timberline.exporter.graph.convert import KerasNetwork
from timberline.exporter.graph.runtime import open_session
from timberline.registry.signature import CATEGORIES_OUTPUT, NULL_CODE, UNKNOWN_CODE
from timberline.training.config import MlpNetwork, Network
from timberline.training.model.network import build_serving_model
from timberline.training.model.saving import save_model


def convert(table: CodedTable, config: Network, folder: Path) -> KerasNetwork:
    folder.mkdir(exist_ok=True)
    model = build_serving_model(table.build(config), np.array([0.1, -0.3, 0.2]), 1.1)
    save_model(model, folder)
    return KerasNetwork(folder / "saved_model", len(table.values))


def compose(table: CodedTable, trained: KerasNetwork, **options: object) -> onnx.ModelProto:
    width = len(table.values)
    return compose_graph(
        feature_graph(range(width), width=width),
        trained.convert(18),
        class_count=CLASSES,
        categories=table.categories,
        **options,  # type: ignore[arg-type]
    )


def make_rows(table: CodedTable) -> np.ndarray:
    """Its rows, two of them with codes that training never had."""
    rows = table.features.astype(np.float64)
    rows[0, table.categories], rows[1, table.categories] = UNKNOWN_CODE, NULL_CODE
    return rows


@pytest.mark.parametrize("values", [(None, 4, None, 300, 3, 20), (3, 4), (20, 400)], ids=str)
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_codes_are_an_output_and_probabilities_are_those_of_keras(
    config: Network, values: tuple[int | None, ...], tmp_path: Path
) -> None:
    """The service finds unknown values by their code; a code of another column would accuse the wrong one."""
    table = CodedTable(values)
    trained = convert(table, config, tmp_path)
    model = compose(table, trained)
    assert [output.name for output in model.graph.output][-1] == CATEGORIES_OUTPUT
    session = open_session(serialise(model), threads=1)
    rows = make_rows(table)
    probabilities, codes = session.run(["probabilities", CATEGORIES_OUTPUT], {"numeric": rows})
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes, rows[:, table.categories])
    assert np.isfinite(probabilities).all()
    # Float32 sums in another order; see tolerances.toml.
    np.testing.assert_allclose(probabilities, trained.predict(rows.astype(np.float32)), rtol=0, atol=1e-5)
    # The network reads the output: two casts would be the same work twice.
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert sum(node.attribute[0].i == onnx.TensorProto.INT64 for node in casts) == 1


def test_a_graph_has_as_many_nodes_however_many_columns(tmp_path: Path) -> None:
    """A node costs a microsecond a row, whatever it computes."""
    counts = []
    for columns in (2, 20):
        table = CodedTable((None, *([3] * columns), *([300] * columns)))
        trained = convert(table, NETWORKS[1], tmp_path / str(columns))
        counts.append(len(compose(table, trained).graph.node))
    assert counts[0] == counts[1]


def test_one_hots_cost_three_nodes_beside_the_codes(tmp_path: Path) -> None:
    """Where they were written in SQL, each was a column of the first layer."""
    table, config = CodedTable((3, 4)), MlpNetwork(widths=(8,))
    nodes = [node.op_type for node in compose(table, convert(table, config, tmp_path)).graph.node]
    # Two before, in `feature_graph`; the codes; the one-hots; the first layer's end; logits and label.
    assert nodes[:2] == ["Gather", "Cast"]
    assert nodes[2] == "Cast"
    assert nodes[3:6] == ["Add", "Gather", "ReduceSum"]
    assert len(nodes) <= 11


def test_without_categories_there_are_two_outputs(tmp_path: Path) -> None:
    """A version of numbers alone is served as before."""
    table = CodedTable((None, None))
    model = compose(table, convert(table, MlpNetwork(widths=(8,)), tmp_path))
    assert [output.name for output in model.graph.output] == ["probabilities", "label"]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_a_quantised_graph_looks_categories_up_as_they_are(config: Network, tmp_path: Path) -> None:
    """Rows of a table have no product that could be faster in integers, and lose by rounding."""
    table = CodedTable()
    trained = convert(table, config, tmp_path)
    plain = compose(table, trained, precision="int8")
    quantised = quantise_graph(plain)
    tables = {
        initializer.dims[0]
        for initializer in quantised.graph.initializer
        if initializer.data_type == onnx.TensorProto.FLOAT and len(initializer.dims) == 2
    }
    # The one-hots of 4 and 3 values and the embeddings of 300 and 20, with their two codes more.
    assert {6 + 5} <= tables
    assert {302, 22} <= tables or {302 + 22} <= tables
    session = open_session(serialise(quantised), threads=1)
    rows = make_rows(table)[:40]
    answers = [session.run(["probabilities", CATEGORIES_OUTPUT], {"numeric": row[None]}) for row in rows]
    np.testing.assert_array_equal(np.concatenate([codes for _, codes in answers]), rows[:, table.categories])
    # 7-bit weights; tolerances.toml has the bound.
    expected = trained.predict(rows.astype(np.float32))
    np.testing.assert_allclose(np.concatenate([found for found, _ in answers]), expected, rtol=0, atol=0.25)
