"""report.html: a gate on one page that needs nothing else.

The page has no script and makes no request, and its own policy forbids both: text in a model's name or
a reason can only be read. Plots are inline SVG in the page's colours.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.history.changes import find_changes
from timberline.benchmarks.history.releases import judge_release
from timberline.benchmarks.report.figures import (
    draw_contrasts,
    draw_headroom,
    draw_latency,
    draw_quality,
    format_ms,
    line_anchor,
)
from timberline.benchmarks.report.lines import Row, describe_match, format_row
from timberline.benchmarks.report.record import GateRecord
from timberline.benchmarks.report.release_table import HEAD as RELEASE_HEAD
from timberline.benchmarks.report.release_table import lay_release
from timberline.benchmarks.report.render import render
from timberline.registry.verdict import VerdictLine

if TYPE_CHECKING:
    from timberline.benchmarks.analysis.predictions import Confusion
    from timberline.benchmarks.measure.records import ArmRun

# An outcome is shown by a sign, a word and a colour.
_SIGNS = {"PASS": "✓", "WARN": "▲", "BLOCK": "✕", "INCONCLUSIVE": "?", "INVALID": "!", "INFO": "i"}
# The differences at the top of the page, where they were measured.
_HEADLINES = ("service_p50", "cpu_per_request", "p50", "accuracy")
_MOST_ERRORS = 50  # more than seven classes can have
_LAST_RELEASES = 10


class PageLine(NamedTuple):
    """A line as the page shows it: its cells, the anchor of its row, and the address of its evidence."""

    line: VerdictLine
    row: Row
    anchor: str
    evidence_href: str


class ClassError(NamedTuple):
    """Rows of class ``truth`` that got ``label``, of how many; ``change`` is candidate minus champion."""

    truth: str
    label: str
    champion: int
    candidate: int
    change: int
    rows: int


def write_page(record: GateRecord) -> bytes:
    """The page in UTF-8; equal records give equal bytes."""
    verdict = record.verdict
    lines = [_page_line(line) for line in verdict.lines]
    # A PASS is decided by all lines; those with a mark are named at the top whatever the outcome.
    decisive = [shown for shown in lines if shown.line.outcome == verdict.outcome != "PASS"]
    headlines = {shown.line.name: shown for shown in lines if shown.row.difference}
    figures = [draw(record) for draw in (draw_headroom, draw_contrasts, draw_latency, draw_quality)]
    releases = judge_release(record.history, verdict)
    changes = find_changes(releases)
    return render(
        "report.html",
        record=record,
        match=describe_match(verdict),
        summary=describe_verdict(verdict),
        signs=_SIGNS,
        lines=lines,
        deciding=[*decisive, *(shown for shown in lines if shown.line.is_marked)],
        is_partial=verdict.outcome != "PASS" and not decisive,
        tiles=[headlines[name] for name in _HEADLINES if name in headlines],
        figures=[figure for figure in figures if figure],
        confusions=changed_errors(record.comparison.confusion) if record.comparison else [],
        release_head=RELEASE_HEAD,
        releases=[lay_release(release, changes) for release in reversed(releases[-_LAST_RELEASES:])],
        measured=_format_run,
    )


def _page_line(line: VerdictLine) -> PageLine:
    href = f"./{quote(line.evidence, safe='')}"  # a file beside the page, whatever the name is
    if "*" in line.evidence:
        href = "#answers" if line.evidence.endswith(".parquet") else "#restarts-table"
    return PageLine(line, format_row(line), line_anchor(line), href)


def changed_errors(confusion: Confusion) -> list[ClassError]:
    """Pairs of truth and wrong label whose counts differ, the greatest change first; at most 50."""
    errors = [
        ClassError(truth, label, before, after, after - before, sum(confusion.champion[i]))
        for i, truth in enumerate(confusion.classes)
        for j, label in enumerate(confusion.classes)
        if (before := confusion.champion[i][j]) != (after := confusion.candidate[i][j]) and i != j
    ]
    return sorted(errors, key=lambda error: -abs(error.change))[:_MOST_ERRORS]


def _format_run(run: ArmRun) -> tuple[str, ...]:
    """Client p50, net p50, processor time a request, start-up and memory of one arm in one restart."""
    return (
        f"{format_ms(run.p50_ms)} ms" if run.latencies_ms else "–",
        f"{format_ms(median(run.net_ms))} ms" if run.net_ms else "–",
        "–" if math.isnan(run.cpu_ms) else f"{format_ms(run.cpu_ms)} ms",
        f"{run.ready_s:.2f} s",
        f"{run.resident_bytes / 1e6:,.0f} MB",
    )
