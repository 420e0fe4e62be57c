"""The processor time that a request costs: of the service, of a no-op and of other services.

The yardstick is the processor time (user and system, of all its processes) that a server takes for
one request. It moves far less than requests a second do when other programs run, but it does move:
they empty the caches, and slowed clients give a server fewer requests at a time. So rounds are
short and many, all services are loaded in turn, in a new random order each round, and ratios are
taken within a round (`benchmarks.dev.service.report`). Where a process happens to lie in memory moves
its figures as well, by a tenth and for as long as it lives: so everything is started several times.

Two things cannot be measured directly on a machine with two cores, as the clients need one:

- *Capacity of two workers* is computed: the processor time a request of the busiest worker, against
  that of one worker alone, each with the same number of connections. It counts what sharing costs
  (locks, counters, an uneven spread of connections), not what waiting for a core costs. The rate
  that two workers and the clients reached together on the two cores is reported too, scaled to
  what the clients left.
- *A batch* is compared by rows a processor second; rows a second as measured are reported too.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from timberline.benchmarks.dev.clients import RoundOutcome, RoundPlan
from timberline.benchmarks.dev.competitors.environments import find_python, list_competitors, make_environment
from timberline.benchmarks.dev.service import requests
from timberline.benchmarks.dev.service.report import (
    Report,
    Settings,
    Target,
    check_targets,
    cost_us,
    derive_figures,
    describe_service,
    summarise,
)
from timberline.benchmarks.dev.service.servers import (
    CLIENTS,
    COMPETITOR_ENVIRONMENT,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Cores,
    GraphPlan,
    Server,
    ask_once,
    await_answer,
    choose_cores,
    find_port,
    find_processes,
)
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.services import (
    Service,
    launch_command,
    launch_driver,
    launch_service,
    read_resident_bytes,
)
from timberline.registry.manifest import Manifest
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import MODEL_FILE, Store

_logger = logging.getLogger("benchmarks")
_COMPETITORS = "timberline.benchmarks.dev.competitors"
# Batches are few and long; so many connections keep the server's core busy.
_BATCH_CONNECTIONS = 4


def measure_service(
    store: Store,
    model: str,
    version: int,
    settings: Settings,
    targets: Mapping[str, Target],
    *,
    environments: Path,
    competitors: str = "there",
) -> Report:
    """Measure one version, the no-ops, and the competitors that are installed.

    Args:
        environments: folder of the competitors' virtual environments.
        competitors: ``none``, those that are ``there``, or ``all``, installed if they are not.

    Raises:
        BenchmarkError: a service did not start, or gave any answer but 200.
    """
    opened = store.open_version(model, version).verify()
    manifest = opened.manifest
    left_out: dict[str, str] = {}
    pythons = _find_competitors(environments, competitors, left_out)
    cores = choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / MODEL_FILE).write_bytes(opened.read_file(MODEL_FILE))
        (scratch / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        bench = _Bench(scratch, store.location, manifest, settings, cores, left_out)
        for start in range(settings.starts):
            with contextlib.ExitStack() as stack:
                bench.start_ours(stack)
                bench.start_competitors(pythons)
                bench.measure_rounds(start)
                bench.note_memory()
    samples = bench.samples
    figures = {
        **derive_figures(samples, settings.batch_rows),
        "ready_s": summarise(bench.ready_s),
        "resident_mb": summarise([size / 1e6 for size in bench.resident_bytes]),
    }
    return Report(
        model=model,
        version=version,
        settings=settings,
        machine=cores.describe(),
        services={name: describe_service(samples[name], samples["noop"]) for name in bench.services},
        figures=figures,
        left_out=left_out,
        targets=check_targets(targets, figures),
    )


def _find_competitors(environments: Path, wanted: str, left_out: dict[str, str]) -> dict[str, Path]:
    """Interpreters by competitor, of those that are wanted and installed."""
    found = {}
    for name in list_competitors():
        python = find_python(environments, name) if wanted == "there" else None
        if wanted == "all":
            python = make_environment(environments, name)
        if python:
            found[name] = python
        else:
            left_out[name] = "not asked for" if wanted == "none" else f"not installed in {environments}"
    return found


@dataclass
class _Bench:
    """What is measured, started several times, and what was seen over all starts."""

    scratch: Path
    registry: str
    manifest: Manifest
    settings: Settings
    cores: Cores
    left_out: dict[str, str]
    # By server, its rounds; all in one order.
    samples: dict[str, list[RoundOutcome]] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)

    # What is started

    def start_ours(self, stack: contextlib.ExitStack) -> None:
        """The no-ops, our service, and the graph alone; all that was started ends with ``stack``."""
        self._stack = stack
        self.servers: dict[str, Server] = {}
        self.services: list[str] = []  # servers of the table, in its order
        self._workers: list[Service] = []
        self._name = f"{self.manifest.model}@{self.manifest.version}"
        self._clients = stack.enter_context(
            launch_driver(log=self._log("clients"), stop_timeout_s=STOP_TIMEOUT_S, module=CLIENTS)
        )
        row = requests.write_row(self.manifest)
        ours = self._start_service([self.cores.server])
        self._workers.append(ours)
        self.ready_s.append(ours.ready_s)
        body_bytes = await_answer(ours, row, self._name)
        noops = {}
        for name in ("noop", "starlette_noop"):
            flags = ("--app", name, "--body-bytes", str(body_bytes))
            noops[name] = self._start_competitor(sys.executable, "uvicorn_apps", *flags)
            self._add_row(name, noops[name], row)
        self._add_row("timberline", ours, row)
        chunked = requests.write_row(self.manifest, is_chunked=True)
        self._add_row("timberline_chunked", ours, chunked)
        if self.settings.beside:
            other = self._start_service([self.cores.server], checkout=Path(self.settings.beside).resolve())
            self._add_row("beside", other, row)
            self._add_row("beside_chunked", other, chunked)
        for name, service in (("noop", noops["noop"]), ("timberline", ours)):
            self._add_row(f"{name}_one_connection", service, row, connections=1)
        self._start_two_workers(row)
        self._start_batches(ours)

    def start_competitors(self, pythons: Mapping[str, Path]) -> None:
        """The services of others, on the same file."""
        if any(column.datatype == "BYTES" for column in self.manifest.signature.columns):
            self.left_out |= dict.fromkeys(pythons, "the competitors take columns of numbers only")
            return
        version = ["--version", str(self.scratch)]
        row = requests.write_row(self.manifest)
        if python := pythons.get("fastapi"):
            self._add_row("fastapi", self._start_competitor(str(python), "fastapi_service", *version), row)
            threads = self._start_competitor(str(python), "fastapi_service", *version, "--threads")
            self._add_row("fastapi_threads", threads, row)
        if python := pythons.get("mlserver"):
            service = self._start_competitor(str(python), "mlserver_service", *version)
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
        self.servers["two_workers"] = self._load(
            service, row, client_cores=self.cores.all, connections=connections
        )

    def _start_batches(self, ours: Service) -> None:
        try:
            matrix = requests.build_matrix(self.manifest, self.settings.batch_rows)
        except BenchmarkError as error:
            self.left_out["run"] = str(error)
            return
        alone = self._start_competitor(sys.executable, "in_process", "--version", str(self.scratch))
        for name, part in (("run", matrix[:1]), ("run_batch", matrix)):
            plan = GraphPlan(rows=len(part), matrix=part.tobytes())
            self.servers[name] = Server(alone.process, plan, self._log("in_process"))
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
                self.servers[name] = self._load(ours, request, connections=_BATCH_CONNECTIONS)

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
        return self._stack.enter_context(launch).await_ready(START_TIMEOUT_S)

    def _start_competitor(self, python: str, module: str, *flags: str) -> Service:
        launch = launch_command(
            [python, "-m", f"{_COMPETITORS}.{module}", "--name", self._name, *flags],
            self._name,
            log=self._log(module),
            stop_timeout_s=STOP_TIMEOUT_S,
            cores=[self.cores.server],
            environment=COMPETITOR_ENVIRONMENT,
        )
        return self._stack.enter_context(launch).await_ready(START_TIMEOUT_S)

    def _add_row(self, name: str, service: Service, request: bytes, connections: int | None = None) -> None:
        await_answer(service, request, name)
        self.servers[name] = self._load(service, request, connections=connections)
        self.services.append(name)

    def _load(
        self,
        service: Service,
        request: bytes,
        *,
        connections: int | None = None,
        client_cores: Sequence[int] | None = None,
    ) -> Server:
        plan = RoundPlan(
            port=find_port(service),
            request=request,
            connections=connections or self.settings.connections,
            pids=find_processes(service),
            cores=tuple(client_cores or [self.cores.clients]),
        )
        return Server(self._clients, plan, self._log("clients"))

    def _log(self, name: str) -> Path:
        return self.scratch / f"{name}.log"

    # What is measured

    def measure_rounds(self, start: int) -> None:
        """This start's share of the rounds: every server once a round, in an order that is drawn anew.

        Before that, once unmeasured.
        """
        settings = self.settings
        order = random.Random(settings.seed + start)
        for server in self.servers.values():
            server.run(settings.warmup_s, settings.warmup_s)
        samples = self.samples
        for number in range(start, settings.rounds, settings.starts):
            for name in order.sample(list(self.servers), len(self.servers)):
                seen = self.servers[name].run(settings.window_s, settings.warmup_s)
                samples.setdefault(name, []).append(seen)
            last = {name: round(cost_us(rounds[-1]), 1) for name, rounds in samples.items()}
            log_event(_logger, "round measured", round=number + 1, of=settings.rounds, cpu_us=last)

    def note_memory(self) -> None:
        """Memory of every worker after the load."""
        for service in self._workers:
            self.resident_bytes += read_resident_bytes(find_processes(service))
