"""report.md: a verdict as a comment on a pull or merge request.

What decided comes first; the rest is folded away. Plain GitHub-flavoured Markdown that GitLab
renders the same. Names and reasons hold text from manifests and data (class labels above all), so
nothing in them may become markup, a mention or a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.cells import describe_match, lay_cells
from timberline.registry.verdict import Verdict, VerdictLine, VersionDigests

# GitHub refuses a comment of more than 65,536 characters; the rest is for what a CI job adds.
MAX_CHARACTERS = 60_000

_MARKS = {"PASS": "✅", "WARN": "⚠️", "BLOCK": "❌", "INVALID": "🚫", "INCONCLUSIVE": "❔", "INFO": "·"}
# What keeps the gate closed comes first, then what should be looked at.
_ORDER = ("BLOCK", "INVALID", "INCONCLUSIVE", "WARN", "PASS", "INFO")
_HEAD = ("", "what", "champion → candidate", "difference", "limit")


def write_markdown(verdict: Verdict) -> bytes:
    """report.md: one line that says it all, the judged lines, the rest folded away.

    Never longer than ``MAX_CHARACTERS``; lines that find no room are counted, and stand in
    report.json.
    """
    lines = sorted(verdict.lines, key=lambda line: _ORDER.index(line.label))
    said = describe_verdict(verdict)
    title = (
        f"{_MARKS[verdict.outcome]} {verdict.outcome}: {verdict.model}@{verdict.candidate.version} "
        f"{describe_match(verdict)}"
    )
    judged = [line for line in lines if line.outcome != "INFO"]
    informed = [line for line in lines if line.outcome == "INFO"]
    facts = _fold("What was measured, on what", [f"- {fact}" for fact in _facts(verdict)])
    text = [f"### {title}", "", f"{said[0].upper()}{said[1:]}.", ""]
    room = MAX_CHARACTERS - sum(map(len, text + facts))
    # A third each at most for table, reasons and reported lines; what one leaves, the next may use.
    for share, part in ((3, _table(judged)), (2, _reasons(judged)), (1, _reported(informed))):
        kept = _fit(part, room // share)
        room -= sum(len(row) + 1 for row in kept)
        text += kept
    return ("\n".join(text + facts) + "\n").encode()


def _table(lines: Sequence[VerdictLine]) -> list[str]:
    return [_row(_HEAD), _row(["---"] * len(_HEAD)), *(_row(_cells(line)) for line in lines), ""]


def _cells(line: VerdictLine) -> list[str]:
    _, _, champion, candidate, change, bounds, limit, _ = map(_escape, lay_cells(line))
    values = f"{champion} → {candidate}" if champion else candidate
    interval = f" ({bounds})" if bounds else ""
    # Without a champion the bounds are those of the candidate's own value.
    shown = [values, f"{change}{interval}"] if change else [f"{values}{interval}", ""]
    return [f"{_MARKS[line.label]} {line.label}", _name(line), *shown, limit]


def _name(line: VerdictLine) -> str:
    return f"`{line.name}`" if re.fullmatch(r"[\w.: -]+", line.name) else _escape(line.name)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(lines: Sequence[VerdictLine]) -> list[str]:
    """Open for what keeps the gate closed or should be looked at, folded for what passed."""
    open_rows, folded = (
        [f"- {_name(line)}: {_escape(line.reason)}" for line in chosen]
        for chosen in (
            [line for line in lines if line.label != "PASS"],
            [line for line in lines if line.label == "PASS"],
        )
    )
    return [*open_rows, *([""] if open_rows else []), *_fold("Why these pass", folded)]


def _reported(lines: Sequence[VerdictLine]) -> list[str]:
    return _fold("Reported, not judged", _table(lines)[:-1]) if lines else []


def _fold(summary: str, rows: Sequence[str]) -> list[str]:
    # The empty lines make GitHub and GitLab read what is inside as Markdown.
    return ["<details>", f"<summary>{summary}</summary>", "", *rows, "", "</details>", ""] if rows else []


def _facts(verdict: Verdict) -> list[str]:
    machine = ", ".join(f"{key} {value}" for key, value in sorted(verdict.machine.items()))
    champion = [] if verdict.champion is None else [f"champion: {_identify(verdict.champion)}"]
    return [
        f"candidate: {_identify(verdict.candidate)}",
        *champion,
        f"measured {verdict.created_at} on {_escape(machine)}",
        f"gate version {verdict.gate_version}, settings `{verdict.config_digest[:16]}`",
    ]


def _identify(judged: VersionDigests) -> str:
    return (
        f"version {judged.version}, model `{judged.model_sha256[:16]}`, "
        f"manifest `{judged.manifest_sha256[:16]}`"
    )


def _fit(rows: list[str], room: int) -> list[str]:
    """``rows`` if they fit, otherwise the first ones, with what is left out counted."""
    if sum(len(row) + 1 for row in rows) <= room:
        return rows
    tail = ["", "</details>", ""] if "<details>" in rows else [""]
    kept: list[str] = []
    for row in rows:
        room -= len(row) + 1
        if room < 200:  # for the note and the end of the fold
            break
        kept.append(row)
    is_open = kept.count("<details>") > kept.count("</details>")
    return [*kept, "", f"… and {len(rows) - len(kept)} more, see report.json.", *(tail if is_open else [""])]


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no mention of a user, no link to an issue."""
    text = re.sub(r"\s+", " ", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", text)
    # A word joiner, which nobody sees, between @ or # and the name or number behind it.
    return re.sub(r"(?<![\w&])([@#!])(?=\w)", "\\1\u2060", text)
