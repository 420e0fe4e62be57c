"""Prepared Parquet as batches for the network, in memory that does not grow with rows.

`train.parquet` already lies in a seeded pseudo-random order, so a window of it is a fair sample:
every epoch reads the row groups in a new order and shuffles inside a window of bounded size.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from timberline.registry.runs import CLASS_COLUMN, code_column
from timberline.training.errors import DatasetError

FeatureArray = npt.NDArray[np.float32]  # (rows, features)
ClassArray = npt.NDArray[np.int32]  # (rows,), indexes into the classes
Batch = tuple[FeatureArray, ClassArray]

# Scoring needs no order and no shuffle; this many rows keep both processors busy.
SCORING_ROWS = 8192


class PreparedSplit:
    """One split on disk: how many rows and row groups it has, and how to read them.

    Args:
        path: a prepared Parquet file with ``__class__`` and every feature as a column.
        features: feature names in the order of the network's input axis.
        category_sizes: of each that is a category, how many codes it has; None of a number. Empty: all are
            numbers.

    Raises:
        DatasetError: the file lacks a column, or has no row.
    """

    def __init__(
        self, path: Path, features: Sequence[str], category_sizes: Sequence[int | None] = ()
    ) -> None:
        self.path = path
        self.features = tuple(features)
        self.category_sizes = tuple(category_sizes) or (None,) * len(self.features)
        with pq.ParquetFile(path) as file:
            stored = set(file.schema_arrow.names)
            # A category may have the name of its raw column, and is then its codes.
            self._stored = [code_column(f) if code_column(f) in stored else f for f in features]
            missing = {CLASS_COLUMN, *self._stored} - stored
            self.rows: int = file.metadata.num_rows
            self.groups: int = file.num_row_groups
        if missing:
            raise DatasetError(
                f"lacks column(s) {', '.join(sorted(missing))}",
                where=str(path),
                hint="It was prepared for other features; run `timberline etl` again.",
            )
        if self.rows == 0:
            raise DatasetError(
                "has no row", where=str(path), hint="Change [split] so that every split has some."
            )

    def read_groups(self, order: Sequence[int]) -> Iterator[Batch]:
        """Yield the row groups in ``order``, one at a time."""
        with pq.ParquetFile(self.path) as file:
            for group in order:
                table = file.read_row_group(group, columns=[CLASS_COLUMN, *self._stored])
                yield self._to_arrays(table)

    def read_batches(self, rows: int = SCORING_ROWS) -> Iterator[Batch]:
        """Yield every row once, in file order, at most ``rows`` at a time."""
        with pq.ParquetFile(self.path) as file:
            columns = [CLASS_COLUMN, *self._stored]
            for record_batch in file.iter_batches(batch_size=rows, columns=columns):
                yield self._to_arrays(pa.Table.from_batches([record_batch]))

    def shuffled_batches(self, batch_rows: int, window_rows: int, seed: Sequence[int]) -> Iterator[Batch]:
        """Yield every row once, in an order that ``seed`` alone decides.

        Args:
            batch_rows: rows in a batch; the last one may have fewer.
            window_rows: rows shuffled together; bounds the memory (with one row group more).
            seed: non-negative integers, such as (seed, epoch).
        """
        random = np.random.default_rng(seed)
        held: list[Batch] = []
        order = random.permutation(self.groups).tolist()
        for block in self.read_groups(order):
            held.append(block)
            if sum(len(classes) for _, classes in held) >= window_rows:
                held = yield from _emit(held, batch_rows, random, keep_rest=True)
        if held:
            yield from _emit(held, batch_rows, random, keep_rest=False)

    def _to_arrays(self, table: pa.Table) -> Batch:
        block: FeatureArray = np.empty((len(self.features), table.num_rows), np.float32)
        for index, name in enumerate(self._stored):
            block[index] = _as_float(table.column(name))
        classes = table.column(CLASS_COLUMN).to_numpy().astype(np.int32)
        return np.ascontiguousarray(block.T), classes  # (features, rows) → (rows, features)


def _as_float(column: pa.ChunkedArray) -> FeatureArray:
    """NULL becomes NaN; integers and booleans become their float32."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: FeatureArray = column.to_numpy().astype(np.float32)
    return values


def _emit(
    held: list[Batch], batch_rows: int, random: np.random.Generator, *, keep_rest: bool
) -> Generator[Batch, None, list[Batch]]:
    """Shuffle what is held and yield it in batches; return the rows too few for one, to go with the next."""
    features = np.concatenate([features for features, _ in held])
    classes = np.concatenate([classes for _, classes in held])
    held.clear()
    order = random.permutation(len(classes))
    end = len(order) // batch_rows * batch_rows if keep_rest else len(order)
    for start in range(0, end, batch_rows):
        chosen = order[start : start + batch_rows]
        yield features[chosen], classes[chosen]
    rest = order[end:]
    return [(features[rest], classes[rest])] if len(rest) else []


def as_dataset(batches: Callable[[], Iterator[Batch]], feature_count: int) -> tf.data.Dataset:
    """A tf.data pipeline over ready batches, read ahead of the network; no work per row in Python."""
    signature = (
        tf.TensorSpec((None, feature_count), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    )
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)
