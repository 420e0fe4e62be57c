"""What each restart said about candidate against champion: the numbers that the verdict rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timberline.benchmarks.report.chart import Chart, across
from timberline.benchmarks.report.figure import Figure, panel, panels, usable_restarts
from timberline.benchmarks.report.limits import change_of, margin_shares
from timberline.benchmarks.report.markup import Markup
from timberline.registry.verdict import VerdictLine

if TYPE_CHECKING:
    from timberline.benchmarks.measure.records import Contrasts
    from timberline.benchmarks.report.record import Record

_HEIGHT = 220


@dataclass(frozen=True)
class _Contrast:
    """How one line's contrast is read from a restart, as a change: 0.05 is 5 % more."""

    line: str
    title: str
    note: str
    read: Callable[[Contrasts], float | None]


def _to_change(log_ratio: float | None) -> float | None:
    return None if log_ratio is None else math.expm1(log_ratio)


_CONTRASTS = (
    _Contrast("net_p50", "Net p50", "share of the client p50", lambda c: c.net_p50),
    _Contrast("service_p50", "Service p50", "change of the ratio", lambda c: _to_change(c.service_p50)),
    _Contrast("net_p99", "Net p99", "change of the ratio", lambda c: _to_change(c.net_p99)),
    _Contrast("net_tail", "Net tail", "change of the ratio", lambda c: _to_change(c.net_tail)),
    _Contrast("p50", "Client p50", "change of the ratio", lambda c: _to_change(c.client_p50)),
    _Contrast("client_p99", "Client p99, net", "change of the ratio", lambda c: _to_change(c.client_p99)),
    _Contrast(
        "cpu_per_request", "CPU a request", "change of the ratio", lambda c: _to_change(c.cpu_per_request)
    ),
)


def draw_contrasts(record: Record) -> Figure | None:
    """A dot a restart, and the mean with its interval; None for a first version."""
    if record.verdict.champion is None or not usable_restarts(record):
        return None
    drawn = [_draw(record, contrast) for contrast in _CONTRASTS]
    if not any(drawn):
        return None
    return Figure(
        name="restarts",
        title="Candidate against champion, restart by restart",
        says=(
            "Each dot is one fresh start of both processes, the unit that is judged. Above 0 the "
            "candidate is slower. BLOCK when the whole interval lies above the limit, PASS when it lies "
            "below; marked WARN when it lies below the limit and above the margin."
        ),
        legend=(
            ("dot", "one restart"),
            ("mean", "mean with its interval"),
            ("margin", "margin, marked above"),
            ("limit", "release limit"),
        ),
        body=panels(drawn),
    )


def _draw(record: Record, contrast: _Contrast) -> Markup | None:
    values = [
        (restart.number, value)
        for restart in usable_restarts(record)
        if (value := contrast.read(restart.contrasts)) is not None
    ]
    if not values:
        return None
    line = next((line for line in record.verdict.lines if line.name == contrast.line), None)
    change = change_of(line) if line else None
    seen = [0.0, *(value for _, value in values)]
    if change:
        seen += [
            number for number in (change.low, change.mean, change.high, change.limit) if number is not None
        ]
    room = (max(seen) - min(seen)) * 0.08 or 0.01
    last = max(number for number, _ in values)
    chart = Chart(across(0.5, last + 2.5), min(seen) - room, max(seen) + room, _HEIGHT)
    chart.axis_y(_percent)
    step = max(1, math.ceil(last / 5))
    chart.ticks_x([(number, str(number)) for number in range(1, last + 1, step)], "restart")
    chart.rule_y(0, "zero")
    if change and change.limit is not None:
        chart.rule_y(change.limit, "limit")
        share = margin_shares(record.settings).get(contrast.line)
        if share is not None:
            chart.rule_y(share * change.limit, "margin")
    for number, value in values:
        chart.dot(number, value, "candidate", f"restart {number}: {value:+.2%}")
    _add_mean(chart, line, last + 1.6)
    said = f"{contrast.title} by restart: " + ", ".join(f"{value:+.1%}" for _, value in values)
    return panel(contrast.title, chart.render(said), contrast.note)


def _add_mean(chart: Chart, line: VerdictLine | None, x: float) -> None:
    change = change_of(line) if line else None
    if change is None:
        return
    chart.ticks_x([(x, "mean")])
    if change.low is not None and change.high is not None:
        chart.whisker_y(x, change.low, change.high, "mean")
        said = f"mean {change.mean:+.2%}, bounds {change.low:+.2%} to {change.high:+.2%}"
    else:
        said = f"mean {change.mean:+.2%}"
    chart.dot(x, change.mean, "mean", said, radius=5.5)


def _percent(value: float) -> str:
    return f"{100 * value:+.3g} %" if value else "0"
