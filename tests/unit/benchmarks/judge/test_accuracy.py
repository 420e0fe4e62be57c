"""Held-out predictions → lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.config import load_gate_settings
from benchmarks.errors import EvidenceError
from benchmarks.judge.accuracy import judge_drop, judge_floors
from benchmarks.judge.predictions import (
    Comparison,
    Predictions,
    compare_predictions,
    keep_common,
    measure_quality,
    read_predictions,
)
from registry.manifest import GateLimits
from tests.support.evaluations import encode_evaluation

SETTINGS = load_gate_settings().accuracy
LIMITS = GateLimits(min_accuracy=0.5)
CLASSES = ["1", "2", "7"]


def predictions(folder: Path, truth: np.ndarray, label: np.ndarray, **given: object) -> Predictions:
    """Write and read the predictions, as the exporter and the gate do."""
    path = folder / "evaluation.parquet"
    path.write_bytes(encode_evaluation(truth, label, **given))  # type: ignore[arg-type]
    return read_predictions(path, len(CLASSES))


def compare(folder: Path, *, rows: int, lost: int, gained: int) -> Comparison:
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
        (40_000, 720, 600, "BLOCK"),  # surely worse, and by more than 0.1 %
        (40_000, 700, 500, "BLOCK"),  # surely worse, and by 0.5 %
        (40_000, 80, 45, "PASS"),  # p = 0.0009, but a drop of 0.09 % is not material
        (1_000, 30, 30, "INCONCLUSIVE"),
        (10, 0, 0, "INCONCLUSIVE"),
        (1_000, 60, 10, "BLOCK"),
    ],
)
def test_drop_is_judged(tmp_path: Path, rows: int, lost: int, gained: int, outcome: str) -> None:
    """Blocked by a material, proven drop; passed by a bound; otherwise not decided."""
    comparison = compare(tmp_path, rows=rows, lost=lost, gained=gained)
    assert judge_drop(comparison, LIMITS, SETTINGS).outcome == outcome


def test_too_few_rows_say_how_many_are_needed(tmp_path: Path) -> None:
    """ "Underpowered" without a number helps nobody."""
    told = judge_drop(compare(tmp_path, rows=1_000, lost=15, gained=15), LIMITS, SETTINGS)
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
            "underpowered, a drop of 0.50% is found with power 72% only; rows to find 0.50%: "
            "20,451, there are 12,000; smallest drop found with power 95%: 0.65%",
        ),
        (
            40_000,
            600,
            "PASS",
            "rows to find 0.50%: 24,542, there are 40,000; smallest drop found with power 95%: 0.39%",
        ),
        (
            10,
            0,
            "INCONCLUSIVE",
            "underpowered, a drop of 0.50% is found with power 0% only; rows to find 0.50%: "
            "4,085, there are 10; smallest drop found with power 95%: 100.00%",
        ),
    ],
)
def test_what_the_rows_can_find_is_said_whatever_the_outcome(
    tmp_path: Path, rows: int, changed: int, outcome: str, said: str
) -> None:
    """A pass without power is not evidence, and must not look like one."""
    told = judge_drop(compare(tmp_path, rows=rows, lost=changed, gained=changed), LIMITS, SETTINGS)
    assert told.outcome == outcome
    assert told.reason.endswith(said)
    assert told.evidence == "evaluation.parquet"


def test_a_limit_of_zero_is_never_proven_and_breaks_nothing(tmp_path: Path) -> None:
    """No number of rows proves a drop below nothing, and nothing may divide by it."""
    limits = GateLimits(max_accuracy_drop=0)
    told = judge_drop(compare(tmp_path, rows=300, lost=2, gained=2), limits, SETTINGS)
    assert told.outcome == "INCONCLUSIVE"
    assert "no number of rows" in told.reason


def test_a_drop_is_told_as_candidate_minus_champion(tmp_path: Path) -> None:
    """The sign of a difference is the first thing that gets read wrongly."""
    told = judge_drop(compare(tmp_path, rows=1_000, lost=60, gained=10), LIMITS, SETTINGS)
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
