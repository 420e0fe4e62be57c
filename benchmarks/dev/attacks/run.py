"""Every attack on a service of its own, with honest clients beside it.

The service has one core, honest clients and the attacker the other, the attacker with a lower
priority: so that honest clients wait for the service only. A row is: start the service, let the
clients ask, carry the attack out, wait until the service is quiet, look at its memory, stop it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from timberline.benchmarks.dev.attacks.attackers import Attack, AttackOutcome, AttackPlan, list_attacks
from timberline.benchmarks.dev.attacks.bodies import choose_subject
from timberline.benchmarks.dev.attacks.table import Bounds, Memory, Report, Row, check_bounds, describe_honest
from timberline.benchmarks.dev.clients import PATIENCE_S, HonestOutcome, HonestPlan
from timberline.benchmarks.dev.service import requests
from timberline.benchmarks.dev.service.servers import (
    CLIENTS,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Cores,
    await_answer,
    choose_cores,
    find_port,
    find_processes,
)
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.services import (
    SERVICE,
    Service,
    exchange,
    launch_driver,
    launch_service,
    read_cpu_s,
    read_memory,
    read_wait_s,
)
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Manifest
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import Store

_logger = logging.getLogger("benchmarks")
T = TypeVar("T")
_UVICORN = "timberline.benchmarks.dev.competitors.uvicorn_apps"
_ATTACKERS = "timberline.benchmarks.dev.attacks.attackers"
_BASE = "none"
# How often memory is read, and how often the processes are listed, which is dearer.
_TICK_S = 0.05
_LIST_TICKS = 10
# The service is quiet when it uses less than this share of a processor for so long.
_QUIET_S = 0.25
_QUIET_SHARE = 0.5


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured.

    - ``again_s``: for how long an attack that was cut is begun again.
    - ``most_s``: when an attack is ended, and how long the service has to become quiet after it.
    - ``pause_s``: of an honest client between an answer and its next request.
    - ``max_body_bytes``: what the services are started with.
    """

    only: str = ""
    again_s: float = 2.0
    most_s: float = 15.0
    lead_s: float = 0.3
    pause_s: float = 0.002
    max_body_bytes: int = 16 * 1024 * 1024


def measure_attacks(store: Store, model: str, version: int, settings: Settings, bounds: Bounds) -> Report:
    """Carry out every attack whose name matches ``settings.only``, after a row without one.

    Raises:
        ConfigError: no attack matches.
        BenchmarkError: a service did not start, or an attack could not be carried out.
    """
    manifest = store.open_version(model, version).verify().manifest
    chosen = _choose(manifest, settings)
    cores = choose_cores()
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), store, manifest, settings, bounds, cores)
        for number, (name, attack) in enumerate(chosen.items(), 1):
            try:
                rows.append(bench.measure(name, attack))
            except BenchmarkError as error:
                left_out[name] = str(error)[:200]
            log_event(_logger, "attack over", attack=name, number=number, of=len(chosen))
    return Report(
        model=model,
        version=version,
        max_body_bytes=settings.max_body_bytes,
        pause_s=settings.pause_s,
        machine=cores.describe(),
        rows=tuple(rows),
        left_out=left_out,
    )


def _choose(manifest: Manifest, settings: Settings) -> dict[str, Attack]:
    attacks = list_attacks(choose_subject(manifest, settings.max_body_bytes))
    try:
        wanted = re.compile(settings.only, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"found {settings.only!r}: {error}", where="--only") from None
    chosen = {name: attack for name, attack in attacks.items() if wanted.search(name)}
    if not chosen:
        raise ConfigError(
            f"no attack matches {settings.only!r}", where="--only", hint=f"Known: {', '.join(attacks)}."
        )
    return {_BASE: attacks[_BASE], **chosen}


@dataclass(frozen=True)
class _Bench:
    """What all rows share."""

    scratch: Path
    store: Store
    manifest: Manifest
    settings: Settings
    bounds: Bounds
    cores: Cores

    @property
    def _name(self) -> str:
        return f"{self.manifest.model}@{self.manifest.version}"

    def measure(self, name: str, attack: Attack) -> Row:
        """One row."""
        settings = self.settings
        with self._launch(attack) as service:
            await_answer(service, requests.write_row(self.manifest), self._name)
            with _ResourceMonitor(service) as monitor:
                waits, done = self._attack(name, service, monitor)
            memory = monitor.describe()
        honest = describe_honest(waits, done, settings.pause_s)
        return Row(
            attack=name,
            bounds=attack.bounds,
            done=done,
            seconds=done.ended_at_s - done.began_at_s,
            server_cpu_s=monitor.cpu_s,
            server_wait_s=monitor.wait_s,
            honest=honest,
            memory=memory,
            judged=check_bounds(self.bounds[attack.bounds], done, honest, memory, settings.max_body_bytes),
        )

    def _attack(
        self, name: str, service: Service, monitor: _ResourceMonitor
    ) -> tuple[HonestOutcome, AttackOutcome]:
        settings, port = self.settings, find_port(service)
        cores = (self.cores.clients,)
        watch = HonestPlan(
            port=port, request=requests.write_row(self.manifest), pause_s=settings.pause_s, cores=cores
        )
        plan = AttackPlan(
            attack=name,
            port=port,
            request=requests.write_least_row(self.manifest),
            subject=choose_subject(self.manifest, settings.max_body_bytes),
            again_s=settings.again_s,
            most_s=settings.most_s,
            cores=cores,
        )
        log = self.scratch / "clients.log"
        start = partial(launch_driver, log=log, stop_timeout_s=STOP_TIMEOUT_S)
        with start(module=CLIENTS) as honest, start(module=_ATTACKERS) as attacker:
            assert honest.stdin is not None
            honest.stdin.write(msgspec.json.encode(watch) + b"\n")
            honest.stdin.flush()
            time.sleep(settings.lead_s)  # the clients' connections and the service's caches are warm
            monitor.begin()
            done = exchange(attacker, plan, AttackOutcome, timeout_s=settings.most_s + PATIENCE_S, log=log)
            monitor.await_quiet(settings.most_s)
            waits = exchange(honest, watch, HonestOutcome, timeout_s=2 * PATIENCE_S, log=log)
        return waits, done

    @contextlib.contextmanager
    def _launch(self, attack: Attack) -> Iterator[Service]:
        plain = (_UVICORN, "--name", self._name, "--app", "timberline", "--service")
        with launch_service(
            self.store.location,
            self.manifest.model,
            self.manifest.version,
            log=self.scratch / "service.log",
            stop_timeout_s=STOP_TIMEOUT_S,
            flags=["--max-body-bytes", str(self.settings.max_body_bytes)],
            cores=[self.cores.server],
            program=plain if attack.is_behind_uvicorn else SERVICE,
        ) as launched:
            yield launched.await_ready(START_TIMEOUT_S)


class _ResourceMonitor:
    """Memory and processor time of the service's processes, read all the time.

    A helper that lives for less than a tick is not seen.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pids = find_processes(service)
        self._used: dict[int, float] = {}  # processor time by process, also of those that have ended
        self._used_before = 0.0
        self.wait_s = 0.0  # in which the service could have worked, but others had its core
        self._before_bytes = self._peak_bytes = self._after_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read_on, daemon=True)

    def __enter__(self) -> _ResourceMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time since `begin`."""
        return sum(self._used.values()) - self._used_before

    def begin(self) -> None:
        """Take what there is now as the state before."""
        self._read()
        self._used_before = sum(self._used.values())
        self.wait_s = -sum(self._list(read_wait_s))
        self._before_bytes = self._peak_bytes = sum(read_memory(pid).resident_bytes for pid in self._pids)
        self._thread.start()

    def await_quiet(self, timeout_s: float) -> None:
        """Return when the service has stopped to work on anything but small requests, or never does."""
        deadline = time.monotonic() + timeout_s
        while True:
            used = sum(self._used.values())
            time.sleep(_QUIET_S)
            is_quiet = sum(self._used.values()) - used < _QUIET_SHARE * _QUIET_S
            if is_quiet or time.monotonic() > deadline:
                break
        self.wait_s += sum(self._list(read_wait_s))
        self._after_bytes = sum(self._list(lambda pid: read_memory(pid).resident_bytes))

    def describe(self) -> Memory:
        """Before, the most, and after."""
        return Memory(
            before_bytes=self._before_bytes, peak_bytes=self._peak_bytes, after_bytes=self._after_bytes
        )

    def _read_on(self) -> None:
        ticks = 0
        while not self._is_over.wait(_TICK_S):
            ticks += 1
            if ticks % _LIST_TICKS == 0:
                self._pids = find_processes(self._service)
            self._read()

    def _read(self) -> None:
        self._used |= dict(self._list(lambda pid: (pid, read_cpu_s(pid))))
        peak = sum(self._list(lambda pid: read_memory(pid).peak_bytes))
        self._peak_bytes = max(self._peak_bytes, peak)

    def _list(self, read: Callable[[int], T]) -> list[T]:
        """What is read of each process that is still there."""
        found = []
        for pid in self._pids:
            with contextlib.suppress(BenchmarkError, FileNotFoundError):
                found.append(read(pid))
        return found
