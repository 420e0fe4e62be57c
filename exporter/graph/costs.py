"""The time of one row in the graph, and the expressions of features.sql that take most of it.

Other programs disturb the times: the least of several runs counts, and nothing is decided by them. The
profiler counts whole microseconds and a node takes a third of one, so a node's time is what passes until
the next one starts, averaged over many rows.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from timberline.exporter.compiler.compile import trace_feature_graph
from timberline.exporter.graph.compose import serialise
from timberline.exporter.graph.graphs import opsets_of
from timberline.exporter.graph.runtime import (
    Event,
    InferenceSession,
    find_minimum_runtime,
    open_session,
    profile_session,
)
from timberline.registry.runtime.logs import log_event
from timberline.training.features import FeatureProgram

log = logging.getLogger("exporter.graph.costs")

# A row above it is explained. The bundled models take 20 to 40, most of it their networks.
SLOW_ROW_US = 50.0
DEAREST_COUNT = 10
TEXT_LENGTH = 80
_RUNS, _CALLS = 7, 100
# The profiler stops at a million events; a row of a graph has two for each node and some of its own.
_PROFILED_NODES = 100_000
# What the profiler adds to a node's name for the time of its computation.
_SUFFIX = "_kernel_time"

Feeds = Mapping[str, npt.NDArray[np.generic]]
Shares = Mapping[str, Mapping[int, float]]
# Text in single quotes and numbers; names in double quotes are passed over.
_CONSTANT = re.compile(r"""("(?:[^"]|"")*")|'(?:[^']|'')*'|(?<![\w.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?""")


class ExpressionCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the features of one expression take of a row: those that differ in constants only are one.

    ``expression`` is the first of them, cut after 80 characters; ``share`` is of the whole graph, 0 to 1.
    """

    expression: str
    features: int
    microseconds: float
    share: float


class FeatureCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature takes of the graph of all of them.

    ``operators``: the operators of ONNX that it is made of, each once. ``nodes``: how many of the graph it
    accounts for: a node that several features share counts as their parts of one. ``microseconds`` alike.
    """

    name: str
    sql: str
    type: str
    operators: tuple[str, ...]
    nodes: float
    microseconds: float


class GraphCost(msgspec.Struct, frozen=True, kw_only=True):
    """The graph of the features alone, and what a row takes in it on one thread here."""

    features: tuple[FeatureCost, ...]
    nodes: int
    microseconds: float
    opset: int
    minimum_onnxruntime: str


class RowCost(msgspec.Struct, frozen=True, kw_only=True):
    """A row alone in the graph, on one thread here; ``dearest`` only of a row above `SLOW_ROW_US`."""

    microseconds: float
    features_microseconds: float | None = None
    dearest: tuple[ExpressionCost, ...] = ()


def measure_row(
    model: onnx.ModelProto,
    program: FeatureProgram,
    feeds: Feeds,
    *,
    opset: int,
    slow_row_us: float = SLOW_ROW_US,
) -> RowCost:
    """Time one row in the composed ``model`` and, if it is slow, find its dearest expressions.

    Args:
        model: the graph of a version.
        program: its features.
        feeds: the row, as the graph takes it.
        opset: version of the ONNX operator set.
        slow_row_us: from how many microseconds on a row is explained.
    """
    whole = _time_row(open_session(serialise(model), threads=1), feeds)
    if whole <= slow_row_us:
        return RowCost(microseconds=whole)
    features, shares = trace_feature_graph(program, opset)
    features_us = min(whole, _time_row(open_session(serialise(features), threads=1), feeds))
    spent = _time_features(features, shares, feeds, len(program.features))
    labels = [feature.text for feature in program.features]
    return RowCost(
        microseconds=whole,
        features_microseconds=features_us,
        dearest=_find_dearest(labels, spent * features_us, whole),
    )


def measure_features(program: FeatureProgram, opset: int) -> tuple[GraphCost, onnx.ModelProto, Shares]:
    """Time a row in the graph of the features, and share it out.

    Returns:
        The cost; the graph; and by node the share of it that each feature, by index, accounts for.
    """
    model, shares = trace_feature_graph(program, opset)
    feeds = _make_feeds(model)
    whole = _time_row(open_session(serialise(model), threads=1), feeds)
    spent = _time_features(model, shares, feeds, len(program.features)) * whole
    kinds = {node.name: node.op_type for node in model.graph.node}
    nodes = np.zeros(len(program.features))
    operators: list[dict[str, None]] = [{} for _ in program.features]
    for name, owners in shares.items():
        for index, share in owners.items():
            nodes[index] += share
            operators[index][kinds[name]] = None
    features = tuple(
        FeatureCost(
            name=feature.name,
            sql=feature.text,
            type="category" if feature.vocabulary is not None else str(feature.expression.type),
            operators=tuple(operators[index]),
            nodes=round(float(nodes[index]), 2),
            microseconds=round(float(spent[index]), 2),
        )
        for index, feature in enumerate(program.features)
    )
    set_number = opsets_of(model)[""]
    cost = GraphCost(
        features=features,
        nodes=len(model.graph.node),
        microseconds=round(whole, 2),
        opset=set_number,
        minimum_onnxruntime=find_minimum_runtime(set_number),
    )
    return cost, model, shares


def _make_feeds(model: onnx.ModelProto) -> Feeds:
    """A row of ones and of the letter a; what a row holds hardly changes its time."""
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for entry in model.graph.input:
        width = entry.type.tensor_type.shape.dim[1].dim_value
        is_text = entry.type.tensor_type.elem_type == onnx.TensorProto.STRING
        feeds[entry.name] = np.full((1, width), "a", dtype=object) if is_text else np.ones((1, width))
    return feeds


def group_alike(labels: Sequence[str]) -> list[list[int]]:
    """The indexes of the labels that differ in constants only, in the order of the first of each group."""
    alike: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        alike.setdefault(_CONSTANT.sub(lambda found: found[1] or "?", label), []).append(index)
    return list(alike.values())


def _time_row(session: InferenceSession, feeds: Feeds) -> float:
    """Microseconds of one call."""
    best = float("inf")
    for _ in range(_RUNS):
        start = time.perf_counter()
        for _ in range(_CALLS):
            session.run(None, feeds)
        best = min(best, (time.perf_counter() - start) / _CALLS)
    return best * 1e6


def _time_features(
    model: onnx.ModelProto, shares: Shares, feeds: Feeds, count: int
) -> npt.NDArray[np.float64]:
    """The share of the time of the graph of features that each feature accounts for; (count,), sums to 1."""
    calls = max(1, min(_CALLS, _PROFILED_NODES // len(model.graph.node)))
    runs = [_time_nodes(profile_session(model, feeds, calls=calls)) for _ in range(_RUNS)]
    spent = np.zeros(count)
    for node, owners in shares.items():
        least = min(times.get(node, 0.0) for times in runs)
        for index, share in owners.items():
            spent[index] += least * share
    total = spent.sum()
    return spent / total if total else np.full(count, 1 / count)


def _time_nodes(events: Sequence[Event]) -> dict[str, float]:
    """Microseconds from each node's start to the next one's, summed over all calls."""
    nodes = [event for event in events if event.cat == "Node" and event.name.endswith(_SUFFIX)]
    times: dict[str, float] = {}
    for event, after in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        # The last node of a call is followed by the caller's time.
        spent = event.dur if after.name == nodes[0].name else after.ts - event.ts
        node = event.name.removesuffix(_SUFFIX)
        times[node] = times.get(node, 0.0) + spent
    return times


def _find_dearest(
    labels: Sequence[str], microseconds: npt.NDArray[np.float64], whole: float
) -> tuple[ExpressionCost, ...]:
    costs = [
        ExpressionCost(
            expression=cut_line(labels[indexes[0]]),
            features=len(indexes),
            microseconds=round(float(microseconds[indexes].sum()), 2),
            share=round(float(microseconds[indexes].sum()) / whole, 4),
        )
        for indexes in group_alike(labels)
    ]
    return tuple(sorted(costs, key=lambda cost: -cost.microseconds)[:DEAREST_COUNT])


def cut_line(text: str) -> str:
    """``text`` in one line of at most `TEXT_LENGTH` characters."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LENGTH else f"{line[: TEXT_LENGTH - 1]}…"


def log_cost(cost: RowCost) -> None:
    """Say what a row takes and, of a slow one, what it is spent on."""
    if cost.features_microseconds is None:
        log_event(log, "timed a row alone", microseconds=round(cost.microseconds, 1))
        return
    log_event(
        log,
        f"a row alone takes more than {SLOW_ROW_US:.0f} microseconds; the dearest expressions follow",
        logging.WARNING,
        microseconds=round(cost.microseconds, 1),
        features=round(cost.features_microseconds, 1),
        network=round(cost.microseconds - cost.features_microseconds, 1),
    )
    for item in cost.dearest:
        log.warning(
            "%8.1f µs %5.1f %%  %s%s",
            item.microseconds,
            100 * item.share,
            item.expression,
            f"  (and {item.features - 1:,} like it)" if item.features > 1 else "",
        )
