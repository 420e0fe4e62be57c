"""compose.py and graphs.py: one graph, canonical, of stock operators only."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.exporter_graphs import feature_graph, network_graph, random_network
from timberline.exporter.errors import ExportError, UnsupportedLayerError
from timberline.exporter.graph.compose import check_graph, compose_graph, serialise
from timberline.exporter.graph.graphs import cut_graph
from timberline.exporter.graph.runtime import open_session

ROWS = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0], [9.0, 9.0, np.nan]])


def test_graph_answers_probabilities_and_the_index_of_the_greatest() -> None:
    """The service reads these two tensors by name, dtype and shape."""
    weights, bias = np.array([[1.0, -1.0], [0.5, 2.0]]), np.array([0.25, -0.5])
    model = compose_graph(feature_graph([2, 0], width=3), network_graph(weights, bias), class_count=2)

    probabilities, label = open_session(serialise(model), threads=1).run(None, {"numeric": ROWS[:2]})

    exponent = np.exp(ROWS[:2][:, [2, 0]] @ weights + bias)
    np.testing.assert_allclose(probabilities, exponent / exponent.sum(1, keepdims=True), atol=1e-6)
    assert probabilities.dtype == np.float32
    assert label.dtype == np.int64
    assert label.tolist() == exponent.argmax(1).tolist()


def test_signature_of_the_graph_is_raw_inputs_and_two_outputs_with_a_free_batch_axis() -> None:
    """A fixed batch size or a left-over tensor of the converter would break every client."""
    model = compose_graph(feature_graph([0], width=3), random_network(1, 4), class_count=4)

    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }

    assert shapes == {"numeric": ["rows", 3], "probabilities": ["rows", 4], "label": ["rows"]}


def test_features_can_be_cut_out_after_optimising() -> None:
    """Parity needs the inner feature tensor; an optimiser that renames it would blind the check."""
    model = compose_graph(feature_graph([2, 1], width=3), random_network(2, 3), class_count=3)

    part = cut_graph(model, "features")
    (features,) = open_session(serialise(part), threads=1).run(None, {"numeric": ROWS})

    np.testing.assert_array_equal(features, ROWS[:, [2, 1]].astype(np.float32))
    assert {node.op_type for node in part.graph.node} == {"Gather", "Cast"}
    assert [output.name for output in model.graph.output] == ["probabilities", "label"]


def test_equal_graphs_have_equal_bytes_whatever_the_converter_called_things() -> None:
    """Re-exporting a run must not look like a new model: digests are how versions are told apart."""
    features = feature_graph([0, 1], width=3)
    network, renamed = random_network(2, 3), random_network(2, 3, prefix="StatefulPartitionedCall/")
    renamed.graph.initializer.reverse()

    one = compose_graph(features, network, class_count=3)
    other = compose_graph(features, renamed, class_count=3)

    assert serialise(one) == serialise(other)


def test_one_changed_weight_changes_the_bytes() -> None:
    """The canonical form forgets names, never values."""
    features = feature_graph([0, 1], width=3)
    one = compose_graph(features, random_network(2, 3, seed=1), class_count=3)
    other = compose_graph(features, random_network(2, 3, seed=2), class_count=3)

    assert serialise(one) != serialise(other)


def test_only_the_stock_operator_set_is_imported() -> None:
    """The optimiser declares its runtime's own domains; a model that names them is not portable."""
    model = compose_graph(feature_graph([0], width=1), random_network(1, 2), class_count=2)

    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert model.ir_version == 8  # the oldest file format that has operator set 18


def test_operator_of_a_runtime_is_refused_by_name() -> None:
    """A graph that only one runtime can load must not be published."""
    model = compose_graph(feature_graph([0], width=1), random_network(1, 2), class_count=2)
    model.graph.node[-1].op_type = "FusedMatMul"
    model.graph.node[-1].domain = "com.microsoft"

    with pytest.raises(UnsupportedLayerError, match="FusedMatMul"):
        check_graph(model)


def test_control_flow_is_refused() -> None:
    """Nested graphs are outside what merging and the canonical form handle; say so instead of guessing."""
    network = random_network(1, 2)
    branch = helper.make_graph([], "branch", [], [])
    network.graph.node.append(
        helper.make_node("If", ["probabilities"], ["x"], then_branch=branch, else_branch=branch)
    )

    with pytest.raises(UnsupportedLayerError, match=r"If \("):
        compose_graph(feature_graph([0], width=1), network, class_count=2)


def test_graphs_of_different_operator_sets_are_refused() -> None:
    """An operator may mean another thing in another set."""
    with pytest.raises(ExportError, match=r"operator sets \{'': 18\}, the network in \{'': 17\}"):
        compose_graph(feature_graph([0], width=1), random_network(1, 2, opset=17), class_count=2)


def test_network_of_another_width_is_an_export_error() -> None:
    """A run whose features.sql does not fit its network must fail with one clear error."""
    with pytest.raises(ExportError, match=r"model\.onnx"):
        compose_graph(feature_graph([0, 1], width=2), random_network(3, 2), class_count=2)


def test_wrong_number_of_classes_is_refused_by_the_checker() -> None:
    """The manifest's classes and the graph's second axis have to be the same."""
    with pytest.raises(ExportError, match=r"model\.onnx"):
        compose_graph(feature_graph([0], width=1), random_network(1, 3), class_count=2)


def test_large_constants_stay_inside_the_file() -> None:
    """A version is one file; external data would be left behind when it is copied."""
    model = compose_graph(feature_graph([0] * 600, width=1), random_network(600, 300), class_count=300)

    assert model.ByteSize() > 600 * 300 * 4
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in model.graph.initializer)
    onnx.checker.check_model(model, full_check=True)
