"""The listening socket: bound once, shared by all workers, and closed without losing a connection.

Every worker takes connections off the one queue that the kernel keeps. So a worker that is killed or
replaced leaves no connection in a queue of its own, and another worker accepts what it had not accepted yet.

A `StateFile` says where the socket listens; `inference.server.probe` reads it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import logging
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from timberline.inference.metrics.shared_memory import open_memory
from timberline.inference.server.probe import MAGIC, is_alive, list_folders, open_folder
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.server.acceptor")

# Connections that may wait for the event loop before the kernel turns more away.
_BACKLOG = 2048
# How long a client may neither answer nor read before its connection is cut: half-open ones are
# asked after this time of silence, and what was sent must have been taken after it.
_SILENCE_S = 30
_PROBE_S = 10
# How long a worker with more connections than another leaves it the next one. An idle one needs
# some 0.05 ms; a busy one is through with what it has read after some 0.5 ms.
_YIELD_S = 0.001
# Connections in one turn of the loop; each takes some 0.1 ms.
_MOST_AT_ONCE = 16
# Out of file descriptors: as long as asyncio's own servers wait then.
_PAUSE_S = 1.0
# For the handshakes under way when no new ones are begun any more: a way across a continent and back.
HANDSHAKE_S = 0.1
_ABSENT = -1

# By family of the socket: options of linux/in.h and linux/in6.h that drop what comes with a smaller time to
# live (IP_MINTTL, IPV6_MINHOPCOUNT). A socket of IPv6 may have clients of IPv4, for which the first holds.
_LEAST_TTL: Mapping[int, tuple[tuple[int, int], ...]] = {
    socket.AF_INET: ((socket.IPPROTO_IP, 21),),
    socket.AF_INET6: ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73)),
}

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h; unlike a filter it needs no privilege
# Of the sockets that listen on one address the second one gets the connection; where it is the only one,
# the kernel takes that. They are counted in the order in which they began to listen, and move up. In classic
# BPF, (operation, jump if true, jump if false, operand): see linux/filter.h.
_TO_THE_LAST_ONE = ((0x06, 0, 0, 1),)


def bind_socket(host: str, port: int, is_shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet; the connections accepted from it inherit its options.

    Args:
        is_shared: whether another socket of this user with the same wish may have the address too.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for name, value in _TCP_OPTIONS.items():
            if hasattr(socket, name):
                bound.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        bound.setblocking(False)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigError(
            f"cannot listen: {error}", where=f"{host}:{port}", hint="Choose another --host or --port."
        ) from error
    return bound


_TCP_OPTIONS = {
    "TCP_KEEPIDLE": _SILENCE_S,
    "TCP_KEEPINTVL": _PROBE_S,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": _SILENCE_S * 1000,
}


def stop_new_connections(bound: socket.socket) -> None:
    """Stop new handshakes; connections that have begun get through and can still be accepted.

    Closing a listening socket resets the connections in its queue, and one may always arrive between
    the last look and the closing. With this there is a last one. New clients get no answer until the
    socket is closed, and are refused when they ask again a second later. Where the kernel cannot do
    it, closing is as it always is, and so it is for clients whose packets begin with 255.

    The kernel takes the option from the packets of listening sockets and connections alone, not from
    handshakes that it has begun. It needs no privilege, as a filter (SO_ATTACH_FILTER) does on newer kernels.
    """
    _set_least_ttl(bound, 255)


def _set_least_ttl(of: socket.socket, hops: int) -> None:
    if sys.platform != "linux":  # pragma: no cover - the tests run on Linux
        return
    for level, option in _LEAST_TTL[of.family]:
        with contextlib.suppress(OSError):
            of.setsockopt(level, option, hops)


def lead_new_connections_here(bound: socket.socket) -> None:
    """Of two services on one port, let the one that began to listen last have every new connection.

    The other one goes on with those that it has, and may end: nothing waits in its queue. Left alone the
    kernel spreads connections over both by a hash, and resets those that the ending one has not accepted.
    """
    if sys.platform != "linux":  # pragma: no cover - the tests run on Linux
        return
    code = array.array("B", b"".join(struct.pack("=HBBI", *step) for step in _TO_THE_LAST_ONE))
    address, _ = code.buffer_info()
    program = struct.pack("HP", len(_TO_THE_LAST_ONE), address)
    with contextlib.suppress(OSError):
        bound.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


class ConnectionCounts:
    """How many connections each worker has, in memory that all of them see.

    Args:
        fd: of that memory, made by `create_memory`; None for a process on its own.
        slots: how many workers there may be at a time.
        slot: this one's.
    """

    def __init__(self, fd: int | None = None, slots: int = 1, slot: int = 0) -> None:
        self._counts = memoryview(mmap.mmap(-1 if fd is None else fd, slots * 4)).cast("i")
        self._slot = slot
        self._count = 0
        self._is_leaving = False

    @staticmethod
    def create_memory(slots: int) -> int:
        """File descriptor of new memory for ``slots`` workers, none of which is there yet."""
        fd = open_memory("timberline-connections")
        os.write(fd, struct.pack(f"={slots}i", *[_ABSENT] * slots))
        return fd

    def enter(self) -> None:
        """Mark this worker as one that takes connections; it has none yet."""
        self.add(0)

    def add(self, change: int) -> None:
        """Count connections that came (1) or went (-1)."""
        self._count += change
        if not self._is_leaving:
            self._counts[self._slot] = self._count

    def leave(self) -> None:
        """Mark this worker as one that takes no more connections."""
        self._is_leaving = True
        self.clear(self._slot)

    def clear(self, slot: int) -> None:
        """Mark ``slot`` as without a worker."""
        self._counts[slot] = _ABSENT

    def has_most(self) -> bool:
        """Whether another worker has fewer connections than this one."""
        if self._is_leaving:
            return False
        mine = self._count
        return any(0 <= count < mine for count in self._counts)


class Acceptor:
    """Accepts connections of a listening socket, a few in each turn of the loop.

    None while another worker has fewer and may want it: with connections that stay open for hours, a
    worker that once took too many has too much to do for hours. More than one, since a client that
    comes behind hundreds would wait for as many turns, in which hundreds may be read from.

    Args:
        bound: bound, not blocking; `close` closes it.
        factory: makes the protocol of a connection.
        counts: counts the connections that come; `Server` counts those that go.
    """

    def __init__(
        self, bound: socket.socket, factory: Callable[[], asyncio.BaseProtocol], counts: ConnectionCounts
    ) -> None:
        self._socket = bound
        self._factory = factory
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen, and accept from now on."""
        self._socket.listen(_BACKLOG)
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            lead_new_connections_here(self._socket)
        self._resume()

    async def close(self) -> None:
        """Accept what is queued, then close this process's socket."""
        self._pause()
        while self._accept():
            pass
        self._pause()
        if self._opening:
            await asyncio.wait(self._opening)
        self._socket.close()

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._socket, self._on_readable)

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_readable(self) -> None:
        if self._counts.has_most():
            self._pause()
            self._timer = self._loop.call_later(_YIELD_S, self._accept_after_all)
            return
        for _ in range(_MOST_AT_ONCE):
            if not self._accept() or self._counts.has_most():
                break

    def _accept_after_all(self) -> None:
        self._resume()
        self._accept()

    def _accept(self) -> bool:
        """Take one connection; False if there was none, or no room for it."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                raise
            self._wait_for_room(error)
            return False
        connection.setblocking(False)
        # What finished its handshake since `stop_new_connections` has inherited its option.
        _set_least_ttl(connection, 0)
        self._counts.add(1)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError:  # its client is gone again
            connection.close()
            self._counts.add(-1)

    def _wait_for_room(self, error: OSError) -> None:
        log_event(_logger, "no connection accepted", logging.ERROR, error=str(error), pause_s=_PAUSE_S)
        self._pause()
        self._timer = self._loop.call_later(_PAUSE_S, self._resume)


class StateFile:
    """A context in which `write` says where this process listens; the file is gone at its end.

    Every service has a file of its own with a random name, so that none can take another's away. Files of
    services that were killed are removed when another one starts.

    Args:
        runtime_dir: folder for it; "" is the first usable one of `inference.server.probe.list_folders`.
            If there is none the service does without, and ``health`` asks where the environment says.

    Raises:
        ConfigError: ``runtime_dir`` is given and cannot be used.
    """

    def __init__(self, runtime_dir: str = "") -> None:
        self._runtime_dir = runtime_dir
        self._name = os.urandom(8).hex()
        self._folder: int | None = None
        self._fd: int | None = None

    def __enter__(self) -> StateFile:
        folders = list_folders(self._runtime_dir)
        self._folder = next((fd for path in folders if (fd := _make_folder(path)) is not None), None)
        if self._folder is None and self._runtime_dir:
            raise ConfigError(
                "no folder of this user's own can be made here",
                where=self._runtime_dir,
                hint="Choose another --runtime-dir.",
            )
        return self

    def write(self, host: str, port: int) -> None:
        """Write the file; a service that cannot do so logs it and goes on without one."""
        try:
            if self._folder is None:
                raise FileNotFoundError("no folder can be written to")
            _remove_stale(self._folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._name, flags, 0o600, dir_fd=self._folder)
            os.lockf(self._fd, os.F_TLOCK, 0)  # before there is anything in it: empty ones are not stale
            os.write(self._fd, f"{MAGIC} {port} {host}\n".encode("ascii"))
        except OSError as error:
            log_event(
                _logger,
                "no state file",
                logging.WARNING,
                error=str(error),
                hint="health asks where PORT and HOST say; --runtime-dir names a folder for the file",
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
            os.close(self._fd)
        if self._folder is not None:
            os.close(self._folder)


def _make_folder(path: str) -> int | None:
    """Make the folder if it is missing, and open it as `open_folder`; None too if it is not writable."""
    with contextlib.suppress(OSError):
        Path(path).mkdir(0o700)
    fd = open_folder(path)
    if fd is None or os.access(".", os.W_OK | os.X_OK, dir_fd=fd):
        return fd
    os.close(fd)
    return None


def _remove_stale(folder: int) -> None:
    """Remove the files of services that were killed: those with something in them and without a lock."""
    for entry in list(os.scandir(folder)):
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(entry.name, flags, dir_fd=folder)
            try:
                if os.fstat(fd).st_size and not is_alive(fd):
                    os.unlink(entry.name, dir_fd=folder)
            finally:
                os.close(fd)
