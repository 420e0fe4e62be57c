"""The figures of a gate's page: headroom, contrasts by restart, latency and quality.

Each function draws one figure from a record, or gives None where the record has no data for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from scipy.stats import t as student

from timberline.benchmarks.report.chart import Chart, Scale, across
from timberline.benchmarks.report.lines import (
    LimitUsage,
    format_row,
    limit_usage,
    margin_shares,
    relative_change,
)
from timberline.registry.verdict import VerdictLine

if TYPE_CHECKING:
    from timberline.benchmarks.analysis.predictions import PartChange
    from timberline.benchmarks.measure.records import ArmRun, Contrasts
    from timberline.benchmarks.report.record import GateRecord

Floats = npt.NDArray[np.float64]

_HEIGHT = 220  # of a plot, pixels
_STRIP_HEIGHT = 26
# Headroom beyond these has an arrow: twice the limit is as clear as ten times.
_FARTHEST = (-1.0, 2.0)
_SHARES = np.arange(1, 100) / 100  # p1 to p99: a restart has too few observations for more
_NAMED = np.array([0.5, 0.95, 0.99])
_LEVEL = 0.95
# Of many classes or slices, those that lost most are shown.
_MOST_STRIPS = 20


class Strip(NamedTuple):
    """One of several plots below each other on one scale; a link if it has an address."""

    name: str
    plot: Markup
    value: str = ""
    href: str = ""


@dataclass(frozen=True)
class Panel:
    """One of the plots of a figure: a chart or strips, and a table below it (cells by row name)."""

    title: str = ""
    note: str = ""
    plot: Markup | None = None
    strips: Sequence[Strip] = ()
    head: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True)
class Figure:
    """Plots that answer one question.

    ``name`` is its anchor in the page, ``caption`` how to read it, ``legend`` pairs of class and text.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str]] = ()


def line_anchor(line: VerdictLine) -> str:
    """The anchor of a line's row in the page."""
    return "line-" + re.sub(r"[^\w.-]+", "-", line.name)


def format_ms(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}" if value >= 1e-3 else f"{value:.2g}"


def draw_headroom(record: GateRecord) -> Figure | None:
    """One strip a line; 0 is no change and 1 the limit. None when no line has a limit."""
    used = [(line, usage) for line in record.verdict.lines if (usage := limit_usage(line)) is not None]
    if not used:
        return None
    low = max(_FARTHEST[0], min(0.0, *(usage.low for _, usage in used))) - 0.05
    high = min(_FARTHEST[1], max(1.0, *(usage.high for _, usage in used))) + 0.1
    margins, scale = margin_shares(record.settings), across(low, high)
    axis = Chart(scale, 0, 1, 1)
    names = {-1.0: "−1", 0.0: "0", 1.0: "limit", 2.0: "2 ×"}
    axis.ticks_x([(value, name) for value, name in names.items() if low <= value <= high])
    strips = [_headroom_strip(line, usage, scale, margins.get(line.name)) for line, usage in used]
    has_margin = any(line.name in margins for line, _ in used)
    return Figure(
        name="headroom",
        title="How close every line is to its limit",
        caption=(
            "Each line has the scale of its own limit: 0 is no change (for a floor or a ceiling: nothing "
            "of it is used up), 1 is the limit. Left of 0 is better than the champion. A line passes when "
            "the right end of its interval is below the limit, and blocks when the left end is above it. "
            "WARN marks a line that passes with the left end above the margin. Tail, memory and start-up "
            "can only block: they pass until the left end is above the limit."
        ),
        legend=(
            ("mean", "estimate with its interval"),
            *([("margin", "margin")] if has_margin else []),
            ("limit", "limit"),
        ),
        panels=[Panel(strips=[*strips, Strip("", axis.render("scale", "strip axis"))])],
    )


def _headroom_strip(line: VerdictLine, usage: LimitUsage, scale: Scale, margin: float | None) -> Strip:
    chart = Chart(scale, 0, 1, _STRIP_HEIGHT)
    chart.band_x(1, scale.high, "beyond")
    chart.rule_x(0, "zero")
    chart.rule_x(1, "limit")
    if margin is not None:
        chart.rule_x(margin, "margin")
    kind = line.label.lower()
    if usage.high > usage.low:
        chart.whisker_x(usage.low, usage.high, 0.5, kind)
    label = f"{line.name}: {usage.mean:.2f} of the limit, {usage.low:.2f} to {usage.high:.2f}"
    if scale.low <= usage.mean <= scale.high or usage.high == usage.low:
        chart.dot(usage.mean, 0.5, kind, label)
    row = format_row(line)
    return Strip(
        line.name, chart.render(label, "strip"), row.difference or row.candidate, f"#{line_anchor(line)}"
    )


class _Contrast(NamedTuple):
    """A contrast of the restarts and the line that is judged from it."""

    line: str
    title: str
    read: Callable[[Contrasts], float | None]


# Logarithms of ratios, but for the first.
_CONTRASTS = (
    _Contrast("net_p50", "Net p50", lambda contrasts: contrasts.net_p50),
    _Contrast("service_p50", "Service p50", lambda contrasts: contrasts.service_p50),
    _Contrast("net_p99", "Net p99", lambda contrasts: contrasts.net_p99),
    _Contrast("net_tail", "Net tail", lambda contrasts: contrasts.net_tail),
    _Contrast("p50", "Client p50", lambda contrasts: contrasts.client_p50),
    _Contrast("client_p99", "Client p99, net", lambda contrasts: contrasts.client_p99),
    _Contrast("cpu_per_request", "CPU a request", lambda contrasts: contrasts.cpu_per_request),
)


def draw_contrasts(record: GateRecord) -> Figure | None:
    """A dot a restart, and the mean with its interval; None for a first version."""
    if record.verdict.champion is None:
        return None
    panels = [panel for contrast in _CONTRASTS if (panel := _contrast_panel(record, contrast))]
    if not panels:
        return None
    return Figure(
        name="restarts",
        title="Candidate against champion, restart by restart",
        caption=(
            "Each dot is one fresh start of both processes, the unit of the test. Above 0 the candidate "
            "is slower. BLOCK: the whole interval is above the limit. PASS: it is below. WARN marks a PASS "
            "with the interval above the margin."
        ),
        legend=(
            ("dot", "one restart"),
            ("mean", "mean with its interval"),
            ("margin", "margin"),
            ("limit", "limit"),
        ),
        panels=panels,
    )


def _contrast_panel(record: GateRecord, contrast: _Contrast) -> Panel | None:
    is_share = contrast.line == "net_p50"
    values = {
        restart.number: value if is_share else math.expm1(value)
        for restart in record.usable_restarts
        if (value := contrast.read(restart.contrasts)) is not None
    }
    if not values:
        return None
    line = next((line for line in record.verdict.lines if line.name == contrast.line), None)
    change = relative_change(line) if line else None
    known = [change.low, change.mean, change.high, change.limit] if change else []
    seen = [0.0, *values.values(), *(number for number in known if number is not None)]
    room, last = (max(seen) - min(seen)) * 0.08 or 0.01, max(values)
    chart = Chart(across(0.5, last + 2.5), min(seen) - room, max(seen) + room, _HEIGHT)
    chart.axis_y(_percent)
    step = max(1, math.ceil(last / 5))
    chart.ticks_x([(number, str(number)) for number in range(1, last + 1, step)], "restart")
    chart.rule_y(0, "zero")
    if change and change.limit is not None:
        chart.rule_y(change.limit, "limit")
        if contrast.line in (margins := margin_shares(record.settings)):
            chart.rule_y(margins[contrast.line] * change.limit, "margin")
    for number, value in values.items():
        chart.dot(number, value, "candidate", f"restart {number}: {value:+.2%}")
    if change:
        label = f"mean {change.mean:+.2%}"
        chart.ticks_x([(last + 1.6, "mean")])
        if change.low is not None and change.high is not None:
            chart.whisker_y(last + 1.6, change.low, change.high, "mean")
            label += f", bounds {change.low:+.2%} to {change.high:+.2%}"
        chart.dot(last + 1.6, change.mean, "mean", label, radius=5.5)
    label = f"{contrast.title} by restart: " + ", ".join(f"{value:+.1%}" for value in values.values())
    note = "share of the client p50" if is_share else "change of the ratio"
    return Panel(contrast.title, note, chart.render(label))


def draw_latency(record: GateRecord) -> Figure | None:
    """Percentiles of every arm over all restarts, with the difference; None when nothing was measured."""
    panels = [
        _latency_panel(record, "Client", "what the caller waits", lambda run: run.latencies_ms),
        _latency_panel(
            record, "Client, net", "less all waits for a processor", lambda run: run.client_net_ms
        ),
        _latency_panel(record, "Service, net", "in the service, less its wait", lambda run: run.net_ms),
    ]
    if not any(panels):
        return None
    caption = "Percentiles of all requests of all restarts; milliseconds on a logarithmic scale."
    if record.verdict.champion is not None:
        caption += (
            " Where the curves keep their distance, every request costs more; where they part at the right, "
            f"the slowest do. The difference is the mean over the restarts with its {_LEVEL:.0%} interval. "
            "For reading only: the lines above are judged."
        )
    return Figure(
        name="latency",
        title="How long a request takes",
        caption=caption,
        legend=tuple(record.arms.items()),
        panels=[panel for panel in panels if panel],
    )


def _latency_panel(
    record: GateRecord, title: str, note: str, read: Callable[[ArmRun], Sequence[float]]
) -> Panel | None:
    restarts = [restart for restart in record.usable_restarts if all(map(read, restart.arms.values()))]
    if not restarts:
        return None
    pooled = {arm: np.concatenate([read(restart.arms[arm]) for restart in restarts]) for arm in record.arms}
    # Net time is a difference of two clocks; a logarithmic scale has no place for 0 and less.
    pooled = {arm: values[values > 0] for arm, values in pooled.items()}
    if not all(values.size for values in pooled.values()):
        return None
    curves = {arm: np.quantile(values, _SHARES) for arm, values in pooled.items()}
    low, high = (float(pick([pick(curve) for curve in curves.values()])) for pick in (min, max))
    chart = Chart(across(0.01, 0.99, "normal"), low / 1.1, high * 1.1, _HEIGHT, "log")
    chart.axis_y(format_ms, count=6)
    chart.axis_x(lambda share: f"p{100 * share:.0f}", "percentile", count=7)
    named = {arm: np.quantile(values, _NAMED) for arm, values in pooled.items()}
    for arm, curve in curves.items():
        chart.line([(float(share), float(value)) for share, value in zip(_SHARES, curve, strict=True)], arm)
        for share, value in zip(_NAMED, named[arm], strict=True):
            chart.dot(
                share, float(value), arm, f"{arm} p{100 * share:.0f}: {format_ms(value)} ms", radius=3.5
            )
    columns = {arm: [format_ms(float(value)) for value in values] for arm, values in named.items()}
    label = "; ".join(f"{arm}: p50, p95, p99 {', '.join(values)} ms" for arm, values in columns.items())
    if "champion" in record.arms:
        shifts = [shift_quantiles(read(r.arms["champion"]), read(r.arms["candidate"])) for r in restarts]
        columns["difference"] = _format_differences(np.stack(shifts))
    rows = list(zip(("p50", "p95", "p99"), zip(*columns.values(), strict=True), strict=True))
    return Panel(title, note, chart.render(f"{title} latency. {label}"), head=("ms", *columns), rows=rows)


def _format_differences(shifts: Floats) -> list[str]:
    """Mean and bounds of every percentile, on two lines."""
    return [
        f"{mean:+.1%}" + (f"\n{100 * low:+.1f} to {100 * high:+.1f}" if low < high else "")
        if math.isfinite(mean)
        else "–"
        for mean, low, high in zip(*bound_shift(shifts), strict=True)
    ]


def shift_quantiles(champion: Sequence[float], candidate: Sequence[float]) -> Floats:
    """Candidate's p50, p95 and p99 over the champion's, minus 1; shape (3,).

    NaN where the champion's is no time: one net of waits is a difference of clocks and may be 0 or less.

    Source: Doksum, *Empirical probability plots and statistical inference for nonlinear models in
    the two-sample case*, Ann. Stat. 2 (1974) 267-277 (the shift function), here relative.
    """
    before, after = (np.quantile(np.asarray(arm, dtype=float), _NAMED) for arm in (champion, candidate))
    shift: Floats = np.where(before > 0, after / np.where(before > 0, before, 1.0) - 1, np.nan)
    return shift


def bound_shift(shifts: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean over restarts with its two-sided bounds at each percentile; (restarts, n) → three of (n,).

    Student's t over the restarts; of one restart the bounds are the mean.
    """
    count = shifts.shape[0]
    mean: Floats = shifts.mean(axis=0)
    if count == 1:
        return mean, mean, mean
    reach = float(student.isf((1 - _LEVEL) / 2, count - 1)) * shifts.std(axis=0, ddof=1) / math.sqrt(count)
    return mean, mean - reach, mean + reach


def draw_quality(record: GateRecord) -> Figure | None:
    """Recall of every class and accuracy of every slice; None when the versions were not compared."""
    comparison = record.comparison
    if comparison is None or not comparison.recalls:
        return None
    panels = [("Recall by class", comparison.recalls), ("Accuracy by slice", comparison.slices)]
    return Figure(
        name="quality",
        title="Which rows won and which lost",
        caption="Share of the rows of each class or slice with the right label, the greatest loss first.",
        legend=tuple(record.arms.items()),
        panels=[_quality_panel(title, changes) for title, changes in panels if changes],
    )


def _quality_panel(title: str, changes: Sequence[PartChange]) -> Panel:
    shown = sorted(changes, key=lambda change: change.candidate - change.champion)[:_MOST_STRIPS]
    seen = [share for change in shown for share in (change.champion, change.candidate)]
    room = (max(seen) - min(seen)) * 0.06 or 0.01
    scale = across(min(seen) - room, max(seen) + room)
    axis = Chart(scale, 0, 1, 1)
    axis.axis_x(lambda value: f"{100 * value:.4g} %", count=4, is_grid=False)
    note = f"{len(shown)} of {len(changes)}, those that lost most" if len(shown) < len(changes) else ""
    strips = [_quality_strip(change, scale) for change in shown]
    return Panel(title, note, strips=[*strips, Strip("", axis.render("scale", "strip axis"))])


def _quality_strip(change: PartChange, scale: Scale) -> Strip:
    chart = Chart(scale, 0, 1, _STRIP_HEIGHT)
    chart.rule_y(0.5, "track")
    label = (
        f"{change.label}: champion {change.champion:.2%}, candidate {change.candidate:.2%}, "
        f"{change.pairs.rows:,} rows, {change.pairs.lost:,} lost, {change.pairs.gained:,} gained"
    )
    chart.dot(change.champion, 0.5, "champion", label, radius=6.5)
    chart.dot(change.candidate, 0.5, "candidate", label)
    difference = f"{100 * (change.candidate - change.champion):+.2f} pt"
    return Strip(change.label, chart.render(label, "strip"), difference)


def _percent(value: float) -> str:
    return f"{100 * value:+.3g} %" if value else "0"
