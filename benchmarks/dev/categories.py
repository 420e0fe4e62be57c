"""What columns of text cost a service and a graph, beside columns of numbers in the same run.

The tables are made up and their networks trained for one epoch: what is measured is how much there is to
compute, and not how well. Services take turns, so that a disturbance of the machine falls on all of them.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from timberline.benchmarks.dev.clients import RoundPlan
from timberline.benchmarks.dev.service import requests
from timberline.benchmarks.dev.service.report import cost_us
from timberline.benchmarks.dev.service.servers import (
    CLIENTS,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Cores,
    Server,
    await_answer,
    choose_cores,
    find_port,
    find_processes,
)
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.services import launch_driver, launch_service
from timberline.registry.runtime.documents import decode_json
from timberline.registry.store import open_store

_ROWS = 24_000  # 1,000 values have some 15 training rows each, three times what a code of their own takes
_VALUES = 1_000
_CONNECTIONS, _WINDOW_S, _WARMUP_S = 16, 1.0, 0.3
_STAGES = (
    ("training", "fetch"),
    ("training", "etl"),
    ("training", "train"),
    ("training", "evaluate"),
    ("exporter", "export"),
)


@dataclass(frozen=True)
class Table:
    """A table of so many columns of numbers and of text; ``is_one_hot``: no embeddings."""

    numbers: int
    texts: int
    is_one_hot: bool = False


TABLES = {
    "numbers": Table(numbers=20, texts=0),
    "texts": Table(numbers=10, texts=10),
    "one_hots": Table(numbers=0, texts=4, is_one_hot=True),
}
# From issue 17.
MAX_TEXT_RATIO = 1.6
MAX_ONE_HOTS_US = 100.0


class GraphCost(msgspec.Struct, frozen=True, kw_only=True):
    """A table's graph: its nodes, and the microseconds of a row alone (on one thread)."""

    nodes: int
    row_us: float


class CategoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of one run; ``cpu_us`` is processor time a request of a service, the median over the rounds.

    ``text_ratio`` is of the table with texts to that of numbers, the median of the ratios in a round.
    """

    rounds: int
    machine: dict[str, float | str]
    graphs: dict[str, GraphCost]
    cpu_us: dict[str, float]
    text_ratio: float

    @property
    def is_met(self) -> bool:
        """Whether both bounds are kept."""
        return self.text_ratio <= MAX_TEXT_RATIO and self.graphs["one_hots"].row_us <= MAX_ONE_HOTS_US


class _Row(msgspec.Struct):
    microseconds: float


class _Exported(msgspec.Struct):
    node_count: int
    row: _Row


def measure_categories(rounds: int, scratch: Path) -> CategoryReport:
    """Make a version of each table in ``scratch``, an empty folder, and measure them.

    Raises:
        BenchmarkError: a stage failed, or a service gave any answer but 200.
    """
    graphs = {name: _make_version(name, table, scratch) for name, table in TABLES.items()}
    cores = choose_cores()
    costs: dict[str, list[float]] = {"numbers": [], "texts": []}
    with contextlib.ExitStack() as stack:
        clients = stack.enter_context(
            launch_driver(log=scratch / "clients.log", stop_timeout_s=STOP_TIMEOUT_S, module=CLIENTS)
        )
        servers = {name: stack.enter_context(_start(name, scratch, cores, clients)) for name in costs}
        for server in servers.values():
            server.run(_WARMUP_S, _WARMUP_S)
        for _ in range(rounds):
            for name, server in servers.items():
                costs[name].append(cost_us(server.run(_WINDOW_S, _WARMUP_S)))
    ratios = [texts / numbers for texts, numbers in zip(costs["texts"], costs["numbers"], strict=True)]
    return CategoryReport(
        rounds=rounds,
        machine=cores.describe(),
        graphs=graphs,
        cpu_us={name: statistics.median(own) for name, own in costs.items()},
        text_ratio=statistics.median(ratios),
    )


def format_categories(report: CategoryReport) -> str:
    """The report in a few lines."""
    lines = [
        f"{name:9} {graph.nodes:3} nodes, {graph.row_us:6.1f} µs a row in the graph"
        + (f", {report.cpu_us[name]:6.1f} µs CPU a request" if name in report.cpu_us else "")
        for name, graph in report.graphs.items()
    ]
    one_hots = report.graphs["one_hots"].row_us
    lines.append(f"texts / numbers: {report.text_ratio:.2f} (at most {MAX_TEXT_RATIO})")
    lines.append(f"one_hots: {one_hots:.1f} µs a row (at most {MAX_ONE_HOTS_US:.0f})")
    return "\n".join(lines)


def write_table(table: Table, path: Path) -> None:
    """Write random rows as CSV: numbers ``x0`` …, texts ``t0`` …, and the class ``y``."""
    random = np.random.default_rng(0)
    columns = {f"x{index}": random.normal(size=_ROWS).round(6).astype(str) for index in range(table.numbers)}
    for index in range(table.texts):
        words = np.array([f"{index}-value-{value}" for value in range(_VALUES)])
        columns[f"t{index}"] = words[random.integers(0, _VALUES, _ROWS)]
    columns["y"] = random.integers(0, 3, _ROWS).astype(str)
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *map(",".join, rows), ""]), "utf-8")


def write_model(name: str, table: Table, folder: Path, source: Path) -> None:
    """Write the model folder of a table."""
    columns = [f'x{index} = {{ type = "number" }}' for index in range(table.numbers)]
    columns += [f't{index} = {{ type = "string" }}' for index in range(table.texts)]
    network = f"one_hot_values = {_VALUES}" if table.is_one_hot else ""
    folder.mkdir(parents=True)
    lines = [f'[model]\nname = "{name}"', f'[source]\nkind = "csv"\npath = "{source}"', "[columns]", *columns]
    lines += ['y = { type = "string" }', '[target]\ncolumn = "y"', '[split]\nkind = "random"', "[network]"]
    lines += [network, "[training]\nepochs = 1", ""]
    (folder / "model.toml").write_text("\n".join(lines), "utf-8")
    (folder / "features.sql").write_text("SELECT * FROM raw\n", "utf-8")


def _make_version(name: str, table: Table, scratch: Path) -> GraphCost:
    """Publish the version 1 of model ``name``."""
    source = scratch / f"{name}.csv"
    write_table(table, source)
    write_model(name, table, scratch / "models" / name, source)
    for part, stage in _STAGES:
        command = [sys.executable, "-m", f"timberline.{part}", stage, "--model", name]
        command += ["--models", str(scratch / "models"), "--data", str(scratch / "data")]
        command += ["--registry", str(scratch / "registry")] if part == "exporter" else []
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            tail = done.stderr[-2000:].decode(errors="replace")
            raise BenchmarkError(f"{stage} failed: {tail}", where=name)
    exported = decode_json(done.stdout, _Exported)
    return GraphCost(nodes=exported.node_count, row_us=exported.row.microseconds)


@contextlib.contextmanager
def _start(name: str, scratch: Path, cores: Cores, clients: subprocess.Popen[bytes]) -> Iterator[Server]:
    registry = str(scratch / "registry")
    manifest = open_store(registry).open_version(name, 1).manifest
    log = scratch / f"{name}.log"
    launch = launch_service(registry, name, 1, log=log, stop_timeout_s=STOP_TIMEOUT_S, cores=[cores.server])
    with launch as launched:
        service = launched.await_ready(START_TIMEOUT_S)
        row = requests.write_row(manifest)
        await_answer(service, row, name)
        plan = RoundPlan(
            port=find_port(service),
            request=row,
            connections=_CONNECTIONS,
            pids=find_processes(service),
            cores=(cores.clients,),
        )
        yield Server(clients, plan, scratch / "clients.log")
