"""A load report: figures with intervals, made of the windows, and its tables for people.

The round, with its fresh processes, is the unit. Pure but for the date.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from timberline.benchmarks.analysis.statistics import bound_mean
from timberline.benchmarks.load.measure import Load, Measured, SweepResult
from timberline.benchmarks.load.settings import CompareSettings, LoadSettings
from timberline.benchmarks.load.window import WindowResult
from timberline.benchmarks.machine import describe_machine
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.stages import digest_value

# By arm, the figure's value in every round, in the order of the rounds.
Rounds = Mapping[str, Sequence[float]]


RATE_FIGURE = "highest rate"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A geometric mean over rounds and its one-sided bounds."""

    mean: float
    low: float
    high: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of each arm; ``ratio`` is candidate over champion, None for one version alone."""

    name: str
    unit: str
    arms: dict[str, Span]
    ratio: Span | None


def compare_rounds(
    name: str, unit: str, rounds: Rounds, rules: CompareSettings, *, is_stepped: bool = False
) -> Figure:
    """Means over rounds, and of the paired ratio, each with Student's bounds at ``rules.alpha``.

    All in the logarithm: a rate or a latency cannot be negative, and half is as far as double. The
    ratio is taken within each round, where both arms had the same machine, and then averaged.

    Args:
        name, unit: of the quantity.
        rounds: its values; at least two.
        rules: the level, and the spread that stepped values have at least.
        is_stepped: the values are steps of a sweep, so that those of a few rounds may all be equal
            without being sure; then the SD is moderated by ``rules.s0``.

    Raises:
        EvidenceError: there is no round, or a value is not positive.
    """
    logs = {
        arm: [math.log(value) if value > 0 else math.nan for value in seen] for arm, seen in rounds.items()
    }
    ratio = None
    if "champion" in logs:
        pairs = zip(logs["candidate"], logs["champion"], strict=True)
        ratio = _span([candidate - champion for candidate, champion in pairs], rules, is_stepped)
    return Figure(
        name=name,
        unit=unit,
        arms={arm: _span(seen, rules, is_stepped) for arm, seen in logs.items()},
        ratio=ratio,
    )


def _span(logs: Sequence[float], rules: CompareSettings, is_stepped: bool) -> Span:
    bounds = bound_mean(
        logs,
        s0=rules.s0,
        nu0=rules.nu0 if is_stepped else 0,
        alpha_low=rules.alpha,
        alpha_high=rules.alpha,
    )
    return Span(mean=math.exp(bounds.mean), low=math.exp(bounds.low), high=math.exp(bounds.high))


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one load, or of the sweep; ``late_share`` by arm, over all its requests."""

    name: str
    figures: tuple[Figure, ...]
    late_share: dict[str, float] = {}


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement as it is kept.

    - ``versions``: ``model@version`` by arm.
    - ``problem``: why it is INVALID; "" when it is not.
    - ``is_below``: the candidate's highest rate is proven below the share of the champion's that the
      settings ask for; None when that was not measured.
    - ``is_censored``: the load generator gave up before a service did; rates are lower bounds.
    """

    versions: dict[str, str]
    settings: LoadSettings
    config_digest: str
    machine: dict[str, str]
    created_at: str
    loads: tuple[LoadFigures, ...]
    is_below: bool | None
    is_censored: bool
    problem: str
    sweeps: tuple[SweepResult, ...]
    windows: tuple[WindowResult, ...]


def build_report(
    versions: Mapping[str, str], measured: Measured, loads: Sequence[Load], settings: LoadSettings
) -> LoadReport:
    """The report of a measurement; an INVALID one has no figures."""
    problem, figures = measured.problem, tuple[LoadFigures, ...]()
    is_censored = any(sweep.is_censored for sweep in measured.sweeps)
    if not problem and is_censored and "champion" in versions:
        problem = "the load generator gave up before both services did: their rates cannot be compared"
    if not problem:
        figures = tuple(_summarise_load(load, measured, versions, settings) for load in loads)
        if not loads:
            figures = (_summarise_sweep(measured.sweeps, versions, settings),)
    ratio = figures[0].figures[0].ratio if figures and not loads else None
    return LoadReport(
        versions=dict(versions),
        settings=settings,
        config_digest=digest_value(settings),
        machine=describe_machine(),
        created_at=utc_now(),
        loads=figures,
        is_below=None if ratio is None else ratio.high < settings.compare.min_rate_share,
        is_censored=is_censored,
        problem=problem,
        sweeps=measured.sweeps,
        windows=measured.windows,
    )


def _summarise_load(
    load: Load, measured: Measured, versions: Iterable[str], settings: LoadSettings
) -> LoadFigures:
    windows = [w for w in measured.windows if w.number in measured.counted]
    of_load = [w for w in windows if (w.rate_rps, w.users) == (load.rate_rps, load.users)]
    by_arm = {arm: [w for w in of_load if w.arm == arm] for arm in versions}
    wanted = [("p50", "ms", "p50_ms"), ("p95", "ms", "p95_ms"), ("p99", "ms", "p99_ms")]
    if load.rate_rps is None:
        wanted.append(("rate", "1/s", "requests_per_s"))
    figures = tuple(
        compare_rounds(
            name,
            unit,
            {arm: [getattr(window, field) for window in seen] for arm, seen in by_arm.items()},
            settings.compare,
        )
        for name, unit, field in wanted
    )
    late = {
        arm: sum(w.late_share * w.scheduled for w in seen) / sum(w.scheduled for w in seen)
        for arm, seen in by_arm.items()
    }
    return LoadFigures(name=load.name, figures=figures, late_share=late)


def _summarise_sweep(
    sweeps: Sequence[SweepResult], versions: Iterable[str], settings: LoadSettings
) -> LoadFigures:
    rounds = {arm: [s.held_rps or 0.0 for s in sweeps if s.arm == arm] for arm in versions}
    figure = compare_rounds(RATE_FIGURE, "1/s", rounds, settings.compare, is_stepped=True)
    return LoadFigures(name="sweep", figures=(figure,))


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def format_load(report: LoadReport) -> str:
    """The report as a table for a terminal."""
    return "\n".join([*_describe(report), *lay_out(list(_list_rows(report))), *_conclude(report)])


def format_markdown(report: LoadReport) -> str:
    """The same as Markdown, with every window."""
    rows = list(_list_rows(report))
    lines = ["# Load", "", *(f"{line}  " for line in _describe(report)), ""]
    if rows:
        lines += [_row(rows[0]), _row(["---"] * len(rows[0])), *map(_row, rows[1:]), ""]
    conclusions = list(_conclude(report))
    lines += [*conclusions, ""] if conclusions else []
    lines += ["## Windows", ""]
    names = ("round", "arm", "load", "result", "requests", "p50 ms", "p99 ms", "late", "lag p99 ms", "file")
    lines += [_row(names), _row(["---"] * len(names))]
    lines += [_row(_cells(window)) for window in report.windows]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cells(window: WindowResult) -> tuple[str, ...]:
    load = Load(rate_rps=window.rate_rps, users=window.users)
    return (
        str(window.round),
        window.arm,
        load.name,
        f"{window.result}: {window.problem}" if window.problem else window.result,
        f"{window.scheduled:,}",
        f"{window.p50_ms:.3f}",
        f"{window.p99_ms:.3f}",
        f"{window.late_share:.1%}",
        f"{window.lag_p99_ms:.3f}",
        f"`{window.observations}`",
    )


def _describe(report: LoadReport) -> Iterator[str]:
    settings = report.settings
    arms = ", ".join(f"{arm} {name}" for arm, name in report.versions.items())
    rounds = f"{settings.compare.rounds} rounds with fresh processes"
    yield f"{arms}; workload {settings.window.workload}, {rounds}"
    yield (
        f"objective: p99 at most {settings.objective.p99_ms:g} ms from the due time, nothing refused; "
        "open loop: Poisson arrivals"
    )


def _list_rows(report: LoadReport) -> Iterator[list[str]]:
    """A header and a row a figure; means over rounds with their bounds."""
    if not report.loads:
        return
    arms = list(report.versions)
    sure = 1 - 2 * report.settings.compare.alpha
    yield ["load", "", *(f"{arm} ({sure:.0%} interval)" for arm in arms), *_ratio_head(arms, sure)]
    for load in report.loads:
        for figure in load.figures:
            spans = [_format_span(figure.arms[arm]) for arm in arms]
            ratio = [] if figure.ratio is None else [_format_span(figure.ratio)]
            yield [load.name, f"{figure.name}, {figure.unit}", *spans, *ratio]
        if load.late_share:
            late = [f"{load.late_share[arm]:.2%}" for arm in arms]
            yield [load.name, "beyond the objective", *late, *([""] if len(arms) > 1 else [])]


def _ratio_head(arms: Sequence[str], sure: float) -> list[str]:
    return [f"ratio ({sure:.0%} interval)"] if len(arms) > 1 else []


def _format_span(span: Span) -> str:
    digits = 0 if span.mean >= 100 else 3
    return f"{span.mean:,.{digits}f} ({span.low:,.{digits}f}–{span.high:,.{digits}f})"


def _conclude(report: LoadReport) -> Iterator[str]:
    # In a sweep it is the result that counts, which may stand in spite of a lag.
    is_sweep = bool(report.sweeps)
    doubtful = [w for w in report.windows if w.result == "invalid" or (w.problem and not is_sweep)]
    if doubtful:
        first = f"such as number {doubtful[0].number}: {doubtful[0].problem}"
        yield f"{len(doubtful)} of {len(report.windows)} windows are not valid and were not counted, {first}"
    if report.problem:
        yield f"INVALID: {report.problem}"
    elif report.is_censored:
        yield "The load generator gave up before the service did: it holds at least this rate."
    share = report.settings.compare.min_rate_share
    if report.is_below:
        yield f"The candidate's highest rate is proven below {share:.0%} of the champion's."
    elif report.is_below is False:
        yield f"The candidate's highest rate is not proven below {share:.0%} of the champion's."
