"""The committed gates of the self-test: the rule of now, applied to them, still keeps what it states."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from statistics import fmean, median

import pytest

from timberline.benchmarks.selftest.ledger import GateRow, RestartRow, find_restarts, read_rows, rejudge
from timberline.benchmarks.selftest.scenarios import measure_rates
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits

ROOT = Path(__file__).resolve().parents[2]
GATES = ROOT / "docs" / "evidence" / "gate-selftest.csv"
RESULTS = (ROOT / "docs" / "results.md").read_text("utf-8")


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


def test_the_page_tells_what_the_evidence_says(recorded: list[GateRow]) -> None:
    """Figures in a page outlive the files they came from."""
    documented = re.findall(
        r"^\| `([\w.]+)` \| (\d+ of \d+) \|[^|]*\|[^|]*\| ([^|]*) \|[^|]*\| (\d+) \| (\d+) \((\d+)\) \|$",
        RESULTS,
        re.MULTILINE,
    )
    assert {arm: blocked for arm, blocked, *_ in documented} == {
        rate.arm: f"{rate.blocked} of {rate.gates}" for rate in measure_rates(recorded)
    }
    for arm, _, others, *figures in documented:
        mine = [row for row in recorded if row.arm == arm]
        counts = Counter(row.outcome for row in mine if row.outcome != "BLOCK")
        assert others == (", ".join(f"{n} {name}" for name, n in sorted(counts.items(), reverse=True)) or "–")
        seconds = [row.seconds for row in mine]
        real = [median(row.restarts for row in mine), median(seconds), max(seconds)]
        assert [int(figure) for figure in figures] == [round(figure) for figure in real], arm


def test_the_page_tells_how_far_identical_versions_differed() -> None:
    """From these spreads a reader judges whether an own runner is worse."""
    contrasts = [row for row in read_rows(find_restarts(GATES), RestartRow) if row.arm == "aa"]
    documented = re.search(
        r"Over the (\d+) restarts of identical versions the root mean square was (.*?)\.\s+The run before",
        RESULTS,
        re.DOTALL,
    )
    assert documented
    believed = [row for row in contrasts if not row.problem]
    assert int(documented[1]) == len(believed)
    names = ("net_p50", "service_p50", "net_p99", "net_tail", "client_p50", "client_p99", "cpu_per_request")
    shown = [float(share) for share in re.findall(r"([\d.]+) %", documented[2])]
    real = [100 * math.sqrt(fmean(getattr(row, name) ** 2 for row in believed)) for name in names]
    assert shown == [
        round(value, 1) if share < 20 else round(value) for share, value in zip(shown, real, strict=True)
    ]
