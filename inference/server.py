"""The process: its socket, its event loop, its readiness and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from types import FrameType

import msgspec
import uvicorn

from inference.app import App
from inference.config import ServiceConfig
from inference.connection import Connection
from inference.cpus import count_cpus
from inference.example import write_curl
from inference.fleet import Fleet
from inference.metrics import ServiceMetrics
from inference.state import ServiceState
from inference.watch import Watcher, show_versions
from registry.errors import ConfigError
from registry.ground.logs import log_event
from registry.store import open_store

_logger = logging.getLogger("inference.server")
# Connections that may wait for the event loop before the kernel turns more away.
_BACKLOG = 2048


def serve(config: ServiceConfig) -> int:
    """Load the version, answer requests until SIGTERM or SIGINT, and return the exit code.

    The port is taken first, so that a taken one is told at once, but nothing can connect before
    the version is verified, loaded and warm.

    Raises:
        LifecycleError: the service could not start; nothing was ever answered.
    """
    started = monotonic()
    with _bind(config.host, config.port) as listener, _pool(config) as pool:
        metrics = ServiceMetrics()
        fleet = Fleet(open_store(config.registry), config, metrics)
        state = ServiceState(fleet.load())
        show_versions(state.lineup, metrics)
        watcher = Watcher(fleet, state, metrics, config.watch_s)
        server = Server(_uvicorn_config(config, state, metrics, pool), state, config, started, watcher)
        server.run(sockets=[listener])
        watcher.stop()
    log_event(_logger, "stopped", model=state.live.model, version=state.live.version)
    return 0


class Server(uvicorn.Server):
    """uvicorn's server that announces itself when it is ready and ends with 0 when told to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServiceState,
        service: ServiceConfig,
        started_at: float,
        watcher: Watcher,
    ) -> None:
        super().__init__(config)
        self._watcher = watcher
        self._state = state
        self._service = service
        self._drained_at: float | None = None
        self._started_at = started_at

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so: one event in the log, one JSON line on stdout."""
        await super().startup(sockets)
        self._watcher.start(asyncio.get_running_loop())
        assert sockets
        host, port = sockets[0].getsockname()[:2]
        live = self._state.live
        line = {
            "event": "listening",
            "host": host,
            "port": port,
            "model": live.model,
            "version": live.version,
        }
        seconds = round(monotonic() - self._started_at, 3)
        log_event(
            _logger,
            "ready",
            model=live.model,
            version=live.version,
            seconds=seconds,
            example=write_curl(live.manifest, host, port),
        )
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; unlike uvicorn's own, not raise them again at the end."""
        previous = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Turn readiness off and begin to stop: after the drain on a first SIGTERM, else at once."""
        if sig == signal.SIGTERM and self._service.drain_s and not self._state.is_draining:
            self._drained_at = monotonic() + self._service.drain_s
        else:
            super().handle_exit(sig, frame)
        self._state.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s; True ends the serving."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.sweep(now, self._service.keep_alive_s, self._service.receive_timeout_s)
        if self._drained_at is not None and monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; closed by its ``with`` block.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen: {error}", where=f"{host}:{port}", hint="Choose another --host or --port."
        ) from error
    return listener


def _pool(config: ServiceConfig) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(config.threads or count_cpus(), thread_name_prefix="large-request")


def _uvicorn_config(
    config: ServiceConfig, state: ServiceState, metrics: ServiceMetrics, pool: ThreadPoolExecutor
) -> uvicorn.Config:
    app = App(state, config, metrics, pool)
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Connection.bind(
            app.direct, min(config.inline_max_body_bytes, config.max_body_bytes), metrics.count_rejected
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=round(config.keep_alive_s),
        timeout_graceful_shutdown=round(config.shutdown_grace_s),
    )
