"""Held-out predictions → lines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.evaluations import encode_evaluation
from timberline.benchmarks.analysis.limits import Limit, limits_in_force
from timberline.benchmarks.analysis.predictions import (
    Predictions,
    QualityComparison,
    compare_predictions,
    keep_common,
    measure_quality,
    read_predictions,
)
from timberline.benchmarks.analysis.quality import format_p_value, judge_drop, judge_floors
from timberline.benchmarks.analysis.statistics import (
    bound_average,
    bound_drop,
    bound_proportion,
    p_value_of_drop,
    power_to_block,
)
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits

SETTINGS = load_gate_settings().accuracy
LIMITS = GateLimits(min_accuracy=0.5, max_accuracy_drop=0.005)
IN_FORCE = limits_in_force(LIMITS, None, SETTINGS)
CLASSES = ["1", "2", "7"]


def predictions(folder: Path, truth: np.ndarray, label: np.ndarray, **given: Any) -> Predictions:
    """Write and read the predictions, as the exporter and the gate do."""
    path = folder / "evaluation.parquet"
    path.write_bytes(encode_evaluation(truth, label, **given))
    return read_predictions(path, len(CLASSES))


def compare(folder: Path, *, rows: int, lost: int, gained: int) -> QualityComparison:
    """Champion and candidate that differ in correctness on exactly these many rows."""
    truth = np.arange(rows) % 3
    wrong = (truth + 1) % 3
    champion, candidate = truth.copy(), truth.copy()
    candidate[:lost] = wrong[:lost]
    champion[lost : lost + gained] = wrong[lost : lost + gained]
    return compare_predictions(
        predictions(folder, truth, champion), predictions(folder, truth, candidate), CLASSES
    )


def test_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    """Everything rests on b and c."""
    comparison = compare(tmp_path, rows=300, lost=12, gained=5)
    assert (comparison.pairs.rows, comparison.pairs.lost, comparison.pairs.gained) == (300, 12, 5)
    assert sum(recall.pairs.lost for recall in comparison.recalls) == 12
    assert comparison.candidate.accuracy == pytest.approx(288 / 300)
    assert comparison.loss_difference == pytest.approx(7 * (np.log(0.8) - np.log(0.1)) / 300)


@pytest.mark.parametrize(
    ("rows", "lost", "gained", "outcome"),
    [
        (40_000, 600, 600, "PASS"),
        (40_000, 0, 0, "PASS"),
        (40_000, 660, 600, "PASS"),  # perhaps worse, but surely by less than 0.5 %
        (40_000, 690, 600, "PASS"),  # surely worse, and surely by less than 0.5 %
        (40_000, 720, 600, "PASS"),
        (40_000, 800, 600, "INCONCLUSIVE"),  # surely worse, perhaps by more than 0.5 %
        (40_000, 900, 600, "INCONCLUSIVE"),  # 0.75 % as observed, which is not proven to be more than 0.5 %
        (40_000, 1_000, 600, "BLOCK"),
        (40_000, 80, 45, "PASS"),
        (1_000, 30, 30, "INCONCLUSIVE"),
        (10, 0, 0, "INCONCLUSIVE"),
        (1_000, 60, 10, "BLOCK"),
    ],
)
def test_drop_is_judged(tmp_path: Path, rows: int, lost: int, gained: int, outcome: str) -> None:
    """Blocked when a drop beyond the limit is proven, passed when it is excluded; else not decided."""
    comparison = compare(tmp_path, rows=rows, lost=lost, gained=gained)
    assert judge_drop(comparison, IN_FORCE, SETTINGS).outcome == outcome


def test_too_few_rows_say_how_many_are_needed(tmp_path: Path) -> None:
    """ "Underpowered" without a number helps nobody."""
    told = judge_drop(compare(tmp_path, rows=1_000, lost=15, gained=15), IN_FORCE, SETTINGS)
    assert told.outcome == "INCONCLUSIVE"
    assert "rows needed: 12,982, these 1,000 can exclude 1.80%" in told.reason


@pytest.mark.parametrize(
    ("rows", "changed", "outcome", "said"),
    [
        # Passes, and would still overlook a drop of the limit half of the time: that is said, too.
        (
            12_000,
            150,
            "PASS",
            "underpowered, a drop of 1.00% is blocked with power 69% only; rows to block a drop of 1.00%: "
            "21,232, there are 12,000; smallest drop blocked with power 95%: 1.17%",
        ),
        (
            40_000,
            600,
            "PASS",
            "rows to block a drop of 1.00%: 25,488, there are 40,000; smallest drop blocked with power 95%: "
            "0.90%",
        ),
        (
            10,
            0,
            "INCONCLUSIVE",
            "underpowered, a drop of 1.00% is blocked with power 0% only; rows to block a drop of 1.00%: "
            "8,467, there are 10; smallest drop blocked with power 95%: 100.00%",
        ),
    ],
)
def test_what_the_rows_can_find_is_said_whatever_the_outcome(
    tmp_path: Path, rows: int, changed: int, outcome: str, said: str
) -> None:
    """A pass without power is not evidence, and must not look like one."""
    told = judge_drop(compare(tmp_path, rows=rows, lost=changed, gained=changed), IN_FORCE, SETTINGS)
    assert told.outcome == outcome
    assert told.reason.endswith(said)
    assert told.evidence == "evaluation.parquet"


def test_a_limit_of_zero_is_never_proven_and_breaks_nothing(tmp_path: Path) -> None:
    """No number of rows proves a drop below nothing, and nothing may divide by it."""
    limits = GateLimits(max_accuracy_drop=0)
    told = judge_drop(
        compare(tmp_path, rows=300, lost=2, gained=2), limits_in_force(limits, None, SETTINGS), SETTINGS
    )
    assert told.outcome == "INCONCLUSIVE"
    assert "no number of rows" in told.reason


def test_a_drop_is_told_as_candidate_minus_champion(tmp_path: Path) -> None:
    """The sign of a difference is the first thing that gets read wrongly."""
    told = judge_drop(compare(tmp_path, rows=1_000, lost=60, gained=10), IN_FORCE, SETTINGS)
    assert told.difference == pytest.approx(-0.05)
    assert told.low is not None
    assert told.high is not None
    assert told.low < -0.05 < told.high < 0


@pytest.mark.parametrize(
    ("accuracy", "rows", "outcome"),
    [(0.9, 1_000, "PASS"), (0.51, 100, "INCONCLUSIVE"), (0.49, 100, "INCONCLUSIVE"), (0.3, 1_000, "BLOCK")],
)
def test_floor_is_kept_by_the_bound(tmp_path: Path, accuracy: float, rows: int, outcome: str) -> None:
    """An estimate above the floor on a hundred rows proves nothing."""
    truth = np.zeros(rows, int)
    label = np.where(np.arange(rows) < accuracy * rows, 0, 1)
    (told,) = judge_floors(measure_quality(predictions(tmp_path, truth, label)), LIMITS, SETTINGS)
    assert told.outcome == outcome


@pytest.mark.parametrize(("ceiling", "outcome"), [(0.1, "BLOCK"), (1.0, "PASS")])
def test_log_loss_ceiling_is_judged_when_it_is_given(tmp_path: Path, ceiling: float, outcome: str) -> None:
    """A floor that the model folder states is never skipped."""
    truth = np.arange(600) % 3
    limits = GateLimits(max_log_loss=ceiling)
    told = judge_floors(measure_quality(predictions(tmp_path, truth, truth)), limits, SETTINGS)
    assert [(line.name, line.outcome) for line in told] == [
        ("accuracy_floor", "PASS"),
        ("log_loss_ceiling", outcome),
    ]


def test_other_rows_are_refused(tmp_path: Path) -> None:
    """Pairing by position would compare one row with another."""
    truth = np.arange(30) % 3
    champion = predictions(tmp_path, truth, truth)
    candidate = predictions(tmp_path, truth, truth, rows=np.arange(1, 31))
    with pytest.raises(EvidenceError, match="only 29 of them the same"):
        compare_predictions(champion, candidate, CLASSES)


def test_two_splits_of_one_table_are_compared_where_they_overlap(tmp_path: Path) -> None:
    """Rows are known by their number; what only one version was tested on says nothing about the other."""
    truth = np.arange(30) % 3
    champion = predictions(tmp_path, truth, truth)
    candidate = predictions(tmp_path, np.arange(10, 50) % 3, np.arange(10, 50) % 3, rows=np.arange(10, 50))
    before, after = keep_common(champion, candidate)
    assert before.rows.tolist() == after.rows.tolist() == list(range(10, 30))
    assert compare_predictions(before, after, CLASSES).pairs.rows == 20


def test_row_order_does_not_matter(tmp_path: Path) -> None:
    """Predictions are joined on the row number, whatever order they were written in."""
    truth, rows = np.arange(30) % 3, np.arange(30)
    champion = predictions(tmp_path, truth, truth)
    candidate = predictions(tmp_path, truth[::-1], truth[::-1], rows=rows[::-1])
    assert compare_predictions(champion, candidate, CLASSES).pairs.lost == 0


def test_revised_labels_are_refused(tmp_path: Path) -> None:
    """The champion would be blamed for a truth it was never measured against."""
    truth = np.arange(30) % 3
    other = truth.copy()
    other[4] = (other[4] + 1) % 3
    with pytest.raises(EvidenceError, match="true class of row 4"):
        compare_predictions(predictions(tmp_path, truth, truth), predictions(tmp_path, other, truth), CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not Parquet", "cannot be read"),
        (encode_evaluation([], []), "empty"),
        (encode_evaluation([0, 1], [0, 1], rows=[5, 5]), "named twice"),
        (encode_evaluation([0, 3], [0, 1]), "outside 0 to 2"),
        (encode_evaluation([0, 1], [0, 1], classes=2), "lack p_2"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Evidence that cannot be read must not become an accuracy."""
    path = tmp_path / "evaluation.parquet"
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match=message):
        read_predictions(path, len(CLASSES))


def test_slices_that_the_manifest_promises_have_to_be_there(tmp_path: Path) -> None:
    """A slice that silently went missing would be a slice that is never judged."""
    path = tmp_path / "evaluation.parquet"
    path.write_bytes(encode_evaluation([0, 1], [0, 1], rows=[9, 4], slices={"low": np.array([True, False])}))
    assert read_predictions(path, 3, ["low"]).slices["low"].tolist() == [False, True]  # in row order
    with pytest.raises(EvidenceError, match="lack slice_high"):
        read_predictions(path, 3, ["low", "high"])


def test_the_floor_is_told_with_its_figures(tmp_path: Path) -> None:
    """A line that only says PASS cannot be argued with."""
    truth = np.zeros(1_000, int)
    (told,) = judge_floors(
        measure_quality(predictions(tmp_path, truth, np.arange(1_000) // 900)), LIMITS, SETTINGS
    )
    low, high = bound_proportion(900, 1_000, alpha=0.05)
    assert (told.candidate, told.champion, told.low, told.high) == (0.9, None, low, high)
    assert (told.limit, told.unit, told.evidence) == (0.5, "share of rows", "evaluation.parquet")
    assert "one-sided 95%, 1,000 rows" in told.reason


def test_the_ceiling_is_told_with_its_figures(tmp_path: Path) -> None:
    """As the floor; a loss is in nats, and lies between bounds that the rows give."""
    truth = np.zeros(1_000, int)
    quality = measure_quality(predictions(tmp_path, truth, np.arange(1_000) // 900))
    losses = -np.log(np.array([0.8] * 900 + [0.1] * 100, np.float32).astype(float))
    told = judge_floors(quality, GateLimits(max_log_loss=1.0), SETTINGS)[1]
    low, high = bound_average(losses.mean(), losses.std(ddof=1), 1_000, alpha=0.05)
    assert (told.candidate, told.low, told.high) == pytest.approx((losses.mean(), low, high))
    assert (told.limit, told.unit, told.evidence) == (1.0, "nats", "evaluation.parquet")
    assert "one-sided 95%, 1,000 rows" in told.reason


def test_a_bound_that_touches_the_limit_keeps_it(tmp_path: Path) -> None:
    """Limits are what may still be; a bound on the wrong side alone proves nothing."""
    truth = np.zeros(1_000, int)
    quality = measure_quality(predictions(tmp_path, truth, np.arange(1_000) // 900))
    low, high = bound_proportion(900, 1_000, alpha=0.05)
    least, most = bound_average(quality.loss, quality.loss_sd, 1_000, alpha=0.05)
    for floor, ceiling, outcome in ((low, most, "PASS"), (high, least, "INCONCLUSIVE")):
        limits = GateLimits(min_accuracy=floor, max_log_loss=ceiling)
        assert [line.outcome for line in judge_floors(quality, limits, SETTINGS)] == [outcome] * 2


def test_a_drop_is_told_with_its_figures(tmp_path: Path) -> None:
    """Every number of the line is used by the report, by the history, or by whoever is blocked."""
    comparison = compare(tmp_path, rows=1_000, lost=60, gained=10)
    told = judge_drop(comparison, IN_FORCE, SETTINGS)
    rise, fall = bound_drop(comparison.pairs, alpha_low=0.0015, alpha_high=0.05)
    assert (told.candidate, told.champion) == (0.94, 0.99)
    assert (told.low, told.high, told.limit) == (-fall, -rise, -0.005)
    assert (told.unit, told.evidence) == ("share of rows", "evaluation.parquet")
    p_value = format_p_value(p_value_of_drop(comparison.pairs))
    assert told.reason.startswith(
        f"a drop of more than 0.50% is proven; 60 rows lost, 10 gained of 1,000; mid-p McNemar {p_value}; "
        "Tango's bounds, one-sided 95% and 99.85%; "
    )


def test_a_drop_blocks_beyond_the_limit_alone(tmp_path: Path) -> None:
    """The limit is what may still be: a lower bound on it proves nothing beyond it."""
    comparison = compare(tmp_path, rows=1_000, lost=60, gained=10)
    rise, _ = bound_drop(comparison.pairs, alpha_low=SETTINGS.alpha_block, alpha_high=0.05)
    for limit, is_blocked in ((rise, False), (np.nextafter(rise, 0), True)):
        judged = limits_in_force(GateLimits(max_accuracy_drop=float(limit)), None, SETTINGS)
        assert (judge_drop(comparison, judged, SETTINGS).outcome == "BLOCK") == is_blocked


@pytest.mark.parametrize(
    ("lost", "gained", "is_marked"), [(720, 600, True), (660, 600, False), (600, 720, False)]
)
def test_a_proven_drop_within_the_limit_passes_with_a_mark(
    tmp_path: Path, lost: int, gained: int, is_marked: bool
) -> None:
    """What the limit allows is allowed; that it was used is said."""
    told = judge_drop(compare(tmp_path, rows=40_000, lost=lost, gained=gained), IN_FORCE, SETTINGS)
    assert (told.outcome, told.is_marked) == ("PASS", is_marked)
    assert ("some drop is proven, within the limit" in told.reason) == is_marked


@pytest.mark.parametrize(
    ("noise", "lost", "outcome"),
    [
        (0.008, 920, "PASS"),  # 0.8 % is excluded
        (0.008, 1_500, "BLOCK"),
        (0.02, 690, "PASS"),  # needs no allowance
        (0.02, 1_300, "INCONCLUSIVE"),  # beyond what is stated, and no more than equals differ by
        (0.02, 2_400, "BLOCK"),
    ],
)
def test_the_noise_of_training_widens_the_limit_and_no_further_than_twice(
    tmp_path: Path, noise: float, lost: int, outcome: str
) -> None:
    """Equal recipes are not blocked for their seeds; one that differs by more is not let through either."""
    limit = Limit(0.005, noise, source="5 runs")
    judged = dataclasses.replace(IN_FORCE, accuracy=limit)
    told = judge_drop(compare(tmp_path, rows=60_000, lost=lost, gained=720), judged, SETTINGS)
    assert told.outcome == outcome
    assert told.limit == (-0.01 if noise > 0.01 else -noise)
    said = (
        "too noisy for its test split" if noise > 0.01 else "limit in force 0.80%: stated 0.50%, equal runs"
    )
    assert said in told.reason


def test_a_bound_that_touches_the_limit_does_not_exclude_it(tmp_path: Path) -> None:
    """PASS says that the limit is excluded, and a drop of exactly the limit is not."""
    comparison = compare(tmp_path, rows=40_000, lost=600, gained=600)
    _, fall = bound_drop(comparison.pairs, alpha_low=0.05, alpha_high=0.05)
    for limit, outcome in ((fall, "INCONCLUSIVE"), (np.nextafter(fall, 1), "PASS")):
        judged = limits_in_force(GateLimits(max_accuracy_drop=float(limit)), None, SETTINGS)
        assert judge_drop(comparison, judged, SETTINGS).outcome == outcome


@pytest.mark.parametrize(
    ("p_value", "said"),
    [(0.04321, "p = 0.0432"), (1e-15, "p = 1e-15"), (9.9e-16, "p < 1e-15"), (0.0, "p < 1e-15")],
)
def test_a_p_value_is_said_as_people_read_it(p_value: float, said: str) -> None:
    """Below 1e-15 the digits are those of rounding."""
    assert format_p_value(p_value) == said


def test_power_that_just_suffices_is_not_called_too_little(tmp_path: Path) -> None:
    """Where the rows are exactly those that are needed, "underpowered" would send somebody for more."""
    comparison = compare(tmp_path, rows=300, lost=9, gained=9)
    has = power_to_block(0.06, 0.2, 0.1, 300, alpha=SETTINGS.alpha_block)
    judged = limits_in_force(GateLimits(max_accuracy_drop=0.1), None, SETTINGS)
    for power, is_short in ((has, False), (np.nextafter(has, 1), True)):
        told = judge_drop(comparison, judged, msgspec.structs.replace(SETTINGS, power=float(power)))
        assert ("underpowered, a drop of 20.00% is blocked with power" in told.reason) == is_short
        assert "rows to block a drop of 20.00%: " in told.reason


def test_a_limit_of_zero_says_what_is_blocked(tmp_path: Path) -> None:
    """Rows to block twice nothing are no number."""
    judged = limits_in_force(GateLimits(max_accuracy_drop=0), None, SETTINGS)
    told = judge_drop(compare(tmp_path, rows=300, lost=2, gained=2), judged, SETTINGS)
    assert "; smallest drop blocked with power 95%: " in told.reason
    assert "rows to block" not in told.reason


def test_probabilities_have_to_be_some(tmp_path: Path) -> None:
    """Negative ones, ones that are no number, and rows that do not sum to 1 are no prediction."""
    path = tmp_path / "evaluation.parquet"
    for chances, is_one in (
        ((0.2, 0.3, 0.5), True),
        ((0.2, 0.3, 0.5009), True),  # float32 of many classes
        ((0.2, 0.3, 0.4991), True),
        ((0.2, 0.3, 0.5012), False),
        ((0.2, 0.3, 0.498), False),
        ((-0.2, 0.3, 0.9), False),
        ((-0.2, 0.2, 1.0), False),
        ((float("nan"), 0.3, 0.7), False),
        ((0.0, 0.0, 1.0), True),
    ):
        table = {"row": [0], "class_index": [1], "label_index": [2]}
        columns = {f"p_{index}": np.array([chance], np.float32) for index, chance in enumerate(chances)}
        pq.write_table(pa.table({**table, **columns}), path)
        if is_one:
            read = read_predictions(path, 3)
            assert read.confidence.tolist() == [np.float32(max(chances))]
            assert read.loss.tolist() == pytest.approx([-np.log(max(float(np.float32(chances[1])), 1e-7))])
        else:
            with pytest.raises(EvidenceError, match="negative, not finite or do not sum to 1"):
                read_predictions(path, 3)


def test_one_row_without_probabilities_is_enough(tmp_path: Path) -> None:
    """Among thousands that are right it would be somebody's loss."""
    path = tmp_path / "evaluation.parquet"
    table = {"row": [0, 1], "class_index": [1, 1], "label_index": [1, 1]}
    chances = {"p_0": [0.2, 0.2], "p_1": [0.5, 0.6], "p_2": [0.3, 0.3]}
    pq.write_table(pa.table({**table, **chances}), path)
    with pytest.raises(EvidenceError, match="do not sum to 1"):
        read_predictions(path, 3)


def test_gaps_in_predictions_are_refused(tmp_path: Path) -> None:
    """A NULL among class indexes would become a number somewhere."""
    path = tmp_path / "evaluation.parquet"
    table = {"row": [0, 1], "class_index": [1, None], "label_index": [2, 2]}
    pq.write_table(pa.table({**table, **{f"p_{index}": [0.2, 0.4] for index in range(3)}}), path)
    with pytest.raises(EvidenceError, match="have gaps"):
        read_predictions(path, 3)


@pytest.mark.parametrize("index", [-1, 3])
@pytest.mark.parametrize("column", ["truth", "label"])
def test_classes_outside_of_the_signature_are_refused(tmp_path: Path, column: str, index: int) -> None:
    """Numpy takes -1 for the last class and says nothing."""
    path = tmp_path / "evaluation.parquet"
    table = {"row": [0, 1], "class_index": [0, 2], "label_index": [0, 2]}
    table["class_index" if column == "truth" else "label_index"][1] = index
    pq.write_table(pa.table({**table, **{f"p_{n}": [0.25, 0.25] for n in range(2)}, "p_2": [0.5, 0.5]}), path)
    with pytest.raises(EvidenceError, match="a class index is outside 0 to 2"):
        read_predictions(path, 3)


def test_one_row_is_a_quality_without_a_spread(tmp_path: Path) -> None:
    """A spread takes two; NaN would compare as neither."""
    one = measure_quality(predictions(tmp_path, np.array([1]), np.array([1])))
    assert (one.rows, one.correct, one.loss_sd) == (1, 1, 0.0)
    two = measure_quality(predictions(tmp_path, np.array([1, 1]), np.array([1, 0])))
    assert two.loss_sd == pytest.approx(abs(np.log(0.8) - np.log(0.1)) / np.sqrt(2))


def test_classes_without_rows_and_slices_are_parts_of_a_comparison(tmp_path: Path) -> None:
    """Shares of classes and slices are over their own rows, and a class that has none is left out."""
    truth = np.array([0, 0, 0, 0, 2, 2])
    inside = {"some": np.array([True, True, False, False, True, False]), "none": np.zeros(6, bool)}
    champion = predictions(tmp_path, truth, np.array([0, 0, 1, 1, 2, 2]))
    path = tmp_path / "evaluation.parquet"
    path.write_bytes(encode_evaluation(truth, np.array([0, 1, 0, 1, 2, 1]), slices=inside))
    comparison = compare_predictions(champion, read_predictions(path, 3, ["some", "none"]), CLASSES)
    found = [
        (part.label, part.champion, part.candidate, part.pairs.rows, part.pairs.lost, part.pairs.gained)
        for part in (*comparison.recalls, *comparison.slices)
    ]
    assert found == [
        ("1", 0.5, 0.5, 4, 1, 1),
        ("7", 1.0, 0.5, 2, 1, 0),
        ("some", 1.0, 2 / 3, 3, 1, 0),
        ("none", 0.0, 0.0, 0, 0, 0),
    ]
