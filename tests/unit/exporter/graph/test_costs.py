"""What a row costs, and which expressions it is spent on."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.exporter_graphs import random_network
from timberline.exporter.compiler.compile import build_feature_graph, trace_feature_graph
from timberline.exporter.graph.compose import compose_graph
from timberline.exporter.graph.costs import DEAREST_COUNT, TEXT_LENGTH, RowCost, log_cost, measure_row
from timberline.registry.signature import Column
from timberline.training.features import parse_features

_COLUMNS = (
    Column(name="x", datatype="FP64", is_nullable=True),
    Column(name="k", datatype="INT64"),
    Column(name="u", datatype="BYTES", is_nullable=True),
)
_DEEP = f"{'sqrt(abs(' * 12}x{' + 1.5))' * 12}"
_FEEDS = {"numeric": np.array([[1.5, 2.0]]), "text": np.array([["w5"]], dtype=object)}


def write_sql(features: Sequence[str]) -> str:
    """A SELECT of features f0, f1, ..."""
    return f"SELECT {', '.join(f'{feature} AS f{index}' for index, feature in enumerate(features))} FROM raw"


def measure(features: Sequence[str], slow_row_us: float) -> RowCost:
    """The cost of a row in the graph of these features and a small network behind them."""
    sql = write_sql(features)
    program = parse_features(sql, _COLUMNS)
    network = random_network(len(features), 3)
    model = compose_graph(build_feature_graph(program, 18), network, class_count=3)
    feeds = {entry.name: _FEEDS[entry.name] for entry in model.graph.input}
    return measure_row(model, program, feeds, opset=18, slow_row_us=slow_row_us)


def test_a_row_that_is_not_slow_is_timed_and_not_explained() -> None:
    """Ten lines about a graph that is in order would be read by nobody."""
    cost = measure(["x + k", _DEEP], math.inf)
    assert cost.microseconds > 0
    assert (cost.features_microseconds, cost.dearest) == (None, ())


def test_the_dearest_expression_of_a_slow_row_comes_first() -> None:
    """24 nodes of one expression against shared ones: what to write otherwise is what the list is for."""
    cost = measure(["k", "x", "-x", _DEEP, "k > 3"], 0.0)
    assert cost.features_microseconds is not None
    assert cost.features_microseconds <= cost.microseconds
    first = cost.dearest[0]
    assert first.expression.startswith("sqrt(abs(")
    assert len(first.expression) == TEXT_LENGTH
    assert first.microseconds > sum(item.microseconds for item in cost.dearest[1:])
    assert first.share == pytest.approx(first.microseconds / cost.microseconds, abs=0.01)
    total = sum(item.microseconds for item in cost.dearest)
    assert total == pytest.approx(cost.features_microseconds, rel=0.01, abs=0.1)


def test_expressions_that_differ_in_constants_only_are_one_line() -> None:
    """A one-hot of 760 categories would fill the list with a thousandth each."""
    features = [f"coalesce(u = 'w{index}', false)" for index in range(40)]
    cost = measure([*features, *(f"x > {index}.5" for index in range(5)), "x + k"], 0.0)
    found = {item.expression: item.features for item in cost.dearest}
    assert found == {"coalesce(u = 'w0', FALSE)": 40, "x > 0.5": 5, "x + k": 1}


def test_at_most_ten_expressions_are_named() -> None:
    """The list is for the eye."""
    functions = ("sqrt", "exp", "ln", "abs", "floor", "ceil", "sin", "cos", "tan", "atan", "round")
    cost = measure([f"{function}(x)" for function in functions], 0.0)
    assert len(cost.dearest) == DEAREST_COUNT


def test_the_log_tells_the_dearest_of_a_slow_row_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever exports reads the log; the result on stdout is for programs."""
    with caplog.at_level(logging.INFO, "exporter.graph.costs"):
        log_cost(measure(["x + k"], math.inf))
        assert [record.levelno for record in caplog.records] == [logging.INFO]
        caplog.clear()
        log_cost(measure([f"coalesce(u = 'w{index}', false)" for index in range(3)], 0.0))
    head, line = (record.getMessage() for record in caplog.records)
    assert "the dearest expressions follow" in head
    assert line.endswith("coalesce(u = 'w0', FALSE)  (and 2 like it)")


def test_every_node_is_shared_out_in_full_among_the_features_that_need_it() -> None:
    """A node that nobody answers for would make the sum too small, and the list wrong."""
    features = ["u = 'a'", "u IN ('a', 'b', 'c')", "x + k > 3", "cos(x)", f"CASE WHEN x > 1 THEN {_DEEP} END"]
    program = parse_features(write_sql(features), _COLUMNS)
    model, shares = trace_feature_graph(program, 18)
    assert [node.name for node in model.graph.node] == list(shares)
    for node, owners in shares.items():
        assert sum(owners.values()) == pytest.approx(1.0), node
    (encoder,) = [owners for node, owners in shares.items() if node.startswith("labelencoder")]
    assert encoder == {0: 0.5, 1: 0.5}
    assert all(owners == {4: 1.0} for node, owners in shares.items() if node.startswith("sqrt"))


def test_text_of_a_feature_is_what_its_author_wrote() -> None:
    """A plain column, also by another name or from a WITH, is shown as what it was made from."""
    sql = "WITH w AS (SELECT *, x+ 1 AS up FROM raw) SELECT x, up AS Next, w.k AS other, up*2 AS f FROM w"
    program = parse_features(sql, _COLUMNS)
    assert [feature.text for feature in program.features] == ["x", "x + 1", "k", "up * 2"]
