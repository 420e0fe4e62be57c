"""The service's benchmark for people: one table, the figures beside it, and the targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from timberline.benchmarks.dev.service.figures import Judged, Row, Spread
from timberline.benchmarks.dev.service.speed import Report

_HEADS = (
    "",
    "CPU µs",
    "least",
    "× no-op",
    "(range)",
    "least",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "busy",
    "waited",
)
_FIGURE_HEADS = ("", "median", "(range)", "least")
_NAMES = {
    "noop": "no-op (raw ASGI)",
    "starlette_noop": "no-op (Starlette)",
    "timberline": "Timberline",
    "timberline_chunked": "Timberline, chunked body",
    "beside": "the other checkout",
    "beside_chunked": "the other checkout, chunked body",
    "noop_one_connection": "no-op, 1 connection",
    "timberline_one_connection": "Timberline, 1 connection",
    "fastapi": "FastAPI, async",
    "fastapi_threads": "FastAPI, threads",
    "mlserver": "MLServer",
}
_FIGURES = {
    "run_us": "in-process Run of one row, CPU µs",
    "timberline_to_noop": "Timberline, × no-op",
    "not_run_to_noop": "Timberline less Run, × no-op",
    "timberline_to_beside": "Timberline, × the other checkout",
    "chunked_to_beside": "Timberline, chunked body, × the other checkout",
    "fastapi_to_timberline": "FastAPI async, × Timberline",
    "fastapi_threads_to_timberline": "FastAPI threads, × Timberline",
    "mlserver_to_timberline": "MLServer, × Timberline",
    "batch_to_in_process": "binary batch, rows a CPU second, × in-process",
    "octets_to_in_process": "float32 batch, rows a CPU second, × in-process",
    "batch_binary_rows_per_s": "binary batch, rows/s",
    "batch_octets_rows_per_s": "float32 batch, rows/s",
    "run_batch_rows_per_s": "batch in-process, rows/s",
    "two_workers_to_one": "capacity of 2 workers, × 1",
    "two_workers_rate_to_one": "rate of 2 workers, less the clients' share, × 1",
    "ready_s": "start to ready, s",
    "resident_mb": "resident memory of a worker, MB",
}


def format_service(report: Report) -> str:
    """The report as text for a terminal."""
    machine, settings, figures = report.machine, report.settings, report.figures
    lines = [
        f"{report.model}@{report.version}, {settings.rounds} rounds of {settings.window_s:g} s, "
        f"{settings.connections} connections, closed loop; server on core {machine['server_core']}, "
        f"clients on core {machine['client_core']}, load average {machine['load_average_before']:.1f}",
        "",
        *lay_out([_HEADS, *(_cells(name, row) for name, row in report.services.items())]),
        "",
        *lay_out([_FIGURE_HEADS, *(_figure(name, figures[name]) for name in _FIGURES if name in figures)]),
        "",
        *lay_out([_target(target) for target in report.targets]),
    ]
    lines += [f"not measured: {name}: {why}" for name, why in report.left_out.items()]
    return "\n".join(lines)


def write_report(report: Report, data: Path) -> Path:
    """Keep the report as JSON under ``data``; the file."""
    folder = data / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"service-{report.model}-{report.version}.json"
    target.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return target


def _cells(name: str, row: Row) -> tuple[str, ...]:
    return (
        _NAMES.get(name, name),
        f"{row.cpu_us.median:,.1f}",
        f"{row.cpu_us.low:,.1f}",
        f"{row.to_noop.median:.2f}",
        f"({row.to_noop.low:.2f}–{row.to_noop.high:.2f})",
        f"{row.to_noop.least:.2f}",
        f"{row.requests_per_s:,.0f}",
        f"{row.p50_ms:.3f}",
        f"{row.p99_ms:.3f}",
        f"{row.busy_share:.0%}",
        f"{row.waited_share:.0%}",
    )


def _figure(name: str, spread: Spread) -> tuple[str, ...]:
    digits = ",.0f" if spread.median >= 1000 else ".2f"
    return (
        _FIGURES[name],
        f"{spread.median:{digits}}",
        f"({spread.low:{digits}}–{spread.high:{digits}})",
        "" if spread.least is None else f"{spread.least:.2f}",
    )


def _target(target: Judged) -> tuple[str, ...]:
    said = {True: "met", False: "NOT MET", None: "not measured"}[target.is_met]
    value = "" if target.value is None else f"{target.value:.2f}"
    return (target.text, target.bound, value, said)


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
