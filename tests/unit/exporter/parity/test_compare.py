"""parity.py: an element passes when |c - r| <= atol + rtol * |r|, and a break is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from timberline.exporter.errors import ParityInputError
from timberline.exporter.parity.compare import (
    ParityReport,
    Tolerance,
    compare_outputs,
    keeps_bounds,
    label_choice,
    load_tolerances,
    manifest_parity,
    merge_reports,
)
from timberline.registry.errors import ConfigError

BOUND = Tolerance(atol=0.01, rtol=0.1, reason="any; long enough to be a reason")
ROWS = np.array([100, 205, 307])


def compare(truth: Any, graph: Any, *, rows: Any = ROWS, bound: Tolerance = BOUND) -> ParityReport:
    """Compare one tensor `x` of two columns."""
    return compare_outputs(
        {"x": np.asarray(truth, np.float32)},
        {"x": np.asarray(graph, np.float32)},
        {"x": bound},
        rows=rows,
        columns={"x": ["left", "right"]},
    )


def test_break_is_named_by_source_row_column_and_both_values() -> None:
    """Somebody has to find the row in the data: its number there, not its place in a chunk."""
    report = compare([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4.5], [5, 6]])

    (found,) = report["x"].breaks
    assert (found.row, found.column, found.reference, found.candidate) == (205, "right", 4.0, 4.5)
    assert report["x"].breaking_rows == 1
    assert report["x"].worst_row == 205
    assert not keeps_bounds(report)


def test_bound_is_relative_to_the_truth_and_not_to_the_graph() -> None:
    """A graph that is wildly large must not widen its own bound."""
    bound = Tolerance(atol=0.0, rtol=0.5, reason="half of the truth, on one side only")
    rows = ROWS[:1]

    assert keeps_bounds(compare([[2, 0]], [[3, 0]], rows=rows, bound=bound))
    assert not keeps_bounds(compare([[2, 0]], [[3.01, 0]], rows=rows, bound=bound))
    assert not keeps_bounds(compare([[3, 0]], [[1.4, 0]], rows=rows, bound=bound))


def test_worst_rows_come_first_and_are_few() -> None:
    """A broken feature breaks every row; the report has to fit a screen."""
    truth = np.zeros((50, 2))
    graph = truth + np.arange(50)[:, np.newaxis]

    report = compare(truth, graph, rows=np.arange(50))

    assert [item.row for item in report["x"].breaks] == [49, 48, 47, 46, 45]
    assert report["x"].breaking_rows == 49


def test_nan_on_both_sides_is_equal() -> None:
    """NULL is NaN on both sides, and a NULL feature is a legal value."""
    assert keeps_bounds(compare([[np.nan, 1]], [[np.nan, 1]], rows=ROWS[:1]))


def test_infinities_of_one_sign_are_equal_and_of_two_are_not() -> None:
    """inf - inf is NaN: without care it would hide a difference, or make one up."""
    assert keeps_bounds(compare([[np.inf, -np.inf]], [[np.inf, -np.inf]], rows=ROWS[:1]))
    assert not keeps_bounds(compare([[np.inf, 0]], [[-np.inf, 0]], rows=ROWS[:1]))
    assert not keeps_bounds(compare([[np.inf, 0]], [[5.0, 0]], rows=ROWS[:1]))


def test_nan_on_one_side_cannot_be_compared() -> None:
    """No bound covers it, and as a number it would pass: NaN > atol is false."""
    with pytest.raises(ParityInputError, match=r"x, source row 205: only one side is NaN .* left is 3"):
        compare([[1, 2], [3, 4], [5, 6]], [[1, 2], [np.nan, 4], [5, 6]])


def test_other_names_shapes_and_dtypes_cannot_be_compared() -> None:
    """Broadcasting would make (rows, 1) equal to (rows, n) and call it parity."""
    one = {"x": np.zeros((3, 2), np.float32)}
    arguments: dict[str, Any] = {"rows": ROWS, "columns": {"x": ["left", "right"]}}

    with pytest.raises(ParityInputError, match="tensors differ"):
        compare_outputs(one, {"y": one["x"]}, {"x": BOUND}, **arguments)
    with pytest.raises(ParityInputError, match="shapes differ"):
        compare_outputs(one, {"x": one["x"][:, :1]}, {"x": BOUND}, **arguments)
    with pytest.raises(ParityInputError, match="dtypes differ"):
        compare_outputs(one, {"x": one["x"].astype(np.float64)}, {"x": BOUND}, **arguments)


def test_chunks_merged_say_what_one_comparison_says() -> None:
    """The test split is compared in chunks; where they are cut must not show."""
    generator = np.random.default_rng(3)
    truth = generator.normal(size=(90, 2))
    graph = truth + generator.normal(size=(90, 2)) * 0.2
    rows = np.arange(90) * 7

    whole = compare(truth, graph, rows=rows)
    parts = [compare(truth[i : i + 40], graph[i : i + 40], rows=rows[i : i + 40]) for i in (0, 40, 80)]

    assert merge_reports(merge_reports(parts[0], parts[1]), parts[2]) == whole


def test_no_rows_is_a_report_of_nothing() -> None:
    """A chunk may be empty; it must not divide by its size."""
    report = compare(np.zeros((0, 2)), np.zeros((0, 2)), rows=np.zeros(0, np.int64))

    assert report["x"].rows == 0
    assert keeps_bounds(report)


def test_other_label_passes_only_where_the_truth_is_undecided() -> None:
    """Two probabilities within rounding of each other may swap places; anything else is a wrong answer."""
    truth = np.array([[0.4, 0.4 - 1e-6, 0.2], [0.5, 0.4, 0.1]], np.float32)
    best, chosen = label_choice(truth, np.array([1, 1]))

    report = compare_outputs(
        {"label": best},
        {"label": chosen},
        {"label": load_tolerances().label},
        rows=np.array([8, 9]),
        columns={"label": ["probability"]},
    )

    assert [item.row for item in report["label"].breaks] == [9]


def test_committed_bounds_are_tight_and_have_reasons() -> None:
    """The numbers that decide an export are a decision; a slip of the exponent should not pass unseen."""
    for name, bound in load_tolerances().by_tensor().items():
        assert bound.atol <= 2e-5, name
        assert bound.rtol <= 1e-6, name
        assert len(bound.reason) > 80, name


def test_bound_without_a_reason_is_refused(tmp_path: Path) -> None:
    """A loosened bound that nobody explained is how parity rots."""
    path = tmp_path / "tolerances.toml"
    path.write_text('[features]\natol = 1.0\nrtol = 0.0\nreason = ""\n', "utf-8")

    with pytest.raises(ConfigError, match=r"features\.reason"):
        load_tolerances(path)


def test_manifest_keeps_the_worst_error_with_its_bound() -> None:
    """A reader of the manifest should see how much of the bound was used."""
    report = compare([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4.25], [5, 6]])

    (kept,) = manifest_parity(report, {"x": BOUND}).values()

    assert msgspec.structs.asdict(kept) == {
        "rows": 3,
        "worst_absolute_error": 0.25,
        "worst_row": 205,
        "atol": 0.01,
        "rtol": 0.1,
    }
