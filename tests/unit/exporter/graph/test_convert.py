"""convert.py: a SavedModel becomes an ONNX network with the same answers, or names what it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.exporter_graphs import random_network
from timberline.exporter.errors import ExportError, UnsupportedLayerError
from timberline.exporter.graph.convert import NEWEST_CONVERTED_OPSET, KerasNetwork, keep_inputs
from timberline.exporter.graph.graphs import opsets_of
from timberline.exporter.graph.runtime import open_session

WIDTH = 4
ROWS = np.random.default_rng(5).normal(size=(17, WIDTH)).astype(np.float32)


def save(folder: Path, answer: Callable[[Any], Any], *, output: str = "probabilities") -> Path:
    """A SavedModel with endpoint `serve` over float32 (rows, WIDTH)."""

    class Network(tf.Module):  # type: ignore[misc]  # tensorflow has no types
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(np.random.default_rng(2).normal(size=(WIDTH, 3)), dtype=tf.float32)
            self.bias = tf.Variable([0.5, -0.25, 1.0])

        @tf.function(input_signature=[tf.TensorSpec((None, WIDTH), tf.float32, name="features")])  # type: ignore[untyped-decorator]
        def serve(self, features: Any) -> Any:
            return {output: answer(tf.matmul(features, self.weights) + self.bias)}

    tf.saved_model.save(Network(), str(folder))
    return folder


@pytest.mark.parametrize("opset", [17, NEWEST_CONVERTED_OPSET, 21])
def test_converted_network_answers_as_the_saved_model(tmp_path: Path, opset: int) -> None:
    """Whatever the operator set, variables, biases and names have to survive the conversion."""
    network = KerasNetwork(save(tmp_path / "model", tf.nn.softmax), WIDTH)

    model = network.convert(opset)
    (answer,) = open_session(model.SerializeToString(), threads=1).run(["probabilities"], {"features": ROWS})

    np.testing.assert_allclose(answer, network.predict(ROWS), atol=1e-6)
    assert [value.name for value in model.graph.input] == ["features"]
    assert [value.name for value in model.graph.output] == ["probabilities"]
    assert opsets_of(model) == {"": opset}


def test_prediction_is_float32_with_one_row_a_row(tmp_path: Path) -> None:
    """It is the truth that the graph is compared with, dtype and shape included."""
    answer = KerasNetwork(save(tmp_path / "model", tf.nn.softmax), WIDTH).predict(ROWS)

    assert answer.dtype == np.float32
    assert answer.shape == (17, 3)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)


def test_layer_without_a_stock_operator_is_named(tmp_path: Path) -> None:
    """The user has to know which layer to replace, before a runtime refuses the file."""
    network = KerasNetwork(save(tmp_path / "model", lambda x: tf.math.igamma(tf.abs(x), 1.0)), WIDTH)

    with pytest.raises(UnsupportedLayerError, match="Igamma"):
        network.convert(18)


def test_network_of_another_width_is_refused(tmp_path: Path) -> None:
    """features.sql and network have to belong to one run."""
    folder = save(tmp_path / "model", tf.nn.softmax)

    with pytest.raises(ExportError, match=r"does not take float32 \[rows, 5\]"):
        KerasNetwork(folder, WIDTH + 1)


def test_network_with_another_output_is_refused(tmp_path: Path) -> None:
    """Only `probabilities` is part of the boundary; anything else has another meaning."""
    folder = save(tmp_path / "model", tf.nn.softmax, output="logits")

    with pytest.raises(ExportError, match="probabilities"):
        KerasNetwork(folder, WIDTH)


def test_folder_that_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    """A missing or torn network is one clear error that says what to do."""
    with pytest.raises(ExportError, match=r"not a SavedModel.*Train again"):
        KerasNetwork(tmp_path, WIDTH)


def test_dangling_inputs_are_dropped_and_live_ones_are_not() -> None:
    """tf2onnx leaves an input for each frozen variable; one that is read would change the answer."""
    model = random_network(2, 3)
    keep_inputs(model, {"features"})
    assert [value.name for value in model.graph.input] == ["features"]

    with pytest.raises(ExportError, match="second input, 'features'"):
        keep_inputs(model, set())
