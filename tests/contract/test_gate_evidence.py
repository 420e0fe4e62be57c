"""The committed gates of the self-test: the rule of now, applied to them, still keeps what it states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from timberline.benchmarks.selftest.ledger import GateRow, RestartRow, find_restarts, read_rows, rejudge
from timberline.benchmarks.selftest.scenarios import measure_rates
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits

ROOT = Path(__file__).resolve().parents[2]
GATES = ROOT / "docs" / "evidence" / "gate-selftest.csv"


@pytest.fixture(scope="module")
def recorded() -> list[GateRow]:
    """The gates as they ended when they were run."""
    return read_rows(GATES, GateRow)


def test_at_least_thirty_gates_of_identical_versions_were_answered(recorded: list[GateRow]) -> None:
    """A stated error rate without a count behind it is a wish."""
    answered = [row for row in recorded if row.arm == "aa" and row.outcome != "INVALID"]
    assert len(answered) >= 30
    assert len({(row.machine_class, row.gate_version, row.config_digest) for row in recorded}) == 1


def test_the_rule_of_now_keeps_its_rates_on_recorded_restarts(recorded: list[GateRow]) -> None:
    """Who changes a margin or a level sees here what it would have done to real restarts."""
    restarts = read_rows(find_restarts(GATES), RestartRow)
    believed = [row for row in recorded if row.outcome != "INVALID"]
    judged = rejudge(believed, restarts, GateLimits(), load_gate_settings())
    assert {row.outcome for row in judged if row.arm == "aa"} == {"PASS"}
    for arm in ("service_20", "work_20", "cpu_10", "tail"):
        found = [row for row in judged if row.arm == arm]
        assert len(found) >= 8, arm
        assert {row.outcome for row in found} == {"BLOCK"}, arm
    only_cpu_sees = [row.deciding for row in judged if row.arm == "work_20"]
    assert set(only_cpu_sees) == {"cpu_per_request"}


def test_the_documents_tell_what_the_evidence_says(recorded: list[GateRow]) -> None:
    """Figures on a page outlive the files they came from."""
    text = (ROOT / "docs" / "reference" / "gate.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `([\w.]+)` \| (\d+ of \d+) \|", text, re.MULTILINE))
    real = {rate.arm: f"{rate.blocked} of {rate.gates}" for rate in measure_rates(recorded)}
    assert told == real
