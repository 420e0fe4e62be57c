"""A load report for people: a table for a terminal, and Markdown with every window. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from timberline.benchmarks.load.compare import Span
from timberline.benchmarks.load.report import LoadReport
from timberline.benchmarks.load.stage import Load
from timberline.benchmarks.load.window import WindowResult


def format_load(report: LoadReport) -> str:
    """The report as a table for a terminal."""
    rows = list(_list_rows(report))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join([*_describe(report), *lines, *_conclude(report)])


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
            spans = [_span(figure.arms[arm]) for arm in arms]
            ratio = [] if figure.ratio is None else [_span(figure.ratio)]
            yield [load.name, f"{figure.name}, {figure.unit}", *spans, *ratio]
        if load.late_share:
            late = [f"{load.late_share[arm]:.2%}" for arm in arms]
            yield [load.name, "beyond the objective", *late, *([""] if len(arms) > 1 else [])]


def _ratio_head(arms: Sequence[str], sure: float) -> list[str]:
    return [f"ratio ({sure:.0%} interval)"] if len(arms) > 1 else []


def _span(span: Span) -> str:
    digits = 0 if span.mean >= 100 else 3
    return f"{span.mean:,.{digits}f} ({span.low:,.{digits}f}–{span.high:,.{digits}f})"


def _conclude(report: LoadReport) -> Iterator[str]:
    # In a sweep it is the result that counts, which may stand in spite of a lag.
    is_sweep = bool(report.sweeps)
    doubtful = [w for w in report.windows if w.result == "invalid" or (w.problem and not is_sweep)]
    if doubtful:
        first = f"such as number {doubtful[0].number}: {doubtful[0].problem}"
        yield f"{len(doubtful)} of {len(report.windows)} windows say nothing and were not counted, {first}"
    if report.problem:
        yield f"INVALID: {report.problem}"
    elif report.is_censored:
        yield "The load generator gave up before the service did: it holds at least this rate."
    share = report.settings.compare.min_rate_share
    if report.is_below:
        yield f"The candidate's highest rate is proven below {share:.0%} of the champion's."
    elif report.is_below is False:
        yield f"The candidate's highest rate is not proven below {share:.0%} of the champion's."
