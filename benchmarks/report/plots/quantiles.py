"""The shift function: by how much each percentile of the candidate differs from the champion's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from timberline.benchmarks.report.chart import Chart, across
from timberline.benchmarks.report.figure import Figure, panel, panels, usable_restarts
from timberline.benchmarks.report.markup import Markup

if TYPE_CHECKING:
    from timberline.benchmarks.measure.records import ArmRun
    from timberline.benchmarks.report.record import Record

Floats = npt.NDArray[np.float64]

_HEIGHT = 200
_SHARES = np.arange(1, 100) / 100  # p1 to p99: a restart has observations enough for no more
_LEVEL = 0.95
# Where few restarts disagree wildly the band leaves the picture, or nothing else could be seen in it.
_MOST = 1.0
# Of the median: what is less is no time that a ratio could be taken of.
_NOTHING = 0.05


def draw_quantiles(record: Record) -> Figure | None:
    """The difference over the percentiles with its band; None for a first version."""
    if record.verdict.champion is None:
        return None
    drawn = [
        _draw(record, "Client", lambda run: run.latencies_ms),
        _draw(record, "Client, net", lambda run: run.client_net_ms),
        _draw(record, "Service, net", lambda run: run.net_ms),
    ]
    if not any(drawn):
        return None
    return Figure(
        name="quantiles",
        title="Where in the distribution the difference is",
        says=(
            "Candidate minus champion at every percentile, as a share of the champion's. A level line "
            "is a cost of every request, a rise at the right one of the slowest. Band: "
            f"{_LEVEL:.0%} interval between restarts, at each percentile for itself."
        ),
        legend=(("candidate", "mean over the restarts"), ("band", f"{_LEVEL:.0%} between restarts")),
        body=panels(drawn),
    )


def _draw(record: Record, title: str, read: Callable[[ArmRun], Sequence[float]]) -> Markup | None:
    restarts = [r for r in usable_restarts(record) if all(read(run) for run in r.arms.values())]
    if not restarts:
        return None
    shifts = np.stack(
        [shift_quantiles(read(r.arms["champion"]), read(r.arms["candidate"])) for r in restarts]
    )
    known = np.isfinite(shifts).all(axis=0)
    if known.sum() < 2:
        return None
    shares = _SHARES[known]
    mean, low, high = bound_shift(shifts[:, known])
    seen = np.concatenate([[-0.02, 0.02], mean, low, high])
    chart = Chart(
        across(float(shares[0]), float(shares[-1]), "normal"),
        max(float(seen.min()), min(-_MOST, float(mean.min()))) * 1.08,
        min(float(seen.max()), max(_MOST, float(mean.max()))) * 1.08,
        _HEIGHT,
    )
    chart.axis_y(lambda value: f"{100 * value:+.3g} %" if value else "0")
    chart.axis_x(lambda share: f"p{100 * share:.0f}", "percentile", count=7)
    chart.rule_y(0, "zero")
    if len(restarts) > 1:
        chart.area(_points(shares, high), _points(shares, low), "band")
    chart.line(_points(shares, mean), "candidate")
    named = [index for index, share in enumerate(shares) if share in (0.5, 0.99)]
    for index in named:
        share, value = float(shares[index]), float(mean[index])
        bounds = f", {low[index]:+.1%} to {high[index]:+.1%}" if len(restarts) > 1 else ""
        chart.dot(share, value, "candidate", f"p{100 * share:.0f}: {value:+.2%}{bounds}")
    said = ", ".join(f"p{100 * shares[index]:.0f} {mean[index]:+.1%}" for index in named)
    return panel(title, chart.render(f"{title}: {said}"))


def shift_quantiles(champion: Sequence[float], candidate: Sequence[float]) -> Floats:
    """Candidate's p1 to p99 over the champion's, minus 1; shape (99,).

    NaN where the champion's is next to nothing: a time net of waits is a difference of clocks, whose
    lowest percentiles may be 0 or less.

    Source: Doksum, *Empirical probability plots and statistical inference for nonlinear models in
    the two-sample case*, Ann. Stat. 2 (1974) 267-277 (the shift function), here relative.
    """
    before, after = (np.quantile(np.asarray(arm, dtype=float), _SHARES) for arm in (champion, candidate))
    is_time = (before > _NOTHING * before[49]) & (before > 0)
    shift: Floats = np.where(is_time, after / np.where(is_time, before, 1.0) - 1, np.nan)
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


def _points(shares: Floats, values: Floats) -> list[tuple[float, float]]:
    return [(float(share), float(value)) for share, value in zip(shares, values, strict=True)]
