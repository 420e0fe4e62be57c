"""Boundaries of the group-sequential test against published constants."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.judge.sequential import boundary_constant, look_levels


@pytest.mark.parametrize(
    ("looks", "pocock", "obrien_fleming"),
    [(2, 2.178, 1.977), (3, 2.289, 2.004), (4, 2.361, 2.024), (5, 2.413, 2.040)],
)
def test_constants_equal_the_tables(looks: int, pocock: float, obrien_fleming: float) -> None:
    """Jennison & Turnbull 2000, tables 2.1 and 2.3, two-sided 5 % (one-sided 2.5 % to three digits)."""
    equal = tuple(range(1, looks + 1))
    assert boundary_constant(equal, 0.025, "pocock") == pytest.approx(pocock, abs=6e-4)
    assert boundary_constant(equal, 0.025, "obrien-fleming") == pytest.approx(obrien_fleming, abs=6e-4)


def test_one_look_costs_nothing() -> None:
    """Without a second look the test is the ordinary one."""
    assert look_levels((4,), 0.05, "pocock") == pytest.approx((0.05,))


def test_all_looks_together_spend_the_level_by_simulation() -> None:
    """Looks need not be equally far apart, and the sum must still be the stated 5 %."""
    looks = (2, 5, 6)
    steps = np.random.default_rng(1).normal(size=(60_000, looks[-1])).cumsum(axis=1)
    for shape in ("pocock", "obrien-fleming"):
        bounds = norm.isf(look_levels(looks, 0.05, shape))  # type: ignore[arg-type]
        scores = np.stack([steps[:, look - 1] / np.sqrt(look) for look in looks], axis=1)
        assert np.mean((scores > bounds).any(axis=1)) == pytest.approx(0.05, abs=0.004)


def test_a_strict_first_look_keeps_nearly_the_whole_level_for_the_last() -> None:
    """Blocking early needs overwhelming evidence; blocking at the end hardly costs anything."""
    first, _, last = look_levels((4, 8, 12), 0.001, "obrien-fleming")
    assert first < 1e-6
    assert 0.0009 < last < 0.001
