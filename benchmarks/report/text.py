"""A verdict for people and machines: Markdown, JSON, and the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from benchmarks.config import GateSettings
from benchmarks.judge.verdict import describe_outcome
from registry.verdict import Verdict, VerdictLine

if TYPE_CHECKING:  # they bring scipy and pyarrow along, which a skipped gate need not wait for
    from benchmarks.judge.measure import Restart
    from benchmarks.judge.predictions import Comparison

_HEAD = ("", "what", "champion", "candidate", "difference", "bounds", "limit", "why")


def write_report(
    verdict: Verdict,
    restarts: Sequence[Restart],
    comparison: Comparison | None,
    settings: GateSettings,
) -> bytes:
    """report.json: the verdict, what every restart and class gave, and the settings, as JSON."""
    tree = {
        "verdict": verdict,
        "settings": settings,
        "restarts": [_restart(restart) for restart in restarts],
        "recalls": [] if comparison is None else comparison.recalls,
    }
    return msgspec.json.format(msgspec.json.encode(tree, order="sorted"), indent=2) + b"\n"


def _restart(restart: Restart) -> dict[str, object]:
    return {
        "number": restart.number,
        "pairs": restart.pairs,
        "problem": restart.problem,
        "load_generator_cpu_share": restart.cpu_share,
        "observations": f"restart-{restart.number:02}.csv.gz",
        "p50_ms": {arm: run.p50_ms for arm, run in restart.arms.items() if run.latencies_ms},
        "ready_s": {arm: run.ready_s for arm, run in restart.arms.items()},
        "resident_bytes": {arm: run.resident_bytes for arm, run in restart.arms.items()},
    }


def write_markdown(verdict: Verdict) -> bytes:
    """report.md: outcome and one table row a judgement; fit for a pull-request comment."""
    title = f"# Gate: {verdict.model}@{verdict.candidate.version} {_against(verdict)}: {verdict.outcome}"
    said = describe_outcome(verdict.outcome, is_first=verdict.is_first)
    rows = [_cells(line) for line in verdict.lines]
    table = [_markdown_row(_HEAD), _markdown_row(["---"] * len(_HEAD)), *map(_markdown_row, rows)]
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


def _against(verdict: Verdict) -> str:
    if verdict.champion is None:
        return "(first version, judged by the floors alone)"
    return f"against version {verdict.champion.version}"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def format_table(verdict: Verdict) -> str:
    """The same table for a terminal, the reasons below their line."""
    heads = _HEAD[:-1]
    rows = [_cells(line) for line in verdict.lines]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def layout(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()

    lines = [f"{verdict.model}@{verdict.candidate.version} {_against(verdict)}", "", layout(heads)]
    for row in rows:
        lines += [layout(row[:-1]), f"{' ' * (widths[0] + 2)}{row[-1]}"]
    said = describe_outcome(verdict.outcome, is_first=verdict.is_first)
    return "\n".join([*lines, "", f"{verdict.outcome}: {said}"])


def _cells(line: VerdictLine) -> tuple[str, ...]:
    scale = _scale(line)
    bounds = f"{scale(line.low)} to {scale(line.high)}" if line.low is not None else ""
    change = scale(line.difference, sign=not line.unit.endswith("ratio"))
    value = _value_scale(line)
    limit = scale(line.limit)
    return (
        line.outcome,
        line.name,
        value(line.champion),
        value(line.candidate),
        change,
        bounds,
        limit,
        line.reason,
    )


class _Scale:
    """Numbers of one unit as people read them."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __call__(self, value: float | None, *, sign: bool = False) -> str:
        if value is None:
            return ""
        plus = "+" if sign else ""
        if self._unit.startswith("share"):
            return f"{value:{plus}.2%}"
        if self._unit == "bytes":
            return f"{value / 1e6:{plus},.1f} MB"
        if self._unit == "ratio":
            return f"× {value:.3f}"
        if self._unit == "pairs":
            return f"{value:,.0f} pairs"
        return f"{value:{plus}.4g} {self._unit}".rstrip()


def _scale(line: VerdictLine) -> _Scale:
    """Of difference, bounds and limit."""
    return _Scale("ratio" if line.unit.endswith("ratio") else line.unit)


def _value_scale(line: VerdictLine) -> _Scale:
    """Of the two values themselves."""
    return _Scale(line.unit.partition(",")[0])
