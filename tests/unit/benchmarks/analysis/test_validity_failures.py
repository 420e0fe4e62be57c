"""Failed requests: the candidate is blocked for what only it fails, and nothing else passes either."""

from __future__ import annotations

import math

import pytest

from timberline.benchmarks.analysis.validity import Tally, compare_failures, judge_error_rate
from timberline.benchmarks.measure.records import ArmRun, Restart

ALPHA = 0.001


def run_restart(**tallies: tuple[int, int]) -> Restart:
    """One restart with (requests, failures) by arm."""
    arms = {
        arm: ArmRun((1.0,), 1.0, 1, request_count=requests, failure_count=failures)
        for arm, (requests, failures) in tallies.items()
    }
    return Restart(number=1, pairs=1, arms=arms)


@pytest.mark.parametrize(
    ("candidate", "champion", "outcome"),
    [
        ((1000, 0), (1000, 0), "PASS"),
        ((1000, 50), (1000, 0), "BLOCK"),
        ((1000, 3), (1000, 0), "INVALID"),
        ((1000, 1000), (1000, 1), "INVALID"),
        ((1000, 50), (1000, 50), "INVALID"),
        ((1000, 0), (1000, 50), "INVALID"),
        ((0, 0), (1000, 0), "INVALID"),
    ],
    ids=[
        "none",
        "the candidate's alone",
        "few",
        "nearly the candidate's alone",
        "both",
        "the champion's",
        "nothing asked",
    ],
)
def test_only_the_candidates_own_failures_block(
    candidate: tuple[int, int], champion: tuple[int, int], outcome: str
) -> None:
    """A machine that breaks for both blames nobody, and lets nobody pass."""
    line = judge_error_rate([run_restart(candidate=candidate, champion=champion)], ALPHA)
    assert line.outcome == outcome
    assert line.reason


def test_failures_of_all_restarts_count_together() -> None:
    """Four failures in each of three restarts prove what those of one do not."""
    restart = run_restart(candidate=(500, 4), champion=(500, 0))
    assert judge_error_rate([restart], ALPHA).outcome == "INVALID"
    line = judge_error_rate([restart] * 3, ALPHA)
    assert line.outcome == "BLOCK"
    assert (line.candidate, line.champion) == (12 / 1500, 0.0)


@pytest.mark.parametrize(("failures", "outcome"), [(0, "PASS"), (400, "INVALID")])
def test_without_a_champion_a_failure_is_never_a_pass(failures: int, outcome: str) -> None:
    """Nothing tells a broken candidate from a broken machine; either way nothing is proven."""
    line = judge_error_rate([run_restart(candidate=(800, failures))], ALPHA)
    assert line.outcome == outcome
    assert line.champion is None


def test_nothing_measured_is_not_a_pass() -> None:
    """No request failed where none was sent."""
    line = judge_error_rate([], ALPHA)
    assert (line.outcome, line.candidate) == ("INVALID", None)


def test_the_chance_is_fishers() -> None:
    """The lady who tasted tea told 3 cups of 4: p = 17/70 (Fisher, The Design of Experiments, 1935)."""
    assert compare_failures(Tally(4, 3), Tally(4, 1)) == pytest.approx(17 / 70)


def test_good_answers_bound_the_share_of_failures() -> None:
    """0 of n leaves at most 1 - 0.05^(1/n) at 95 %: the rule of three."""
    line = judge_error_rate([run_restart(candidate=(300, 0), champion=(300, 0))], ALPHA)
    assert line.high == pytest.approx(1 - 0.05 ** (1 / 300))


def test_the_line_is_told_with_its_figures() -> None:
    """Shares of both arms and their difference; no failure is allowed."""
    line = judge_error_rate([run_restart(candidate=(800, 40), champion=(500, 5))], ALPHA)
    assert (line.name, line.candidate, line.champion) == ("error_rate", 0.05, 0.01)
    assert line.difference == pytest.approx(0.04)
    assert (line.limit, line.unit) == (0.0, "share of requests")
    assert line.evidence == "restart-*.csv.gz"
    assert line.reason.startswith("40 of 800 requests of the candidate failed, 5 of 500 of the champion: ")
    alone = judge_error_rate([run_restart(candidate=(800, 40))], ALPHA)
    assert alone.reason.startswith("40 of 800 requests of the candidate failed: ")
    assert alone.reason.endswith("without a champion its cause is unknown")
    assert (alone.difference, alone.champion) == (None, None)


def test_a_chance_of_exactly_the_level_blocks() -> None:
    """The level is what may be spent; p is told either way."""
    restart = run_restart(candidate=(1000, 5), champion=(1000, 0))
    chance = compare_failures(Tally(1000, 5), Tally(1000, 0))
    assert judge_error_rate([restart], chance).outcome == "BLOCK"
    few = judge_error_rate([restart], math.nextafter(chance, 0))
    assert few.outcome == "INVALID"
    assert few.reason.endswith(f"p = {chance:.2g}")


def test_arms_that_were_not_asked_add_nothing() -> None:
    """A restart in which the champion did not start counts for the candidate alone."""
    line = judge_error_rate(
        [run_restart(candidate=(300, 0)), run_restart(candidate=(700, 7), champion=(100, 1))], ALPHA
    )
    assert (line.candidate, line.champion) == (0.007, 0.01)
