"""Recorded restarts under the rule as it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gate_rows import build_gate, build_restart
from timberline.benchmarks.analysis.latency import judge_latencies
from timberline.benchmarks.measure.records import ArmRun, Contrasts, Restart
from timberline.benchmarks.selftest.ledger import (
    RestartRow,
    append_rows,
    judge_restarts,
    read_row,
    read_rows,
    rejudge,
    write_row,
)
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits

SETTINGS = load_gate_settings()
LIMITS = GateLimits()
FIRST, SECOND = SETTINGS.duet.looks[:2]
Build = Callable[[int], Restart]


def record(count: int, build: Build = build_restart, started_at: str = "then") -> list[RestartRow]:
    """Rows of ``count`` restarts of one gate."""
    return [write_row(build(number), started_at=started_at, arm="aa") for number in range(1, count + 1)]


def test_a_recorded_restart_keeps_all_that_is_judged(tmp_path: Path) -> None:
    """A rule tried on recordings must see what it would have seen when they were made."""
    restarts = [
        build_restart(number, slower_ms=0.01, tail=1.5, work_ms=0.02) for number in range(1, FIRST + 1)
    ]
    rows = [write_row(restart, started_at="then", arm="aa") for restart in restarts]
    append_rows(tmp_path / "rows.csv", rows)
    again = [read_row(row) for row in read_rows(tmp_path / "rows.csv", RestartRow)]
    for before, after in zip(restarts, again, strict=True):
        assert (after.number, after.pairs, after.problem) == (before.number, before.pairs, "")
        told = [dataclasses.asdict(seen.contrasts) for seen in (before, after)]
        assert set(told[0]) == {field.name for field in dataclasses.fields(Contrasts)}
        assert told[1] == pytest.approx(told[0], abs=2e-5)  # six digits are kept
        assert None not in told[1].values()
    lines = [judge_latencies(seen, LIMITS, SETTINGS) for seen in (restarts, again)]
    assert [(line.outcome, line.label) for line in lines[0]] == [
        (line.outcome, line.label) for line in lines[1]
    ]
    shown = [[(line.champion, line.candidate) for line in told] for told in lines]
    medians = [0, 1, 4, 6]  # of a p99 the row keeps the contrast alone
    assert [shown[1][n] for n in medians] == [pytest.approx(shown[0][n], rel=1e-5) for n in medians]


def test_a_restart_without_net_times_and_one_that_failed_are_recorded_too() -> None:
    """Where the service does not tell its times, and where a restart gave nothing, there is still a row."""
    whole = build_restart(1)
    bare = Restart(1, 500, {arm: ArmRun(run.latencies_ms, 1.0, 1) for arm, run in whole.arms.items()})
    row = write_row(bare, started_at="then", arm="aa")
    assert math.isnan(row.net_p50)
    assert read_row(row).contrasts.net_p50 is None
    failed = write_row(Restart(2, 0, {}, "3 failed requests"), started_at="then", arm="aa")
    assert math.isnan(failed.client_p50)
    assert read_row(failed) == Restart(2, 0, {}, "3 failed requests")


@pytest.mark.parametrize(
    ("build", "outcome", "deciding"),
    [
        (build_restart, "PASS", ""),
        (lambda number: build_restart(number, slower_ms=0.05), "BLOCK", "net_p50"),
        (lambda number: build_restart(number, slower_ms=0.022), "BLOCK", "service_p50"),
        (lambda number: build_restart(number, work_ms=0.05), "BLOCK", "cpu_per_request"),
        (lambda number: build_restart(number, tail=2.0), "BLOCK", "net_p99"),
    ],
)
def test_the_rule_ends_a_recorded_gate_as_it_ends_a_real_one(
    build: Build, outcome: str, deciding: str
) -> None:
    """The looks are part of the rule: it ends at the first that is sure."""
    (gate,) = rejudge([build_gate(started_at="then")], record(SECOND, build), LIMITS, SETTINGS)
    assert gate.outcome == outcome
    assert deciding in gate.deciding
    assert gate.restarts in {FIRST, SECOND}


def test_a_candidate_between_margin_and_limit_passes_as_soon_as_the_limit_is_excluded() -> None:
    """Looking on could only prove what a mark says already; until now it ended in a BLOCK or at random."""
    restarts = [build_restart(number, slower_ms=0.008, work_ms=0.01) for number in range(1, SECOND + 1)]
    assert judge_restarts(restarts, LIMITS, SETTINGS) == ("PASS", "", FIRST)
    lines = judge_latencies(restarts[:FIRST], LIMITS, SETTINGS)
    assert "service_p50" in {line.name for line in lines if line.is_marked}


def test_a_recording_that_ends_too_soon_is_not_counted_as_decided() -> None:
    """A gate that stopped early under a bolder rule is no PASS of a more careful one."""
    restarts = [build_restart(number) for number in range(1, FIRST)]
    assert judge_restarts(restarts, LIMITS, SETTINGS) == ("INCONCLUSIVE", "restarts", FIRST - 1)


def test_a_failed_restart_makes_the_gate_invalid() -> None:
    """As it did when it was measured."""
    restarts = [*(build_restart(number) for number in range(1, FIRST)), Restart(FIRST, 0, {}, "stalled")]
    assert judge_restarts(restarts, LIMITS, SETTINGS) == ("INVALID", "answers", FIRST)


def test_only_gates_that_latency_could_decide_are_judged_again() -> None:
    """A worse model is blocked for its answers, which no restart records."""
    gates = [
        build_gate(started_at="then"),
        build_gate(started_at="never"),
        build_gate(started_at="then", arm="worse_1"),
    ]
    assert [gate.started_at for gate in rejudge(gates, record(SECOND), LIMITS, SETTINGS)] == ["then"]
