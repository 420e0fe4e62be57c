"""One serving process from its first connection to its last: accept, sweep, drain, end.

Of uvicorn this uses the HTTP protocol and what that needs. Its server's end loses requests
(Kludex/uvicorn#2757), waits where there is nothing to wait for, and has no drain phase.

The end, after the first SIGTERM:

1. readiness is false; for ``drain_s`` everything is accepted and answered as before;
2. every answer is its connection's last; connections still shaking hands are accepted, then no more;
3. requests in work, and those received in part, have ``shutdown_grace_s``;
4. what is left then is answered with 503.

A signal more goes on to the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from email.utils import formatdate
from time import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from timberline.inference.config import ServiceConfig
from timberline.inference.models.routing import ServiceState
from timberline.inference.server.acceptor import HANDSHAKE_S, Acceptor, ConnectionCounts, stop_new_connections
from timberline.inference.server.connection import Connection, Reader

# How often connections are looked over, and how old the date in an answer may be.
_TICK_S = 1.0
# Of every answer: its type is as declared, and no cache keeps a row or a prediction.
_SAFE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
# For the answers of those that were given up to leave the process.
_FLUSH_S = 1.0


class Listener:
    """One listening socket, and the application and protocol that answer on it."""

    def __init__(self, bound: socket.socket, app: ASGIApp, connection: type[Connection]) -> None:
        self.socket = bound
        self.config = uvicorn.Config(
            app,
            loop="uvloop",
            http=connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        self.config.load()


class Server:
    """Serves on the running event loop until `stop` or a signal; see the module for how it ends.

    Args:
        config: the service's settings.
        state: marked as draining when the service begins to stop.
        listeners: where to listen; each socket is closed at the end.
        counts: how this worker's connections compare to others'.
        is_alone: whether no other process accepts from the same sockets.
    """

    def __init__(
        self,
        config: ServiceConfig,
        state: ServiceState,
        listeners: Sequence[Listener],
        counts: ConnectionCounts,
        *,
        is_alone: bool,
    ) -> None:
        self._config = config
        self._state = state
        self._listeners = listeners
        self._counts = counts
        self._is_alone = is_alone
        self._uvicorn = ServerState()
        self._connections = _Connections(counts)
        self._uvicorn.connections = self._connections
        self._is_stopping = asyncio.Event()  # the drain is over
        self._is_hurrying = asyncio.Event()  # so is the grace

    async def run(self, announce: Callable[[], None], watched_fd: int | None = None) -> None:
        """Listen, call ``announce``, and return when every connection is closed.

        The end of file on ``watched_fd`` counts as a SIGTERM: the supervisor is gone.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop, number)
        if watched_fd is not None:
            loop.add_reader(watched_fd, self._look_at, watched_fd)
        self._counts.enter()
        self._tick(loop)
        acceptors = [self._open(listener) for listener in self._listeners]
        announce()
        await self._is_stopping.wait()
        await self._end(acceptors)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Begin to stop, or go on to the next step of stopping.

        Beside other workers SIGTERM only begins: systemd sends it to every process of a service at once, and
        the supervisor passes its own on. It asks for the next step by SIGINT.
        """
        is_first = not self._state.is_draining
        if not (is_first or self._is_alone or number == signal.SIGINT):
            return
        self._state.is_draining = True
        if self._is_stopping.is_set():
            self._is_hurrying.set()
        elif is_first and number != signal.SIGINT and self._config.drain_s:
            asyncio.get_running_loop().call_later(self._config.drain_s, self._is_stopping.set)
        else:
            self._is_stopping.set()

    def _open(self, listener: Listener) -> Acceptor:
        loop = asyncio.get_running_loop()
        make: Callable[..., Connection] = listener.config.http_protocol_class  # type: ignore[assignment]

        def make_connection() -> Reader:
            connection = make(config=listener.config, server_state=self._uvicorn, app_state={}, _loop=loop)
            if self._is_stopping.is_set():
                loop.call_soon(connection.shutdown)
            return Reader(connection)

        acceptor = Acceptor(listener.socket, make_connection, self._counts)
        acceptor.start()
        return acceptor

    def _look_at(self, fd: int) -> None:
        if not os.read(fd, 4096):
            asyncio.get_running_loop().remove_reader(fd)
            self.stop()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        date = formatdate(time(), usegmt=True).encode()
        self._uvicorn.default_headers = [(b"date", date), *_SAFE]
        now = loop.time()
        for connection in list(self._connections):
            connection.sweep(now, self._config.keep_alive_s, self._config.receive_timeout_s)
        loop.call_later(_TICK_S, self._tick, loop)

    async def _end(self, acceptors: Sequence[Acceptor]) -> None:
        self._counts.leave()
        for connection in list(self._connections):
            connection.shutdown()
        if self._is_alone:
            for listener in self._listeners:
                stop_new_connections(listener.socket)
        await asyncio.sleep(HANDSHAKE_S)
        for acceptor in acceptors:
            await acceptor.close()
        async with _at_most(self._config.shutdown_grace_s):
            await _first_of(self._connections.wait_for_none(), self._is_hurrying.wait())
        await self._give_up()

    async def _give_up(self) -> None:
        for task in list(self._uvicorn.tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.give_up()
        async with _at_most(_FLUSH_S):
            await self._connections.wait_for_none()
        for connection in list(self._connections):
            connection.transport.abort()


class _Connections(set[Any]):
    """The open connections; uvicorn's protocol adds itself and takes itself out."""

    def __init__(self, counts: ConnectionCounts) -> None:
        super().__init__()
        self._counts = counts
        self._has_changed = asyncio.Event()

    def discard(self, connection: Any) -> None:
        if connection in self:
            super().discard(connection)
            self._counts.add(-1)
            self._has_changed.set()

    async def wait_for_none(self) -> None:
        """Return as soon as none is open."""
        while self:
            self._has_changed.clear()
            await self._has_changed.wait()


@contextlib.asynccontextmanager
async def _at_most(seconds: float) -> Any:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield


async def _first_of(*waits: Any) -> None:
    """Return when one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
