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
from timberline.exporter.graph.runtime import Event, InferenceSession, open_session, profile_session
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
    model: onnx.ModelProto, shares: Mapping[str, Mapping[int, float]], feeds: Feeds, count: int
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
    alike: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        alike.setdefault(_CONSTANT.sub(lambda found: found[1] or "?", label), []).append(index)
    costs = [
        ExpressionCost(
            expression=_cut(labels[indexes[0]]),
            features=len(indexes),
            microseconds=round(float(microseconds[indexes].sum()), 2),
            share=round(float(microseconds[indexes].sum()) / whole, 4),
        )
        for indexes in alike.values()
    ]
    return tuple(sorted(costs, key=lambda cost: -cost.microseconds)[:DEAREST_COUNT])


def _cut(text: str) -> str:
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
