"""package.py and golden.py: what a version carries beside its graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timberline.exporter.errors import ExportError
from timberline.exporter.export import require_accuracy
from timberline.exporter.inputs import read_baselines
from timberline.exporter.parity.rows import Chunk, EvaluationWriter
from timberline.exporter.parity.verify import GoldenPicker
from timberline.registry.manifest import Golden, Interval, Metrics


def make_chunk(rows: Any, classes: Any) -> Chunk:
    """Rows whose one raw value is twice the row number."""
    numbers = np.asarray(rows, np.int64)
    return Chunk(
        rows=numbers,
        classes=np.asarray(classes, np.int16),
        raw=pa.table({"value": numbers * 2}),
        feeds={},
        features=np.zeros((len(numbers), 1), np.float32),
    )


def make_probabilities(rows: int, *, classes: int = 3, seed: int = 0) -> Any:
    drawn = np.random.default_rng(seed).random((rows, classes), np.float32)
    return drawn / drawn.sum(axis=1, keepdims=True)


def pick(count: int, classes: Any, probabilities: Any, *, cut: int = 1000) -> Golden:
    """Golden rows of a table that is offered in chunks of ``cut`` rows."""
    picker = GoldenPicker(count, probabilities.shape[1])
    for start in range(0, len(classes), cut):
        part = slice(start, start + cut)
        picker.offer(make_chunk(np.arange(len(classes))[part], classes[part]), probabilities[part])
    return picker.pick()


def test_evaluation_has_the_promised_columns_and_every_row(tmp_path: Path) -> None:
    """The gate reads this file years later, by these names and types."""
    path = tmp_path / "evaluation.parquet"
    probabilities = make_probabilities(5)
    labels = probabilities.argmax(axis=1)
    with EvaluationWriter(path, 3) as writer:
        writer.write(make_chunk([4, 6], [0, 1]), probabilities[:2], labels[:2])
        writer.write(make_chunk([7, 8, 11], [2, 2, 0]), probabilities[2:], labels[2:])

    table = pq.read_table(path)
    assert [(entry.name, str(entry.type)) for entry in table.schema] == [
        ("row", "int64"),
        ("class_index", "int16"),
        ("label_index", "int16"),
        ("p_0", "float"),
        ("p_1", "float"),
        ("p_2", "float"),
    ]
    assert table["row"].to_pylist() == [4, 6, 7, 8, 11]
    assert table["label_index"].to_pylist() == labels.tolist()
    np.testing.assert_array_equal(table["p_2"].to_numpy(), probabilities[:, 2])
    assert writer.rows == 5
    assert writer.accuracy == pytest.approx((labels == [0, 1, 2, 2, 0]).mean())


def test_slices_stand_behind_the_probabilities_as_flags(tmp_path: Path) -> None:
    """The gate judges a slice by this column, without the raw rows."""
    path = tmp_path / "evaluation.parquet"
    chunk = replace(make_chunk([4, 6], [0, 1]), slices={"slice_low": np.array([True, False])})
    with EvaluationWriter(path, 3, ["slice_low"]) as writer:
        writer.write(chunk, make_probabilities(2), np.array([0, 1]))

    table = pq.read_table(path)
    assert table.schema.names[-2:] == ["p_2", "slice_low"]
    assert table["slice_low"].to_pylist() == [True, False]


def test_answers_of_the_baselines_stand_beside_those_of_their_rows(tmp_path: Path) -> None:
    """The gate compares row by row; an answer that slipped to another chunk would be another row's."""
    path, source = tmp_path / "evaluation.parquet", tmp_path / "baselines.parquet"
    pq.write_table(pa.table({"linear": pa.array([2, 0, 1], pa.int16())}), source)
    with EvaluationWriter(path, 3, baselines=read_baselines(source, 3)) as writer:
        writer.write(make_chunk([4, 6], [0, 1]), make_probabilities(2), np.array([0, 1]))
        writer.write(make_chunk([9], [1]), make_probabilities(1), np.array([1]))
    table = pq.read_table(path)
    assert table.select(["row", "baseline_linear"]).to_pydict() == {
        "row": [4, 6, 9],
        "baseline_linear": [2, 0, 1],
    }


@pytest.mark.parametrize("rows", [None, 2])
def test_baselines_of_other_rows_or_none_at_all_are_refused(tmp_path: Path, rows: int | None) -> None:
    """An evaluation of before has no such file; the way out is to evaluate again."""
    path = tmp_path / "baselines.parquet"
    if rows is not None:
        pq.write_table(pa.table({"linear": pa.array([0] * rows, pa.int16())}), path)
    with pytest.raises(ExportError, match=r"Run `timberline evaluate` again"):
        read_baselines(path, 3)


@pytest.mark.parametrize(("rows", "accuracy"), [(100, 0.702), (99, 0.7)])
def test_figures_of_another_run_are_refused(rows: int, accuracy: float) -> None:
    """The manifest must not claim an accuracy that its own predictions do not have."""
    metrics = Metrics(
        rows=100,
        accuracy=Interval(value=0.7, low=0.6, high=0.8),
        log_loss=1.0,
        ece=0.0,
        classes={},
        confusion=(),
        baselines={},
    )
    require_accuracy(100, 0.7005, metrics)

    with pytest.raises(ExportError, match=r"metrics\.json: says accuracy 0\.7000 on 100 rows"):
        require_accuracy(rows, accuracy, metrics)


def test_golden_rows_are_spread_over_the_classes() -> None:
    """A warm-up that only meets the majority class would miss a broken rare one."""
    classes = np.zeros(2000, np.int16)
    classes[::100], classes[1::500] = 1, 2

    golden = pick(12, classes, make_probabilities(2000))

    assert [golden.class_indexes.count(index) for index in range(3)] == [4, 4, 4]
    assert len(set(golden.rows)) == 12


def test_golden_rows_fill_up_from_other_classes_when_one_is_rare() -> None:
    """The asked number of rows is kept as long as the test split has that many."""
    classes = np.zeros(50, np.int16)
    classes[7] = 2

    golden = pick(10, classes, make_probabilities(50))

    assert [golden.class_indexes.count(index) for index in range(3)] == [9, 0, 1]
    assert len(pick(60, classes, make_probabilities(50)).rows) == 50


def test_row_nearest_to_a_decision_is_golden_for_its_class() -> None:
    """There a small drift turns the label first."""
    probabilities = np.tile(np.array([[0.8, 0.1, 0.1]], np.float32), (500, 1))
    probabilities[321] = [0.45, 0.449, 0.101]

    golden = pick(6, np.arange(500) % 3, probabilities)

    assert (642,) in golden.rows
    assert golden.probabilities[golden.rows.index((642,))] == tuple(map(float, probabilities[321]))


def test_golden_rows_do_not_depend_on_where_the_chunks_are_cut() -> None:
    """The same run gives the same manifest, whatever the chunk size of the day."""
    classes = np.random.default_rng(1).integers(0, 3, 1000)
    probabilities = make_probabilities(1000)

    assert pick(20, classes, probabilities, cut=1000) == pick(20, classes, probabilities, cut=17)
