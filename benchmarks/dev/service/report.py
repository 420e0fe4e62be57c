"""From rounds of load to a report: costs, ratios within a round, their spread, targets met or not, tables.

Pure but for the files of targets and reports: numbers in, numbers and text out. Every ratio is taken within
one round, whose servers were measured right after one another, and only then summarised: what slows the
machine down slows both.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np

from timberline.benchmarks.dev.clients import RoundOutcome
from timberline.benchmarks.load.report import lay_out
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import decode_toml

T = TypeVar("T")
DEFAULT_TARGETS = Path(__file__).with_name("targets.toml")


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


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One value a round: their median, and the whole range that they lie in.

    ``least`` of a ratio of costs is that of the cheapest round of each side: other programs only ever
    make a round dearer, so on a busy machine it comes nearest to what a quiet one would show.
    """

    median: float
    low: float
    high: float
    least: float | None = None


def summarise(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def divide(costs: Sequence[float], others: Sequence[float]) -> Spread:
    """The spread of the ratios of costs, round by round."""
    ratios = summarise([cost / other for cost, other in zip(costs, others, strict=True)])
    return msgspec.structs.replace(ratios, least=min(costs) / min(others))


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One service under single-row load.

    - ``cpu_us``: processor time a request, microseconds; ``to_noop`` the same as a multiple of the
      no-op's in the same round.
    - ``busy_share``: of the time in which the server worked, or would have if other programs had
      let it; least of all rounds. Far below 1 it waited for its clients, and woke up more often
      than under full load.
    - ``waited_share``: of the time in which other programs had its core; most of all rounds.
    - ``p50_ms``, ``p99_ms``: client latency, over the pooled requests of all rounds.
    """

    cpu_us: Spread
    to_noop: Spread
    requests_per_s: float
    busy_share: float
    waited_share: float
    p50_ms: float
    p99_ms: float
    requests: int
    answer_bytes: int


def cost_us(seen: RoundOutcome) -> float:
    """Processor time of a request over all of the server's processes, microseconds."""
    return sum(seen.server_cpu_s) / seen.requests * 1e6


def describe_service(rounds: Sequence[RoundOutcome], noop: Sequence[RoundOutcome]) -> Row:
    """One service's row, from its rounds and the no-op's."""
    costs = [cost_us(seen) for seen in rounds]
    latencies = np.concatenate([np.frombuffer(seen.latencies_s, np.float32) for seen in rounds])
    p50, p99 = (np.quantile(latencies, [0.5, 0.99]) * 1e3).tolist()
    return Row(
        cpu_us=summarise(costs),
        to_noop=divide(costs, [cost_us(seen) for seen in noop]),
        requests_per_s=statistics.median(seen.requests / seen.elapsed_s for seen in rounds),
        busy_share=min((sum(seen.server_cpu_s) + seen.server_wait_s) / seen.elapsed_s for seen in rounds),
        waited_share=max(seen.server_wait_s / seen.elapsed_s for seen in rounds),
        p50_ms=p50,
        p99_ms=p99,
        requests=sum(seen.requests for seen in rounds),
        answer_bytes=rounds[-1].answer_bytes,
    )


def busiest_us(seen: RoundOutcome) -> float:
    """Processor time a request of the server's busiest process, microseconds.

    If each of its processes had a core to itself, the server would be full when that one is. Two
    processes that share the work evenly have half of `cost_us`, at 70 % and 30 % only 0.7 of it.
    """
    return max(seen.server_cpu_s) / seen.requests * 1e6


def count_rate(seen: RoundOutcome, cores: int) -> float:
    """Requests a second as seen, scaled to what the clients on the same ``cores`` left to the server."""
    left = cores - seen.client_cpu_s / seen.elapsed_s
    return seen.requests / seen.elapsed_s * cores / left


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bound of one figure: ``at_most`` or ``at_least``, of its median or of its highest value."""

    text: str
    of: Literal["median", "high"] = "median"
    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether ``value`` lies within the bound."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


class TargetResult(msgspec.Struct, frozen=True, kw_only=True):
    """A target beside its figure; ``is_met`` None where nothing was measured."""

    name: str
    text: str
    bound: str
    value: float | None
    is_met: bool | None


def load_targets(path: Path = DEFAULT_TARGETS) -> dict[str, Target]:
    """The targets by the figure that they bound.

    Raises:
        ConfigError: the file is not one of targets.
    """
    return decode_targets(path, dict[str, Target])


def decode_targets(path: Path, kind: type[T]) -> T:
    """Targets in tables of the shape ``kind``.

    Raises:
        ConfigError: the file is not one of them.
    """
    try:
        return msgspec.convert(decode_toml(path.read_bytes()), kind)
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(str(error), where=str(path)) from error


def check_targets(targets: Mapping[str, Target], figures: Mapping[str, Spread]) -> tuple[TargetResult, ...]:
    """Every target in order, with its figure if it was measured."""
    judged = []
    for name, target in targets.items():
        value = getattr(figures[name], target.of) if name in figures else None
        bound = f"≤ {target.at_most:g}" if target.at_most is not None else f"≥ {target.at_least:g}"
        is_met = None if value is None else target.is_met(value)
        judged.append(TargetResult(name=name, text=target.text, bound=bound, value=value, is_met=is_met))
    return tuple(judged)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured; seconds a window, and before each one to get going again.

    - ``beside``: folder of another checkout of this project, whose service is measured in the same rounds.
    """

    rounds: int = 10
    window_s: float = 1.0
    warmup_s: float = 0.2
    connections: int = 16
    batch_rows: int = 1000
    starts: int = 3
    seed: int = 0
    beside: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; ``figures`` are what targets are held against, and more of their kind.

    ``left_out``: why something was not measured, by name.
    """

    model: str
    version: int
    settings: Settings
    machine: dict[str, float | str]
    services: dict[str, Row]
    figures: dict[str, Spread]
    left_out: dict[str, str]
    targets: tuple[TargetResult, ...]


def derive_figures(samples: Mapping[str, Sequence[RoundOutcome]], batch_rows: int) -> dict[str, Spread]:
    """The figures below the table, of those servers that were measured."""
    costs = {name: [cost_us(seen) for seen in rounds] for name, rounds in samples.items()}
    ours, noop = costs["timberline"], costs["noop"]
    figures = {"timberline_to_noop": divide(ours, noop)}
    if run := costs.get("run"):
        figures["run_us"] = summarise(run)
        rest = divide([total - alone for total, alone in zip(ours, run, strict=True)], noop)
        least = (min(ours) - min(run)) / min(noop)
        figures["not_run_to_noop"] = msgspec.structs.replace(rest, least=least)
    if "beside" in costs:
        figures["timberline_to_beside"] = divide(ours, costs["beside"])
        figures["chunked_to_beside"] = divide(costs["timberline_chunked"], costs["beside_chunked"])
    for competitor in ("fastapi", "fastapi_threads", "mlserver"):
        if competitor in costs:
            figures[f"{competitor}_to_timberline"] = divide(costs[competitor], ours)
    for name, figure in (("batch_binary", "batch_to_in_process"), ("batch_octets", "octets_to_in_process")):
        if name in costs:
            # Rows a processor second are the inverse of the cost of the same number of rows.
            figures[figure] = divide(costs["run_batch"], costs[name])
            rates = [batch_rows * seen.requests / seen.elapsed_s for seen in samples[name]]
            figures[f"{name}_rows_per_s"] = summarise(rates)
    if "run_batch" in costs:
        rates = [batch_rows * seen.requests / seen.elapsed_s for seen in samples["run_batch"]]
        figures["run_batch_rows_per_s"] = summarise(rates)
    if two := samples.get("two_workers"):
        one = samples["timberline"]
        figures["two_workers_to_one"] = divide(ours, [busiest_us(seen) for seen in two])
        # One worker had its core to itself, two shared both cores with the clients.
        rates = [
            count_rate(both, 2) * alone.elapsed_s / alone.requests
            for both, alone in zip(two, one, strict=True)
        ]
        figures["two_workers_rate_to_one"] = summarise(rates)
    return figures


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


def write_report(report: msgspec.Struct, path: Path) -> Path:
    """Keep the figures as JSON; the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return path


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


def _target(target: TargetResult) -> tuple[str, ...]:
    result = {True: "met", False: "NOT MET", None: "not measured"}[target.is_met]
    value = "" if target.value is None else f"{target.value:.2f}"
    return (target.text, target.bound, value, result)
