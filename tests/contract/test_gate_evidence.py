"""The committed gates of the self-test: the rule of now, applied to them, still keeps what it states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.config import load_gate_settings
from benchmarks.proof.ledger import GateRow, RestartRow, find_restarts, read_rows
from benchmarks.proof.rates import measure_rates
from benchmarks.proof.rejudge import rejudge
from registry.manifest import GateLimits

ROOT = Path(__file__).resolve().parents[2]
GATES = ROOT / "docs" / "evidence" / "gate-selftest.csv"


@pytest.fixture(scope="module")
def recorded() -> list[GateRow]:
    """The gates as they ended when they were run."""
    return read_rows(GATES, GateRow)


def test_at_least_a_hundred_gates_of_identical_versions_are_kept(recorded: list[GateRow]) -> None:
    """A stated error rate without a count behind it is a wish."""
    identical = [row for row in recorded if row.arm == "aa"]
    assert len(identical) >= 100
    assert len({row.machine_class for row in recorded}) == 1


def test_the_rule_of_now_keeps_its_rates_on_recorded_restarts(recorded: list[GateRow]) -> None:
    """Who changes a margin or a level sees here what it would have done to real restarts."""
    restarts = read_rows(find_restarts(GATES), RestartRow)
    judged = rejudge(recorded, restarts, GateLimits(), load_gate_settings())
    assert {row.outcome for row in judged if row.arm == "aa"} == {"PASS"}
    assert {row.outcome for row in judged if row.arm == "tail"} == {"BLOCK"}
    # What was aimed at is in the arm's name, what arrived is in the row: the machine's load moves it.
    slower = [row for row in judged if row.arm.startswith("cpu") and row.injected_share >= 0.03]
    assert len(slower) > 15
    assert {row.outcome for row in slower} == {"BLOCK"}


def test_the_documents_tell_what_the_evidence_says(recorded: list[GateRow]) -> None:
    """Figures in a README outlive the files they came from."""
    text = (ROOT / "docs" / "gate.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `([\w.]+)` \| (\d+ of \d+) \|", text, re.MULTILINE))
    real = {rate.arm: f"{rate.blocked} of {rate.gates}" for rate in measure_rates(recorded)}
    assert told == real
