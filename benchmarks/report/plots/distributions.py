"""How long requests took: both arms on one logarithmic axis, pooled over the restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from timberline.benchmarks.report.chart import Chart, across
from timberline.benchmarks.report.figure import Figure, arm_names, panel, panels, usable_restarts
from timberline.benchmarks.report.markup import Markup, tag

if TYPE_CHECKING:
    from timberline.benchmarks.measure.records import ArmRun
    from timberline.benchmarks.report.record import Record

Floats = npt.NDArray[np.float64]

_HEIGHT = 200
_BINS = 90  # a bin is about 3 pixels wide where there is room, and tells 5 % from each other over two decades
_PERCENTILES = (50, 95, 99)
# The axis ends here at both sides, and what lies beyond counts into the outer bins: one frozen second
# in a hundred thousand requests would otherwise press all others into a corner.
_BEYOND = 0.001


def draw_distributions(record: Record) -> Figure | None:
    """Client latency and net time; None when nothing was measured."""
    drawn = [
        _draw(record, "Client", "what the caller waits", lambda run: run.latencies_ms),
        _draw(record, "Client, net", "less every wait for a processor", lambda run: run.client_net_ms),
        _draw(record, "Service, net", "in the service, less its wait", lambda run: run.net_ms),
    ]
    if not any(drawn):
        return None
    return Figure(
        name="distributions",
        title="How long a request takes",
        says=(
            "All requests of all restarts, logarithmic time; the height is the share of requests. Upright "
            "lines are p50 and p99. Percentiles of the pool are for looking at: what is judged is above."
        ),
        legend=tuple(arm_names(record).items()),
        body=panels(drawn),
    )


def _draw(record: Record, title: str, note: str, read: Callable[[ArmRun], Sequence[float]]) -> Markup | None:
    pooled = {arm: _pool(record, arm, read) for arm in arm_names(record)}
    if any(values.size == 0 for values in pooled.values()):
        return None
    everything = np.concatenate(list(pooled.values()))
    low, high = (float(end) for end in np.quantile(everything, [_BEYOND, 1 - _BEYOND]))
    if high <= low:
        low, high = low / 2, low * 2
    edges = np.geomspace(low, high, _BINS + 1)
    shares = {arm: bin_shares(values, edges) for arm, values in pooled.items()}
    chart = Chart(across(low, high, "log"), 0, 1.08 * max(float(s.max()) for s in shares.values()), _HEIGHT)
    chart.axis_y(lambda value: f"{100 * value:g} %", count=4)
    chart.axis_x(format_ms, "milliseconds", count=7)
    for arm, share in shares.items():
        steps = _steps(edges, share)
        chart.area(steps, [(low, 0.0), (high, 0.0)], arm)
        chart.line(steps, arm)
    percentiles = {arm: np.quantile(values, np.array(_PERCENTILES) / 100) for arm, values in pooled.items()}
    for arm, (p50, _, p99) in percentiles.items():
        # Named once: the two arms' lines often fall together.
        is_named = arm == "candidate"
        chart.rule_x(float(p50), arm, "p50" * is_named, y=-6)
        chart.rule_x(float(p99), arm, "p99" * is_named, y=-6)
    said = "; ".join(
        f"{arm}: " + ", ".join(f"p{p} {format_ms(v)} ms" for p, v in zip(_PERCENTILES, values, strict=True))
        for arm, values in percentiles.items()
    )
    plot = chart.render(f"{title} latency. {said}")
    return panel(title, Markup(plot + _table(percentiles)), note)


def _pool(record: Record, arm: str, read: Callable[[ArmRun], Sequence[float]]) -> Floats:
    """All values of an arm; net time is a difference of two clocks, and a 0 of it is left out."""
    told = [np.asarray(read(restart.arms[arm]), dtype=float) for restart in usable_restarts(record)]
    values = np.concatenate([np.empty(0), *told])
    positive: Floats = values[values > 0]
    return positive


def bin_shares(values: Floats, edges: Floats) -> Floats:
    """Share of the values in every bin; those beyond the edges count into the outer ones."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares: Floats = counts / values.size
    return shares


def _steps(edges: Floats, shares: Floats) -> list[tuple[float, float]]:
    """The outline of the bars, from left to right."""
    return [
        (float(edge), float(share))
        for index, share in enumerate(shares)
        for edge in (edges[index], edges[index + 1])
    ]


def _table(percentiles: Mapping[str, Floats]) -> Markup:
    head = tag("tr", tag("td", "ms"), [tag("th", f"p{p}", scope="col") for p in _PERCENTILES])
    rows = [
        tag(
            "tr",
            tag("th", tag("i", class_=f"key {arm}"), arm, scope="row"),
            [tag("td", format_ms(float(value))) for value in values],
        )
        for arm, values in percentiles.items()
    ]
    return tag("div", tag("table", head, rows, class_="small"), class_="scroll")


def format_ms(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}" if value >= 1e-3 else f"{value:.2g}"
