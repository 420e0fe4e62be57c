"""Raw observations survive the trip through their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.drive.plan import Observation, read_observations, write_observations
from benchmarks.errors import EvidenceError


def observe(pair: int, arm: str, **changes: Any) -> Observation:
    """One request of a pair."""
    known = {
        "pair": pair,
        "position": 0,
        "arm": arm,
        "body": 3,
        "sent_s": 0.1,
        "latency_ms": 0.36,
        "handler_ms": 0.12,
        "cpu_ms": 0.1,
        "wait_ms": 0.01,
        "wake_ms": 0.02,
        "queue_ms": 0.0,
        "problem": "",
    }
    return Observation(**{**known, **changes})


SEEN = [observe(pair, arm) for pair in range(2) for arm in ("candidate", "champion")]


def test_observations_survive_their_file(tmp_path: Path) -> None:
    """The verdict is computed from the file, so that anybody can compute it again."""
    path = tmp_path / "restart-01.csv.gz"
    written = [*SEEN, observe(2, "champion", latency_ms=0.1 + 0.2, problem='HTTP 500: "a, b"\nc')]
    write_observations(path, written)
    read = read_observations(path)
    assert read[:-1] == SEEN
    assert read[-1].latency_ms == 0.1 + 0.2
    assert read[-1].problem == "HTTP 500: 'a, b' c"


def test_equal_observations_give_equal_bytes(tmp_path: Path) -> None:
    """Evidence can be compared by digest."""
    first, second = tmp_path / "1.csv.gz", tmp_path / "2.csv.gz"
    write_observations(first, SEEN)
    write_observations(second, SEEN)
    assert first.read_bytes() == second.read_bytes()


def test_cut_observations_are_refused(tmp_path: Path) -> None:
    """Half of the pairs is not a smaller sample but an unknown one."""
    path = tmp_path / "restart-01.csv.gz"
    write_observations(path, SEEN * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvidenceError):
        read_observations(path)
    with pytest.raises(EvidenceError):
        read_observations(tmp_path / "absent.csv.gz")
