"""Look-ups in tables, by text and by number: DuckDB and the graph find the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.support.feature_parity import (
    COLUMNS,
    Rows,
    compute_in_duckdb,
    compute_in_graph,
    make_rows,
)
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.registry.runs import Fitted
from timberline.registry.signature import NULL_CODE, UNKNOWN_CODE, Column
from timberline.training.features import FeatureProgram, parse_features

_ROWS = make_rows(600, seed=7)
_TEXT = {
    "t": "t",
    "u": "u",
    "either": "coalesce(u, t)",
    "chosen": "CASE WHEN t = 'red' THEN 'x' WHEN u = 'ö' THEN NULL ELSE u END",
    "by_number": "CASE WHEN i > 3 THEN t WHEN n IS NULL THEN 'none' ELSE 'it''s' END",
}
_WORDS = Fitted(
    vocabularies={
        "t": ("red", "blue", ""),
        "u": ("green", "ö"),
        "either": ("it's", "Red", "red"),
        "chosen": ("x", "green"),
        "by_number": ("none", "red"),
    }
)


def _compare(program: FeatureProgram, rows: Rows = _ROWS) -> np.ndarray:
    """The features, once both engines agree bit for bit."""
    expected = compute_in_duckdb(program, rows)
    np.testing.assert_array_equal(compute_in_graph(build_feature_graph(program, 18), program, rows), expected)
    return expected


def test_codes_are_equal_in_duckdb_and_in_the_graph() -> None:
    """Columns and computed texts, words of several vocabularies, NULL and words of none."""
    sql = ", ".join(f"{text} AS {name}" if name != text else text for name, text in _TEXT.items())
    found = _compare(parse_features(f"SELECT {sql} FROM raw", COLUMNS, fitted=_WORDS))
    values = np.array(_ROWS["u"], dtype=object)
    codes = found[:, 1]
    assert set(codes[values == None]) == {NULL_CODE}  # noqa: E711  (an array's ==)
    assert set(codes[values == "red"]) == {UNKNOWN_CODE}
    assert set(codes[values == "ö"]) == {3}


def test_ten_vocabularies_share_one_encoder_and_one_look_up() -> None:
    """A node costs a microsecond, a second hash of each text more."""
    names = [f"f{index}" for index in range(10)]
    sql = ", ".join(f"coalesce(u, '{name}') AS {name}" for name in names)
    fitted = Fitted(vocabularies={name: ("red", name) for name in names})
    graph = build_feature_graph(parse_features(f"SELECT {sql} FROM raw", COLUMNS, fitted=fitted), 18)
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["LabelEncoder"] == 1
    plain = Fitted(vocabularies={"t": ("red",), "u": ("green", "ö")})
    graph = build_feature_graph(parse_features("SELECT t, u FROM raw", COLUMNS, fitted=plain), 18)
    assert [node.op_type for node in graph.graph.node] == ["LabelEncoder", "Add", "Gather", "Cast"]


def test_an_empty_vocabulary_knows_no_word() -> None:
    """Where every value is rare, all are one category."""
    found = _compare(parse_features("SELECT t, i FROM raw", COLUMNS, fitted=Fitted(vocabularies={"t": ()})))
    assert set(found[:, 0]) == {UNKNOWN_CODE}


def test_text_is_compared_and_looked_up_in_one_statement() -> None:
    """The two need the words in different types."""
    sql = "SELECT u, (u = 'red')::INT AS is_red, u IS NULL AS is_gone, t IN ('blue', 'Red') AS some FROM raw"
    _compare(parse_features(sql, COLUMNS, fitted=Fitted(vocabularies={"u": ("blue", "red")})))


@pytest.mark.parametrize(
    "keys",
    [
        ("-3", "0", "2", "255"),
        ("1000", "-4096", "1000000"),
        ("0",),
        tuple(map(str, range(-12, 200))),
        ("123456789", "7", "3", "-1", "10", "2"),
    ],
    ids=["near", "far", "one", "many", "far and many"],
)
@pytest.mark.parametrize("column", ["i", "n"])
def test_numbers_are_looked_up_by_place_or_by_comparison(keys: tuple[str, ...], column: str) -> None:
    """Keys that lie close together are places in an array; others are compared; NULL has its own value."""
    call = f"frequency({column})"
    fitted = Fitted(
        tables={call: {key: index / 8 for index, key in enumerate(keys)}},
        constants={call: -1.0, f"{call} NULL": 99.0},
    )
    program = parse_features(f"SELECT fitted.{call} AS f, i FROM raw", COLUMNS, fitted=fitted)
    found = _compare(program)[:, 0]
    known: dict[object, float] = {**{float(key): index / 8 for index, key in enumerate(keys)}, None: 99.0}
    assert found.tolist() == [known.get(value, -1.0) for value in _ROWS[column]]


def test_many_numbers_far_apart_are_places_in_an_array() -> None:
    """Of 2,000 zip codes a comparison each would be 2,000 in every row."""
    codes = {str(code): code / 7 for code in range(1_001, 99_951, 50)}
    fitted = Fitted(tables={"frequency(i)": codes}, constants={"frequency(i)": 0.0, "frequency(i) NULL": 0.5})
    program = parse_features("SELECT fitted.frequency(i) AS f, i FROM raw", COLUMNS, fitted=fitted)
    values = [0, 1_001, 1_002, 51_001, 99_901, 99_951, -1_001]
    rows = {name: (values * 100)[: len(column)] if name == "i" else column for name, column in _ROWS.items()}
    found = _compare(program, rows)[:, 0]
    assert found[:7].tolist() == [np.float32(codes.get(str(value), 0.0)) for value in values]
    graph = build_feature_graph(program, 18)
    assert "ArgMax" not in {node.op_type for node in graph.graph.node}


def test_a_column_may_have_the_name_of_a_tables_column() -> None:
    """Inside of the look-up's subquery a name of ours would hide it."""
    columns = tuple(Column(name=name, datatype="BYTES") for name in ("key", "value", "word"))
    fitted = Fitted(vocabularies=dict.fromkeys(("key", "value", "word"), ("a", "b")))
    program = parse_features("SELECT key, value, word FROM raw", columns, fitted=fitted)
    _compare(program, {"key": ["a", "b", "c"], "value": ["b", "c", "a"], "word": ["c", "a", "b"]})


@pytest.mark.parametrize(
    "expression",
    [
        "map {'x': 5}[CASE WHEN t = 'red' THEN 'x' ELSE 'x' END] + i",
        "map {'x': 5}[CASE WHEN t = 'red' THEN 'y' ELSE 'y' END] + i",
        "coalesce([4, 5, 6][CASE WHEN i > 3 THEN 2 ELSE 2 END], 0) + i",
        "coalesce([4, 5][CASE WHEN i > 3 THEN 7 ELSE 7 END], 1) + i",
    ],
)
def test_look_up_by_what_is_the_same_in_every_row_is_a_constant(expression: str) -> None:
    """The compiler sees through such a choice, and no place in a table is left to be computed."""
    _compare(parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS))


def test_an_empty_vocabulary_of_cut_text_knows_no_word() -> None:
    """Whoever looks at the features before the table has been read has no words yet."""
    sql = "SELECT lower(t) AS t_small, lower(u) AS u_small FROM raw"
    found = _compare(parse_features(sql, COLUMNS, fitted=Fitted(vocabularies={"t_small": (), "u_small": ()})))
    assert set(found[:, 0]) == {UNKNOWN_CODE}
    assert set(found[:, 1]) == {UNKNOWN_CODE, NULL_CODE}
