"""Our Keras layers: each a few stock operators over constants learned before training.

Registered with Keras, so that `model.keras` loads wherever this module is imported; the
SavedModel needs no import at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

_PACKAGE = "timberline"
# Up to how many codes a category, on average, one-hots are trained as a dense product; above, rows of the
# table are gathered, and only they are changed. A step over 1,024 rows and 384 units takes 7 ms as a product
# and 98 gathered for 20 categories of 14 codes, 109 and 42 for 20 of 102, 350 and 14 for 4 of 1,002.
_MOST_DENSE_CODES = 32


class FrozenWeights(keras.layers.Layer):  # type: ignore[misc]  # Keras is not typed
    """A layer that holds arrays learned before training as non-trainable float32 weights.

    Always computes in float32, whatever the training precision: raw quantities such as 3,858 m
    have no room in the 8 bits of a bfloat16.
    """

    def __init__(self, shapes: dict[str, list[int]], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.constants = {
            name: self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)
            for name, shape in self.shapes.items()
        }

    @classmethod
    def holding(cls, arrays: Mapping[str, npt.NDArray[Any]], **options: Any) -> Self:
        """The layer with these arrays as its weights; ``options`` are those of ``__init__``."""
        layer = cls(shapes={name: list(array.shape) for name, array in arrays.items()}, **options)
        for name, array in arrays.items():
            layer.constants[name].assign(array)
        return layer

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shapes": self.shapes}


class _Columns(keras.layers.Layer):  # type: ignore[misc]  # Keras is not typed
    """Base of a layer over the input columns ``indexes``, in their order."""

    def __init__(self, indexes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        self.indexes = list(indexes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "indexes": self.indexes}


@keras.saving.register_keras_serializable(_PACKAGE)
class Numbers(_Columns):
    """The columns that are numbers: (rows, features) → (rows, numbers)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _take(inputs, self.indexes)


@keras.saving.register_keras_serializable(_PACKAGE)
class MissingFlags(_Columns):
    """1 where the column is NaN (a NULL feature), else 0."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(_take(tf.math.is_nan(inputs), self.indexes), tf.float32)


@keras.saving.register_keras_serializable(_PACKAGE)
class CategoryCodes(_Columns):
    """The columns that are categories as INT64: (rows, features) → (rows, categories).

    A code is a whole number in every row, and NULL has one; so the cast is the same on every processor.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(_take(inputs, self.indexes), tf.int64)


def _take(inputs: tf.Tensor, indexes: Sequence[int]) -> tf.Tensor:
    return inputs if list(indexes) == list(range(inputs.shape[1])) else tf.gather(inputs, indexes, axis=1)


class CategoryTable(FrozenWeights):
    """A row of ``width`` weights for each code of some categories, one below the other.

    Args:
        places: which columns of the codes they are.
        sizes: how many codes each has.
        width: of a row.
        initializer: of the rows.

    Its constants, both (codes,): ``share`` is the part of the training rows that has the code, ``trust`` a
    factor of its row. Adam moves a row as far for one training row as for a thousand, and so learns rare
    values by heart; with the factor they stay closer to the middle.
    """

    def __init__(
        self,
        places: Sequence[int],
        sizes: Sequence[int],
        width: int,
        shapes: dict[str, list[int]],
        initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(shapes, **kwargs)
        self.places, self.sizes, self.width = list(places), list(sizes), width
        self.table = self.add_weight(name="table", shape=(sum(sizes), width), initializer=initializer)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first row of each category."""
        return np.cumsum([0, *self.sizes[:-1]], dtype=np.int64)

    def find_rows(self, codes: tf.Tensor) -> tf.Tensor:
        """Numbers of rows of the table, (rows, categories)."""
        return _take(codes, self.places) + self.starts

    def gather(self, codes: tf.Tensor, training: bool) -> tf.Tensor:
        """The row of each code, (rows, categories, width)."""
        rows = self.find_rows(codes)
        if not training:  # the product of two constants, which the graph has as one
            return tf.gather(self.weights_by_code, rows)
        return tf.gather(self.table.value, rows) * tf.gather(self.constants["trust"], rows)[:, :, None]

    @property
    def weights_by_code(self) -> tf.Tensor:
        """The rows as they are added up, (codes, width)."""
        return self.table.value * self.constants["trust"][:, None]

    def fill_unseen(self) -> None:
        """Give the codes that no training row has the mean row of their category, weighted by training rows.

        So a value that training did not have is answered like an average one, and not as its row was drawn.
        """
        table = self.table.numpy()
        rows, shares = self.weights_by_code.numpy(), self.constants["share"].numpy()
        for start, size in zip(self.starts, self.sizes, strict=True):
            own = slice(start, start + size)
            table[own][shares[own] == 0] = shares[own].astype(np.float64) @ rows[own]
        self.table.assign(table)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("places", "sizes", "width")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(_PACKAGE)
class CategoryEmbedding(CategoryTable):
    """Each code → its row: (rows, codes) → (rows, categories · width)."""

    def call(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.reshape(self.gather(codes, training), (-1, len(self.sizes) * self.width))


@keras.saving.register_keras_serializable(_PACKAGE)
class OneHotProduct(CategoryTable):
    """What a dense layer makes of the one-hots: the sum of a row a category, (rows, codes) → (rows, width).

    The same sum in another order is a product with the one-hots, with which few values train faster.
    """

    def call(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        total = sum(self.sizes)
        if not training or total > _MOST_DENSE_CODES * len(self.sizes):
            return tf.reduce_sum(self.gather(codes, training), axis=1)
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        one_hots = tf.gather(self.find_rows(codes), owners, axis=1) == np.arange(total)  # (rows, values)
        return tf.matmul(tf.cast(one_hots, tf.float32), self.weights_by_code)


@keras.saving.register_keras_serializable(_PACKAGE)
class FillNull(FrozenWeights):
    """NaN (a NULL feature) → its ``value``, or NaN where NULL is not to be filled."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_nan(inputs), self.constants["value"], inputs)


@keras.saving.register_keras_serializable(_PACKAGE)
class Affine(FrozenWeights):
    """x → (x − centre) · scale, feature by feature."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return (inputs - self.constants["centre"]) * self.constants["scale"]


@keras.saving.register_keras_serializable(_PACKAGE)
class QuantileScale(FrozenWeights):
    """x → its quantile among the training rows, −1 to 1, linear between the quantiles kept."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        passed = (tf.expand_dims(inputs, 2) - self.constants["left"]) * self.constants["slope"]
        passed = tf.clip_by_value(passed, 0.0, 1.0)  # (rows, features) → (rows, features, bins)
        return tf.reduce_sum(passed * self.constants["height"], axis=2) - 1.0


class _Embedding(FrozenWeights):
    """Each chosen feature → ReLU(W · code(x) + b) of ``width``: one batched product for all features.

    (rows, features) → (rows, embedded · width). The transposes put the features first, so that
    one MatMul serves them all, and move the small side: x before it is coded, the result after.
    """

    def __init__(
        self,
        indexes: list[int],
        code_width: int,
        width: int,
        shapes: dict[str, list[int]],
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shapes, **kwargs)
        self.indexes, self.code_width, self.width, self.seed = list(indexes), code_width, width, seed
        # Uniform as in a dense layer over one feature's code (Gorishniy et al. 2022 do the same).
        uniform = keras.initializers.RandomUniform(-(code_width**-0.5), code_width**-0.5, seed=seed)
        count = len(self.indexes)
        self.kernel = self.add_weight(name="kernel", shape=(count, code_width, width), initializer=uniform)
        self.bias = self.add_weight(name="bias", shape=(count * width,), initializer="zeros")

    def code(self, columns: tf.Tensor) -> tf.Tensor:
        """(embedded, rows, 1) → (embedded, rows, code width)."""
        raise NotImplementedError

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        columns = tf.transpose(_take(inputs, self.indexes))  # (rows, features) → (embedded, rows)
        embedded = tf.matmul(self.code(tf.expand_dims(columns, 2)), self.kernel)
        flat = tf.reshape(tf.transpose(embedded, (1, 0, 2)), (-1, len(self.indexes) * self.width))
        return tf.nn.relu(flat + self.bias)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("indexes", "code_width", "width", "seed")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(_PACKAGE)
class PiecewiseLinearEmbedding(_Embedding):
    """Codes x as the share of each quantile bin that it has passed."""

    def code(self, columns: tf.Tensor) -> tf.Tensor:
        left, slope = self.constants["left"][:, None, :], self.constants["slope"][:, None, :]
        return tf.clip_by_value((columns - left) * slope, 0.0, 1.0)


@keras.saving.register_keras_serializable(_PACKAGE)
class PeriodicEmbedding(_Embedding):
    """Codes the standardised x as sines and cosines of learned frequencies."""

    def __init__(self, sigma: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sigma = sigma
        normal = keras.initializers.RandomNormal(stddev=sigma, seed=self.seed)
        shape = (len(self.indexes), 1, self.code_width // 2)
        self.frequency = self.add_weight(name="frequency", shape=shape, initializer=normal)

    def code(self, columns: tf.Tensor) -> tf.Tensor:
        centre, scale = self.constants["centre"][:, None, None], self.constants["scale"][:, None, None]
        # The full turn goes into the small factor, so that it is one product a value.
        turned = ((columns - centre) * scale) * (self.frequency * (2.0 * np.pi))
        return tf.concat([tf.sin(turned), tf.cos(turned)], axis=2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma}


@keras.saving.register_keras_serializable(_PACKAGE)
class RefuseUndefined(keras.layers.Layer):  # type: ignore[misc]  # Keras is not typed
    """Probabilities → NaN in a row that has a NaN or an infinity among its features; others stay as they are.

    Written with sums alone, in which IEEE 754 hands NaN on. What a clip, a ReLU, a softmax or an
    8-bit integer makes of NaN is each kernel's choice: 0, a bound or NaN, by processor. Features whose
    sum leaves the range of float32 count as infinite.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})

    def call(self, probabilities: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        total = tf.reduce_sum(features, axis=1, keepdims=True)  # (rows, features) → (rows, 1)
        return probabilities + (total - total)


@keras.saving.register_keras_serializable(_PACKAGE)
class Correction(FrozenWeights):
    """Logits · factor + shift: calibration and, as log(prior at deployment / in training), Bayes' rule."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(inputs, tf.float32) * self.constants["factor"] + self.constants["shift"]
