"""The line of a model that is to be replaced by a better one only."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from timberline.benchmarks.analysis.predictions import Predictions, QualityComparison, compare_predictions
from timberline.benchmarks.analysis.quality import judge_improvement
from timberline.benchmarks.analysis.verdict import required_lines
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings().accuracy
WORSE = VerdictLine(name="recall", candidate=0.5, outcome="PASS", reason="", mark="WARN")
OF_ITS_OWN = VerdictLine(name="baseline", candidate=0.5, outcome="PASS", reason="", mark="WARN")


def compare(
    lost: int, gained: int, *, loss: float = 0.0, rows: int = 4_000, sure: float = 0.0
) -> QualityComparison:
    """A candidate that loses and gains so many rows of class 0; its log-loss differs by ``loss`` a row."""
    truth = np.arange(rows) % 2
    champion, candidate = truth.copy(), truth.copy()
    candidate[: 2 * lost : 2] = 1
    champion[2 * lost : 2 * (lost + gained) : 2] = 1
    jitter = np.random.default_rng(0).normal(0, 0.01, rows)
    losses = np.full(rows, 0.5)
    confidence = np.full(rows, 0.75)
    before = Predictions(np.arange(rows), truth, champion, losses, confidence)
    after = Predictions(
        np.arange(rows),
        truth,
        candidate,
        losses + loss + jitter,
        confidence + sure,
        {"first": np.arange(rows) < rows // 2},
    )
    return compare_predictions(before, after, ["down", "up"])


def judge(
    comparison: QualityComparison | None, *lines: VerdictLine, improve: tuple[str, ...] | None = None
) -> VerdictLine:
    """The line, with [gate] improve as given."""
    limits = GateLimits(require="improvement")
    if improve:
        limits = msgspec.structs.replace(limits, improve=improve)
    return judge_improvement(comparison, lines, limits, SETTINGS)


@pytest.mark.parametrize(
    ("lost", "gained", "loss", "improve", "outcome"),
    [
        (0, 0, 0.0, None, "INCONCLUSIVE"),
        (20, 80, 0.0, None, "PASS"),
        (80, 20, 0.0, None, "INCONCLUSIVE"),  # worse; the line of accuracy says by how much
        (40, 40, -0.1, None, "PASS"),
        (40, 40, -0.1, ("accuracy",), "INCONCLUSIVE"),
        (20, 80, 0.0, ("recall.down",), "PASS"),
        (20, 80, 0.0, ("recall.up",), "INCONCLUSIVE"),
        (20, 80, 0.0, ("slices.first",), "PASS"),
        (20, 80, 0.0, ("recall.sideways", "accuracy"), "INVALID"),
        (20, 80, 0.0, ("profit",), "INVALID"),
    ],
)
def test_a_pass_needs_proof_that_something_named_is_better(
    lost: int, gained: int, loss: float, improve: tuple[str, ...] | None, outcome: str
) -> None:
    """ "Not proven worse" is not what such a model asks for."""
    line = judge(compare(lost, gained, loss=loss), improve=improve)
    assert (line.name, line.outcome) == ("improvement", outcome)


def test_calibration_can_be_what_has_to_be_better() -> None:
    """Right in every row and 75 % sure is worse calibrated than right in every row and 95 % sure."""
    assert judge(compare(0, 0, sure=0.2), improve=("calibration",)).outcome == "PASS"
    assert judge(compare(0, 0), improve=("calibration",)).outcome == "INCONCLUSIVE"


def test_better_in_one_and_proven_worse_in_another_is_not_better() -> None:
    """A mark within a limit is enough here; what is said of the candidate alone is not."""
    better = compare(20, 80)
    blocked = judge(better, WORSE)
    assert (blocked.outcome, "proven worse: recall" in blocked.reason) == ("BLOCK", True)
    assert judge(better, OF_ITS_OWN).outcome == "PASS"


def test_nothing_compared_is_nothing_better() -> None:
    """A champion that has learned from every row is no proof; the other lines say so as well."""
    assert judge(None).outcome == "INCONCLUSIVE"


def test_each_of_several_measures_has_its_share_of_the_level() -> None:
    """Ten measures are ten chances to look better by luck."""
    assert "one-sided 97.50%" in judge(compare(0, 0)).reason
    assert "one-sided 95.00%" in judge(compare(0, 0), improve=("accuracy",)).reason


def test_the_line_is_required_where_it_is_asked_for() -> None:
    """A verdict without it may not pass; a first version has nobody to be better than."""
    asked = GateLimits(require="improvement")
    assert "improvement" in required_lines(asked, is_first=False)
    assert "improvement" not in required_lines(asked, is_first=True)
    assert "improvement" not in required_lines(GateLimits(), is_first=False)
