"""Functions of text on hard texts: DuckDB's reading of the author, ours, and the graph's are one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.feature_parity import compute_as_written, compute_in_duckdb, compute_in_graph
from tests.support.text_forms import COLUMNS, TextForms, is_in_the_language
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.training.features import parse_features

_ROWS, _EXPRESSIONS, _AT_ONCE = 400, 60, 12


@pytest.mark.parametrize("seed", range(2))
def test_random_functions_of_text_are_what_duckdb_makes_of_them(seed: int) -> None:
    """The graph answers by regular expressions: one letter of another case, and a category is another."""
    forms = TextForms(seed)
    rows = forms.rows(_ROWS)
    expressions: list[str] = []
    while len(expressions) < _EXPRESSIONS:
        expression = forms.expression()
        expressions += [expression] * is_in_the_language(expression)
    for start in range(0, _EXPRESSIONS, _AT_ONCE):
        some = expressions[start : start + _AT_ONCE]
        sql = ", ".join(f"{expression} AS f{index}" for index, expression in enumerate(some))
        program = parse_features(f"SELECT {sql} FROM raw", COLUMNS)
        ours = compute_in_duckdb(program, rows)
        found = compute_in_graph(build_feature_graph(program, 18), program, rows)
        for index, expression in enumerate(some):
            np.testing.assert_array_equal(found[:, index], ours[:, index], err_msg=expression)
            if "length" not in expression:  # longer texts are 255 long
                written = compute_as_written(expression, rows, COLUMNS)[:, 0]
                np.testing.assert_array_equal(ours[:, index], written, err_msg=expression)
