"""A verdict for a person at a terminal: two tables and the outcome."""

from __future__ import annotations

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.lines import HEAD, describe_match, format_row
from timberline.benchmarks.tables import format_table
from timberline.registry.verdict import Verdict


def format_verdict(verdict: Verdict) -> str:
    """The numbers of every line, the reason of every line, and the outcome last."""
    rows = [format_row(line) for line in verdict.lines]
    title = f"{verdict.model}@{verdict.candidate.version} {describe_match(verdict)}"
    numbers = format_table(HEAD[:-1], [row[:-1] for row in rows])
    reasons = format_table(("", "what", "why"), [(row[0], row[1], row[-1]) for row in rows])
    return f"{title}\n\n{numbers}\n{reasons}\n{verdict.outcome}: {describe_verdict(verdict)}"
