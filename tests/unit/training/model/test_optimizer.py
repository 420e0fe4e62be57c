"""The optimiser's rows: the same steps as a whole table's, but for rows that no example of a batch has."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from timberline.training.config import TrainingSection
from timberline.training.model.optimizer import build_optimizer, prepare_gradients

ROWS, WIDTH = 6, 3


def make_table() -> keras.Variable:
    return keras.Variable(
        np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32), name="table"
    )


def make_gradient(rows: list[int], seed: int) -> tf.IndexedSlices:
    values = np.random.default_rng(seed).normal(size=(len(rows), WIDTH)).astype(np.float32)
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64), tf.constant([ROWS, WIDTH]))


def test_a_table_of_which_every_row_is_seen_is_trained_as_a_whole() -> None:
    """The same moments and the same correction: for common values nothing is different."""
    whole, table = make_table(), make_table()
    ours, keras_own = build_optimizer(TrainingSection()), keras.optimizers.AdamW(weight_decay=0.0)
    for optimizer, variable in ((ours, table), (keras_own, whole)):
        optimizer.build([variable])
    for seed in range(5):
        gradient = make_gradient([3, 0, 5, 1, 2, 4], seed)
        ours.apply(prepare_gradients([gradient], None))
        keras_own.apply([tf.convert_to_tensor(gradient)])
    np.testing.assert_allclose(table.numpy(), whole.numpy(), rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_rows_that_a_batch_does_not_have_stay_as_they_are(decay: float) -> None:
    """Momentum and decay would move a rare value in every batch that knows nothing of it."""
    table = make_table()
    before = table.numpy().copy()
    optimizer = build_optimizer(TrainingSection(weight_decay=decay))
    optimizer.build([table])
    optimizer.apply(prepare_gradients([make_gradient([1], 0)], None))
    optimizer.apply(prepare_gradients([make_gradient([4], 1)], None))
    is_changed = (table.numpy() != before).any(axis=1)
    assert is_changed.tolist() == [False, True, False, False, True, False]


def test_a_row_that_several_examples_have_gets_the_sum_of_their_gradients() -> None:
    """Scattered one after the other, the last of them alone would count."""
    gradient = make_gradient([2, 0, 2, 2], 0)
    (summed,) = prepare_gradients([gradient], None)
    expected = np.zeros((ROWS, WIDTH), np.float32)
    np.add.at(expected, gradient.indices.numpy(), gradient.values.numpy())
    assert sorted(summed.indices.numpy()) == [0, 2]
    np.testing.assert_allclose(tf.convert_to_tensor(summed).numpy(), expected, rtol=1e-6)


def test_the_norm_that_is_clipped_is_that_of_dense_and_row_gradients_together() -> None:
    """A limit that overlooked the tables would let them alone explode."""
    dense = tf.constant([[3.0, 4.0]])
    rows = make_gradient([2, 2], 0)
    clipped = [tf.convert_to_tensor(g).numpy() for g in prepare_gradients([dense, rows], 0.5)]
    norm = np.sqrt(sum((part.astype(np.float64) ** 2).sum() for part in clipped))
    assert norm == pytest.approx(0.5, rel=1e-5)
    whole = tf.convert_to_tensor(rows).numpy()
    np.testing.assert_allclose(clipped[1] / clipped[0][0, 0], whole / 3.0, rtol=1e-5)
