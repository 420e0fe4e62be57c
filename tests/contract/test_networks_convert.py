"""Every network that model.toml can ask for crosses the wall from training to the exporter."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tests.support.exporter_graphs import feature_graph
from tests.support.networks import FEATURES, FILLED, NETWORKS, make_rows, save_network
from timberline.exporter.graph.compose import compose_graph, quantise_graph, serialise
from timberline.exporter.graph.convert import KerasNetwork
from timberline.exporter.graph.runtime import open_session
from timberline.registry.manifest import Precision


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def keras_side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KerasNetwork:
    """Each kind of network, saved and loaded once."""
    return save_network(request.param, tmp_path_factory.mktemp("network"))


def test_a_network_converts_to_a_few_stock_operators_and_answers_alike(keras_side: KerasNetwork) -> None:
    """A layer that does not convert would be found out after the training it was asked for."""
    features = make_rows()
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
def test_null_is_filled_and_what_is_not_finite_has_no_answer_on_both_sides(
    keras_side: KerasNetwork, precision: Precision
) -> None:
    """Kernels make of NaN what they please: 0, a bound, a whole number. An answer may not depend on it."""
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
