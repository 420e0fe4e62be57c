"""Quantised graphs: which layers change, which must not, and that a row's answer is its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.exporter_graphs import feature_graph, random_network
from timberline.exporter.errors import UnsupportedLayerError
from timberline.exporter.graph.compose import compose_graph, quantise_graph, serialise
from timberline.inference.session import Feed, Session
from timberline.registry.signature import ClassLabel, Column, build_signature

WIDTH, CLASSES = 32, 3
ROWS = np.random.default_rng(3).normal(size=(64, WIDTH))
ROWS[7] *= 50  # a row that widens everybody's scale, if scales were shared


def compose() -> onnx.ModelProto:
    """A small composed graph with one layer."""
    return compose_graph(
        feature_graph(range(WIDTH), width=WIDTH), random_network(WIDTH, CLASSES), class_count=CLASSES
    )


def open_tiny(model: onnx.ModelProto, *, row_by_row: bool) -> Session:
    """The service's session over ``model``."""
    columns = tuple(Column(name=f"x{i}", datatype="FP64") for i in range(WIDTH))
    classes = tuple(ClassLabel(value=str(i), label=str(i)) for i in range(CLASSES))
    return Session(serialise(model), build_signature(columns, classes), where="test", row_by_row=row_by_row)


def test_layers_multiply_integers_and_answers_stay_close() -> None:
    """The point of it: integer weights, and nearly the same probabilities."""
    model = compose()
    quantised = quantise_graph(model)
    assert [n.op_type for n in quantised.graph.node].count("MatMulInteger") == 1
    weights = [t for t in quantised.graph.initializer if t.data_type == TensorProto.INT8]
    assert [tuple(t.dims) for t in weights if len(t.dims) == 2] == [(WIDTH, CLASSES)]
    exact = open_tiny(model, row_by_row=False).run(Feed(ROWS, None))
    close = open_tiny(quantised, row_by_row=True).run(Feed(ROWS, None))
    # 7 bits of a weight and 8 of an activation, over sums of 32 products.
    np.testing.assert_allclose(close.probabilities, exact.probabilities, atol=0.1)
    assert (close.probabilities != exact.probabilities).any()


def test_a_rows_answer_does_not_depend_on_the_rows_beside_it() -> None:
    """Dynamic scales cover a whole tensor; a client's answer must not change with another's batch."""
    session = open_tiny(quantise_graph(compose()), row_by_row=True)
    together = session.run(Feed(ROWS, None))
    for index, row in enumerate(ROWS):
        label, probabilities, _ = session.run_row(tuple(row))
        assert label == together.labels[index]
        np.testing.assert_array_equal(np.array(probabilities, np.float32), together.probabilities[index])


def test_equal_graphs_quantise_to_equal_bytes() -> None:
    """The same run exported twice is the same version."""
    assert serialise(quantise_graph(compose())) == serialise(quantise_graph(compose()))


def test_graph_without_plain_layers_is_refused() -> None:
    """Saying int8 and serving float would be a lie."""
    model = compose()
    for node in model.graph.node:
        if node.op_type in {"MatMul", "Gemm"}:
            node.op_type = "Einsum"
            node.attribute.extend([onnx.helper.make_attribute("equation", "ij,jk->ik")])
            del node.input[2:]
    with pytest.raises(UnsupportedLayerError, match="no layer can be quantised"):
        quantise_graph(model)
