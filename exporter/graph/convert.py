"""Keras SavedModel → ONNX network: `features` in, `probabilities` out, stock operators only.

Importing this module imports TensorFlow (seconds and hundreds of megabytes); `export.py` does so
only when there is something to export.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import version_converter

from timberline.exporter.errors import ExportError, UnsupportedLayerError
from timberline.exporter.graph.graphs import require_stock_operators
from timberline.exporter.parity.compare import FloatArray
from timberline.registry.runtime.logs import NO_TELEMETRY, capture_native_stderr
from timberline.registry.signature import FEATURES, PROBABILITIES_OUTPUT

os.environ.update(NO_TELEMETRY)
with capture_native_stderr(), warnings.catch_warnings():
    # Deprecation warnings of third parties at import time; a user of ours can do nothing about them.
    warnings.simplefilter("ignore")
    import tensorflow as tf
    import tf2onnx

# tf2onnx writes at most this operator set; a newer one is reached by onnx's own version converter.
NEWEST_CONVERTED_OPSET = max(tf2onnx.constants.OPSET_TO_IR_VERSION)


class KerasNetwork:
    """A SavedModel with endpoint ``serve``: float32 features (rows, F) → probabilities (rows, C).

    Args:
        folder: the SavedModel, as written by ``keras.Model.export``.
        feature_count: F; the SavedModel has to agree.

    Raises:
        ExportError: not a SavedModel, or not one with this boundary.
    """

    def __init__(self, folder: Path, feature_count: int) -> None:
        try:
            # The loaded object owns the variables: without this reference `serve` would lose them.
            with capture_native_stderr():
                self._module = tf.saved_model.load(str(folder))
        except (OSError, ValueError) as error:
            raise ExportError(f"not a SavedModel: {error}", where=str(folder), hint="Train again.") from error
        if not hasattr(self._module, "serve"):
            raise ExportError(
                "the SavedModel has no endpoint `serve`", where=str(folder), hint="Train again."
            )
        self._folder = folder
        spec = tf.TensorSpec((None, feature_count), tf.float32, name=FEATURES)
        self._function = tf.function(
            lambda features: {PROBABILITIES_OUTPUT: self._module.serve(features)[PROBABILITIES_OUTPUT]},
            input_signature=[spec],
        )
        self._spec = spec
        try:
            self._function.get_concrete_function()
        except (KeyError, TypeError, ValueError) as error:
            raise ExportError(
                f"`serve` does not take float32 [rows, {feature_count}] to `{PROBABILITIES_OUTPUT}`: "
                f"{str(error).splitlines()[0]}",
                where=str(folder),
                hint="Train again.",
            ) from error

    def predict(self, features: FloatArray) -> FloatArray:
        """Class probabilities, float32 (rows, classes), for float32 features (rows, F)."""
        answer: FloatArray = self._function(tf.constant(features))[PROBABILITIES_OUTPUT].numpy()
        return answer

    def convert(self, opset: int) -> onnx.ModelProto:
        """The network as an ONNX model over tensor `features`, in operator set ``opset``.

        Raises:
            UnsupportedLayerError: a TensorFlow operation has no stock ONNX counterpart.
        """
        try:
            model: onnx.ModelProto
            with capture_native_stderr():
                model, _ = tf2onnx.convert.from_function(
                    self._function,
                    input_signature=(self._spec,),
                    opset=min(opset, NEWEST_CONVERTED_OPSET),
                )
        except (ValueError, NotImplementedError, KeyError) as error:
            raise UnsupportedLayerError(
                f"tf2onnx cannot convert the network: {error}", where=str(self._folder)
            ) from error
        require_stock_operators(model, where=str(self._folder))
        keep_inputs(model, {FEATURES})
        if opset > NEWEST_CONVERTED_OPSET:
            model = version_converter.convert_version(model, opset)
        return model


def keep_inputs(model: onnx.ModelProto, names: set[str]) -> None:
    """Drop the graph inputs that are not in ``names``; tf2onnx leaves one for each frozen variable.

    Raises:
        ExportError: a node reads an input that would go.
    """
    extra = [value for value in model.graph.input if value.name not in names]
    read = {name for node in model.graph.node for name in node.input}
    for value in extra:
        if value.name in read:
            raise ExportError(f"the network reads a second input, {value.name!r}", where="network")
        model.graph.input.remove(value)


def converter_versions() -> dict[str, str]:
    """Versions of what converts, for the manifest."""
    return {
        "tensorflow": str(tf.__version__),
        "tf2onnx": str(tf2onnx.__version__),
        "onnx": str(onnx.__version__),
        "numpy": str(np.__version__),
    }
