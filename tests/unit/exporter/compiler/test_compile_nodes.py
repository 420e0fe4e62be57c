"""How many nodes a row costs: structure, not time."""

from __future__ import annotations

from collections import Counter

import pytest
from onnx import numpy_helper

from tests.support.feature_forms import BY_THE_DOZEN, DOZEN_COLUMNS, ONE_HOTS
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.training.features import parse_features


def _operators(*features: str) -> list[str]:
    named = ", ".join(f"{feature} AS f{index}" for index, feature in enumerate(features))
    model = build_feature_graph(parse_features(f"SELECT {named} FROM raw", DOZEN_COLUMNS), 18)
    return [node.op_type for node in model.graph.node]


def test_all_raw_columns_in_order_are_one_cast() -> None:
    """Plain columns must cost nothing."""
    model = build_feature_graph(parse_features("SELECT * EXCLUDE (t, u, v) FROM raw", DOZEN_COLUMNS), 18)
    assert [node.op_type for node in model.graph.node] == ["Cast"]


def test_reordered_raw_columns_are_one_gather() -> None:
    """The order of the SELECT is a choice of the author, and costs one node."""
    assert _operators("x3", "k1", "x0") == ["Gather", "Cast"]


def test_sums_of_columns_are_one_matrix_product() -> None:
    """Zone features, sums of dozens of one-hot columns, must not cost a node each."""
    sums = [" + ".join(f"k{i}" for i in range(start, start + 10)) for start in range(20)]
    assert _operators(*sums, "k1 - 2 * k2 + 5", "-(k3 + k4) / 2") == ["Gather", "Gemm", "Cast"]


def test_weights_that_round_join_the_matrix_product_where_no_decision_hangs_on_them() -> None:
    """Heights less a share of a distance, and angles in radians, are what people write."""
    operators = _operators("k0 - 0.2 * k1", "sin(radians(k2))", "k3 / 3")
    assert operators == ["Gather", "MatMul", "Gather", "Sin", "Concat", "Gather", "Cast"]


def test_weights_that_round_stay_as_written_in_a_comparison() -> None:
    """0.1 * 3 > 0.3 must be decided as the database decides it, to the last bit."""
    assert _operators("k0 * 0.1 > 0.3") == ["Gather", "Mul", "Greater", "Cast", "Cast"]
    assert "MatMul" not in _operators("floor(k0 * 0.1 - k1 * 0.3)")
    assert "MatMul" not in _operators("sin(k0 / 3) > 0.5")
    assert "MatMul" not in _operators("cos(k0 * 0.1 - k1 * 0.3)")


def test_sums_that_could_cancel_far_apart_stay_as_written() -> None:
    """With large weights the order of summation shows behind the eighth decimal."""
    assert "MatMul" not in _operators("k0 * 1000.1 - k1 * 1000.3")


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


def _many(form: str, count: int) -> list[str]:
    return _operators(*(form.replace("{i}", str(i)) for i in range(count)))


@pytest.mark.parametrize("form", ONE_HOTS)
def test_a_one_hot_costs_the_same_in_every_form(form: str) -> None:
    """Our error text suggests coalesce, habit writes CASE: nobody looks at the graph before choosing."""
    assert _many(form, 40) == ["LabelEncoder", "Gather", "Equal", "Cast", "Cast"]


@pytest.mark.parametrize("form", BY_THE_DOZEN)
def test_nodes_do_not_grow_with_the_number_of_categories(form: str) -> None:
    """760 breeds are 760 features; a node each would be a millisecond a row."""
    few, many = _many(form, 10), _many(form, 40)
    assert len(many) == len(few)
    # What one feature needs, each operator once, and what lays the operands of many side by side.
    assert len(many) <= 3 * len(_many(form, 1)) + 2


def test_features_of_all_forms_together_share_their_nodes() -> None:
    """A table has features of many forms, whose parts become ready at different times."""
    forms = ONE_HOTS + BY_THE_DOZEN
    few, many = (
        _operators(*(form.replace("{i}", str(i)) for i in range(count) for form in forms))
        for count in (5, 15)
    )
    assert len(many) == len(few)
    assert len(many) < sum(len(_many(form, 5)) for form in forms) / 3


def test_long_lists_by_the_dozen_share_nodes_up_to_a_bounded_width() -> None:
    """In one node the floats of all of them, for a thousand rows, would be the memory of the service."""
    lists = [f"k{i} IN ({', '.join(str(2 * number) for number in range(1000))})" for i in range(40)]
    named = ", ".join(f"{feature} AS f{index}" for index, feature in enumerate(lists))
    model = build_feature_graph(parse_features(f"SELECT {named} FROM raw", DOZEN_COLUMNS), 18)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes = [constants[node.input[1]] for node in model.graph.node if node.op_type == "Reshape"]
    assert [shape.tolist() for shape in shapes] == [[0, 16, 1000], [0, 16, 1000], [0, 8, 1000]]
