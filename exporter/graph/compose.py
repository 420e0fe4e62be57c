"""One graph from two: raw row → features → network → probabilities and label.

Then two rewrites of it:

- *Folding*: the standardisation in front of a network's first layer and the calibration behind its last are
  one multiplication each, and a node costs about a microsecond whatever it computes; both go into the weights
  of the product beside them. Subtractions in front stay: x - mean is exact where x * w - mean * w cancels.
- *Dynamic quantisation* (ONNX Runtime's own tool): weights are rounded to 8-bit integers once, here;
  activations at every run, with a scale taken over the whole tensor. The scale of a row therefore depends on
  the rows beside it, so that a quantised graph is compared, and served, one row at a time. Left as they are:
  products in float64 (the features), those of rank 3 (embeddings of many features at once, which the runtime
  cannot run in integers), and everything without constant weights.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from timberline.exporter.errors import ExportError, UnsupportedLayerError
from timberline.exporter.graph.graphs import (
    canonicalise,
    make_model,
    make_value,
    opsets_of,
    rename_tensors,
    require_stock_operators,
)
from timberline.exporter.graph.runtime import open_session, optimise_offline
from timberline.registry.manifest import Precision
from timberline.registry.signature import CATEGORIES_OUTPUT, FEATURES, LABEL_OUTPUT, PROBABILITIES_OUTPUT

# Protobuf's limit for one file; a larger graph would need external data, which a version may not have.
_MAX_BYTES = 2**31 - 1


Weights = npt.NDArray[np.float32]
_PRODUCTS = ["MatMul", "Gemm"]


def compose_graph(
    features: onnx.ModelProto,
    network: onnx.ModelProto,
    *,
    class_count: int,
    categories: Sequence[int] = (),
    precision: Precision = "float32",
) -> onnx.ModelProto:
    """Merge, optimise and check: raw inputs → `probabilities` FLOAT (rows, C) and `label` INT64 (rows,).

    With categories there is a third output, `categories` INT64 (rows, categories): their codes.

    Args:
        features: graph of the features: inputs `numeric` and/or `text`, output `features`.
        network: one input, FLOAT (rows, F) → one output, FLOAT (rows, C); same operator set.
        class_count: C.
        categories: the places of the features that are categories, ascending.
        precision: what the layers are to be; the graph itself is float32 in any case.

    The tensor `features` keeps its name inside, so that `cut_graph` finds it. Equal
    graphs give equal bytes.

    Raises:
        UnsupportedLayerError: the result needs more than stock operators.
        ExportError: the operator sets differ, or the result is not a valid ONNX model.
    """
    merged = _merge(features, network)
    label = helper.make_node("ArgMax", [PROBABILITIES_OUTPUT], [LABEL_OUTPUT], axis=1, keepdims=0)
    merged.graph.node.append(label)
    are_all = len(categories) == features.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if categories:
        _add_codes(merged.graph, categories, are_all=are_all)
    require_stock_operators(merged, where="model.onnx")
    probabilities = make_value(PROBABILITIES_OUTPUT, class_count)
    merged.graph.output.extend([probabilities, make_value(LABEL_OUTPUT, kind=TensorProto.INT64)])
    if categories:
        merged.graph.output.append(make_value(CATEGORIES_OUTPUT, len(categories), kind=TensorProto.INT64))
    exposed = onnx.ModelProto()
    exposed.CopyFrom(merged)
    # An optimiser keeps a tensor's name only while the tensor is an output.
    exposed.graph.output.append(make_value(FEATURES, None))
    optimised = optimise_offline(exposed)
    if categories:
        _share_codes(optimised.graph, categories, are_all=are_all)
    fold_scales(optimised, {FEATURES}, in_front=precision == "float32")
    model = canonicalise(optimised, inputs=merged.graph.input, outputs=merged.graph.output, keep={FEATURES})
    check_graph(model)
    return model


def _add_codes(graph: onnx.GraphProto, categories: Sequence[int], *, are_all: bool) -> None:
    """Take the codes out of the features; the network does the same, in two nodes of its own."""
    source = FEATURES
    if not are_all:
        source, places = "category_features", numpy_helper.from_array(np.array(categories), "category_places")
        graph.initializer.append(places)
        graph.node.append(helper.make_node("Gather", [FEATURES, places.name], [source], axis=1))
    graph.node.append(helper.make_node("Cast", [source], [CATEGORIES_OUTPUT], to=TensorProto.INT64))


def _share_codes(graph: onnx.GraphProto, categories: Sequence[int], *, are_all: bool) -> None:
    """Have the network read the output `categories` where it computes the same.

    The runtime's optimiser merges equal nodes, but none that is an output.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}
    sources = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Gather"
        and node.input[0] == FEATURES
        and constants.get(node.input[1]) == list(categories)
    }
    sources |= {FEATURES} if are_all else set()
    to_whole = helper.make_attribute("to", TensorProto.INT64)
    equal = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in sources and to_whole in node.attribute
    }
    for node in graph.node:
        node.input[:] = [CATEGORIES_OUTPUT if name in equal else name for name in node.input]


def serialise(model: onnx.ModelProto) -> bytes:
    """The model's bytes; equal models have equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def check_graph(model: onnx.ModelProto) -> None:
    """Hold the model to the standard: one file, stock operators, consistent types, loads bare.

    Raises:
        UnsupportedLayerError: an operator is not stock.
        ExportError: the model does not fit one file, or the checker or the runtime refuses it.
    """
    require_stock_operators(model, where="model.onnx")
    if model.ByteSize() > _MAX_BYTES:
        raise ExportError(
            f"has {model.ByteSize():,} bytes, one file holds {_MAX_BYTES:,}", where="model.onnx"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"not a valid ONNX model: {error}", where="model.onnx") from error
    open_session(serialise(model), threads=1)


def _merge(features: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """Both graphs' nodes and constants, the network's inner names set apart by a prefix."""
    ours, theirs = opsets_of(features), opsets_of(network)
    if {**ours, **theirs} != {**theirs, **ours}:
        raise ExportError(
            f"features are written in operator sets {ours}, the network in {theirs}", where="model.onnx"
        )
    ends = {network.graph.input[0].name: FEATURES, network.graph.output[0].name: PROBABILITIES_OUTPUT}

    def rename(name: str) -> str:
        return ends.get(name, f"network/{name}")

    graph = onnx.GraphProto(name="timberline")
    graph.input.extend(features.graph.input)
    graph.node.extend(features.graph.node)
    graph.initializer.extend(features.graph.initializer)
    for node in network.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"network/{node.name}" if node.name else ""
        rename_tensors(copy, rename)
    for tensor in network.graph.initializer:
        constant = graph.initializer.add()
        constant.CopyFrom(tensor)
        constant.name = rename(tensor.name)
    return make_model(graph, {**ours, **theirs})


def fold_scales(model: onnx.ModelProto, keep: set[str], *, in_front: bool = True) -> None:
    """Rewrite ``model`` in place until no constant scale stands beside a Gemm that could take it.

    Args:
        model: an optimised graph.
        keep: tensors that must stay as they are, besides the outputs.
        in_front: also scales before a product. Without them its operand is no longer standardised,
            which quantisation needs: there one scale serves all columns.
    """
    kept = keep | {output.name for output in model.graph.output}
    folder = _Folder(model.graph, kept, in_front)
    while folder.fold_once():
        pass


class _Folder:
    """One graph, its constants and who makes and reads each tensor."""

    def __init__(self, graph: onnx.GraphProto, kept: set[str], in_front: bool) -> None:
        self._is_in_front = in_front
        self._graph = graph
        self._kept = kept
        self._count = 0

    def fold_once(self) -> bool:
        """Fold one scale or shift; False if there is none."""
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        makers = {node.output[0]: node for node in self._graph.node}
        for node in self._graph.node:
            if _is_plain_gemm(node) and self._fold_in_front(node, makers.get(node.input[0])):
                return True
            gemm = next((makers[name] for name in node.input if name in makers), None)
            if gemm is not None and _is_plain_gemm(gemm) and self._fold_behind(gemm, node):
                return True
        return False

    def _fold_in_front(self, gemm: onnx.NodeProto, scale: onnx.NodeProto | None) -> bool:
        """``(x * s) W + b`` → ``x (s W) + b``."""
        if (
            not self._is_in_front
            or scale is None
            or scale.op_type != "Mul"
            or not self._is_only_reader(scale.output[0])
        ):
            return False
        factor, source = self._split(scale)
        weights = self._read(gemm.input[1])
        if factor is None or weights is None or factor.size not in {1, weights.shape[0]}:
            return False
        gemm.input[0] = source
        gemm.input[1] = self._constant(weights * factor.reshape(-1, 1))
        self._graph.node.remove(scale)
        return True

    def _fold_behind(self, gemm: onnx.NodeProto, node: onnx.NodeProto) -> bool:
        """``(x W + b) * s`` → ``x (W s) + b s``, and ``(x W + b) + c`` → ``x W + (b + c)``."""
        if node.op_type not in {"Mul", "Add"} or not self._is_only_reader(gemm.output[0]):
            return False
        constant, _ = self._split(node)
        weights, bias = self._read(gemm.input[1]), self._read(gemm.input[2])
        if constant is None or weights is None or bias is None or constant.size not in {1, weights.shape[1]}:
            return False
        row = constant.reshape(1, -1)
        if node.op_type == "Mul":
            gemm.input[1] = self._constant(weights * row)
        combine: Callable[[Weights, Weights], Weights] = np.multiply if node.op_type == "Mul" else np.add
        gemm.input[2] = self._constant(combine(np.broadcast_to(bias, (1, weights.shape[1])), row).reshape(-1))
        gemm.output[0] = node.output[0]
        self._graph.node.remove(node)
        return True

    def _split(self, node: onnx.NodeProto) -> tuple[Weights | None, str]:
        """The constant operand, one value or one a column, and the name of the other operand."""
        for own, other in ((0, 1), (1, 0)):
            value = self._read(node.input[own])
            if value is not None and value.size == max(value.shape, default=1):
                return value, node.input[other]
        return None, ""

    def _read(self, name: str) -> Weights | None:
        tensor = self._constants.get(name)
        value = None if tensor is None else numpy_helper.to_array(tensor)
        return value if value is not None and value.dtype == np.float32 else None

    def _is_only_reader(self, name: str) -> bool:
        return name not in self._kept and sum(list(n.input).count(name) for n in self._graph.node) == 1

    def _constant(self, value: Weights) -> str:
        self._count += 1
        name = f"folded_{self._count}"
        self._graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name


def _is_plain_gemm(node: onnx.NodeProto) -> bool:
    """``x W + b`` without transposition or factors; what the converter and the optimiser leave."""
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    neutral = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    is_plain = all(value == neutral.get(name) for name, value in values.items())
    return node.op_type == "Gemm" and len(node.input) == 3 and is_plain


def quantise_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a composed graph whose plain float32 layers multiply 8-bit integers.

    Weights keep 7 bits and one scale a column: with all 8, processors without VNNI saturate
    in 16 bits and would give other answers than those with it.

    Raises:
        UnsupportedLayerError: there is no layer that could be quantised.
        ExportError: the result is not a valid model.
    """
    # The tool takes half a second to import, for few exports.
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

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
