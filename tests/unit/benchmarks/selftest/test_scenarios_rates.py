"""Observed block rates beside the stated ones."""

from __future__ import annotations

import math

import pytest

from tests.support.gate_rows import build_gate
from timberline.benchmarks.selftest.ledger import GateRow
from timberline.benchmarks.selftest.scenarios import bound_rate, find_alarm, format_rates, measure_rates


def list_gates(arm: str, **outcomes: int) -> list[GateRow]:
    """So many gates of each outcome."""
    return [build_gate(arm=arm, outcome=name) for name, count in outcomes.items() for _ in range(count)]


def test_invalid_gates_are_told_and_not_counted() -> None:
    """A measurement that failed says nothing of the candidate: counted in, it would lower every rate."""
    (rate,) = measure_rates(list_gates("aa", PASS=90, BLOCK=1, INCONCLUSIVE=5, INVALID=4))
    assert (rate.gates, rate.passed, rate.blocked, rate.inconclusive, rate.invalid) == (100, 90, 1, 5, 4)
    assert rate.rate == 1 / 96
    assert (rate.low, rate.high) == bound_rate(1, 96)


@pytest.mark.parametrize(
    ("arm", "blocked", "of", "finding"),
    [
        ("aa", 0, 100, "open"),  # 0 of 100 leaves 3.6 % possible
        ("aa", 0, 400, "kept"),
        ("aa", 5, 100, "broken"),
        ("cpu_10", 100, 100, "kept"),
        ("cpu_10", 96, 100, "open"),
        ("cpu_10", 80, 100, "broken"),
        ("cpu_3", 50, 100, ""),
    ],
)
def test_a_promise_is_kept_or_broken_only_when_the_whole_interval_says_so(
    arm: str, blocked: int, of: int, finding: str
) -> None:
    """A hundred gates without a block do not prove 1 %, and the table must not say that they do."""
    (rate,) = measure_rates(list_gates(arm, BLOCK=blocked, PASS=of - blocked))
    assert rate.finding == finding


def test_an_arm_with_invalid_gates_alone_has_no_rate() -> None:
    """Nothing was learned, which is neither 0 nor 1."""
    (rate,) = measure_rates(list_gates("tail", INVALID=2))
    assert math.isnan(rate.rate)
    assert (rate.low, rate.high, rate.finding) == (0.0, 1.0, "open")


def test_false_blocks_raise_an_alarm_when_they_cannot_be_chance() -> None:
    """The rule was proven on another day; a machine that has changed since has to be noticed."""
    assert find_alarm(list_gates("aa", PASS=98, BLOCK=2)) == ""
    assert find_alarm(list_gates("cpu_10", BLOCK=100)) == ""
    assert "blocked 5 times in 100" in find_alarm(list_gates("aa", PASS=95, BLOCK=5))


def test_the_table_has_a_row_for_every_arm() -> None:
    """What is printed is what is committed and read."""
    slow = [build_gate(arm="cpu_5", outcome="BLOCK", injected_share=0.049, restarts=4)]
    head, rule, first, second = format_rates(measure_rates(list_gates("aa", PASS=2) + slow)).splitlines()
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["arm", "gates", "block"]
    assert set(rule) == set("|- ")
    assert "| 0.000 (0.000 to 0.842) |" in first
    assert "| 4.9%" in second
    assert len({len(line) for line in (head, rule, first, second)}) == 1
