"""The restarts that a gate left in its folder."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.measure.duet import build_arm
from timberline.benchmarks.measure.records import Observation, write_observations
from timberline.benchmarks.selftest.ledger import read_restarts


def observe(pair: int, arm: str, handler_ms: float) -> Observation:
    """One answer of 0.5 ms, of which so much was spent in the service."""
    return Observation(
        pair=pair,
        position=0,
        arm=arm,
        body=0,
        sent_s=pair / 100,
        latency_ms=0.5,
        handler_ms=handler_ms,
        cpu_ms=handler_ms,
        wait_ms=0.01,
        problem="",
    )


def leave_gate(folder: Path) -> list[Observation]:
    """A folder as a gate leaves it: one restart that was believed, one that failed."""
    seen = [
        observe(pair, arm, 0.1 + 0.01 * (arm == "candidate"))
        for pair in range(20)
        for arm in ("champion", "candidate")
    ]
    write_observations(folder / "restart-01.csv.gz", seen)
    believed = {
        "number": 1,
        "pairs": 20,
        "problem": "",
        "observations": "restart-01.csv.gz",
        "ready_s": {"champion": 0.6, "candidate": 0.7},
        "resident_bytes": {"champion": 90, "candidate": 91},
        "cpu_s": {"champion": 0.004, "candidate": None},
    }
    failed = {"number": 2, "pairs": 0, "problem": "not ready", "observations": "restart-02.csv.gz"}
    failed |= {"ready_s": {}, "resident_bytes": {}, "cpu_s": {}}
    report = {"verdict": {}, "restarts": [believed, failed]}
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
    return seen


def test_restarts_are_built_from_raw_observations_as_the_gate_builds_them(tmp_path: Path) -> None:
    """What is recorded has to be what was judged, down to the last observation."""
    seen = leave_gate(tmp_path)
    believed, failed = read_restarts(tmp_path)
    champion = build_arm([o for o in seen if o.arm == "champion"], 0.6, 90)
    candidate = build_arm([o for o in seen if o.arm == "candidate"], 0.7, 91)
    assert believed.arms["champion"] == dataclasses.replace(champion, cpu_s=0.004)
    assert math.isnan(believed.arms["candidate"].cpu_s)
    # NaN is equal to nothing, also within a dataclass from Python 3.13 on.
    assert dataclasses.replace(believed.arms["candidate"], cpu_s=0.0) == dataclasses.replace(
        candidate, cpu_s=0.0
    )
    assert (believed.number, believed.pairs, believed.problem) == (1, 20, "")
    assert (failed.number, failed.arms, failed.problem) == (2, {}, "not ready")


def test_a_gate_without_its_report_or_observations_is_not_recorded(tmp_path: Path) -> None:
    """A row of a gate of which nothing is left could not be looked into."""
    with pytest.raises(EvidenceError, match="report cannot be read"):
        read_restarts(tmp_path)
    leave_gate(tmp_path)
    (tmp_path / "restart-01.csv.gz").unlink()
    with pytest.raises(EvidenceError, match="raw observations cannot be read"):
        read_restarts(tmp_path)
