"""A verdict on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.lines import HEAD, describe_match, format_row
from timberline.registry.verdict import Verdict


def format_table(verdict: Verdict) -> str:
    """One row a judgement, its reason below it, the outcome last."""
    heads = HEAD[:-1]
    rows = [format_row(line) for line in verdict.lines]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def layout(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()

    lines = [f"{verdict.model}@{verdict.candidate.version} {describe_match(verdict)}", "", layout(heads)]
    for row in rows:
        lines += [layout(row[:-1]), f"{' ' * (widths[0] + 2)}{row[-1]}"]
    said = describe_verdict(verdict)
    return "\n".join([*lines, "", f"{verdict.outcome}: {said}"])
