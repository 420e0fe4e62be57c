"""The process that answers requests: on its own, or one of several under a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn
from urllib.parse import unquote

import msgspec
import uvloop

from timberline.inference.app import App
from timberline.inference.config import ServiceConfig, WorkerConfig, read_worker_config
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.metrics.shared_memory import attach
from timberline.inference.models.board import Board
from timberline.inference.models.follower import Watcher, show_versions
from timberline.inference.models.loaded import LoadedModels
from timberline.inference.models.recall import Recollection
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.inference.models.trial import Ledger, TrialRunner, limit_memory, took_too_long
from timberline.inference.routes.page import write_curl
from timberline.inference.server.acceptor import ConnectionCounts, StateFile, bind_socket
from timberline.inference.server.connection import Connection
from timberline.inference.server.listener import Listener, Server
from timberline.inference.server.memory import settle_memory, share_heap
from timberline.inference.server.timing import TimedApp, TimedConnection, TimedPool
from timberline.registry.cache import Cache, choose_cache
from timberline.registry.folder import find_root
from timberline.registry.objects import ObjectStore
from timberline.registry.runtime.cpus import count_cpus
from timberline.registry.runtime.logs import end_output, log_event, watch_dropped_lines
from timberline.registry.store import Store, open_store

_logger = logging.getLogger("inference.server.worker")
# What is longer is read in ASGI's small bites, so that many slow senders do not fill the memory.
_SHORT_BYTES = 1 << 20
# How often a worker shows that it is not stuck (inference/server/supervisor.py).
_BEAT_S = 0.5


def serve(config: ServiceConfig) -> int:
    """Load the version, answer requests until SIGTERM or SIGINT, and return the exit code.

    The ports are taken first, so that a taken one is an error at once, but no client can connect before
    the version is verified, loaded and warm.

    Raises:
        LifecycleError: the service could not start; nothing was ever answered.
    """
    with contextlib.ExitStack() as stack:
        ports = [config.port, config.metrics_port] if config.metrics_port else [config.port]
        sockets = [stack.enter_context(bind_socket(config.host, port, config.reuse_port)) for port in ports]
        state_file = stack.enter_context(StateFile(config.runtime_dir))
        return _serve(config, sockets, None, state_file)


def work() -> int:
    """As `serve`, with the sockets and settings of the supervisor on the other end of standard input.

    Raises:
        LifecycleError: the worker could not start; it answered nothing.
    """
    own = read_worker_config(sys.stdin.buffer)
    with contextlib.ExitStack() as stack:
        fds = (own.socket_fd, own.metrics_socket_fd)
        sockets = [stack.enter_context(socket.socket(fileno=fd)) for fd in fds if fd is not None]
        return _serve(own.config, sockets, own)


def _serve(
    config: ServiceConfig,
    sockets: Sequence[socket.socket],
    own: WorkerConfig | None,
    state_file: StateFile | None = None,
) -> int:
    started = monotonic()
    slot: dict[str, Any] = {} if own is None else {"worker": own.worker}
    log_event(_logger, "starting", model=config.model, **slot)
    metrics = ServiceMetrics(attach(own.metrics_fd, own.slots, own.worker) if own else None)
    watch_dropped_lines(metrics.count_dropped_lines)
    state, watcher = _start(config, metrics, own)
    with _pool(config) as pool:
        app = App(state, config, metrics, pool)
        listeners = _open_listeners(sockets, app, config, metrics)

        def announce() -> None:
            watcher.start(asyncio.get_running_loop())
            _beat(asyncio.get_running_loop(), metrics)
            if own is not None and own.replaces:
                metrics.count("worker_restarts", own.replaces)
            app.start()
            if state_file is not None:
                state_file.write(*sockets[0].getsockname()[:2])
            _announce(config, state, listeners, {"seconds": round(monotonic() - started, 3), **slot})

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(config, state, listeners, announce, own))
        watcher.stop()
    log_event(_logger, "stopped", model=state.live.model, version=state.live.version, **slot)
    return 0


async def _run(
    config: ServiceConfig,
    state: ServiceState,
    listeners: Sequence[Listener],
    announce: Callable[[], None],
    own: WorkerConfig | None,
) -> None:
    if own is None:
        await Server(config, state, listeners, ConnectionCounts(), is_alone=True).run(announce)
        return
    counts = ConnectionCounts(own.counts_fd, own.slots, own.worker)
    server = Server(config, state, listeners, counts, is_alone=False)
    await server.run(announce, watched_fd=sys.stdin.fileno())


def _beat(loop: asyncio.AbstractEventLoop, metrics: ServiceMetrics) -> None:
    """Beat from now on, which shows that the event loop is not stuck."""
    metrics.beat()
    loop.call_later(_BEAT_S, _beat, loop, metrics)


def _start(
    config: ServiceConfig, metrics: ServiceMetrics, own: WorkerConfig | None
) -> tuple[ServiceState, Watcher]:
    """Load the versions in a thread, so that this one hears signals; within the limits of the settings.

    A thread that is inside a graph cannot be ended. So if it takes too long, or the process is asked to end,
    that is done here and now. There is no trial before: it would double the time to start, and there
    is no client yet that a process which ends could fail.
    """
    share_heap()
    trials = TrialRunner(Ledger(own.trials_fd if own else None))
    board = Board(own.board_fd if own else None)  # before anything is asked: a move from now on is news
    cache = _choose_cache(config) if config.is_remote else None
    open_registry = _find_registry(config, cache)
    notes = _open_notes(cache, open_registry().objects) if cache else None
    models = LoadedModels(open_registry, config, metrics, trials, cache=cache, notes=notes)
    timeout_s = config.load_timeout_s * models.target_count
    try:
        outage = ConnectionError("another worker is asking it in vain") if board.failing_since else None
        loading = _Loading(models, config, falls_back=own is not None and bool(own.replaces), outage=outage)
        is_loaded = _wait(loading, metrics, timeout_s, None if own is None else sys.stdin.fileno())
    except (SystemExit, KeyboardInterrupt):
        log_event(_logger, "stopped", model=config.model, while_starting=True)
        _exit_now(0)
    if not is_loaded:
        error = took_too_long(config.model, timeout_s)
        _logger.error("%s", error, extra={"fields": {"code": error.code}})
        _exit_now(error.exit_code)
    state = ServiceState(loading.get())
    show_versions(state.table, metrics)
    metrics.show_from_cache(models.unconfirmed)
    settle_memory()
    return state, Watcher(models, state, metrics, config.watch_every_s, board)


def _choose_cache(config: ServiceConfig) -> Cache:
    cache = choose_cache(os.environ, config.cache_dir, config.cache_bytes)
    if cache.folder is None and cache.most_bytes:
        log_event(_logger, "no cache", logging.WARNING, why="no folder for one can be written to")
    return cache


def _find_registry(config: ServiceConfig, cache: Cache | None) -> Callable[[], Store]:
    """Opens the registry for a look: a folder as it is found then, a bucket by one client."""
    if config.is_remote:
        store = open_store(config.registry, cache, is_patient=False)
        return lambda: store
    folder = (
        Path(unquote(config.registry.removeprefix("file://")))
        if "://" in config.registry
        else Path(config.registry)
    )
    return lambda: open_store(find_root(folder))


def _open_notes(cache: Cache, objects: ObjectStore) -> Recollection:
    return Recollection(cache, objects.location, getattr(objects, "endpoint", ""))


class _Loading:
    """The thread that loads; ``is_done_fd`` can be read when it has ended."""

    def __init__(
        self, models: LoadedModels, config: ServiceConfig, *, falls_back: bool, outage: OSError | None
    ) -> None:
        self.is_done_fd, self._done_fd = os.pipe()
        self._models = models
        self._memory_bytes = config.load_memory_bytes * models.target_count
        self._falls_back = falls_back
        self._outage = outage
        self._table: RoutingTable | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    def get(self) -> RoutingTable:
        """What was loaded; raises the error of a failed load."""
        os.close(self.is_done_fd)
        if self._error is not None:
            raise self._error
        assert self._table is not None
        return self._table

    def _run(self) -> None:
        try:
            with limit_memory(self._memory_bytes):
                self._table = self._models.load(falls_back=self._falls_back, outage=self._outage)
        except BaseException as error:  # raised again by `get`
            self._error = error
        finally:
            os.close(self._done_fd)


def _wait(loading: _Loading, metrics: ServiceMetrics, timeout_s: float, watched_fd: int | None) -> bool:
    """Whether it has ended in time; a SystemExit if ``watched_fd`` ends, as the supervisor is gone."""
    until = monotonic() + timeout_s
    fds = [loading.is_done_fd] if watched_fd is None else [loading.is_done_fd, watched_fd]
    while monotonic() < until:
        metrics.beat()
        ready, _, _ = select.select(fds, [], [], _BEAT_S)
        if loading.is_done_fd in ready:
            return True
        if ready:
            raise SystemExit
    return False


def _exit_now(code: int) -> NoReturn:
    """End the process although a thread in it may never end."""
    end_output()
    os._exit(code)


def _open_listeners(
    sockets: Sequence[socket.socket], app: App, config: ServiceConfig, metrics: ServiceMetrics
) -> list[Listener]:
    longest = min(_SHORT_BYTES, config.max_body_bytes)
    kind = TimedConnection if config.server_timing else Connection
    behind = TimedApp(app) if config.server_timing else app
    main = kind.bind(app.direct, longest, metrics.count_rejected, app.receiving, config.max_connections)
    aside = Connection.bind({}, 0, metrics.count_rejected, app.receiving)
    return [
        Listener(sockets[0], behind, main),
        *[Listener(bound, app.metrics_app, aside) for bound in sockets[1:]],
    ]


def _pool(config: ServiceConfig) -> ThreadPoolExecutor:
    threads = config.threads or max(1, count_cpus() // config.workers)
    kind = TimedPool if config.server_timing else ThreadPoolExecutor
    return kind(threads, thread_name_prefix="large-request")


def _announce(
    config: ServiceConfig, state: ServiceState, listeners: Sequence[Listener], fields: dict[str, Any]
) -> None:
    """Announce that it is ready: one event in the log, one JSON line on stdout."""
    host, port = listeners[0].socket.getsockname()[:2]
    live = state.live
    if fields.get("worker", 0) == 0:  # once is enough
        fields["example"] = write_curl(live.manifest, host, port)
    log_event(_logger, "ready", model=live.model, version=live.version, **fields)
    line = {
        "event": "listening",
        "host": host,
        "port": port,
        "model": live.model,
        "version": live.version,
        "workers": config.workers,
    }
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()
