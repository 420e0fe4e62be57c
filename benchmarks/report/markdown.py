"""report.md: a verdict for a pull-request comment."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.judge.verdict import describe_outcome
from benchmarks.report.cells import HEAD, describe_match, lay_cells
from registry.verdict import Verdict


def write_markdown(verdict: Verdict) -> bytes:
    """report.md: outcome and one table row a judgement; fit for a pull-request comment."""
    title = (
        f"# Gate: {verdict.model}@{verdict.candidate.version} {describe_match(verdict)}: {verdict.outcome}"
    )
    said = describe_outcome(verdict.outcome, is_first=verdict.is_first)
    rows = [lay_cells(line) for line in verdict.lines]
    table = [_markdown_row(HEAD), _markdown_row(["---"] * len(HEAD)), *map(_markdown_row, rows)]
    machine = ", ".join(f"{key} {value}" for key, value in sorted(verdict.machine.items()))
    facts = [
        f"- candidate: version {verdict.candidate.version}, model `{verdict.candidate.model_sha256[:16]}`, "
        f"manifest `{verdict.candidate.manifest_sha256[:16]}`",
        f"- measured {verdict.created_at} on: {machine}",
        f"- gate version {verdict.gate_version}, settings `{verdict.config_digest[:16]}`",
    ]
    if verdict.champion:
        facts.insert(
            1,
            f"- champion: version {verdict.champion.version}, model "
            f"`{verdict.champion.model_sha256[:16]}`, manifest `{verdict.champion.manifest_sha256[:16]}`",
        )
    text = [title, "", f"{said[0].upper()}{said[1:]}.", "", *table, "", *facts]
    return ("\n".join(text) + "\n").encode()


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
