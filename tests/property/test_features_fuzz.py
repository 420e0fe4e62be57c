"""Random typed expressions mean the same in DuckDB and in the graph; ``make fuzz-features`` runs more."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from tests.support.feature_fuzz import (
    Disagreement,
    draw_rows,
    find_disagreements,
    fuzz,
    read_feature,
    shrink_disagreement,
)
from tests.support.feature_grammar import FORMS, draw, fill_form
from tests.support.feature_parity import COLUMNS, FloatArray, Rows
from timberline.training.features import OPERATORS, Call, Expression, Feature


def collect_operators(expression: Expression) -> set[str]:
    """The operators of an expression."""
    if not isinstance(expression, Call):
        return set()
    return {expression.operator}.union(*map(collect_operators, expression.arguments))


def test_two_thousand_random_expressions_are_equal_in_duckdb_and_in_the_graph() -> None:
    """The two sides are written by two modules from one tree; no combination may tell them apart."""
    compared, disagreements = fuzz(2_000, seed="tests")
    assert not disagreements, "\n".join(map(str, disagreements))
    assert compared == 2_000


def test_every_operator_is_drawn() -> None:
    """An operator that the generator does not know is one that no random run will ever find wrong."""
    generator = random.Random(5)
    features = [
        read_feature(fill_form(generator, "condition", f"({node.sql} IS NULL)") if is_hidden else node)
        for kind, forms in FORMS.items()
        for form in forms
        for is_hidden in [kind in {"date", "timestamp", "text"}]
        for node in [fill_form(generator, kind, form) for _ in range(8)]
    ]
    drawn = set().union(*(collect_operators(f.expression) for f in features if f is not None))
    assert set(OPERATORS) - drawn == set()


def test_drawn_rows_hold_null_nan_both_zeros_and_extremes() -> None:
    """Where engines part is where values end."""
    rows = draw_rows(random.Random(3), 2_000)
    texts = {name: set(map(repr, values)) for name, values in rows.items()}
    assert {"None", "nan", "0.0", "-0.0", "5e-324", "1.7976931348623157e+308"} <= texts["y"]
    assert {str(2**53 - 1), str(1 - 2**53), "None"} <= texts["n"] & texts["q"]
    assert all(("None" in texts[c.name]) == c.is_nullable for c in COLUMNS)


def test_a_planted_disagreement_shrinks_to_what_it_is_about() -> None:
    """Two lines can be read; the four hundred characters that were drawn cannot."""

    def compute(features: Sequence[Feature], rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Two sides that differ in every feature that has a last_day."""
        found = [1.0 if "last_day" in collect_operators(f.expression) else np.nan for f in features]
        return np.full((1, len(features)), np.nan, dtype=np.float32), np.array([found], dtype=np.float32)

    generator = random.Random(1)
    drawn = [draw(generator, "whole", 4) for _ in range(400)]
    nodes = [node for node in drawn if "last_day" in node.sql and node.size > 12][:3]
    found = find_disagreements(nodes, draw_rows(generator, 1), compute)
    assert len(found) == len(nodes) == 3
    for disagreement in found:
        shrunk = shrink_disagreement(disagreement, compute)
        assert "last_day" in shrunk.node.sql
        assert shrunk.node.size <= 4
        assert len(str(shrunk).splitlines()) == 2


def test_a_disagreement_is_told_with_the_values_that_it_reads() -> None:
    """It is tried again from what is printed."""
    node = fill_form(random.Random(2), "number", "sqrt({number})")
    told = str(Disagreement(node, {"x": [4.0]}, "DuckDB 2.0, graph 3.0"))
    assert told == f"SELECT {node.sql} AS f FROM raw\n  DuckDB 2.0, graph 3.0, of {{'x': 4.0}}"
