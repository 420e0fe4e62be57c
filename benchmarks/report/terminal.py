"""Tables for a person at a terminal, and a verdict as two of them.

They go to standard error. On a terminal they are coloured and folded to its width; in a file or a pipe
they have no colour, and a row stays one line however long it is.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.lines import HEAD, describe_match, format_row
from timberline.registry.verdict import Verdict

_NO_FOLD = 1_000_000  # columns; rich would fold at 80 where it finds no terminal
_STYLES = {
    "PASS": "green",
    "WARN": "yellow",
    "BLOCK": "bold red",
    "INCONCLUSIVE": "yellow",
    "INVALID": "magenta",
    "INFO": "dim",
}


def format_verdict(verdict: Verdict) -> str:
    """The numbers of every line, the reason of every line, and the outcome last."""
    rows = [format_row(line) for line in verdict.lines]
    title = f"{verdict.model}@{verdict.candidate.version} {describe_match(verdict)}"
    numbers = format_table(HEAD[:-1], [row[:-1] for row in rows])
    reasons = format_table(("", "what", "why"), [(row[0], row[1], row[-1]) for row in rows])
    return f"{title}\n\n{numbers}\n{reasons}\n{verdict.outcome}: {describe_verdict(verdict)}"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Aligned columns below ``head``; those named in ``right`` are flush right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _NO_FOLD)
    with console.capture() as drawn:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines())


def _printable(text: str) -> str:
    """Text from manifests and data may hold control characters, which would move the cursor."""
    return "".join("\ufffd" if unicodedata.category(letter).startswith("C") else letter for letter in text)
