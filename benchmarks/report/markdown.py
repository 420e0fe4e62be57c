"""report.md: a verdict as a comment on a pull or merge request.

The lines that decided come first; the others are folded. Plain GitHub-flavoured Markdown, which GitLab
renders the same way. Names and reasons hold text from manifests and data (class labels above all), so
nothing in them may become markup, a mention or a link.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from markupsafe import Markup

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.lines import describe_match, format_row
from timberline.benchmarks.report.render import render
from timberline.registry.verdict import Verdict, VerdictLine

# GitHub refuses a comment of more than 65,536 characters; a CI job needs the rest.
MAX_CHARACTERS = 60_000
_FRAME = 3_000  # characters of headings, folds and facts

_MARKS = {"PASS": "✅", "WARN": "⚠️", "BLOCK": "❌", "INVALID": "🚫", "INCONCLUSIVE": "❔", "INFO": "·"}
# Lines that keep the gate closed come first, then those with a mark.
_ORDER = ("BLOCK", "INVALID", "INCONCLUSIVE", "WARN", "PASS", "INFO")


class Section(NamedTuple):
    """Rows of Markdown, and how many more there was no room for."""

    rows: list[Markup]
    left_out: int


def write_markdown(verdict: Verdict) -> bytes:
    """report.md: the outcome in one line, the table of judged lines with reasons, the rest folded.

    Never longer than ``MAX_CHARACTERS``; lines that find no room are counted, and are in report.json.
    """
    lines = sorted(verdict.lines, key=lambda line: _ORDER.index(line.label))
    judged = [line for line in lines if line.outcome != "INFO"]
    sections = {
        "judged": [_table_row(line) for line in judged],
        "open_reasons": [_reason(line) for line in judged if line.label != "PASS"],
        "passed_reasons": [_reason(line) for line in judged if line.label == "PASS"],
        "informed": [_table_row(line) for line in lines if line.outcome == "INFO"],
    }
    machine = _escape(", ".join(f"{key} {value}" for key, value in sorted(verdict.machine.items())))
    return render(
        "report.md",
        verdict=verdict,
        marks=_MARKS,
        match=describe_match(verdict),
        summary=describe_verdict(verdict),
        machine=machine,
        **_fit(sections, MAX_CHARACTERS - _FRAME - len(machine)),
    )


def _fit(sections: dict[str, list[Markup]], room: int) -> dict[str, Section]:
    """The first rows of each section; one may use an equal share of the characters that are left."""
    fitted = {}
    for count, (name, rows) in enumerate(sections.items()):
        share, kept = room // (len(sections) - count), list[Markup]()
        for row in rows:
            share -= len(row) + 1
            if share < 0:
                break
            kept.append(row)
        fitted[name] = Section(kept, len(rows) - len(kept))
        room -= sum(len(row) + 1 for row in kept)
    return fitted


def _table_row(line: VerdictLine) -> Markup:
    row = format_row(line)
    values = f"{row.champion} → {row.candidate}" if row.champion else row.candidate
    difference, bounds = row.difference, f" ({row.bounds})" if row.bounds else ""
    # Without a champion the bounds are those of the candidate's own value.
    if difference:
        difference += bounds
    else:
        values += bounds
    cells = (
        f"{_MARKS[line.label]} {line.label}",
        _name(line),
        *map(_escape, (values, difference, row.limit)),
    )
    return Markup(f"| {' | '.join(cells)} |")


def _reason(line: VerdictLine) -> Markup:
    return Markup("- {}: {}").format(_name(line), _escape(line.reason))


def _name(line: VerdictLine) -> Markup:
    return Markup(f"`{line.name}`") if re.fullmatch(r"[\w.: -]+", line.name) else _escape(line.name)


def _escape(text: str) -> Markup:
    """Text that Markdown shows as it is: no markup, no mention of a user, no link to an issue."""
    text = re.sub(r"\s+", " ", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", text)
    # An invisible word joiner between @ or # and the name or number behind it.
    return Markup(re.sub(r"(?<![\w&])([@#!])(?=\w)", "\\1\u2060", text))
