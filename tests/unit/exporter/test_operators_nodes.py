"""How many nodes a row costs: structure, not time."""

from __future__ import annotations

from collections import Counter

import pytest

from exporter.operators import build_feature_graph
from registry.signature import Column
from training.features import parse_features

_COLUMNS = [Column(name=f"k{i}", datatype="INT64") for i in range(40)]
_COLUMNS += [Column(name=f"x{i}", datatype="FP64", is_nullable=True) for i in range(40)]


def _operators(*features: str) -> list[str]:
    named = ", ".join(f"{feature} AS f{index}" for index, feature in enumerate(features))
    model = build_feature_graph(parse_features(f"SELECT {named} FROM raw", _COLUMNS), 18)
    return [node.op_type for node in model.graph.node]


def test_all_raw_columns_in_order_are_one_cast() -> None:
    """Plain columns must cost nothing."""
    model = build_feature_graph(parse_features("SELECT * FROM raw", _COLUMNS), 18)
    assert [node.op_type for node in model.graph.node] == ["Cast"]


def test_reordered_raw_columns_are_one_gather() -> None:
    """The order of the SELECT is a choice of the author, and costs one node."""
    assert _operators("x3", "k1", "x0") == ["Gather", "Cast"]


def test_sums_of_columns_are_one_matrix_product() -> None:
    """Zone features, sums of dozens of one-hot columns, must not cost a node each."""
    sums = [" + ".join(f"k{i}" for i in range(start, start + 10)) for start in range(20)]
    assert _operators(*sums, "k1 - 2 * k2 + 5", "-(k3 + k4) / 2") == ["Gather", "MatMul", "Add", "Cast"]


def test_forty_thresholds_on_one_column_are_one_comparison() -> None:
    """Piecewise features come by the dozen."""
    counts = Counter(_operators(*(f"k0 > {limit}" for limit in range(40))))
    assert counts == {"Gather": 1, "Greater": 1, "Cast": 2}


@pytest.mark.parametrize("function", ["sqrt", "exp", "sin", "floor", "abs"])
def test_one_function_of_many_columns_is_one_node(function: str) -> None:
    """Same-shaped features share their nodes."""
    operators = _operators(*(f"{function}(x{i} + {i + 1})" for i in range(40)))
    assert len(operators) == 4, operators


def test_shared_subexpressions_are_computed_once() -> None:
    """An author repeats what SQL gives no name to."""
    operators = _operators("sqrt(x0 / x1) + 1", "sqrt(x0 / x1) * 2", "sqrt(x0 / x1)")
    assert operators.count("Div") == 1
    assert operators.count("Sqrt") == 1


def test_case_over_one_hot_columns_is_a_table_lookup() -> None:
    """Forty branches as a chain would be forty nodes, each waiting for the one before it."""
    branches = " ".join(f"WHEN k{i} = 1 THEN {i * 1.5}" for i in range(40))
    operators = _operators(f"CASE {branches} ELSE -1 END")
    assert len(operators) <= 8, operators


def test_long_in_list_is_not_a_chain() -> None:
    """Membership in a set of any size is one comparison and one reduction."""
    operators = _operators(f"k0 IN ({', '.join(map(str, range(40)))})")
    assert len(operators) <= 8, operators
