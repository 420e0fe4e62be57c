"""Tables at a terminal and in the log of a CI job."""

from __future__ import annotations

import io
import re
import sys

import msgspec
import pytest
from rich.cells import cell_len

from tests.support.manifests import build_verdict
from tests.support.verdicts import RATIO, judged, make_verdict
from timberline.benchmarks.report.terminal import format_table, format_verdict

LONG = "worst errors are within their bounds; " * 40


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Always true."""
        return True


def test_a_first_verdict_is_called_one() -> None:
    """Floors alone are a weaker promise than a comparison."""
    assert "no version is in production yet" in format_verdict(build_verdict("tiny", judged(1)))


def test_a_verdict_carries_every_reason_and_ends_with_the_outcome() -> None:
    """A person who is refused reads why without opening a file."""
    text = format_verdict(make_verdict(RATIO))
    assert RATIO.reason in text
    assert text.splitlines()[-1].startswith("INCONCLUSIVE: ")


def test_without_a_terminal_a_row_is_one_line_without_colours() -> None:
    """A log is searched by line, and colour codes are noise in it."""
    text = format_verdict(make_verdict(msgspec.structs.replace(RATIO, reason=LONG)))
    assert "\x1b" not in text
    assert LONG.rstrip() in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_terminal_gets_colours_and_rows_folded_to_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text beyond the right edge would be lost or break the columns."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"COLUMNS": "60", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    text = format_verdict(make_verdict(msgspec.structs.replace(RATIO, reason=LONG, outcome="BLOCK")))
    assert "\x1b[1;31mBLOCK" in text
    shown = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(cell_len, shown.splitlines()[1:-1])) <= 60
    assert shown.count("worst") == LONG.count("worst")


def test_columns_are_aligned_and_numbers_end_flush() -> None:
    """Wide letters take two columns of a terminal."""
    assert format_table(("name", "n"), [("木", "7"), ("long name", "1,000")], right=("n",)) == (
        "name           n\n木             7\nlong name  1,000\n"
    )


def test_text_from_data_is_neither_style_nor_control() -> None:
    """A class label may hold anything; it must not colour, clear or move."""
    assert (
        format_table(("why",), [("[red]\x1b[2K:smile:\nfine",)]) == "why\n[red]\ufffd[2K:smile:\ufffdfine\n"
    )
