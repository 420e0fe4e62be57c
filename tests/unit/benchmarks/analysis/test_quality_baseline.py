"""A candidate beside its own baselines: what is marked, what blocks, and how often by chance."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.evaluations import encode_evaluation
from timberline.benchmarks.analysis.predictions import Predictions, read_predictions
from timberline.benchmarks.analysis.quality import judge_baseline
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings().accuracy
Flags = npt.NDArray[np.bool_]


def predictions(folder: Path, model: Flags, **baselines: Flags) -> Predictions:
    """Answers to rows of class 0, right where a flag is set."""
    path = folder / "evaluation.parquet"
    wrong = {name: (~flags).astype(np.int64) for name, flags in baselines.items()}
    path.write_bytes(encode_evaluation(np.zeros(model.size, int), (~model).astype(int), baselines=wrong))
    return read_predictions(path, 3)


def right(rows: int, first: int, last: int) -> Flags:
    """Right in rows ``first`` to ``last`` - 1 of ``rows``."""
    return (np.arange(rows) >= first) & (np.arange(rows) < last)


def judge(own: Predictions, action: str = "block") -> VerdictLine:
    """The line, under ``[gate] baseline = action``."""
    return judge_baseline(own, msgspec.convert({"baseline": action}, GateLimits), SETTINGS)


def test_a_model_that_is_proven_better_than_all_passes_without_a_mark(tmp_path: Path) -> None:
    """Most models are, and a mark on every line is no mark."""
    own = predictions(
        tmp_path, right(2000, 0, 1900), majority=right(2000, 0, 900), linear=right(2000, 0, 1800)
    )
    line = judge(own)
    assert (line.outcome, line.label, line.evidence) == ("PASS", "PASS", "evaluation.parquet")
    assert line.candidate == 0.95
    # Beside the better of the two: 100 rows gained of 2,000.
    assert line.difference == pytest.approx(0.05)
    assert line.low is not None
    assert line.low > 0
    assert "majority (45.00%), linear (90.00%)" in line.reason


@pytest.mark.parametrize("action", ["block", "warn"])
def test_a_model_that_is_no_better_is_marked(tmp_path: Path, action: str) -> None:
    """A network that learned nothing passed every stage in green."""
    same = right(2000, 0, 1700)
    line = judge(predictions(tmp_path, same, majority=same, linear=right(2000, 0, 1000)), action)
    assert (line.outcome, line.label) == ("PASS", "WARN")
    assert line.reason.startswith(
        "not proven better than majority (85.00%), linear (50.00%); against majority"
    )


def test_better_than_one_of_two_is_not_better(tmp_path: Path) -> None:
    """What has to be beaten is the better of the two, not the easier one."""
    model, linear = right(2000, 0, 1700), right(2000, 1, 1701)
    line = judge(predictions(tmp_path, model, majority=right(2000, 0, 200), linear=linear))
    assert line.label == "WARN"


def test_a_model_that_is_proven_worse_blocks(tmp_path: Path) -> None:
    """It costs more than the baseline and is wrong more often."""
    own = predictions(
        tmp_path, right(2000, 0, 1500), majority=right(2000, 0, 200), linear=right(2000, 0, 1560)
    )
    line = judge(own)
    assert (line.outcome, line.is_marked) == ("BLOCK", False)
    assert line.difference == pytest.approx(-0.03)
    assert line.reason.startswith("proven worse than a baseline of the same rows")
    assert "60 rows lost, 0 gained of 2,000" in line.reason


def test_a_proven_loss_is_only_marked_where_the_model_says_so(tmp_path: Path) -> None:
    """Some models are released all the same, by somebody who wrote down that they know."""
    own = predictions(tmp_path, right(2000, 0, 1500), linear=right(2000, 0, 1560))
    line = judge(own, "warn")
    assert (line.outcome, line.label) == ("PASS", "WARN")
    assert line.reason.endswith('[gate] baseline = "warn"')
    assert line.reason.startswith("proven worse")


def test_a_version_without_its_baselines_answers_is_not_judged(tmp_path: Path) -> None:
    """An export of before has none, and what is missing is never a pass."""
    line = judge(predictions(tmp_path, right(200, 0, 190)))
    assert line.outcome == "INVALID"
    assert "export the candidate's run again" in line.reason


def test_an_equal_model_is_hardly_ever_blocked(tmp_path: Path) -> None:
    """The level is for both baselines together: Holm's share of 0.05 % each."""
    chance = np.random.default_rng(20261126)
    blocked = 0
    for _ in range(2000):
        model, majority, linear = (chance.random(400) < 0.7 for _ in range(3))
        truth = np.zeros(400, np.int64)
        own = Predictions(
            rows=np.arange(400),
            truth=truth,
            label=(~model).astype(np.int64),
            loss=np.zeros(400),
            confidence=np.ones(400),
            baselines={"majority": (~majority).astype(np.int64), "linear": (~linear).astype(np.int64)},
        )
        blocked += judge(own).outcome == "BLOCK"
    # Of 2,000 at 0.05 % each one is expected; 6 or more have a chance below 0.1 %.
    assert blocked < 6


def test_equal_rows_are_compared_whatever_their_order(tmp_path: Path) -> None:
    """The file is in the order of the source, and what is read is ordered by row."""
    path = tmp_path / "evaluation.parquet"
    path.write_bytes(
        encode_evaluation([0, 1, 2], [0, 1, 1], rows=[9, 4, 7], baselines={"linear": np.array([0, 2, 2])})
    )
    assert read_predictions(path, 3).baselines["linear"].tolist() == [2, 2, 0]
