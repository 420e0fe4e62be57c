"""Batches from prepared Parquet: complete, seeded, bounded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timberline.training.errors import DatasetError
from timberline.training.model.dataset import PreparedSplit, as_dataset

ROWS = 1000


@pytest.fixture
def split(tmp_path: Path) -> PreparedSplit:
    """A thousand rows in ten row groups; feature ``number`` is the row number, so order can be seen."""
    numbers = np.arange(ROWS)
    table = pa.table(
        {
            "__row__": numbers,
            "__class__": pa.array(numbers % 3, pa.int16()),
            "number": numbers,
            "flag": pa.array([None if row == 0 else row % 2 == 0 for row in range(ROWS)], pa.bool_()),
            "ratio": pa.array([None if row == 7 else row / 4 for row in range(ROWS)], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=100)
    return PreparedSplit(tmp_path / "train.parquet", ("number", "flag", "ratio"))


def numbers_of(split: PreparedSplit, batch_rows: int, window_rows: int, seed: tuple[int, int]) -> list[int]:
    batches = split.shuffled_batches(batch_rows, window_rows, seed)
    return [int(number) for features, _ in batches for number in features[:, 0]]


@pytest.mark.parametrize("window_rows", [1, 130, 100_000])
def test_an_epoch_holds_every_row_once_whatever_the_window(split: PreparedSplit, window_rows: int) -> None:
    """A row lost at a window's edge would never be learned, and nobody would notice."""
    assert sorted(numbers_of(split, 64, window_rows, (0, 0))) == list(range(ROWS))


def test_only_the_last_batch_of_an_epoch_is_short(split: PreparedSplit) -> None:
    """Steps an epoch, and with them the learning rate, are computed from rows / batch_rows."""
    sizes = [len(classes) for _, classes in split.shuffled_batches(64, 130, (0, 0))]
    assert sizes == [64] * (ROWS // 64) + [ROWS % 64]
    assert len(sizes) == math.ceil(ROWS / 64)


def test_the_order_depends_on_seed_and_epoch_alone(split: PreparedSplit) -> None:
    """A resumed run reads epoch e as the uninterrupted run did."""
    first = numbers_of(split, 64, 300, (0, 3))
    assert first == numbers_of(split, 64, 300, (0, 3))
    assert first != numbers_of(split, 64, 300, (0, 4))
    assert first != numbers_of(split, 64, 300, (1, 3))


def test_classes_stay_with_their_rows_through_the_shuffle(split: PreparedSplit) -> None:
    """Shuffled labels train to nothing without an error."""
    for features, classes in split.shuffled_batches(64, 300, (0, 0)):
        np.testing.assert_array_equal(classes, features[:, 0].astype(int) % 3)


def test_null_is_nan_and_a_boolean_is_0_or_1(split: PreparedSplit) -> None:
    """The network sees float32 only, and a NULL must not pass for a number."""
    features, _ = next(split.read_batches())
    assert features.dtype == np.float32
    assert np.isnan(features[0, 1])
    assert np.isnan(features[7, 2])
    assert features[8].tolist() == [8.0, 1.0, 2.0]


def test_scoring_reads_in_file_order(split: PreparedSplit) -> None:
    """Predictions are joined with the file's rows by position."""
    read = np.concatenate([features[:, 0] for features, _ in split.read_batches(333)])
    np.testing.assert_array_equal(read, np.arange(ROWS))


def test_the_tf_data_pipeline_yields_the_same_batches(split: PreparedSplit) -> None:
    """tf.data reads ahead; it must not reorder."""
    direct = list(split.read_batches(256))
    for (features, classes), (expected, truth) in zip(
        as_dataset(lambda: split.read_batches(256), 3), direct, strict=True
    ):
        np.testing.assert_array_equal(features.numpy(), expected)
        np.testing.assert_array_equal(classes.numpy(), truth)


def test_a_missing_feature_column_is_named(split: PreparedSplit) -> None:
    """A file prepared for other features must not train a network on the wrong columns."""
    with pytest.raises(DatasetError, match=r"lacks column.*slope"):
        PreparedSplit(split.path, ("number", "slope"))


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    """A mean over no rows would be NaN, far from its cause."""
    empty = pa.table({"__class__": pa.array([], pa.int16()), "number": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "validation.parquet")
    with pytest.raises(DatasetError, match="has no row"):
        PreparedSplit(tmp_path / "validation.parquet", ("number",))
