"""Classes and slices → lines."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from timberline.benchmarks.analysis.limits import InForce, Limit, limits_in_force
from timberline.benchmarks.analysis.predictions import Predictions, QualityComparison, compare_predictions
from timberline.benchmarks.analysis.quality import format_p_value, judge_drop, judge_recalls, judge_slices
from timberline.benchmarks.analysis.statistics import (
    adjust_holm,
    bound_drop,
    p_value_beyond,
    p_value_of_drop,
    rows_to_block,
)
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits

SETTINGS = load_gate_settings().accuracy
LIMITS = limits_in_force(GateLimits(max_recall_drop=0.05, slices={"low": "", "rare": ""}), None, SETTINGS)
CLASSES = ["1", "2", "7"]

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def state(**limits: float) -> InForce:
    """These limits in force, no noise known."""
    return limits_in_force(msgspec.convert(limits, GateLimits), None, SETTINGS)


def predict(truth: Integers, label: Integers, slices: dict[str, Flags] | None = None) -> Predictions:
    """Predictions whose probabilities do not matter."""
    ones = np.ones(truth.size)
    return Predictions(np.arange(truth.size), truth, label, ones, ones, slices or {})


def compare(truth: Integers, champion: Integers, candidate: Integers, **slices: Flags) -> QualityComparison:
    """Lay the two side by side; slices are the candidate's."""
    return compare_predictions(predict(truth, champion), predict(truth, candidate, slices), CLASSES)


def test_one_class_that_falls_blocks_although_accuracy_holds() -> None:
    """A rare class can be lost for a gain elsewhere that hides it in the mean."""
    truth = np.where(np.arange(20_000) < 1_000, 2, np.arange(20_000) % 2)
    champion, candidate = truth.copy(), truth.copy()
    candidate[:200] = 0
    champion[5_000:5_200] = 2
    comparison = compare(truth, champion, candidate)
    assert judge_drop(comparison, LIMITS, SETTINGS).outcome == "PASS"
    told = judge_recalls(comparison, LIMITS, SETTINGS)
    assert told.outcome == "BLOCK"
    assert "fallen beyond the limit: class 7" in told.reason


def test_one_slice_that_falls_blocks_although_accuracy_and_recalls_hold() -> None:
    """What a slice is for: a loss that is spread over all classes and made up for elsewhere."""
    truth = np.arange(20_000) % 3
    champion, candidate = truth.copy(), truth.copy()
    candidate[:200] = (truth[:200] + 1) % 3
    champion[5_000:5_200] = (truth[5_000:5_200] + 1) % 3
    inside = np.arange(20_000) < 2_000
    comparison = compare(truth, champion, candidate, low=inside, rare=~inside)
    assert judge_drop(comparison, LIMITS, SETTINGS).outcome == "PASS"
    assert judge_recalls(comparison, LIMITS, SETTINGS).outcome == "PASS"
    told = judge_slices(comparison, LIMITS, SETTINGS)
    assert told.outcome == "BLOCK"
    assert (told.candidate, told.champion) == (0.9, 1.0)
    assert told.difference == pytest.approx(-0.1)
    assert "worst slice: low, 2,000 rows" in told.reason
    assert "over 5 classes and slices" in told.reason
    assert "fallen beyond the limit: slice low" in told.reason
    assert told.evidence == "evaluation.parquet"


def test_a_proven_drop_below_the_limit_blocks_nothing() -> None:
    """Networks trade a little of one class for another; the limit says how much may be."""
    truth = np.arange(60_000) % 3
    candidate = truth.copy()
    candidate[:1_500] = (truth[:1_500] + 1) % 3  # 2.5 % of every class
    told = judge_recalls(compare(truth, truth, candidate), LIMITS, SETTINGS)
    assert (told.outcome, told.mark) == ("PASS", "WARN")
    assert "any drop: p < 1e-15" in told.reason
    assert "proven lower, within the limit: class 1, 2, 7" in told.reason
    for limit, outcome in ((0.02, "BLOCK"), (0.024, "PASS")):  # 2.5 % as observed is not beyond 2.4 %
        judged = state(max_recall_drop=limit)
        assert judge_recalls(compare(truth, truth, candidate), judged, SETTINGS).outcome == outcome


def test_parts_without_power_are_named_with_the_rows_they_need() -> None:
    """A rare class blocks nothing, but the report must not look as if it had been checked."""
    truth = np.arange(90) % 3
    champion, candidate = truth.copy(), truth.copy()
    candidate[0], champion[1] = 1, 2
    told = judge_recalls(compare(truth, champion, candidate), LIMITS, SETTINGS)
    assert told.outcome == "PASS"
    assert "underpowered for a drop of twice the limit in class" in told.reason
    assert "7 (power 0%, rows to block it: 969, there are 30, which block 89.9%)" in told.reason


def test_parts_with_power_say_the_rows_too() -> None:
    """The needed number stands beside the one there is whether or not it suffices."""
    truth = np.arange(9_000) % 3
    told = judge_recalls(compare(truth, truth, truth), LIMITS, SETTINGS)
    assert "rows to block a drop of twice the limit: 969 at most, there are 3,000 or more" in told.reason


def test_only_the_weakest_of_many_parts_are_told() -> None:
    """A report of forty classes is still read."""
    truth = np.arange(60) % 3
    slices = {f"s{index}": np.arange(60) % 7 == index for index in range(7)}
    told = judge_slices(compare(truth, truth, truth, **slices), LIMITS, SETTINGS)
    assert told.reason.count("rows to block it") == 4
    assert told.reason.endswith("; and 3 more")


def test_a_slice_without_rows_is_not_judged_and_passes_nothing() -> None:
    """Of two test splits so little may be left in common that a slice is empty."""
    truth = np.arange(60) % 3
    comparison = compare(truth, truth, truth, low=truth == 0, rare=np.zeros(60, bool))
    told = judge_slices(comparison, LIMITS, SETTINGS)
    assert told.outcome == "INCONCLUSIVE"
    assert "no row is left of slice rare" in told.reason
    assert judge_recalls(comparison, LIMITS, SETTINGS).outcome == "PASS"


def test_equal_versions_are_blocked_by_a_class_less_often_than_the_level() -> None:
    """Seven unequal classes are seven chances to block; Holm pays for them, and the limit helps."""
    chance = np.random.default_rng(8)
    shares = np.array([0.4, 0.3, 0.12, 0.08, 0.05, 0.03, 0.02])
    truth = chance.choice(7, 3_000, p=shares)
    classes = [str(index) for index in range(7)]
    strict = state(max_recall_drop=0.0)
    blocked = 0
    for _ in range(400):
        labels = [np.where(chance.random(3_000) < 0.1, (truth + 1) % 7, truth) for _ in range(2)]
        champion, candidate = (predict(truth, label) for label in labels)
        comparison = compare_predictions(champion, candidate, classes)
        blocked += judge_recalls(comparison, strict, SETTINGS).outcome == "BLOCK"
    # Expected at most 0.0015 x 400 = 0.6; five or more have a chance of 0.04 %.
    assert blocked < 5


def test_the_worst_part_is_told_with_its_figures() -> None:
    """Classes and slices: shares of their own rows, the drop's bounds, and Holm's value over all of them."""
    truth = np.arange(3_000) % 3
    champion, candidate = truth.copy(), truth.copy()
    candidate[truth == 1] = np.where(np.arange(1_000) < 30, 0, 1)
    champion[truth == 1] = np.where(np.arange(1_000) >= 995, 0, 1)
    inside = np.arange(3_000) < 30
    comparison = compare(truth, champion, candidate, low=inside, rare=~inside)
    family = (*comparison.recalls, *comparison.slices)
    adjusted = adjust_holm([p_value_of_drop(part.pairs) for part in family])
    assert adjusted[1] != adjusted[3] != adjusted[4]
    for told, kind, part, p_value, limit in (
        (judge_recalls(comparison, LIMITS, SETTINGS), "class", comparison.recalls[1], adjusted[1], -0.05),
        (
            judge_slices(comparison, state(max_slice_drop=0.4), SETTINGS),
            "slice",
            comparison.slices[0],
            adjusted[3],
            -0.4,
        ),
    ):
        rise, fall = bound_drop(part.pairs, alpha_low=SETTINGS.alpha_recall / 5, alpha_high=0.05)
        assert (told.candidate, told.champion) == (part.candidate, part.champion)
        assert (told.difference, told.low, told.high) == (-part.pairs.drop, -fall, -rise)
        assert (told.limit, told.unit) == (limit, f"share of the {kind}'s rows")
        assert told.evidence == "evaluation.parquet"
        assert told.reason.startswith(f"worst {kind}: {part.label}, {part.pairs.rows:,} rows; a drop beyond")
        assert f"any drop: {format_p_value(p_value)} by mid-p McNemar, with Holm over 5" in told.reason
        assert "fallen" not in told.reason
    assert told.name == "slices"


def test_a_part_without_rows_has_its_line_and_its_limit() -> None:
    """Whoever reads that it is INCONCLUSIVE wants to know against what it was to be judged."""
    truth = np.arange(60) % 3
    comparison = compare(truth, truth, truth, low=truth == 0, rare=np.zeros(60, bool))
    told = judge_slices(comparison, state(max_slice_drop=0.07), SETTINGS)
    assert (told.name, told.candidate, told.limit) == ("slices", None, -0.07)
    assert (told.unit, told.evidence) == ("share of the slice's rows", "evaluation.parquet")
    assert "over 4 classes and slices" in judge_recalls(comparison, LIMITS, SETTINGS).reason


def test_a_class_falls_from_its_level_on() -> None:
    """ "At most"; a hair's breadth beside it nothing has fallen."""
    truth = np.arange(3_000) % 3
    candidate = truth.copy()
    candidate[truth == 1] = np.where(np.arange(1_000) < 125, 0, 1)
    comparison = compare(truth, truth, candidate)
    level = adjust_holm([p_value_beyond(part.pairs, 0.09) for part in comparison.recalls])[1]
    for alpha, outcome in ((level, "BLOCK"), (np.nextafter(level, 0), "PASS")):
        settings = msgspec.structs.replace(SETTINGS, alpha_recall=float(alpha))
        assert judge_recalls(comparison, state(max_recall_drop=0.09), settings).outcome == outcome


@pytest.mark.parametrize(
    ("noise", "outcome"), [(0.0, "BLOCK"), (0.095, "PASS"), (0.15, "INCONCLUSIVE"), (0.11, "INCONCLUSIVE")]
)
def test_the_noise_of_a_class_widens_its_own_limit(noise: float, outcome: str) -> None:
    """A rare class differs more between equal runs than a frequent one, and is judged by that."""
    truth = np.arange(30_000) % 3
    candidate = truth.copy()
    candidate[truth == 1] = np.where(np.arange(10_000) < 1_000, 0, 1)
    comparison = compare(truth, truth, candidate)
    limit = Limit(0.05, noise, source="five runs")
    judged = dataclasses.replace(state(max_recall_drop=0.05), recalls={"2": limit})
    told = judge_recalls(comparison, judged, SETTINGS)
    assert told.outcome == outcome
    assert ("(five runs)" in told.reason) == bool(noise)


def test_of_parts_that_fell_the_worst_is_told() -> None:
    """A rare class that lost more by chance is not what the release is blocked for."""
    truth = np.where(np.arange(9_000) < 3, 2, np.arange(9_000) % 2)
    candidate = truth.copy()
    candidate[:3] = 0
    candidate[1_000:2_000:2] = 1
    told = judge_recalls(compare(truth, truth, candidate), LIMITS, SETTINGS)
    assert (told.outcome, told.reason.startswith("worst class: 1, 4,4")) == ("BLOCK", True)
    assert "; fallen beyond the limit: class 1; " in told.reason


def test_of_parts_that_lost_alike_the_surest_is_told() -> None:
    """The same drop on more rows is the one that is no chance."""
    truth = np.repeat([0, 1, 2], [100, 4_000, 4_000])
    candidate = truth.copy()
    candidate[:5] = 1
    candidate[-200:] = 1
    comparison = compare(truth, truth, candidate)
    assert [part.pairs.drop for part in comparison.recalls] == [0.05, 0.0, 0.05]
    told = judge_recalls(comparison, state(max_recall_drop=0.06), SETTINGS)
    assert told.reason.startswith("worst class: 7, 4,000 rows")


def test_as_many_weak_parts_as_are_told_leave_none_to_count() -> None:
    """ "And 0 more" is a riddle."""
    truth = np.arange(60) % 3
    slices = {f"s{index}": np.arange(60) % 4 == index for index in range(4)}
    told = judge_slices(compare(truth, truth, truth, **slices), LIMITS, SETTINGS)
    assert told.reason.count("rows to block it") == 4
    assert "more" not in told.reason


def test_the_weakest_part_is_told_first() -> None:
    """With the power that it has, and with nothing of the parts that have enough."""
    truth = np.where(np.arange(9_000) < 60, 2, np.where(np.arange(9_000) < 160, 1, 0))
    told = judge_recalls(compare(truth, truth, truth), LIMITS, SETTINGS)
    assert "in class 7 (power " in told.reason
    assert told.reason.index("7 (power ") < told.reason.index("2 (power ")
    assert "1 (power" not in told.reason


def test_parts_with_power_are_told_by_the_dearest_and_the_smallest() -> None:
    """The most rows that one of them needs, and the fewest that one of them has."""
    truth = np.where(np.arange(9_000) < 2_000, 2, np.arange(9_000) % 2)
    champion, candidate = truth.copy(), truth.copy()
    champion[2_000:2_600], candidate[2_600:3_200] = 2, 2
    comparison = compare(truth, champion, candidate)
    needed = [
        rows_to_block(part.pairs.rate, 0.1, 0.05, alpha=SETTINGS.alpha_recall / 3, power=0.95)
        for part in comparison.recalls
    ]
    assert min(needed) < max(needed) < 2_000
    told = judge_recalls(comparison, LIMITS, SETTINGS)
    assert (
        f"; rows to block a drop of twice the limit: {max(needed):,} at most, there are 2,000 or more"
        in told.reason
    )


def test_a_limit_of_zero_asks_for_no_power() -> None:
    """No number of rows finds a drop of nothing."""
    truth = np.arange(9_000) % 3
    told = judge_recalls(compare(truth, truth, truth), state(max_recall_drop=0.0), SETTINGS)
    assert told.reason.endswith("with Holm over 3 classes and slices")
