"""Statistics of the training split: exact, streamed, and what becomes of odd features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from timberline.training.errors import DatasetError
from timberline.training.model.dataset import Batch, FeatureArray
from timberline.training.model.scaling import (
    FeatureStatistics,
    measure_features,
    piecewise_bins,
    quantity_indexes,
    scale_affine,
)

NAMES = ("quantity", "indicator", "constant", "holes")


def table(rows: int = 5000) -> FeatureArray:
    random = np.random.default_rng(0)
    features = np.stack(
        [
            random.normal(2959.0, 280.0, rows),
            random.integers(0, 2, rows),
            np.full(rows, 7.0),
            np.where(random.random(rows) < 0.1, np.nan, random.gamma(2.0, 100.0, rows)),
        ],
        axis=1,
    )
    return features.astype(np.float32)


def batches(features: FeatureArray, size: int) -> Iterator[Batch]:
    classes = (np.arange(len(features)) % 2).astype(np.int32)
    for start in range(0, len(features), size):
        yield features[start : start + size], classes[start : start + size]


def measured(size: int = 512) -> FeatureStatistics:
    return measure_features(batches(table(), size), NAMES, 2)


@pytest.mark.parametrize("size", [1, 999, 5000])
def test_streamed_moments_are_those_of_the_whole_table(size: int) -> None:
    """Memory is bounded by the batch, so the sums are merged; the merge must not cost digits."""
    statistics = measured(size)
    whole = table().astype(np.float64)
    np.testing.assert_allclose(statistics.mean, np.nanmean(whole, axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.deviation, np.nanstd(whole, axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(statistics.minimum, np.nanmin(whole, axis=0))
    np.testing.assert_array_equal(statistics.maximum, np.nanmax(whole, axis=0))
    assert statistics.nulls.tolist() == np.isnan(whole).sum(axis=0).tolist()
    assert statistics.prior.tolist() == [0.5, 0.5]


def test_the_sample_is_bounded() -> None:
    """Quantiles come from at most so many rows, whatever the table's size."""
    statistics = measure_features(batches(table(), 300), NAMES, 2, sample_rows=1000)
    assert statistics.sample.shape == (1000, 4)
    assert statistics.rows == 5000


def test_only_quantities_are_embedded() -> None:
    """An indicator has no shape to learn; its embedding would be weights without use."""
    assert quantity_indexes(measured()).tolist() == [0, 3]


@pytest.mark.parametrize(("kind", "low", "high"), [("minmax", 0.0, 1.0), ("standard", -6.0, 6.0)])
def test_a_constant_feature_scales_to_zero_and_others_to_their_range(
    kind: str, low: float, high: float
) -> None:
    """1 / 0 would make every probability NaN at the first step."""
    statistics = measured()
    centre, scale = scale_affine(statistics, kind)
    scaled = (table()[:, :3] - centre[:3]) * scale[:3]
    assert scaled[:, 2].tolist() == [0.0] * 5000
    assert low - 1e-5 <= scaled.min() <= scaled.max() <= high + 1e-5


def test_bins_hold_equal_shares_of_the_training_rows() -> None:
    """The bins are quantiles: each of 8 is passed by an eighth of the rows more than the next."""
    statistics = measured()
    left, slope = piecewise_bins(statistics, np.array([0]), 8)
    passed = np.clip((table()[:, :1] - left) * slope, 0.0, 1.0)  # (rows, bins)
    np.testing.assert_allclose((passed >= 1).mean(axis=0), 1 - np.arange(1, 9) / 8, atol=0.002)


def test_a_feature_with_few_values_leaves_the_last_bins_at_zero() -> None:
    """Equal quantiles would be bins of no width, and slopes without bound."""
    features = np.repeat([[1.0], [2.0], [5.0]], 40, axis=0).astype(np.float32)
    statistics = measure_features(batches(features, 50), ("step",), 2)
    left, slope = piecewise_bins(statistics, np.array([0]), 8)
    assert np.isfinite(slope).all()
    assert np.isfinite(left).all()
    np.testing.assert_allclose(np.clip((3.5 - left[0]) * slope[0], 0, 1), [1, 0.5, 0, 0, 0, 0, 0, 0])


def test_values_that_rounding_parts_are_no_bin() -> None:
    """The sine of pi is not 0, and not the same in every library: a bin from 0 to there would be a step."""
    hours = np.sin(np.repeat(np.arange(0, 24, 6), 20) * 2 * np.pi / 24).astype(np.float32)[:, None]
    assert 0 < np.diff(np.unique(hours)).min() < 1e-15
    statistics = measure_features(batches(hours, 50), ("hour",), 2)
    left, slope = piecewise_bins(statistics, np.array([0]), 16)
    assert slope.max() < 100
    off = np.clip((hours + 1e-15 - left) * slope, 0, 1) - np.clip((hours - left) * slope, 0, 1)
    assert np.abs(off).max() < 1e-6


def test_an_infinite_feature_is_named() -> None:
    """A division by zero in features.sql should be told as such, not as a NaN loss."""
    features = table(100)
    features[50, 0] = np.inf
    with pytest.raises(DatasetError, match="feature quantity: is infinite"):
        measure_features(batches(features, 64), NAMES, 2)


def test_a_class_without_training_rows_is_refused() -> None:
    """Its prior would be 0, and its logit minus infinity."""
    with pytest.raises(DatasetError, match="index 2: has no training row"):
        measure_features(batches(table(100), 64), NAMES, 3)


def test_a_feature_that_is_always_null_is_named() -> None:
    """Its mean is undefined, so it cannot be scaled."""
    features = table(100)
    features[:, 1] = np.nan
    with pytest.raises(DatasetError, match="feature indicator: is NULL in every"):
        measure_features(batches(features, 64), NAMES, 2)
