"""The loaded graph: one row by bound memory, many by a feed, nulls and text."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import pet_model
from tests.support.pet_model import VOCABULARIES
from tests.support.tiny_model import (
    CLASSES,
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    Row,
    build_graph,
    expect_probabilities,
)
from timberline.inference.errors import SignatureMismatchError
from timberline.inference.session import Session
from timberline.registry.signature import Column, build_signature

# float32 in the graph against float64 here.
ATOL = 1e-6
CASES = [(NUMERIC_COLUMNS, NUMERIC_ROWS), (MIXED_COLUMNS, MIXED_ROWS)]


def open_tiny(columns: tuple[Column, ...]) -> Session:
    """A session over the tiny graph for ``columns``."""
    return Session(build_graph(columns), build_signature(columns, CLASSES), where="tiny@1")


@pytest.mark.parametrize(("columns", "rows"), CASES, ids=["numeric", "mixed"])
def test_rows_give_the_probabilities_of_the_formula(
    columns: tuple[Column, ...], rows: tuple[Row, ...]
) -> None:
    """Columns in the wrong order or tensor give plausible, wrong numbers."""
    outputs = (session := open_tiny(columns)).run(session.feed_rows(rows))
    expected = expect_probabilities(columns, rows)
    assert outputs.probabilities == pytest.approx(expected, abs=ATOL)
    assert outputs.labels.tolist() == expected.argmax(axis=1).tolist()
    assert (outputs.probabilities.dtype, outputs.labels.dtype) == (np.dtype(np.float32), np.dtype(np.int64))


@pytest.mark.parametrize(("columns", "rows"), CASES, ids=["numeric", "mixed"])
def test_one_row_gives_what_it_gives_among_others(columns: tuple[Column, ...], rows: tuple[Row, ...]) -> None:
    """Single rows go another way through the runtime, and nothing of the row before may stay behind."""
    session = open_tiny(columns)
    together = session.run(session.feed_rows(rows))
    for index in [*range(len(rows)), 0]:
        label, probabilities, _ = session.run_row(rows[index])
        assert label == together.labels[index]
        assert probabilities == pytest.approx(together.probabilities[index].tolist(), abs=ATOL)


def test_many_rows_are_run_some_at_a_time_and_stay_in_order() -> None:
    """A Run takes memory for each of its rows, and keeps it; none may be lost between two Runs."""
    session = open_tiny(NUMERIC_COLUMNS)
    rows = [(float(index % 97), index % 90, index % 2 == 0, None) for index in range(2500)]
    together = session.run(session.feed_rows(rows))
    apart = [session.run(session.feed_rows(rows[start : start + 100])) for start in range(0, 2500, 100)]
    assert together.labels.tolist() == np.concatenate([part.labels for part in apart]).tolist()
    # The same sums, of which a kernel may add the terms in another order where there are more rows.
    np.testing.assert_allclose(
        together.probabilities, np.concatenate([part.probabilities for part in apart]), rtol=1e-5
    )


def test_what_is_no_graph_is_refused_with_its_place() -> None:
    """The runtime's own message names no version."""
    with pytest.raises(SignatureMismatchError, match=r"^tiny@1: ONNX Runtime cannot load the graph"):
        Session(b"\x00", build_signature(NUMERIC_COLUMNS, CLASSES), where="tiny@1")


def test_another_width_is_refused_with_both_sides() -> None:
    """Expected and found stand side by side, or nobody can tell which of them is wrong."""
    signature = build_signature(NUMERIC_COLUMNS[:3], CLASSES)
    with pytest.raises(SignatureMismatchError) as caught:
        Session(build_graph(NUMERIC_COLUMNS), signature, where="tiny@1")
    assert "the graph's inputs are numeric FP64[-1, 4], the manifest says numeric FP64[-1, 3]" in str(
        caught.value
    )


def open_pets(graph: bytes, *, row_by_row: bool = False, category_count: int = len(VOCABULARIES)) -> Session:
    """A session over a graph that also gives codes."""
    signature = build_signature(pet_model.COLUMNS, pet_model.CLASSES)
    return Session(graph, signature, where="pets@1", row_by_row=row_by_row, category_count=category_count)


@pytest.mark.parametrize("row_by_row", [False, True])
@pytest.mark.parametrize("count", [len(pet_model.ROWS), 2500])
def test_codes_come_with_the_answers(row_by_row: bool, count: int) -> None:
    """They are what an unknown category is found by; each row must have its own."""
    session = open_pets(pet_model.build_graph(), row_by_row=row_by_row)
    rows = [pet_model.ROWS[index % len(pet_model.ROWS)] for index in range(count)]
    outputs = session.run(session.feed_rows(rows))
    expected = pet_model.code_rows(rows)
    assert outputs.categories is not None
    assert outputs.categories.tolist() == expected.tolist()
    assert outputs.probabilities == pytest.approx(pet_model.expect_probabilities(rows), abs=ATOL)
    label, _, codes = session.run_row(rows[-1])
    assert (label, codes) == (outputs.labels[-1], expected[-1].tolist())


def test_a_graph_without_the_codes_that_its_manifest_tells_of_is_refused() -> None:
    """Its unknown categories would be counted nowhere."""
    with pytest.raises(SignatureMismatchError, match="categories INT64"):
        open_pets(pet_model.build_graph(), category_count=3)


def test_codes_are_not_fetched_where_the_manifest_tells_of_none() -> None:
    """A version from before they were read answers as it did."""
    session = open_pets(pet_model.build_graph(), category_count=0)
    assert session.run(session.feed_rows(pet_model.ROWS)).categories is None
    assert session.run_row(pet_model.ROWS[0])[2] is None
