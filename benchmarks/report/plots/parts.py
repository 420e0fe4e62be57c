"""Parts of the test split, champion beside candidate: recall of every class, accuracy of every slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from timberline.benchmarks.report.chart import Chart, Scale, across
from timberline.benchmarks.report.figure import Figure, arm_names, panel, panels, strip_axis, strip_row
from timberline.benchmarks.report.markup import Markup, tag

if TYPE_CHECKING:
    from timberline.benchmarks.analysis.predictions import PartChange
    from timberline.benchmarks.report.record import GateRecord

_ROW = 26
# Of many parts those that lost most; all are in report.json.
_MOST = 20


def draw_parts(record: GateRecord) -> Figure | None:
    """A row a part; None when the versions were not compared."""
    comparison = record.comparison
    if comparison is None or not comparison.recalls:
        return None
    return Figure(
        name="parts",
        title="Who won and who lost",
        says="Shares of the rows of each part that were recognised, the greatest loss first.",
        legend=tuple(arm_names(record).items()),
        body=panels([_draw("Recall by class", comparison.recalls), _draw("Slices", comparison.slices)]),
    )


def _draw(title: str, parts: Sequence[PartChange]) -> Markup | None:
    if not parts:
        return None
    shown = sorted(parts, key=lambda part: part.candidate - part.champion)[:_MOST]
    seen = [share for part in shown for share in (part.champion, part.candidate)]
    room = (max(seen) - min(seen)) * 0.06 or 0.01
    scale = across(min(seen) - room, max(seen) + room)
    axis = Chart(scale, 0, 1, 1)
    axis.axis_x(lambda value: f"{100 * value:.4g} %", count=4, is_grid=False)
    note = f"{len(shown)} of {len(parts)}, those that lost most" if len(shown) < len(parts) else ""
    strips = tag("div", [_row(part, scale) for part in shown], strip_axis(axis), class_="strips")
    return panel(title, strips, note)


def _row(part: PartChange, scale: Scale) -> Markup:
    chart = Chart(scale, 0, 1, _ROW)
    chart.rule_y(0.5, "track")
    said = (
        f"{part.label}: champion {part.champion:.2%}, candidate {part.candidate:.2%}, "
        f"{part.pairs.rows:,} rows, {part.pairs.lost:,} lost, {part.pairs.gained:,} gained"
    )
    chart.dot(part.champion, 0.5, "champion", said, radius=6.5)
    chart.dot(part.candidate, 0.5, "candidate", said)
    change = f"{100 * (part.candidate - part.champion):+.2f} pt"
    return strip_row(tag("span", part.label), chart, said, change)
