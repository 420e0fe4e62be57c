"""Sockets in the network of another process, which may have nothing but its own loopback.

    with relay(pid, ("127.0.0.1", 9000), host_port): ...   # who asks there reaches this machine's port

A socket belongs to the network in which it was made, whoever uses it: a thread goes there, makes it, and
ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
Address = tuple[str, int]


def make_in(pid: int, make: Callable[[], Made]) -> Made:
    """What ``make`` makes in the network of the process ``pid``."""

    def go() -> Made:
        with Path(f"/proc/{pid}/ns/net").open() as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return make()

    with ThreadPoolExecutor(1) as there:
        return there.submit(go).result()


@contextlib.contextmanager
def relay(pid: int, address: Address, port: int) -> Iterator[None]:
    """Within the block connections to ``address`` in that network reach ``port`` of this one's loopback."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(make_in(pid, lambda: socket.create_server(address)))

        def accept() -> None:
            with contextlib.suppress(OSError):  # it was closed
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", port))
                    open_sockets.enter_context(client)
                    open_sockets.enter_context(server)
                    for source, target in ((client, server), (server, client)):
                        threading.Thread(target=_copy, args=(source, target), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
