"""One figure of the page, and what several figures need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timberline.benchmarks.report.chart import Chart
from timberline.benchmarks.report.markup import Markup, tag
from timberline.registry.verdict import VerdictLine

if TYPE_CHECKING:
    from timberline.benchmarks.measure.records import Restart
    from timberline.benchmarks.report.record import Record


@dataclass(frozen=True)
class Figure:
    """``name`` is its anchor in the page, ``says`` how to read it in one or two sentences."""

    name: str
    title: str
    says: str
    body: Markup
    legend: tuple[tuple[str, str], ...] = ()

    def render(self) -> Markup:
        """As an element of the page; the legend is (class, text) pairs."""
        keys = [tag("li", tag("i", class_=f"key {class_}"), text) for class_, text in self.legend]
        return tag(
            "figure",
            tag("figcaption", tag("h2", self.title), tag("p", self.says)),
            tag("ul", keys, class_="legend") if keys else None,
            self.body,
            id=self.name,
            class_="card",
        )


def arm_names(record: Record) -> dict[str, str]:
    """How the arms are called in legends and tooltips."""
    verdict = record.verdict
    names = {"candidate": f"candidate (version {verdict.candidate.version})"}
    if verdict.champion is not None:
        names = {"champion": f"champion (version {verdict.champion.version})"} | names
    return names


def usable_restarts(record: Record) -> list[Restart]:
    """Those that can be believed and have observations of every arm."""
    wanted = set(arm_names(record))
    return [
        restart
        for restart in record.restarts
        if not restart.problem
        and wanted <= set(restart.arms)
        and all(run.latencies_ms for run in restart.arms.values())
    ]


def panels(drawn: Sequence[Markup | None]) -> Markup:
    """Several plots beside each other, below each other on a narrow screen."""
    return tag("div", [panel for panel in drawn if panel is not None], class_="panels")


def strip_row(name: Markup, chart: Chart, said: str, figures: str) -> Markup:
    """One of several plots below each other on a common scale: its name, the strip, its number."""
    return tag("div", name, chart.render(said, "strip"), tag("span", figures, class_="figures"), class_="row")


def strip_axis(chart: Chart) -> Markup:
    """The scale below all strips."""
    return tag("div", tag("span"), chart.render("scale", "strip axis"), class_="row")


def line_anchor(line: VerdictLine) -> str:
    """The name of a line's row as an anchor of the page."""
    return "line-" + re.sub(r"[^\w.-]+", "-", line.name)


def panel(title: str, plot: Markup, note: str = "") -> Markup:
    """One plot of several, with its own heading."""
    return tag("div", tag("h3", title), tag("p", note, class_="note") if note else None, plot)
