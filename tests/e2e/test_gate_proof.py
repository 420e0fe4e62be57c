"""The gate's proof from its command line: real services, one of them really slower, and a run that is killed.

The regression is as large as the request itself, so that a second of load shows it on any machine.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.evaluations import publish_judged
from timberline.benchmarks.gate.calibration import load_calibration
from timberline.benchmarks.machine import machine_class
from timberline.benchmarks.selftest.ledger import GateRow, RestartRow, find_restarts, read_rows
from timberline.registry.manifest import GateLimits
from timberline.registry.store import open_store

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--window-s", "0.5", "--set", "duet.looks=[2]", "--set", "duet.min_pairs=10"]
QUICK += ["--set", "duet.warmup_pairs=5"]
# In so short a window one hiccup of the machine is much.
QUICK += ["--set", "duet.max_standstill_share=1", "--set", "duet.max_outside_ratio=100"]
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one version in production, and room for data."""
    folder = tmp_path_factory.mktemp("proof")
    limits = GateLimits(min_accuracy=0.5, max_p50_ms=1e6)
    publish_judged(open_store(folder / "registry"), alias="production", gate=limits)
    return folder


def start(folder: Path, verb: str, *flags: str) -> subprocess.Popen[str]:
    """``python -m benchmarks <verb>`` on the tiny model."""
    command = [sys.executable, "-m", "benchmarks", verb, "--model", "tiny", *QUICK, *flags]
    command += ["--registry", str(folder / "registry"), "--data", str(folder / "data")]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[Any, str]:
    """What a command printed, and its log."""
    said, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log
    return json.loads(said), log


def await_rows(path: Path, kind: type[Any], count: int, process: subprocess.Popen[str]) -> list[Any]:
    """Poll until a file has so many rows."""
    deadline = time.monotonic() + DEADLINE_S
    while len(rows := read_rows(path, kind)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)  # polling with a deadline
    return rows


def test_a_slower_candidate_is_blocked_and_a_killed_run_goes_on(folder: Path) -> None:
    """The proof is a night's run: a slowdown must be found, and a crash must not cost what was proven."""
    path = folder / "gates.csv"
    flags = ("--arms", "cpu_100=2", "--csv", str(path))
    killed = start(folder, "selftest", *flags)
    (first,) = await_rows(path, GateRow, 1, killed)
    below = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    _, alive = psutil.wait_procs(below, timeout=DEADLINE_S)
    assert alive == [], "services outlive a killed run"

    result, log = finish(start(folder, "selftest", *flags))
    rows = read_rows(path, GateRow)
    assert rows[0] == first
    assert [(row.arm, row.number, row.outcome) for row in rows] == [
        ("cpu_100", 1, "BLOCK"),
        ("cpu_100", 2, "BLOCK"),
    ]
    assert "net_p50" in rows[1].deciding
    assert rows[0].seed != rows[1].seed
    assert {row.started_at for row in read_rows(find_restarts(path), RestartRow)} >= {
        row.started_at for row in rows
    }
    for row in read_rows(find_restarts(path), RestartRow):
        # Both answered as many requests, and the candidate computed for as long again.
        assert row.candidate_cpu_ms > 1.2 * row.champion_cpu_ms > 0
        assert row.cpu_per_request > 0.15
    (rate,) = result["rates"]
    assert (rate["gates"], rate["blocked"], rate["stated"]) == (2, 2, ">= 95%")
    assert "| cpu_100" in log
    assert open_store(folder / "registry").versions("tiny") == [1]

    again, _ = finish(start(folder, "selftest", *flags, "--rejudge"))
    assert again["rates"][0]["blocked"] == 2


def test_a_calibration_is_stored_for_this_class_of_machine(folder: Path) -> None:
    """From then on the gate judges by it, so it has to be where the gate looks for it."""
    path = folder / "nightly.csv"
    result, _ = finish(start(folder, "calibrate", "--restarts", "8", "--csv", str(path)))
    known = load_calibration(folder / "data" / "calibrations", machine_class())
    assert known is not None
    assert (known.restarts, known.model) == (8, "tiny@1")
    assert result["net_p50"] == known.net_p50
    assert {row.arm for row in read_rows(path, GateRow)} <= {"aa_nightly"}
