"""Restarts → lines, on made-up medians."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.config import DEFAULT_GATES, load_gate_settings
from benchmarks.judge.latency import judge_answers, judge_p50, judge_p50_ceiling
from benchmarks.judge.measure import ArmRun, Restart
from registry.manifest import GateLimits

SETTINGS = load_gate_settings(DEFAULT_GATES)
LIMITS = GateLimits()


def restarts(*ratios: float, problem: str = "") -> list[Restart]:
    """Restarts whose champion has a p50 of 1 ms and whose candidate is ``ratio`` times as slow."""
    return [
        Restart(
            number=number,
            pairs=500,
            arms={"champion": ArmRun((1.0,), 0.5, 1), "candidate": ArmRun((ratio,), 0.5, 1)},
            problem=problem,
        )
        for number, ratio in enumerate(ratios, 1)
    ]


@pytest.mark.parametrize(
    ("ratio", "count", "outcome"),
    [
        (1.00, 4, "PASS"),
        (0.80, 4, "PASS"),
        (1.10, 4, "INCONCLUSIVE"),
        (1.08, 12, "INCONCLUSIVE"),
        (1.15, 12, "BLOCK"),
        (1.25, 4, "INCONCLUSIVE"),  # the first look blocks only what is overwhelming
        (1.25, 8, "BLOCK"),
        (1.80, 4, "BLOCK"),
    ],
)
def test_p50_is_judged_by_bounds_of_restarts(ratio: float, count: int, outcome: str) -> None:
    """A pass needs an upper bound, a block a lower one; between them more restarts are asked for."""
    assert judge_p50(restarts(*[ratio] * count), LIMITS, SETTINGS).outcome == outcome


def test_a_wider_limit_widens_the_margin_that_blocks() -> None:
    """Who allows 50 % must not be blocked for 6 %."""
    generous = GateLimits(max_p50_increase=0.5)
    assert judge_p50(restarts(*[1.15] * 12), generous, SETTINGS).outcome == "PASS"


@pytest.mark.parametrize("count", [0, 1, 3, 5, 13])
def test_restarts_between_looks_are_not_judged(count: int) -> None:
    """The level is spent over the planned looks; another look would be a free one."""
    assert judge_p50(restarts(*[1.0] * count), LIMITS, SETTINGS).outcome == "INVALID"
    assert judge_p50_ceiling(restarts(*[1.0] * count), LIMITS, SETTINGS).outcome == "INVALID"


@pytest.mark.parametrize(("ceiling", "outcome"), [(0.1, "BLOCK"), (1.0, "INCONCLUSIVE"), (10.0, "PASS")])
def test_the_ceiling_is_judged_by_bounds_too(ceiling: float, outcome: str) -> None:
    """A first version has no champion to hide behind."""
    limits = GateLimits(max_p50_ms=ceiling)
    assert judge_p50_ceiling(restarts(*[1.0] * 12), limits, SETTINGS).outcome == outcome


def test_one_bad_restart_makes_the_answers_invalid() -> None:
    """Sparse errors are the ones that averages swallow."""
    told = judge_answers([*restarts(1.0, 1.0), *restarts(1.0, problem="1 failed requests")])
    assert told.outcome == "INVALID"
    assert "1 failed requests" in told.reason


def test_nothing_measured_is_invalid() -> None:
    """No data, no pass."""
    assert judge_answers([]).outcome == "INVALID"


def test_looks_end_with_the_last_restart() -> None:
    """Flags for a quick run must still give a planned last look."""
    quick = msgspec.structs.replace(SETTINGS.duet, restarts=2, max_restarts=5)
    assert quick.looks == (2, 4, 5)
    assert msgspec.structs.replace(SETTINGS.duet, restarts=2, max_restarts=2).looks == (2,)


def test_the_committed_rules_are_the_measured_ones() -> None:
    """Levels and margins were chosen on recordings; a change here is a decision, not a tweak."""
    latency, accuracy = SETTINGS.latency, SETTINGS.accuracy
    assert (latency.s0, latency.nu0, latency.alpha_block, latency.alpha_pass) == (0.05, 10, 0.001, 0.05)
    assert latency.block_share * LIMITS.max_p50_increase == pytest.approx(0.05)
    assert accuracy.materiality_share * LIMITS.max_accuracy_drop == pytest.approx(0.001)
    assert latency.alpha_block + accuracy.alpha_block + accuracy.alpha_recall <= 0.01
