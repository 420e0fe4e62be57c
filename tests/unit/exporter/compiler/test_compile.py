"""Every operator of the feature language, computed by DuckDB and by the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support import cosines
from tests.support.feature_forms import CASES, ROUNDED
from tests.support.feature_parity import (
    COLUMNS,
    Rows,
    compute_both,
    compute_in_duckdb,
    compute_in_graph,
    make_inputs,
    make_rows,
)
from timberline.exporter.compiler.compile import build_feature_graph, find_opset
from timberline.exporter.graph.graphs import opsets_of
from timberline.exporter.graph.runtime import open_session
from timberline.registry.signature import Column
from timberline.training.features import OPERATORS, Call, Expression, parse_features

_ROWS = make_rows(600, seed=1)
# One ulp of float32, relative: the double results differ in their last bits (below), and rounding to
# float can then fall to either side.
_ROUNDING = 2**-23
# Both libraries are good to one ulp of double near 1; near a zero of the sine that is all error.
_NEAR_ZERO = 4e-16


def _collect(expression: Expression) -> set[str]:
    if not isinstance(expression, Call):
        return set()
    return {expression.operator}.union(*map(_collect, expression.arguments))


def _select(features: tuple[str, ...]) -> str:
    return "SELECT " + ", ".join(f"{f} AS f{i}" for i, f in enumerate(features)) + " FROM raw"


def test_every_operator_of_the_language_has_a_parity_case() -> None:
    """An operator without a case here would be skew that nobody looks for."""
    assert set(CASES) == set(OPERATORS)
    for operator, features in CASES.items():
        used = [_collect(f.expression) for f in parse_features(_select(features), COLUMNS).features]
        assert any(operator in operators for operators in used), operator


@pytest.mark.parametrize("operator", sorted(CASES))
def test_operator_is_equal_in_duckdb_and_in_the_graph(operator: str) -> None:
    """One definition, two engines: NULLs, zeros, signs and extremes included."""
    features = CASES[operator]
    expected, found = compute_both(_select(features), _ROWS)
    for index, feature in enumerate(features):
        if operator in ROUNDED:
            np.testing.assert_allclose(
                found[:, index], expected[:, index], rtol=_ROUNDING, atol=_NEAR_ZERO, err_msg=feature
            )
        else:
            np.testing.assert_array_equal(found[:, index], expected[:, index], err_msg=feature)


def ask_in_double(expression: str, angles: cosines.Doubles) -> cosines.Doubles:
    """This runtime's answers before they are rounded to floats."""
    session = open_session(cosines.build_double_graph(expression).SerializeToString(), threads=1)
    answer: cosines.Doubles = session.run(None, {"numeric": angles[:, None]})[0][:, 0]
    return answer


def measure_sine_error(angles: cosines.Doubles) -> float:
    """How far this runtime's own sine of doubles is off at most; its vectorised kernels are, by 6e-16."""
    return float(np.abs(ask_in_double("sin(x)", angles) - cosines.compute_in_duckdb("sin(x)", angles)).max())


def test_a_cosine_of_any_angle_adds_an_ulp_to_what_the_runtimes_sine_is_off_by() -> None:
    """sin(x + pi/2) as it stands would be off by 4e-12 at 1e5, and by everything at 1e16."""
    near, far = cosines.draw_near_angles(), cosines.draw_far_angles()
    error = np.abs(ask_in_double("cos(x)", near) - cosines.compute_in_duckdb("cos(x)", near))
    assert error.max() <= measure_sine_error(np.concatenate([near, near + np.pi / 2])) + 2.0**-52
    error = np.abs(ask_in_double("cos(x)", far) - cosines.compute_in_duckdb("cos(x)", far))
    # 1 - 2 sin(x/2)**2 moves four times as far as its sine, and rounds three times.
    assert error.max() <= 4 * measure_sine_error(far / 2) + 4e-16
    assert np.isnan(ask_in_double("cos(x)", np.array([np.inf, -np.inf, np.nan]))).all()


@pytest.mark.parametrize("opset", [17, 18, 21, 23])
def test_graph_is_the_same_in_every_opset(opset: int) -> None:
    """The operator set is a setting; reductions and text changed between versions of it."""
    sql = _select(("i IN (1, 2, 3, 7)", "u IN ('red', 'blue', '')", *CASES["case"], *CASES["round"], "i + j"))
    expected, found = compute_both(sql, _ROWS, opset=opset)
    np.testing.assert_array_equal(found, expected)


def test_graph_holds_stock_operators_only_and_passes_the_checker() -> None:
    """The service loads the graph with no extensions."""
    sql = _select(tuple(f for features in CASES.values() for f in features))
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
    features = tuple(f for operator, fs in CASES.items() if operator not in ROUNDED for f in fs)
    expected, found = compute_both(_select(features), _ROWS)
    for index, feature in enumerate(features):
        np.testing.assert_array_equal(found[:, index], expected[:, index], err_msg=feature)


def test_rows_do_not_see_each_other() -> None:
    """The batch axis is free: a row alone gives what it gives among others, and no row gives none."""
    program = parse_features(_select((*CASES["case"], *CASES["eq"], *CASES["or"], "i + j")), COLUMNS)
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
    expected, found = compute_both("SELECT i - j AS l, i > j AS g, i / 2 - j / 2 AS h FROM raw", rows)
    np.testing.assert_array_equal(found, [[1.0, 1.0, 0.5]])
    np.testing.assert_array_equal(expected, found)
    assert make_inputs(parse_features("SELECT i FROM raw", COLUMNS), rows)["numeric"].dtype == np.float64


def test_bits_are_written_in_the_operator_set_that_has_them() -> None:
    """The setting is a wish: an author of SQL knows of no operator set."""
    program = parse_features("SELECT i & 6 AS f FROM raw", COLUMNS)
    assert [find_opset(program, opset) for opset in (17, 18, 21)] == [18, 18, 21]
    assert opsets_of(build_feature_graph(program, 17))[""] == 18
