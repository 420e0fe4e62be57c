"""The file that says where this service listens, for `inference.server.probe`, which says what is in it."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from types import TracebackType

from timberline.inference.server.probe import MAGIC, is_alive, list_folders, open_folder
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.server.statefile")


class StateFile:
    """A context in which `write` says where this process listens; the file is gone at its end.

    Every service has a file of its own, of a name that nobody else chooses, so that none can take
    another's away. Those of services that were killed are removed on the way.

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
        """Leave the file; a service that cannot goes on without it, and the log says so."""
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
    """As `open_folder`, which this makes if it is not there; None too if nothing can be written in it."""
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
