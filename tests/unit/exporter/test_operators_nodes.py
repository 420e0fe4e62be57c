"""How many nodes a row costs: structure, not time."""

from __future__ import annotations

from collections import Counter

import pytest

from exporter.operators import build_feature_graph
from registry.signature import Column
from training.features import parse_features

_COLUMNS = [Column(name=f"k{i}", datatype="INT64") for i in range(40)]
_COLUMNS += [Column(name=f"x{i}", datatype="FP64", is_nullable=True) for i in range(40)]
_COLUMNS += [Column(name=f"c{i}", datatype="BOOL", is_nullable=True) for i in range(40)]
_COLUMNS += [Column(name="u", datatype="BYTES", is_nullable=True), Column(name="t", datatype="BYTES")]
_COLUMNS += [Column(name="v", datatype="BYTES", is_nullable=True)]

# 1 where the column is the category, else 0: of text that may be NULL.
_ONE_HOTS = (
    "CASE WHEN u = 'w{i}' THEN 1 ELSE 0 END",
    "coalesce(u = 'w{i}', false)",
    "coalesce(false OR u = 'w{i}', false)",
    "u IS NOT NULL AND u = 'w{i}'",
    "u = 'w{i}' AND u IS NOT NULL",
    "NOT (u IS NULL OR u <> 'w{i}')",
    "coalesce(u, '') = 'w{i}'",
    "ifnull(u = 'w{i}', false)",
    "if(u = 'w{i}', 1, 0)",
    "if(u <> 'w{i}' OR u IS NULL, 0, 1)",
    "CASE u WHEN 'w{i}' THEN true ELSE false END",
    "CASE WHEN u IS NULL THEN 0 WHEN u = 'w{i}' THEN 1 ELSE 0 END",
    "CASE WHEN u <> 'w{i}' THEN 0 ELSE CASE WHEN u = 'w{i}' THEN 1 ELSE 0 END END",
    "coalesce(CAST(u = 'w{i}' AS INTEGER), 0)",
    "CAST(coalesce(u IN ('w{i}'), false) AS DOUBLE)",
    "coalesce(CASE WHEN u = 'w{i}' THEN 1 END, 0)",
)
# Other features that come by the dozen, one a category, a threshold or a column.
_BY_THE_DOZEN = (
    "u = 'w{i}'",
    "u <> 'w{i}'",
    "NOT u = 'w{i}'",
    "t = 'w{i}'",
    "coalesce(u <> 'w{i}', true)",
    "u IN ('w{i}', 'v{i}')",
    "u NOT IN ('w{i}', 'v{i}', 'x{i}')",
    "coalesce(u IN ('w{i}', 'v{i}', 'x{i}'), false)",
    "CAST(u IN ('w{i}', 'v{i}', 'x{i}', 'y{i}', 'z{i}') AS INTEGER)",
    "CASE WHEN u = 'w{i}' THEN 2.5 ELSE -1 END",
    "CASE WHEN u = 'w{i}' THEN 1 WHEN u = 'v{i}' THEN 2 ELSE 0 END",
    "CASE WHEN u = 'w{i}' THEN 1 ELSE CASE WHEN u = 'v{i}' THEN 2 ELSE 0 END END",
    "CASE u "
    + " ".join(f"WHEN '{word}{{i}}' THEN {len(word)}" for word in ("a", "bb", "ccc"))
    + " ELSE 9 END",
    "CASE u " + " ".join(f"WHEN '{word}{{i}}' THEN {ord(word)}" for word in "abcdefg") + " ELSE 9 END",
    "CASE WHEN u = 'w{i}' THEN x{i} ELSE 0 END",
    "u = 'w{i}' AND v = 'w{i}'",
    "coalesce(u = 'w{i}' AND v = 'w{i}', false)",
    "coalesce(u = 'w{i}' OR v = 'w{i}', false)",
    "CASE WHEN u = 'w{i}' AND v = 'w{i}' AND x{i} > 3 THEN 1 ELSE 0 END",
    "coalesce(u = 'w{i}', x{i} > 3)",
    "coalesce(x{i}, 0)",
    "x{i} IS NULL",
    "x{i} > 3",
    "coalesce(x{i} > 3, false)",
    "x{i} IS NOT NULL AND x{i} > 3",
    "CASE WHEN x0 > {i} THEN 1 ELSE 0 END",
    "coalesce(x{i} BETWEEN 3 AND 7, false)",
    "coalesce(x{i} IN (1, 2, 3), false)",
    "k{i} IN (1, 2, 3, 4, 5)",
    "coalesce(x{i} + 1 > 3, false)",
    "CASE WHEN x{i} IS NOT NULL THEN x{i} ELSE -1 END",
    f"CASE {' '.join(f'WHEN x{{i}} < {bound} THEN {bound / 2}' for bound in range(5))} END",
    f"CASE WHEN x{{i}} < 1 THEN k0 {' '.join(f'WHEN k{index} = 1 THEN {index}' for index in range(5))} END",
    "coalesce(c{i}, false)",
    "c{i} AND u = 'w{i}'",
    "CASE WHEN c{i} THEN 1 ELSE 0 END",
    "cos(x{i})",
)


def _operators(*features: str) -> list[str]:
    named = ", ".join(f"{feature} AS f{index}" for index, feature in enumerate(features))
    model = build_feature_graph(parse_features(f"SELECT {named} FROM raw", _COLUMNS), 18)
    return [node.op_type for node in model.graph.node]


def test_all_raw_columns_in_order_are_one_cast() -> None:
    """Plain columns must cost nothing."""
    model = build_feature_graph(parse_features("SELECT * EXCLUDE (t, u, v) FROM raw", _COLUMNS), 18)
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


@pytest.mark.parametrize("form", _ONE_HOTS)
def test_a_one_hot_costs_the_same_in_every_form(form: str) -> None:
    """Our error text suggests coalesce, habit writes CASE: nobody looks at the graph before choosing."""
    assert _many(form, 40) == ["LabelEncoder", "Gather", "Equal", "Cast", "Cast"]


@pytest.mark.parametrize("form", _BY_THE_DOZEN)
def test_nodes_do_not_grow_with_the_number_of_categories(form: str) -> None:
    """760 breeds are 760 features; a node each would be a millisecond a row."""
    few, many = _many(form, 10), _many(form, 40)
    assert len(many) == len(few)
    # What one feature needs, each operator once, and what lays the operands of many side by side.
    assert len(many) <= 3 * len(_many(form, 1)) + 2


def test_features_of_all_forms_together_share_their_nodes() -> None:
    """A table has features of many forms, whose parts become ready at different times."""
    forms = _ONE_HOTS + _BY_THE_DOZEN
    few, many = (
        _operators(*(form.replace("{i}", str(i)) for i in range(count) for form in forms))
        for count in (5, 15)
    )
    assert len(many) == len(few)
    assert len(many) < sum(len(_many(form, 5)) for form in forms) / 3
