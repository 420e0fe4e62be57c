"""Surgery on ONNX graphs: which operators they hold, how tensors are named, one canonical form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from timberline import __version__
from timberline.exporter.errors import UnsupportedLayerError

# The domains that the ONNX standard itself defines; "" and "ai.onnx" are two names of one.
_STOCK_DOMAINS = {"", "ai.onnx.ml"}


def require_stock_operators(model: onnx.ModelProto, *, where: str) -> None:
    """Refuse a graph with an operator that the ONNX standard does not define, or with control flow.

    Raises:
        UnsupportedLayerError: names each such operator and the node it stands in.
    """
    refused = sorted(
        f"{node.op_type} ({node.name or node.output[0]})" for node in model.graph.node if not _is_stock(node)
    )
    if refused or model.functions:
        raise UnsupportedLayerError(
            f"no stock ONNX operator for: {', '.join(refused) or 'a model-local function'}",
            where=where,
            hint="Use layers made of matrix products, element-wise functions and reductions.",
        )


def _is_stock(node: onnx.NodeProto) -> bool:
    domain = _plain(node.domain)
    has_subgraph = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    return domain in _STOCK_DOMAINS and onnx.defs.has(node.op_type, domain) and not has_subgraph


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """The operator sets that the model's nodes are written in, by domain; unused ones are left out."""
    used = {"", *(_plain(node.domain) for node in model.graph.node)}
    declared = {_plain(entry.domain): int(entry.version) for entry in model.opset_import}
    return {domain: declared[domain] for domain in sorted(used)}


def make_model(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> onnx.ModelProto:
    """A model of ours: operator sets by domain, and the oldest file format that has them."""
    sets = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    return helper.make_model(
        graph,
        opset_imports=sets,
        ir_version=helper.find_min_ir_version_for(sets, ignore_unknown=True),
        producer_name="timberline",
        producer_version=__version__,
    )


def rename_tensors(node: onnx.NodeProto, rename: Callable[[str], str]) -> None:
    """Apply ``rename`` to every tensor name of ``node``; an empty name is a left-out input and stays."""
    for names in (node.input, node.output):
        names[:] = [rename(name) if name else "" for name in names]


def make_value(
    name: str, *axes: int | None, kind: TensorProto.DataType = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    """The input or output ``name`` of shape (rows, *axes); None is an axis of any length."""
    return helper.make_tensor_value_info(name, kind, ["rows", *axes])


def cut_graph(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The part of ``model`` that computes the inner FLOAT tensor ``name`` (rows, n), and nothing else.

    A runtime computes all of a graph whatever is asked of it, so a cut one is cheaper to ask.
    """
    return canonicalise(model, inputs=model.graph.input, outputs=[make_value(name, None)], keep=set())


def canonicalise(
    model: onnx.ModelProto,
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    keep: set[str],
) -> onnx.ModelProto:
    """The same computation in the one form that depends on nothing but the computation.

    Nodes stand in the order in which a depth-first walk from the outputs finishes them, inner
    tensors are numbered in that order (except those in ``keep``), constants stand in the order of
    first use; nodes that no output needs, names of converters and notes for people are gone.
    """
    graph = onnx.GraphProto(name="timberline")
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    kept = keep | {value.name for value in (*inputs, *outputs)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {name: name for name in kept}
    for index, node in enumerate(_sort_nodes(model.graph, [value.name for value in outputs])):
        for name in node.input:
            if name in constants and name not in names:
                names[name] = f"constant_{len(graph.initializer)}"
                graph.initializer.append(
                    numpy_helper.from_array(numpy_helper.to_array(constants[name]), names[name])
                )
        for name in filter(None, node.output):
            names.setdefault(name, f"tensor_{len(names)}")
        copy = graph.node.add(
            op_type=node.op_type, domain=_plain(node.domain), name=f"{node.op_type}_{index}"
        )
        copy.input.extend(names[name] if name else "" for name in node.input)
        copy.output.extend(names[name] if name else "" for name in node.output)
        copy.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    return make_model(graph, opsets_of(model))


def _sort_nodes(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that ``outputs`` need, producers first, in depth-first order of inputs."""
    makers = {name: node for node in graph.node for name in node.output if name}
    order: list[onnx.NodeProto] = []
    done: set[int] = set()
    # A stack of its own: a long chain of features must not meet Python's recursion limit.
    stack = [(makers[name], False) for name in reversed(outputs)]
    while stack:
        node, is_expanded = stack.pop()
        if id(node) in done:
            continue
        if is_expanded:
            done.add(id(node))
            order.append(node)
            continue
        stack.append((node, True))
        stack.extend((makers[name], False) for name in reversed(node.input) if name in makers)
    return order
