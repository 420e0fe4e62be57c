"""What the service costs: processor time a request, beside a no-op and beside other services.

The yardstick is the processor time (user and system, of all its processes) that a server takes for
one request. It moves far less than requests a second do when other programs run, but it does move:
they empty the caches, and slowed clients give a server fewer requests at a time. So rounds are
short and many, all services are loaded in turn, in a new random order each round, and ratios are
taken within a round (`benchmarks.dev.service.figures`). Where a process happens to lie in memory moves
its figures as well, by a tenth and for as long as it lives: so everything is started several times.

Two things cannot be measured directly on a machine with two cores, as the clients need one:

- *Capacity of two workers* is computed: the processor time a request of the busiest worker, against
  that of one worker alone, each with the same number of connections. It counts what sharing costs
  (locks, counters, an uneven spread of connections), not what waiting for a core costs. The rate
  that two workers and the clients reached together on the two cores is told beside it, scaled to
  what the clients left.
- *A batch* is compared by rows a processor second; rows a second as seen are told beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from timberline.benchmarks.dev.competitors.environments import find_python, list_rivals, make_environment
from timberline.benchmarks.dev.service import requests
from timberline.benchmarks.dev.service.closed_loop import Seen
from timberline.benchmarks.dev.service.figures import (
    Judged,
    Row,
    Spread,
    Target,
    busiest_us,
    cost_us,
    count_rate,
    describe_service,
    divide,
    judge,
    summarise,
)
from timberline.benchmarks.dev.service.servers import (
    RIVAL_ENVIRONMENT,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Arm,
    Clients,
    Cores,
    GraphAlone,
    Load,
    ask_once,
    await_answer,
    choose_cores,
    find_port,
    find_processes,
    launch_clients,
)
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.services import (
    Service,
    launch_command,
    launch_service,
    read_resident_bytes,
)
from timberline.registry.manifest import Manifest
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import MODEL_FILE, Store

_logger = logging.getLogger("benchmarks")
_RIVALS = "timberline.benchmarks.dev.competitors"
# Batches are few and long; so many connections keep the server's core busy.
_BATCH_CONNECTIONS = 4


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

    ``left_out`` says of everything that was not measured why.
    """

    model: str
    version: int
    settings: Settings
    machine: dict[str, float | str]
    services: dict[str, Row]
    figures: dict[str, Spread]
    left_out: dict[str, str]
    targets: tuple[Judged, ...]


def measure_service(
    store: Store,
    model: str,
    version: int,
    settings: Settings,
    targets: Mapping[str, Target],
    *,
    environments: Path,
    rivals: str = "there",
) -> Report:
    """Measure one version beside everything that can be had.

    Args:
        environments: folder of the rivals' virtual environments.
        rivals: ``none``, those that are ``there``, or ``all``, installed if they are not.

    Raises:
        BenchmarkError: a service did not start, or gave any answer but 200.
    """
    manifest = store.verify(model, version)
    load_before = os.getloadavg()[0]
    left_out: dict[str, str] = {}
    pythons = _find_rivals(environments, rivals, left_out)
    log = _Log()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / MODEL_FILE).write_bytes(store.read_file(model, version, MODEL_FILE))
        (scratch / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        for start in range(settings.starts):
            with contextlib.ExitStack() as stack:
                bench = _Bench(stack, scratch, store.location, manifest, settings, choose_cores(), log)
                bench.start_ours()
                bench.start_rivals(pythons)
                bench.measure_rounds(start)
                bench.note_memory()
            left_out |= bench.left_out
    samples = log.samples
    services = {name: describe_service(samples[name], samples["noop"]) for name in bench.services}
    figures = {
        **derive_figures(samples, settings.batch_rows),
        "ready_s": summarise(log.ready_s),
        "resident_mb": summarise([size / 1e6 for size in log.resident_bytes]),
    }
    return Report(
        model=model,
        version=version,
        settings=settings,
        machine={
            "processors": os.cpu_count() or 1,
            "load_average_before": load_before,
            "load_average_after": os.getloadavg()[0],
            "python": sys.version.partition(" ")[0],
            "server_core": bench.cores.server,
            "client_core": bench.cores.clients,
        },
        services=services,
        figures=figures,
        left_out=left_out,
        targets=judge(targets, figures),
    )


def derive_figures(samples: Mapping[str, Sequence[Seen]], batch_rows: int) -> dict[str, Spread]:
    """What is to be told beside the rows of the table, as far as its arms were measured."""
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
    for rival in ("fastapi", "fastapi_threads", "mlserver"):
        if rival in costs:
            figures[f"{rival}_to_timberline"] = divide(costs[rival], ours)
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


def _find_rivals(environments: Path, wanted: str, left_out: dict[str, str]) -> dict[str, Path]:
    """Interpreters by rival, of those that are wanted and to be had."""
    found = {}
    for rival in list_rivals():
        python = find_python(environments, rival) if wanted == "there" else None
        if wanted == "all":
            python = make_environment(environments, rival)
        if python:
            found[rival] = python
        else:
            left_out[rival] = "not asked for" if wanted == "none" else f"not installed in {environments}"
    return found


@dataclass
class _Log:
    """What was seen over all starts; the rounds of every arm, in one order."""

    samples: dict[str, list[Seen]] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)


@dataclass
class _Bench:
    """Everything that runs while it is measured, from one start to its end."""

    stack: contextlib.ExitStack
    scratch: Path
    registry: str
    manifest: Manifest
    settings: Settings
    cores: Cores
    log: _Log
    arms: dict[str, Arm] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)  # arms of the table, in its order
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clients: Clients = self.stack.enter_context(launch_clients(self._log("clients")))
        self._name = f"{self.manifest.model}@{self.manifest.version}"
        self._workers: list[Service] = []

    # What is started

    def start_ours(self) -> None:
        """The no-ops, our service, and the graph alone."""
        row = requests.write_row(self.manifest)
        ours = self._start_service([self.cores.server])
        self._workers.append(ours)
        self.log.ready_s.append(ours.ready_s)
        body_bytes = await_answer(ours, row, self._name)
        for name in ("noop", "starlette_noop"):
            noop = self._start_rival(sys.executable, name, "--body-bytes", str(body_bytes))
            self._add_row(name, noop, row)
        self._add_row("timberline", ours, row)
        chunked = requests.write_row(self.manifest, is_chunked=True)
        self._add_row("timberline_chunked", ours, chunked)
        if self.settings.beside:
            other = self._start_service([self.cores.server], checkout=Path(self.settings.beside).resolve())
            self._add_row("beside", other, row)
            self._add_row("beside_chunked", other, chunked)
        for name, service in (("noop", self.arms["noop"]), ("timberline", self.arms["timberline"])):
            assert isinstance(service, Load)
            self.arms[f"{name}_one_connection"] = dataclasses.replace(service, connections=1)
            self.services.append(f"{name}_one_connection")
        self._start_two_workers(row)
        self._start_batches(ours)

    def start_rivals(self, pythons: Mapping[str, Path]) -> None:
        """The services of others, on the same file."""
        if any(column.datatype == "BYTES" for column in self.manifest.signature.columns):
            self.left_out |= dict.fromkeys(pythons, "the rivals know columns of numbers only")
            return
        version = ["--version", str(self.scratch)]
        row = requests.write_row(self.manifest)
        if python := pythons.get("fastapi"):
            self._add_row("fastapi", self._start_rival(str(python), "fastapi_service", *version), row)
            threads = self._start_rival(str(python), "fastapi_service", *version, "--threads")
            self._add_row("fastapi_threads", threads, row)
        if python := pythons.get("mlserver"):
            service = self._start_rival(str(python), "mlserver_service", *version)
            self._add_row("mlserver", service, requests.write_protocol_row(self.manifest))

    def _start_two_workers(self, row: bytes) -> None:
        if len(self.cores.all) == 1:
            self.left_out["two_workers"] = "there is one core only"
            return
        service = self._start_service(self.cores.all, "--workers", "2")
        await_answer(service, row, self._name)
        self._workers.append(service)
        # As many connections a worker as the one alone has: with fewer, a turn of its loop has less to do.
        connections = 2 * self.settings.connections
        self.arms["two_workers"] = self._load(
            service, row, client_cores=self.cores.all, connections=connections
        )

    def _start_batches(self, ours: Service) -> None:
        try:
            matrix = requests.build_matrix(self.manifest, self.settings.batch_rows)
        except BenchmarkError as error:
            self.left_out["run"] = str(error)
            return
        alone = self._start_rival(sys.executable, "in_process", "--version", str(self.scratch))
        self.arms["run"] = GraphAlone(alone.process, matrix[:1])
        self.arms["run_batch"] = GraphAlone(alone.process, matrix)
        batches = {
            "batch_binary": requests.write_protocol_batch(self.manifest, matrix),
            "batch_octets": requests.write_octet_batch(matrix),
        }
        for name, request in batches.items():
            try:
                ask_once(find_port(ours), request)
            except BenchmarkError as error:
                self.left_out[name] = str(error)[:200]
            else:
                self.arms[name] = self._load(ours, request, connections=_BATCH_CONNECTIONS)

    def _start_service(self, cores: Sequence[int], *flags: str, checkout: Path | None = None) -> Service:
        launch = launch_service(
            str(Path(self.registry).resolve()) if checkout else self.registry,
            self.manifest.model,
            self.manifest.version,
            log=self._log("timberline"),
            stop_timeout_s=STOP_TIMEOUT_S,
            flags=flags,
            cores=cores,
            checkout=checkout,
        )
        return self.stack.enter_context(launch).await_ready(START_TIMEOUT_S)

    def _start_rival(self, python: str, module: str, *flags: str) -> Service:
        launch = launch_command(
            [python, "-m", f"{_RIVALS}.{module}", "--name", self._name, *flags],
            self._name,
            log=self._log(module),
            stop_timeout_s=STOP_TIMEOUT_S,
            cores=[self.cores.server],
            environment=RIVAL_ENVIRONMENT,
        )
        return self.stack.enter_context(launch).await_ready(START_TIMEOUT_S)

    def _add_row(self, name: str, service: Service, request: bytes) -> None:
        await_answer(service, request, name)
        self.arms[name] = self._load(service, request)
        self.services.append(name)

    def _load(
        self,
        service: Service,
        request: bytes,
        *,
        connections: int | None = None,
        client_cores: Sequence[int] | None = None,
    ) -> Load:
        return Load(
            clients=self.clients,
            port=find_port(service),
            request=request,
            connections=connections or self.settings.connections,
            pids=find_processes(service),
            client_cores=client_cores or [self.cores.clients],
        )

    def _log(self, name: str) -> Path:
        return self.scratch / f"{name}.log"

    # What is measured

    def measure_rounds(self, start: int) -> None:
        """This start's share of the rounds: every arm once a round, in an order that is drawn anew.

        Before that, once unmeasured.
        """
        settings = self.settings
        order = random.Random(settings.seed + start)
        for arm in self.arms.values():
            arm.run(settings.warmup_s, settings.warmup_s)
        samples = self.log.samples
        for number in range(start, settings.rounds, settings.starts):
            for name in order.sample(list(self.arms), len(self.arms)):
                seen = self.arms[name].run(settings.window_s, settings.warmup_s)
                samples.setdefault(name, []).append(seen)
            last = {name: round(cost_us(rounds[-1]), 1) for name, rounds in samples.items()}
            log_event(_logger, "round measured", round=number + 1, of=settings.rounds, cpu_us=last)

    def note_memory(self) -> None:
        """Memory of every worker after the load."""
        for service in self._workers:
            self.log.resident_bytes += read_resident_bytes(find_processes(service))
