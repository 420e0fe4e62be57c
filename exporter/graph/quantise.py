"""Weights as 8-bit integers: wide layers in half to a quarter of the time, for a little accuracy.

Dynamic quantisation (ONNX Runtime's own tool): weights are rounded once, here; activations at every
run, with a scale taken over the whole tensor. The scale of a row therefore depends on the rows beside
it, so a graph like this is proven, and served, one row at a time.

Left as they are: products in float64 (the features), those of rank 3 (embeddings of many features at once,
which the runtime cannot run in integers), and everything without constant weights.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto

from timberline.registry.runtime.logs import NO_TELEMETRY

os.environ.update(NO_TELEMETRY)

from onnxruntime.quantization import QuantType, quantize_dynamic

from timberline.exporter.errors import UnsupportedLayerError
from timberline.exporter.graph.compose import check_graph
from timberline.exporter.graph.graphs import canonicalise
from timberline.registry.signature import FEATURES

_PRODUCTS = ["MatMul", "Gemm"]


def quantise_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a composed graph whose plain float32 layers multiply 8-bit integers.

    Weights keep 7 bits and one scale a column: with all 8, processors without VNNI saturate
    in 16 bits and would give other answers than those with it.

    Raises:
        UnsupportedLayerError: there is no layer that could be quantised.
        ExportError: the result is not a valid model.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    kept = [n.name for n in named.graph.node if n.op_type in _PRODUCTS and not _is_layer(n, named)]
    kept += [f"{name}_MatMul" for name in kept]  # what the tool calls a Gemm after splitting it
    with tempfile.TemporaryDirectory(prefix="timberline-") as folder, _quiet():
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            named,
            path,
            op_types_to_quantize=_PRODUCTS,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )
        quantised = onnx.load(path)
    if not any(node.op_type == "MatMulInteger" for node in quantised.graph.node):
        raise UnsupportedLayerError(
            "no layer can be quantised", where="model.onnx", hint='Set export.precision = "float32".'
        )
    result = canonicalise(quantised, inputs=model.graph.input, outputs=model.graph.output, keep={FEATURES})
    check_graph(result)
    return result


def _is_layer(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    weights = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[1]), None)
    return weights is not None and weights.data_type == TensorProto.FLOAT and len(weights.dims) == 2


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice to preprocess a graph that is preprocessed already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
