"""Level shifts in short series: found where they are, and seldom where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from timberline.benchmarks.history.changes import compare_means, compare_walk, find_shifts


def shifts_of(values: list[float], **options: float) -> list[int]:
    return find_shifts(values, compare_means(values), **({"alpha": 0.01} | options))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.0, 3.0, 3.1, 2.9, 3.0], [4]),
        ([5.0, 5.1, 5.0, 4.9, 5.0, 9.0, 9.1, 9.0, 5.0, 5.1, 4.9, 5.0, 5.0], [5, 8]),
        ([1.0, 1.1, 0.9, 1.0, 2.0, 2.1, 1.9, 2.0, 3.0, 3.1, 2.9, 3.0], [4, 8]),
        ([100.0, 100.0, 100.0, 200.0, 200.0], [3]),
        ([100.0, 100.0, 100.0, 100.0], []),
        ([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], []),
        ([1.0, 9.0], []),
        ([], []),
    ],
    ids=["one", "comes and goes", "stairs", "exact sizes", "constant", "alternating", "too few", "none"],
)
def test_known_change_points_are_found(values: list[float], expected: list[int]) -> None:
    """A level that comes and goes again is the case that a single split of the whole misses."""
    assert shifts_of(values) == expected


def test_a_shift_too_small_to_matter_is_not_told() -> None:
    """Exact file sizes make every byte significant; nobody wants to hear of ten bytes."""
    values = [100.0, 100.0, 100.0, 100.1, 100.1]
    assert shifts_of(values) == [3]
    assert shifts_of(values, floor=1.0) == []


@pytest.mark.parametrize("points", [5, 12, 30])
def test_noise_has_few_false_shifts(points: int) -> None:
    """Marks that appear by chance teach people to look past marks; the stated rate is 5 % a series."""
    chance = np.random.default_rng(20260101)
    series = [chance.normal(size=points).tolist() for _ in range(200)]
    false = sum(bool(shifts_of(values)) for values in series)
    assert false / len(series) <= 0.05


def test_a_random_walk_of_link_errors_is_not_taken_for_levels() -> None:
    """A chained index wanders by the errors of its links; a t-test would mark most of such walks."""
    chance = np.random.default_rng(20260101)
    steps = chance.normal(scale=0.02, size=(100, 19))
    walks = np.concatenate([np.zeros((100, 1)), steps.cumsum(axis=1)], axis=1)  # (walks, points)
    order = np.arange(20)
    covariance = 0.02**2 * np.minimum(order[:, None], order[None, :])
    walked = sum(
        bool(find_shifts(walk, compare_walk(walk, covariance), alpha=0.05)) for walk in walks.tolist()
    )
    tested = sum(bool(shifts_of(walk)) for walk in walks.tolist())
    assert walked / 100 <= 0.05
    assert tested / 100 > 0.5


def test_a_real_shift_of_a_walk_is_found() -> None:
    """The same test still has to see a level that moved by several times its error."""
    values = [0.0, 0.01, 0.0, 0.01, 0.2, 0.21, 0.2, 0.21]
    order = np.arange(8)
    covariance = 0.02**2 * np.minimum(order[:, None], order[None, :])
    assert find_shifts(values, compare_walk(values, covariance), alpha=0.05) == [4]
