"""Text in the graph: expressions that ask for words, exact for every letter there is."""

from __future__ import annotations

from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tests.support.feature_parity import COLUMNS, compute_both, compute_in_duckdb, compute_in_graph
from tests.support.text_forms import COLUMNS as TEXTS
from timberline.exporter.compiler.compile import build_feature_graph, find_opset
from timberline.exporter.compiler.text import length_patterns, write_pattern
from timberline.exporter.graph.graphs import opsets_of
from timberline.registry.runs import Fitted
from timberline.registry.signature import FIRST_CODE, UNKNOWN_CODE, Column
from timberline.training.features import parse_features

_TEXT = (Column(name="t", datatype="BYTES"),)


def _count_operators(sql: str, columns: tuple[Column, ...] = COLUMNS) -> Counter[str]:
    model = build_feature_graph(parse_features(sql, columns), 18)
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("function", ["lower", "upper", "trim", "ltrim", "rtrim"])
def test_every_code_point_is_changed_as_duckdb_changes_it(function: str) -> None:
    """Python, the C library and Unicode's own tables each differ from DuckDB in some letters."""
    # Every one of the planes that have letters, and some of the others.
    codes = [*range(1, 0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 997)]
    texts = [chr(code) for code in codes]
    with duckdb.connect() as connection:
        connection.register("points", pa.table({"t": texts}))
        known = f"SELECT DISTINCT {function}(t) FROM points WHERE {function}(t) <> t"
        words = sorted(word for (word,) in connection.execute(known).fetchall())
    program = parse_features(
        f"SELECT {function}(t) AS f FROM raw", _TEXT, fitted=Fitted(vocabularies={"f": tuple(words)})
    )
    rows = {"t": texts}
    found = compute_in_graph(build_feature_graph(program, 18), program, rows)
    np.testing.assert_array_equal(found, compute_in_duckdb(program, rows))
    assert (found != UNKNOWN_CODE).sum() >= len(words)


@pytest.mark.parametrize(
    "words", [("s", "x"), ("as", "ab", "ak"), ("as", "bs", "cs", "ds", "es", "fs"), ("k", "s", "i", "x", "y")]
)
def test_a_letter_among_several_words_is_no_other_letter(words: tuple[str, ...]) -> None:
    """Where ways to match differ in a letter, RE2 would add the long s to s and the sign of Kelvin to k."""
    odd = str.maketrans({"s": "ſ", "k": "K", "i": "ı"})
    program = parse_features("SELECT lower(t) AS f FROM raw", _TEXT, fitted=Fitted(vocabularies={"f": words}))
    rows = {"t": [form for word in words for form in (word, word.upper(), word.title(), word.translate(odd))]}
    found = compute_in_graph(build_feature_graph(program, 18), program, rows)
    np.testing.assert_array_equal(found, compute_in_duckdb(program, rows))


def test_a_thousand_words_are_told_apart_by_ten_expressions() -> None:
    """An expression a word would be a thousand nodes."""
    words = tuple(f"word {index}" for index in range(1000))
    program = parse_features("SELECT lower(t) AS f FROM raw", _TEXT, fitted=Fitted(vocabularies={"f": words}))
    model = build_feature_graph(program, 18)
    assert Counter(node.op_type for node in model.graph.node)["RegexFullMatch"] == 10
    rows = {"t": [word.upper() for word in words] + ["WORD", "word 1000", ""]}
    found = compute_in_graph(model, program, rows)[:, 0]
    assert found.tolist() == [*range(FIRST_CODE, FIRST_CODE + 1000), *[UNKNOWN_CODE] * 3]


@pytest.mark.parametrize(
    ("function", "count"),
    [
        ("lower(trim(t))", 1000),
        ("rtrim(t)", 1000),
        ("split_part(t, ',', 2)", 1000),
        ("lower(right(t, 9))", 1000),
        ("lower(t)", 3000),
    ],
)
def test_many_words_stay_within_the_memory_of_the_automaton(
    function: str, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beyond it RE2 writes a line on stderr for every text, and takes a hundred times as long."""
    words = tuple(f"w{index:04d} äs" for index in range(count))
    program = parse_features(
        f"SELECT {function} AS f FROM raw", _TEXT, fitted=Fitted(vocabularies={"f": words})
    )
    texts = [
        f"{before}{word}{behind}"
        for word in words[::97]
        for before in ("", " ", "a,")
        for behind in ("", " ")
    ]
    rows = {"t": [*texts, *(text.upper() for text in texts), "", ","]}
    found = compute_in_graph(build_feature_graph(program, 18), program, rows)
    np.testing.assert_array_equal(found, compute_in_duckdb(program, rows))
    assert "out of memory" not in capfd.readouterr().err


@pytest.mark.parametrize("count", range(1, 10))
def test_any_number_of_words_has_its_codes(count: int) -> None:
    """Up to four an expression each, from five on one a bit: at the edges a word could be lost."""
    words = tuple("abcdefghi"[:count])
    program = parse_features("SELECT upper(t) AS f FROM raw", _TEXT, fitted=Fitted(vocabularies={"f": words}))
    capitals = tuple(word.upper() for word in words)
    same = parse_features("SELECT upper(t) AS f FROM raw", _TEXT, fitted=Fitted(vocabularies={"f": capitals}))
    rows = {"t": [*"abcdefghi", *"ABCDEFGHI"]}
    for each in (program, same):
        found = compute_in_graph(build_feature_graph(each, 18), each, rows)
        np.testing.assert_array_equal(found, compute_in_duckdb(each, rows))


def test_length_counts_characters_up_to_its_end() -> None:
    """Eight expressions tell the bits; a longer text is as long as the longest that is told."""
    texts = ["ö" * count for count in range(300)] + ["\n" * 7, "😀" * 40, "e\u0301"]
    program = parse_features("SELECT length(t) AS f FROM raw", _TEXT)
    found = compute_in_graph(build_feature_graph(program, 18), program, {"t": texts})[:, 0]
    assert found.tolist() == [min(len(text), 255) for text in texts]
    assert len(length_patterns()) == 8


def test_one_hots_of_cut_text_are_one_expression_each() -> None:
    """What a one-hot costs must not grow with the functions around its column."""
    plain = _count_operators("SELECT lower(t) = 'red' AS a, lower(t) = 'blue' AS f FROM raw")
    assert plain["RegexFullMatch"] == 2
    assert plain["LabelEncoder"] == plain["MatMul"] == 0
    guarded = _count_operators("SELECT coalesce(lower(u) = 'red', false) AS a FROM raw")
    assert guarded["RegexFullMatch"] == 1
    assert guarded["MatMul"] == 0


def test_equal_patterns_of_several_columns_are_one_node() -> None:
    """Many columns with one pattern are common: is there a digit in it."""
    columns = tuple(Column(name=f"c{index}", datatype="BYTES") for index in range(9))
    sql = ", ".join(f"regexp_matches(c{index}, '\\d') AS f{index}" for index in range(9))
    assert _count_operators(f"SELECT {sql} FROM raw", columns)["RegexFullMatch"] == 1


@pytest.mark.parametrize(
    ("expression", "opset"),
    [
        ("t = 'red'", 18),
        ("map {'red': 1}[t]", 18),
        ("CASE WHEN i > 1 THEN lower(t) END IS NULL", 20),
        ("coalesce(u LIKE 'a%', false)", 20),
        ("t = u", 20),
        ("t = coalesce(u, 'x')", 20),
        ("length(t) + i", 20),
        ("u || t = 'redred'", 20),
    ],
)
def test_graph_is_written_in_the_operator_set_that_its_text_needs(expression: str, opset: int) -> None:
    """The setting is a wish; an author of SQL knows of no operator set."""
    program = parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    assert find_opset(program, 18) == opset
    assert opsets_of(build_feature_graph(program, 18))[""] == opset
    assert find_opset(program, 22) == 22


@pytest.mark.parametrize("opset", [20, 21, 23])
def test_text_is_the_same_in_every_operator_set_that_has_it(opset: int) -> None:
    """Another operator set is chosen for the network's sake."""
    rows: dict[str, list[object]] = {"t": ["Ab", "b ", ""], "u": ["aB", None, "x"]}
    forms = ("lower(t) = 'ab'", "t LIKE '%b_'", "length(u)", "t || u = 'AbaB'", "t = u")
    sql = f"SELECT {', '.join(f'{form} AS f{index}' for index, form in enumerate(forms))} FROM raw"
    expected, found = compute_both(sql, rows, TEXTS, opset)
    np.testing.assert_array_equal(found, expected)


def test_no_way_to_match_is_an_expression_that_matches_nothing() -> None:
    """No small letter becomes the word: the expression has to be one all the same."""
    rows = {"t": ["ß", "ẞ", "", "x", "\x00"]}
    program = parse_features("SELECT upper(t) = 'ß' AS f FROM raw", _TEXT)
    np.testing.assert_array_equal(
        compute_in_graph(build_feature_graph(program, 18), program, rows), np.zeros((5, 1))
    )
    assert write_pattern([()]) == write_pattern([])
