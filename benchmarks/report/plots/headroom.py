"""All lines in one look: how much of its limit each uses up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timberline.benchmarks.report.chart import Chart, across
from timberline.benchmarks.report.figure import Figure, line_anchor, strip_axis, strip_row
from timberline.benchmarks.report.lines import LimitUsage, format_row, limit_usage, margin_shares
from timberline.benchmarks.report.markup import Markup, tag
from timberline.registry.verdict import VerdictLine

if TYPE_CHECKING:
    from timberline.benchmarks.report.record import GateRecord

# Beyond these an interval has an arrow: twice the limit is as clear as ten times.
_FARTHEST = (-1.0, 2.0)
_ROW = 26


def draw_headroom(record: GateRecord) -> Figure | None:
    """A row a line, 0 is no change and 1 its limit; None when no line has a limit."""
    used = [(line, use) for line in record.verdict.lines if (use := limit_usage(line)) is not None]
    if not used:
        return None
    low = max(_FARTHEST[0], min(0.0, *(use.low for _, use in used))) - 0.05
    high = min(_FARTHEST[1], max(1.0, *(use.high for _, use in used))) + 0.1
    margins = margin_shares(record.settings)
    rows = [_row(line, use, low, high, margins.get(line.name)) for line, use in used]
    return Figure(
        name="headroom",
        title="How close everything is",
        says=(
            "Each line on the scale of its own limit: 0 is no change (for a floor or a ceiling: nothing "
            "of it used up), 1 is the limit. Left of 0 is better than the champion. PASS needs the "
            "interval's right end below the limit, BLOCK its left end above it; WARN marks a line that "
            "passes with its left end above the margin. A line that is only to block (tail, memory, "
            "start-up) passes until that is proven."
        ),
        legend=(
            ("mean", "estimate with its interval"),
            *([("margin", "margin, marked above")] if any(line.name in margins for line, _ in used) else []),
            ("limit", "limit"),
        ),
        body=tag("div", rows, _axis(low, high), class_="strips"),
    )


def _row(line: VerdictLine, use: LimitUsage, low: float, high: float, margin: float | None) -> Markup:
    chart = Chart(across(low, high), 0, 1, _ROW)
    chart.band_x(1, high, "beyond")
    chart.rule_x(0, "zero")
    chart.rule_x(1, "limit")
    if margin is not None:
        chart.rule_x(margin, "margin")
    kind = line.label.lower()
    if use.high > use.low:
        chart.whisker_x(use.low, use.high, 0.5, kind)
    said = f"{line.name}: {use.mean:.2f} of the limit, {use.low:.2f} to {use.high:.2f}"
    if low <= use.mean <= high or use.high == use.low:
        chart.dot(use.mean, 0.5, kind, said)
    cells = format_row(line)
    name = tag("a", line.name, href=f"#{line_anchor(line)}")
    return strip_row(name, chart, said, cells[4] or cells[3])


def _axis(low: float, high: float) -> Markup:
    chart = Chart(across(low, high), 0, 1, 1)
    names = {-1.0: "−1", 0.0: "0", 1.0: "limit", 2.0: "2 ×"}
    chart.ticks_x([(value, name) for value, name in names.items() if low <= value <= high])
    return strip_axis(chart)
