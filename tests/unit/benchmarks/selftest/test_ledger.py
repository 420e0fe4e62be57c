"""Gates on disk: nothing that was finished is lost, nothing that was not is counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.support.gate_rows import build_gate
from timberline.benchmarks.errors import BenchmarkError, EvidenceError
from timberline.benchmarks.selftest.ledger import GateRow, append_rows, find_restarts, locked, read_rows


def test_rows_read_back_as_they_were_written(tmp_path: Path) -> None:
    """A rate is computed from the file, never from memory."""
    path = tmp_path / "new" / "gates.csv"
    rows = [build_gate(number=1), build_gate(number=2, outcome="BLOCK", deciding="net_p50+net_p99")]
    append_rows(path, rows[:1])
    append_rows(path, rows[1:])
    assert read_rows(path, GateRow) == rows
    assert path.read_text("utf-8").count("started_at") == 1


def test_there_are_no_rows_before_the_first(tmp_path: Path) -> None:
    """The first run begins with nothing and must not need a file to be made by hand."""
    assert read_rows(tmp_path / "gates.csv", GateRow) == []


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_dropped_and_the_next_gate_written_behind_the_whole_ones(
    tmp_path: Path, cut: int
) -> None:
    """A night's run that is killed while it writes must lose one gate at most, and not the file."""
    path = tmp_path / "gates.csv"
    append_rows(path, [build_gate(number=1), build_gate(number=2)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row.number for row in read_rows(path, GateRow)] == [1]
    append_rows(path, [build_gate(number=3)])
    assert [row.number for row in read_rows(path, GateRow)] == [1, 3]


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    """Killed in the very first write there is half a header, under which nothing could be read."""
    path = tmp_path / "gates.csv"
    path.write_bytes(b"started_at,machine_cl")
    append_rows(path, [build_gate()])
    assert read_rows(path, GateRow) == [build_gate()]


def test_a_gate_without_times_keeps_its_place(tmp_path: Path) -> None:
    """An INVALID gate has no median; it counts all the same, as one that told nothing."""
    path = tmp_path / "gates.csv"
    append_rows(path, [build_gate(outcome="INVALID", deciding="answers", champion_p50_ms=math.nan)])
    (row,) = read_rows(path, GateRow)
    assert row.outcome == "INVALID"
    assert math.isnan(row.champion_p50_ms)


def test_a_text_with_line_breaks_stays_one_row(tmp_path: Path) -> None:
    """A break inside a field would make every following line a torn one."""
    path = tmp_path / "gates.csv"
    append_rows(path, [build_gate(deciding='a,"b"\nc\r\nd'), build_gate(number=2)])
    assert [row.deciding for row in read_rows(path, GateRow)] == ['a,"b" c d', ""]


@pytest.mark.parametrize("text", ["other,columns\n1,2\n", "started_at,number\nnow,many\n"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    """Gates appended to another program's file would spoil both."""
    path = tmp_path / "gates.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(EvidenceError, match="line 2 is no row of this program"):
        read_rows(path, GateRow)


def test_two_runs_cannot_write_to_one_file(tmp_path: Path) -> None:
    """They would load the machine for each other and number their gates alike."""
    path = tmp_path / "gates.csv"
    with locked(path), pytest.raises(BenchmarkError, match="being written by another run"), locked(path):
        pass
    with locked(path):
        assert read_rows(path, GateRow) == []


def test_restarts_lie_beside_their_gates(tmp_path: Path) -> None:
    """Found by the name of the gates' file, so that a copied pair stays a pair."""
    assert find_restarts(tmp_path / "aa.csv") == tmp_path / "aa-restarts.csv"
