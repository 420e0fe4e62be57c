"""Every operator of the feature language, computed by DuckDB and by the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from exporter.operators import build_feature_graph
from registry.signature import Column
from tests.support.feature_parity import (
    COLUMNS,
    Rows,
    compute_both,
    compute_in_duckdb,
    compute_in_graph,
    make_inputs,
    make_rows,
)
from training.features import OPERATORS, Call, Expression, parse_features

_ROWS = make_rows(600, seed=1)
# One ulp of float32, relative: the double results differ in their last bits (below), and rounding to
# float can then fall to either side.
_ROUNDING = 2**-23
# Both libraries are good to one ulp of double near 1; near a zero of the sine that is all error.
_NEAR_ZERO = 4e-16

# operator → features that use it, over `COLUMNS`. Exact unless the operator is in _ROUNDED.
_CASES: dict[str, tuple[str, ...]] = {
    "add": ("i + j", "x + y", "n + 1", "i + j + 0.1", "x + i", "y + NULL"),
    "sub": ("i - j", "x - y", "1 - n", "i - j - x"),
    "mul": ("i * j", "x * y", "2 * i", "0.1 * i", "n * x"),
    "div": (
        "i / j",
        "x / y",
        "1 / i",
        "n / 3",
        "x / (i - j)",
        "1 / (-i)",
        "i / (x * 0)",
        "i / (-n)",
        "x / (1e300 * y)",
    ),
    "intdiv": ("i // j", "n // 3", "i // n", "7 // i"),
    "mod": ("i % j", "x % y", "i % 3", "-7 % i", "mod(n, 10)", "x % 0.1", "x % 0"),
    "neg": ("-i", "-x", "-n", "- (i + j)", "-2^2 + i"),
    "abs": ("abs(i)", "abs(y)", "abs(i - j)"),
    "sign": ("sign(i)", "sign(y)", "sign(x * 0)"),
    "sqrt": ("sqrt(i)", "sqrt(y)", "sqrt(i * i + j * j)", "sqrt(power(n, 2))"),
    "exp": ("exp(i / 1000)", "exp(y)", "exp(-x)"),
    "ln": ("ln(i)", "log(x)", "log10(n)", "log2(j)", "log(3, y)", "log(i, j)"),
    "pow": (
        "i ^ 2",
        "x ** 3",
        "pow(y, 0.5)",
        "power(i, j)",
        "n ^ n",
        "y ^ 0",
        "2 ^ n",
        "1 ^ n",
        "(-x) ^ -1",
        "n ^ 1",
    ),
    "sin": ("sin(i)", "sin(radians(n))", "sin(y / 0)", "sin(x / 1e9)"),
    "cos": ("cos(i)", "cos(radians(n))", "cos(y / 0)", "cos(x / 1e9)"),
    "tan": ("tan(i)", "tan(n / 100)", "tan(degrees(i))"),
    "asin": ("asin(x)", "asin(n / 255)", "asin(sign(i))", "asin(x / 100)"),
    "acos": ("acos(x)", "acos(n / 255)", "acos(sign(i))", "acos(1 - abs(x) / 1e8)"),
    "atan": ("atan(i)", "atan(y)", "atan(x)", "atan(1 / i)", "atan(y * 1e-9)"),
    "atan2": (
        "atan2(i, j)",
        "atan2(y, x)",
        "atan2(-i, -j)",
        "atan2(0, y)",
        "atan2(0, -1 / abs(y))",
        "atan2(1 / i, 1 / j)",
        "atan2(x * 1e300, y * 1e300)",
    ),
    "floor": ("floor(x)", "floor(y)", "floor(i / 7)"),
    "ceil": ("ceil(x)", "ceiling(y)", "ceil(i / 7)"),
    "trunc": ("trunc(x)", "trunc(y)", "trunc(x, 1)", "trunc(i / 0)"),
    "round": ("round(x)", "round(y, 2)", "round(i, -1)", "round(x * 1e9)", "round(n)", "round(y / 0)"),
    "greatest": ("greatest(i, j)", "greatest(x, y, n)", "greatest(n, y)", "greatest(NULL, y, 0)"),
    "least": ("least(i, j)", "least(x, y, n)", "least(n, y)", "least(y, NULL)"),
    "eq": (
        "i = j",
        "n = 1",
        "x = y",
        "t = 'red'",
        "u = 'red'",
        "b = c",
        "c = 1",
        "'ö' = t",
        "CASE u WHEN 'red' THEN 1 WHEN '' THEN 2 END",
        "n IN (1, 2, NULL)",
        "u IN ('red', 'it''s', '')",
        "t NOT IN ('red')",
    ),
    "ne": ("i <> j", "n != 1", "x <> y", "u <> 'red'", "u NOT IN ('red', 'blue')"),
    "lt": ("i < j", "y < 0.5", "n < y", "b < c"),
    "le": ("i <= j", "y <= 0.5", "n BETWEEN -1 AND 10", "i BETWEEN n AND y"),
    "gt": ("i > j", "y > 0.5", "n > y", "x / 0 > 1"),
    "ge": ("i >= j", "y >= 0.5", "n >= y", "n NOT BETWEEN -1 AND 10"),
    "and": ("b AND c", "n > 1 AND y < 0", "i > 0 AND j > 0 AND x > 0 AND b", "i AND n", "c AND NULL"),
    "or": ("b OR c", "n > 1 OR y < 0", "i > 0 OR j > 9 OR x > 99 OR c", "c OR NULL", "c OR (c IS NULL)"),
    "not": ("NOT b", "NOT c", "NOT (n > 1 AND c)", "NOT i"),
    "is_null": (
        "n IS NULL",
        "y IS NOT NULL",
        "c IS NULL",
        "u IS NULL",
        "i IS NULL",
        "(n > 1) IS NULL",
        "sqrt(x) IS NULL",
    ),
    "case": (
        "CASE WHEN n > 1 THEN x WHEN c THEN y ELSE i END",
        "CASE WHEN c THEN 1 END",
        "if(b, n, -1)",
        "nullif(i, 0)",
        "nullif(u, 'red') = 'blue'",
        "CASE WHEN c THEN b WHEN n > 0 THEN c ELSE NULL END",
        "CASE i WHEN 0 THEN 5 WHEN 1 THEN -1 WHEN 2 THEN NULL WHEN 3 THEN 1.5 WHEN 7 THEN 2 ELSE 9 END",
        "CASE i WHEN 0 THEN x WHEN 1 THEN 1 WHEN 2 THEN n WHEN 3 THEN 1.5 WHEN 7 THEN 2 END",
        "CASE WHEN false THEN x WHEN i > 0 THEN 1 WHEN true THEN 2 ELSE y END",
    ),
    "coalesce": (
        "coalesce(n, 5)",
        "coalesce(y, n, 0)",
        "ifnull(y, x)",
        "coalesce(c, b)",
        "coalesce(u, t) = 'red'",
        "coalesce(sqrt(x), -1)",
        "coalesce(if(NULL, n, 0), i)",
    ),
    "to_double": ("CAST(b AS DOUBLE)", "CAST(c AS DOUBLE)", "CAST(n AS DOUBLE) / 2", "(i > j)::DOUBLE"),
    "to_bigint": (
        "CAST(x AS BIGINT)",
        "y::INTEGER",
        "CAST(c AS INTEGER) + 1",
        "(n > 1)::BIGINT",
        "CAST(i / 2 AS BIGINT)",
        "i + CAST(0.5 AS BIGINT)",
    ),
    "to_float": ("CAST(x AS FLOAT)", "x - CAST(x AS FLOAT)", "CAST(y AS FLOAT) / 3", "CAST(i AS FLOAT)"),
}
# Operators whose double result is not defined to the last bit by IEEE 754.
_ROUNDED = {"exp", "ln", "pow", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"}


def _collect(expression: Expression) -> set[str]:
    if not isinstance(expression, Call):
        return set()
    return {expression.operator}.union(*map(_collect, expression.arguments))


def _select(features: tuple[str, ...]) -> str:
    return "SELECT " + ", ".join(f"{f} AS f{i}" for i, f in enumerate(features)) + " FROM raw"


def test_every_operator_of_the_language_has_a_parity_case() -> None:
    """An operator without a case here would be skew that nobody looks for."""
    assert set(_CASES) == set(OPERATORS)
    for operator, features in _CASES.items():
        used = [_collect(f.expression) for f in parse_features(_select(features), COLUMNS).features]
        assert any(operator in operators for operators in used), operator


@pytest.mark.parametrize("operator", sorted(_CASES))
def test_operator_is_equal_in_duckdb_and_in_the_graph(operator: str) -> None:
    """One definition, two engines: NULLs, zeros, signs and extremes included."""
    features = _CASES[operator]
    expected, found = compute_both(_select(features), _ROWS)
    for index, feature in enumerate(features):
        if operator in _ROUNDED:
            np.testing.assert_allclose(
                found[:, index], expected[:, index], rtol=_ROUNDING, atol=_NEAR_ZERO, err_msg=feature
            )
        else:
            np.testing.assert_array_equal(found[:, index], expected[:, index], err_msg=feature)


@pytest.mark.parametrize("opset", [17, 18, 21, 23])
def test_graph_is_the_same_in_every_opset(opset: int) -> None:
    """The operator set is a setting; reductions and text changed between versions of it."""
    sql = _select(
        ("i IN (1, 2, 3, 7)", "u IN ('red', 'blue', '')", *_CASES["case"], *_CASES["round"], "i + j")
    )
    expected, found = compute_both(sql, _ROWS, opset=opset)
    np.testing.assert_array_equal(found, expected)


def test_graph_holds_stock_operators_only_and_passes_the_checker() -> None:
    """The service loads the graph with no extensions."""
    sql = _select(tuple(f for features in _CASES.values() for f in features))
    model = build_feature_graph(parse_features(sql, COLUMNS), 18)
    onnx.checker.check_model(model, full_check=True)
    assert {(node.domain, node.op_type) for node in model.graph.node if node.domain} == {
        ("ai.onnx.ml", "LabelEncoder")
    }
    assert {i.name: i.type.tensor_type.elem_type for i in model.graph.input} == {
        "numeric": onnx.TensorProto.DOUBLE,
        "text": onnx.TensorProto.STRING,
    }
    (output,) = model.graph.output
    assert output.name == "features"
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == [
        "rows",
        len(sql.split(" AS f")) - 1,
    ]


def test_all_cases_together_equal_the_cases_one_by_one() -> None:
    """Values of one operator share nodes; what shares a node may not change a value."""
    features = tuple(f for operator, fs in _CASES.items() if operator not in _ROUNDED for f in fs)
    expected, found = compute_both(_select(features), _ROWS)
    for index, feature in enumerate(features):
        np.testing.assert_array_equal(found[:, index], expected[:, index], err_msg=feature)


def test_rows_do_not_see_each_other() -> None:
    """The batch axis is free: a row alone gives what it gives among others, and no row gives none."""
    program = parse_features(_select((*_CASES["case"], *_CASES["eq"], *_CASES["or"], "i + j")), COLUMNS)
    model = build_feature_graph(program, 18)
    together = compute_in_graph(model, program, _ROWS)
    for row in (0, 17, 599):
        alone: Rows = {name: [values[row]] for name, values in _ROWS.items()}
        np.testing.assert_array_equal(compute_in_graph(model, program, alone), together[row : row + 1])
    nothing: Rows = {name: [] for name in _ROWS}
    assert compute_in_graph(model, program, nothing).shape == (0, len(program.features))


def test_null_in_one_column_stays_out_of_sums_of_others() -> None:
    """Sums are one matrix product, and 0 times NaN is NaN."""
    rows: Rows = {
        **{name: values[:1] for name, values in _ROWS.items()},
        "i": [3],
        "j": [4],
        "n": [None],
        "y": [None],
    }
    expected, found = compute_both("SELECT i + j AS s, n, y + 1 AS z FROM raw", rows)
    np.testing.assert_array_equal(found, [[7.0, np.nan, np.nan]])
    np.testing.assert_array_equal(expected, found)


def test_null_text_survives_the_way_into_the_graph() -> None:
    """NULL is U+0000 in a string tensor; were it cut off, NULL and the empty text would be one."""
    program = parse_features("SELECT u IS NULL AS is_null, u = '' AS is_empty FROM raw", COLUMNS)
    rows: Rows = {**{name: values[:2] for name, values in _ROWS.items()}, "u": [None, ""]}
    found = compute_in_graph(build_feature_graph(program, 18), program, rows)
    np.testing.assert_array_equal(found, [[1.0, np.nan], [0.0, 1.0]])
    np.testing.assert_array_equal(compute_in_duckdb(program, rows), found)


def test_graph_of_numbers_has_no_text_input_and_the_other_way_round() -> None:
    """The signature leaves out a tensor without columns, and the graph must agree with it."""
    number, text = Column(name="i", datatype="INT64"), Column(name="t", datatype="BYTES")
    numbers = build_feature_graph(parse_features("SELECT i FROM raw", [number]), 18)
    texts = build_feature_graph(parse_features("SELECT t = 'a' AS a, t IS NULL AS n FROM raw", [text]), 18)
    assert [i.name for i in numbers.graph.input] == ["numeric"]
    assert [i.name for i in texts.graph.input] == ["text"]


def test_infinite_features_beyond_float_agree() -> None:
    """DuckDB's cast to FLOAT fails there; a training run must not die of one row."""
    expected, found = compute_both("SELECT x * 1e200 AS f, -x * 1e39 AS g, i / 0 AS h FROM raw", _ROWS)
    assert np.isinf(expected).any()
    np.testing.assert_array_equal(found, expected)


def test_inputs_stay_within_double_until_the_last_cast() -> None:
    """A float on the way would lose the unit of 16,777,217, and with it every threshold near it."""
    rows: Rows = {
        **{name: values[:1] for name, values in _ROWS.items()},
        "i": [16_777_217],
        "j": [16_777_216],
    }
    expected, found = compute_both("SELECT i - j AS d, i > j AS g, i / 2 - j / 2 AS h FROM raw", rows)
    np.testing.assert_array_equal(found, [[1.0, 1.0, 0.5]])
    np.testing.assert_array_equal(expected, found)
    assert make_inputs(parse_features("SELECT i FROM raw", COLUMNS), rows)["numeric"].dtype == np.float64
