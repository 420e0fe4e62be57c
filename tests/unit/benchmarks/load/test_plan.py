"""The raw observations of a window, and their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.load.plan import Arrival, read_arrivals, write_arrivals

SEEN = [
    Arrival(number=1, body=7, due_s=0.25, lag_ms=0.125, latency_ms=0.1 + 0.2, ending="right"),
    Arrival(
        number=0, body=3, due_s=0.1, lag_ms=3.5, latency_ms=9.0, ending="wrong", problem='said "no", twice'
    ),
]


def test_arrivals_survive_their_file(tmp_path: Path) -> None:
    """Floats in full, in the order of the timetable: who doubts a figure can compute it again."""
    path = tmp_path / "window.csv.gz"
    write_arrivals(path, SEEN)
    first, second = read_arrivals(path)
    assert second == SEEN[0]
    assert (first.number, first.problem) == (0, 'said "no", twice')
    again = tmp_path / "again.csv.gz"
    write_arrivals(again, list(reversed(SEEN)))
    assert again.read_bytes() == path.read_bytes()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Half of the observations have other percentiles."""
    path = tmp_path / "window.csv.gz"
    write_arrivals(path, SEEN)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvidenceError, match=r"window\.csv\.gz"):
        read_arrivals(path)
