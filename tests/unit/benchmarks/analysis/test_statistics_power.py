"""How many rows it takes, against published figures and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from timberline.benchmarks.analysis.statistics import (
    Discordance,
    blockable_drop,
    bound_drop,
    p_value_of_drop,
    power_to_block,
    provable_margin,
    rows_to_block,
    rows_to_prove,
)


@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.9), (0.025, 0.8)])
def test_rows_to_find_equal_the_published_example(alpha: float, power: float) -> None:
    """powersamplesize.com, McNemar's Z-test (Connor 1987): p = 0.45 and 0.05 take 23 pairs in both forms."""
    assert rows_to_block(0.5, 0.4, 0.0, alpha=alpha, power=power) == 23


@pytest.mark.parametrize(
    ("rate", "drop", "rows"),
    [(0.03, 0.003, 52_562), (0.05, 0.005, 31_535), (0.07, 0.01, 11_033), (0.10, 0.02, 3_937)],
)
def test_rows_to_find_a_drop_agree_with_a_second_computation(rate: float, drop: float, rows: int) -> None:
    """Recorded figures for a false block of 1 % and a power of 95 %, computed independently."""
    assert rows_to_block(rate, drop, 0.0, alpha=0.01, power=0.95) == rows


@pytest.mark.parametrize(
    ("rate", "margin", "rows"), [(0.03, 0.003, 36_069), (0.05, 0.005, 21_639), (0.10, 0.01, 10_817)]
)
def test_rows_to_prove_agree_with_a_second_computation(rate: float, margin: float, rows: int) -> None:
    """The count printed with INCONCLUSIVE tells somebody how much data to fetch."""
    assert rows_to_prove(rate, margin, alpha=0.05, power=0.95) == rows


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.03, 0.2])
def test_provable_margin_is_proven_by_its_rows(rate: float) -> None:
    """It is printed as advice for `max_accuracy_drop`; following it must be enough."""
    margin = provable_margin(rate, 9_062, alpha=0.05, power=0.95)
    needed = rows_to_prove(rate, margin, alpha=0.05, power=0.95)
    assert 0.95 * 9_062 < needed <= 9_063


def test_rows_to_prove_are_enough_by_simulation() -> None:
    """With the printed number of rows, an equal candidate passes about as often as promised."""
    rate, margin = 0.04, 0.01
    rows = rows_to_prove(rate, margin, alpha=0.05, power=0.95)
    draws = np.random.default_rng(3).multinomial(rows, [rate / 2, rate / 2, 1 - rate], size=600)
    passed = [
        bound_drop(Discordance(rows, int(b), int(c)), alpha_low=0.05, alpha_high=0.05)[1] < margin
        for b, c, _ in draws
    ]
    assert 0.91 < np.mean(passed) < 0.98


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.2])
@pytest.mark.parametrize("drop", [0.002, 0.01])
def test_power_is_reached_with_the_rows_that_are_said_to_be_needed(rate: float, drop: float) -> None:
    """Both are printed side by side: they are one equation, solved for one side or the other."""
    needed = rows_to_block(rate, drop, 0.0, alpha=0.002, power=0.95)
    assert power_to_block(rate, drop, 0.0, needed, alpha=0.002) >= 0.95
    assert power_to_block(rate, drop, 0.0, needed - 1, alpha=0.002) < 0.95 + 1e-9


def test_smallest_drops_equal_the_recorded_ones() -> None:
    """3.97 sqrt(psi / N) for 1 % and 95 %; recorded for 58,101 rows: 0.29, 0.37, 0.44, 0.52 %."""
    found = [blockable_drop(rate, 0.0, 58_101, alpha=0.01, power=0.95) for rate in (0.03, 0.05, 0.07, 0.10)]
    assert [round(100 * drop, 2) for drop in found] == [0.29, 0.37, 0.44, 0.52]


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.03, 0.2])
def test_the_smallest_drop_is_found_with_the_power_that_is_said(rate: float) -> None:
    """Versions that never disagreed still may by that drop, and not by less."""
    drop = blockable_drop(rate, 0.0, 9_062, alpha=0.002, power=0.95)
    assert 0.95 <= power_to_block(rate, drop, 0.0, 9_062, alpha=0.002) < 0.96


def test_a_handful_of_rows_finds_nothing_and_says_so() -> None:
    """No number above 1 is a drop, and none of these may divide by 0."""
    assert blockable_drop(0.5, 0.0, 1, alpha=0.002, power=0.95) == 1.0
    assert power_to_block(0.0, 1.0, 0.0, 1, alpha=0.002) == 0.0
    assert power_to_block(0.0, 1.0, 0.0, 100, alpha=0.002) == 1.0


@pytest.mark.parametrize(("rate", "drop"), [(0.05, 0.01), (0.02, 0.01)])
def test_stated_power_is_the_simulated_one(rate: float, drop: float) -> None:
    """The report says "found with power 80 %"; drawn 4,000 times, it is found about as often."""
    rows = rows_to_block(rate, drop, 0.0, alpha=0.002, power=0.8)
    shares = [(rate + drop) / 2, (rate - drop) / 2, 1 - rate]
    draws = np.random.default_rng(4).multinomial(rows, shares, size=4_000)
    found = [p_value_of_drop(Discordance(rows, int(b), int(c))) <= 0.002 for b, c, _ in draws]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("drop", [0.01, 0.05])
def test_versions_that_never_disagreed_may_still_on_the_drop(drop: float) -> None:
    """Only then can there be one: psi is at least D, in every one of these figures."""
    assert rows_to_block(0.0, drop, 0.0, alpha=0.002, power=0.95) == rows_to_block(
        drop, drop, 0.0, alpha=0.002, power=0.95
    )
    assert rows_to_prove(0.0, drop, alpha=0.05, power=0.95) == rows_to_prove(
        drop, drop, alpha=0.05, power=0.95
    )
    found = [power_to_block(rate, drop, 0.0, 400, alpha=0.002) for rate in (0.0, drop)]
    assert found[0] == found[1]


def test_smallest_drops_equal_their_formula_on_either_side_of_the_rate() -> None:
    """(z(1 - alpha) + z(power)) sqrt(psi / N) where that is at most psi, else its square over N."""
    z = 1.6448536 + 1.2815516  # 95 % and 90 %
    assert provable_margin(0.04, 10_000, alpha=0.05, power=0.9) == pytest.approx(z * 0.2 / 100)
    assert provable_margin(0.0001, 10_000, alpha=0.05, power=0.9) == pytest.approx(z**2 / 10_000)
    assert blockable_drop(0.04, 0.0, 10_000, alpha=0.05, power=0.9) == pytest.approx(z * 0.2 / 100)


def test_rows_are_rounded_up() -> None:
    """One row less and the power is not what is said."""
    needed = rows_to_prove(0.04, 0.01, alpha=0.05, power=0.9)
    exact = (1.6448536 * (0.04 - 1e-4) ** 0.5 + 1.2815516 * 0.2) ** 2 / 1e-4
    assert exact < needed < exact + 1


def test_power_at_exactly_no_surplus_is_one_half() -> None:
    """Where the drop is just where the test rejects, the coin decides; certain loss is found at once."""
    # z(1 - 0.5) is 0: half of the equal candidates are rejected.
    assert power_to_block(0.04, 1e-12, 0.0, 100, alpha=0.5) == pytest.approx(0.5)
    assert power_to_block(1.0, 1.0, 0.0, 1, alpha=0.5) == 1.0
