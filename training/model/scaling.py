"""What the network learns from the training rows before its first step: ranges, moments, quantiles.

All of it comes from the training split alone. Moments and ranges are exact over all rows; quantiles
are exact over the first `SAMPLE_ROWS` rows, which are a random sample because the split is stored
in pseudo-random order. So memory is bounded whatever the table's size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from timberline.training.errors import DatasetError
from timberline.training.model.dataset import Batch, FeatureArray

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
# Quantiles that are nearer to each other, by their mean size, are one: a million times what functions of
# docs/reference/features.md are off by.
_CLOSEST = 1e-9

SAMPLE_ROWS = 262_144


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """The training split, feature by feature; every array of numbers has shape (numbers,) but one.

    ``numbers`` are the places of the features that are numbers among all, ascending. ``sample`` holds their
    first rows themselves, shape (rows, numbers), float32, NaN where NULL; ``class_counts`` has shape
    (classes,). Moments leave NaN out; ``deviation`` is that of the population. ``categories``: of each other
    feature, by its place, how many rows have each code.
    """

    rows: int
    minimum: FloatArray
    maximum: FloatArray
    mean: FloatArray
    deviation: FloatArray
    nulls: npt.NDArray[np.int64]
    sample: FeatureArray
    class_counts: npt.NDArray[np.int64]
    numbers: IndexArray
    categories: dict[int, npt.NDArray[np.int64]]

    @property
    def median(self) -> FloatArray:
        """Of each number, among the rows of the sample that have one."""
        known = (column[~np.isnan(column)] for column in self.sample.T)
        found = [np.median(column.astype(np.float64)) if len(column) else np.nan for column in known]
        return np.where(np.isnan(found), self.mean, found)

    @property
    def prior(self) -> FloatArray:
        """Share of each class among the training rows."""
        return np.asarray(self.class_counts / self.class_counts.sum())


def measure_features(
    batches: Iterable[Batch],
    names: tuple[str, ...],
    class_count: int,
    *,
    category_sizes: Sequence[int | None] = (),
    sample_rows: int = SAMPLE_ROWS,
) -> FeatureStatistics:
    """Read the training split once and describe it.

    Args:
        category_sizes: of each feature that is a category, how many codes it has; None of a number.
            Empty: all are numbers.

    Raises:
        DatasetError: a number is infinite or NULL in every row, or a class has no row.
    """
    sizes = tuple(category_sizes) or (None,) * len(names)
    categories = {i: size for i, size in enumerate(sizes) if size is not None}
    codes = {i: np.zeros(size, np.int64) for i, size in categories.items()}
    numbers = np.array([i for i, size in enumerate(sizes) if size is None], np.int64)
    names = tuple(names[i] for i in numbers)
    width = len(names)
    count = np.zeros(width, np.int64)
    mean, squares = np.zeros(width), np.zeros(width)
    minimum, maximum = np.full(width, np.inf), np.full(width, -np.inf)
    classes = np.zeros(class_count, np.int64)
    held: list[FeatureArray] = []
    rows = held_rows = 0
    for every, labels in batches:
        for place, size in categories.items():
            codes[place] += np.bincount(every[:, place].astype(np.int64), minlength=size)
        features = every[:, numbers]
        known = ~np.isnan(features)
        block = features.astype(np.float64)
        _refuse_infinite(block, names)
        number = known.sum(axis=0)
        some = np.maximum(number, 1)
        block_mean = np.where(known, block, 0.0).sum(axis=0) / some
        block_squares = (np.where(known, block - block_mean, 0.0) ** 2).sum(axis=0)
        # Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm …", 1979, equation 2.1.
        total = np.maximum(count + number, 1)
        delta = block_mean - mean
        squares += block_squares + np.where(number > 0, delta**2 * count * number / total, 0.0)
        mean += np.where(number > 0, delta * number / total, 0.0)
        count += number
        minimum = np.minimum(minimum, np.where(known, block, np.inf).min(axis=0))
        maximum = np.maximum(maximum, np.where(known, block, -np.inf).max(axis=0))
        classes += np.bincount(labels, minlength=class_count)
        if held_rows < sample_rows:
            held.append(features[: sample_rows - held_rows])
            held_rows += len(held[-1])
        rows += len(labels)
    _refuse_empty(count, classes, names)
    deviation = np.sqrt(squares / count)
    sample = np.concatenate(held)
    nulls = rows - count
    return FeatureStatistics(rows, minimum, maximum, mean, deviation, nulls, sample, classes, numbers, codes)


def _refuse_infinite(block: FloatArray, names: tuple[str, ...]) -> None:
    infinite = np.isinf(block).any(axis=0)
    if infinite.any():
        raise DatasetError(
            "is infinite in some training row",
            where=f"feature {names[int(np.argmax(infinite))]}",
            hint="Guard the division or logarithm in features.sql with CASE or greatest().",
        )


def _refuse_empty(
    count: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], names: tuple[str, ...]
) -> None:
    if (count == 0).any():
        raise DatasetError("is NULL in every training row", where=f"feature {names[int(np.argmin(count))]}")
    if (classes == 0).any():
        raise DatasetError(
            "has no training row",
            where=f"class with index {int(np.argmin(classes))}",
            hint="Choose another [split], or leave the class out of [target] classes.",
        )


def scale_affine(statistics: FeatureStatistics, kind: str) -> tuple[FeatureArray, FeatureArray]:
    """(centre, scale), each (features,), so that ``(x - centre) * scale`` is standardised or in 0 to 1.

    A constant feature scales to 0: it has no information in training and must not explode when it changes.
    """
    if kind == "minmax":
        centre, spread = statistics.minimum, statistics.maximum - statistics.minimum
    else:
        centre, spread = statistics.mean, statistics.deviation
    scale = np.where(spread > 0, 1.0 / np.where(spread > 0, spread, 1.0), 0.0)
    return centre.astype(np.float32), scale.astype(np.float32)


def quantile_edges(statistics: FeatureStatistics, feature: int, bins: int) -> FloatArray:
    """Distinct, ascending quantiles of one feature, between 2 and ``bins + 1`` of them."""
    values = statistics.sample[:, feature].astype(np.float64)
    values = values[~np.isnan(values)]
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)))
    # Rounding alone parts the sines of 0 and pi. A bin between them would be a step, and the side of it that
    # a row is on the last bit of a sine, which the graph has otherwise than DuckDB.
    edges = edges[np.diff(edges, prepend=-np.inf) > _CLOSEST * np.abs(edges).mean()]
    # The sample may be all one value; the range over all rows then still gives one bin.
    low, high = min(edges[0], statistics.minimum[feature]), max(edges[-1], statistics.maximum[feature])
    return edges if len(edges) > 1 else np.array([low, high if high > low else low + 1.0])


def quantity_indexes(statistics: FeatureStatistics) -> IndexArray:
    """Features with more than two values in training: quantities, not indicators."""
    known = [column[~np.isnan(column)] for column in statistics.sample.T]
    return np.flatnonzero([len(np.unique(column)) > 2 for column in known])


def piecewise_bins(
    statistics: FeatureStatistics, features: IndexArray, bins: int
) -> tuple[FeatureArray, FeatureArray]:
    """(left, slope), each (features, bins): bin b of x is ``clip((x - left) * slope, 0, 1)``.

    The share of each quantile bin that x has passed: 0 below the bin, 1 above it. A feature with
    fewer distinct quantiles than bins leaves the last bins at 0 for every x. The difference comes
    first because it is exact near an edge, where ``x * slope - left * slope`` would cancel.

    Source: Gorishniy, Rubachev, Babenko 2022, equation 1, but with both ends clipped: the scaled
    feature goes into the network beside the bins, and an outlier at serving stays bounded here.
    """
    left, slope = np.zeros((len(features), bins)), np.zeros((len(features), bins))
    for row, feature in enumerate(features):
        edges = quantile_edges(statistics, int(feature), bins)
        width = np.diff(edges)
        slope[row, : len(width)] = 1.0 / width
        left[row, : len(width)] = edges[:-1]
    return left.astype(np.float32), slope.astype(np.float32)
