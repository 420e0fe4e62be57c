"""One graph from two: raw row → features → network → probabilities and label."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from timberline.exporter.errors import ExportError
from timberline.exporter.graph.fold import fold_scales
from timberline.exporter.graph.graphs import (
    canonicalise,
    expose_tensor,
    make_model,
    opsets_of,
    rename_tensors,
    require_stock_operators,
)
from timberline.exporter.graph.runtime import open_session, optimise_offline
from timberline.registry.manifest import Precision
from timberline.registry.signature import FEATURES, LABEL_OUTPUT, PROBABILITIES_OUTPUT

# Protobuf's limit for one file; a larger graph would need external data, which a version may not have.
_MAX_BYTES = 2**31 - 1


def compose_graph(
    features: onnx.ModelProto,
    network: onnx.ModelProto,
    *,
    class_count: int,
    precision: Precision = "float32",
) -> onnx.ModelProto:
    """Merge, optimise and check: raw inputs → `probabilities` FLOAT (rows, C) and `label` INT64 (rows,).

    Args:
        features: graph of the features: inputs `numeric` and/or `text`, output `features`.
        network: one input, FLOAT (rows, F) → one output, FLOAT (rows, C); same operator set.
        class_count: C.
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
    require_stock_operators(merged, where="model.onnx")
    merged.graph.output.extend(_outputs(class_count))
    # An optimiser keeps a tensor's name only while the tensor is an output.
    optimised = optimise_offline(expose_tensor(merged, FEATURES))
    fold_scales(optimised, {FEATURES}, in_front=precision == "float32")
    model = canonicalise(optimised, inputs=merged.graph.input, outputs=merged.graph.output, keep={FEATURES})
    check_graph(model)
    return model


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


def _outputs(class_count: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.FLOAT, ["rows", class_count]),
        helper.make_tensor_value_info(LABEL_OUTPUT, TensorProto.INT64, ["rows"]),
    ]
