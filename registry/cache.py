"""Copies of a bucket's bytes in a local folder, by their SHA-256, for all processes that share the folder.

    <folder>/sha256/<digest>    the bytes
    <folder>/notes/<digest>     what its writer wants to find again by a name; the first line is its SHA-256
    <folder>/locks/<2 digits>   one process fetches what others wait for; all but one wait while room is made
    <folder>/…/.partial-<…>     being written, and locked (flock) by its writer

What is written appears by one rename or link. It is not synced: whatever a power cut leaves is found when it
is read, as every byte is hashed on its way out. The folder may be lost or removed at any time, and where it
cannot be written to nothing is: a cache raises no error of its own.

Bytes are known by their digest, so that it does not matter who wrote them. A note is not, and counts only if
this process's user or root wrote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO

from timberline.registry.folder import open_regular_file
from timberline.registry.objects import Known
from timberline.registry.runtime.files import PARTIAL_PREFIX, digest_bytes
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("registry.cache")

# Some hundred versions of a few megabytes, or a large one. A /tmp in memory counts as the container's.
CACHE_BYTES = 512 * 1024 * 1024
# A note is some hundred bytes.
_MAX_NOTE_BYTES = 1 << 20
# How long a process waits for another one that fetches the same bytes, or makes room, before it does without:
# that one may have been stopped.
_FETCH_WAIT_S = 30.0
_ROOM_WAIT_S = 2.0
_TURN_S = 0.01
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

# Gets pieces of a file as they come.
Take = Callable[[bytes], object]


def choose_cache(environment: Mapping[str, str], folder: str = "", most_bytes: int = CACHE_BYTES) -> Cache:
    """The cache in ``folder``; else in the first of the usual folders that can be used, if one can.

    They are ``$TIMBERLINE_CACHE`` (``off`` is no cache), ``$XDG_CACHE_HOME/timberline``,
    ``~/.cache/timberline`` and ``timberline-cache-<uid>`` in the folder for temporary files, as a container's
    only place may be.

    Args:
        environment: variables by name; empty ones count as not set.
        folder: of the cache, if it is given.
        most_bytes: that it may hold; 0 is no cache.
    """
    given = folder or environment.get("TIMBERLINE_CACHE", "")
    if given == "off" or not most_bytes:
        return Cache(None, 0)
    if given:
        return Cache(Path(given), most_bytes)
    usable = (path for path in list_usual(environment) if _is_usable(path))
    return Cache(next(usable, None), most_bytes)


def list_usual(environment: Mapping[str, str]) -> Iterator[Path]:
    """The folders for caches where none is named, the preferred one first; none of them need be there."""
    if xdg := environment.get("XDG_CACHE_HOME"):
        yield Path(xdg, "timberline")
    if home := environment.get("HOME"):
        yield Path(home, ".cache", "timberline")
    with contextlib.suppress(OSError):  # there may be no such folder at all
        temporary = Path(tempfile.gettempdir())
        if temporary != Path.cwd():  # which it takes last
            yield temporary / f"timberline-cache-{os.geteuid()}"


def _is_usable(folder: Path) -> bool:
    """Make a folder of this user's own; in /tmp another user may have made it, or a link to elsewhere."""
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        return folder.lstat().st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


class Cache:
    """Bytes by digest, and notes by name; see the module. Any thread may use it, and any number of processes.

    Beyond ``most_bytes`` what was used longest ago goes. What is being written comes on top of them, and
    what is larger than all of them is not kept.

    Args:
        folder: which need not be there yet; None for a cache that keeps nothing.
        most_bytes: of all the bytes in it; notes are not counted. 0 where nobody wants a cache.
    """

    def __init__(self, folder: Path | None, most_bytes: int = CACHE_BYTES) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._leases: dict[str, tuple[int, Path]] = {}
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._is_clean = False

    def read_known(self, sha256: str, size: int, fetch: Callable[[], Known | None]) -> Known | None:
        """The bytes with this digest; else what ``fetch`` gets, which is kept if it has the digest.

        Of processes that ask for the same bytes at the same time one fetches, and the others wait.

        Args:
            sha256: of the bytes.
            size: the most they may be.
            fetch: hashes what it gets; its errors are raised.
        """
        if self.folder is None:
            return fetch()
        found = self._read(sha256, size)
        if found is not None:
            return Known(found, sha256)
        with self.alone(sha256[:2], _FETCH_WAIT_S):
            found = self._read(sha256, size)  # another may have fetched it meanwhile
            if found is not None:
                return Known(found, sha256)
            known = fetch()
            if known is not None and known.sha256 == sha256:
                with _Partial(self, len(known.data)) as partial:
                    partial.write(known.data)
                    partial.keep(sha256)
            return known

    def open_file(self, sha256: str, size: int, stream: Callable[[Take], str | None]) -> Path | None:
        """A file with the bytes of this digest, which stays as long as this process; None if there is none.

        Args:
            sha256: of the bytes.
            size: of them.
            stream: hands pieces of the bytes on, and returns the digest of all; its errors are raised.
        """
        if self.folder is None:
            return None
        with self._lock:
            found = self._lease(sha256)
        if found is None:
            with self.alone(sha256[:2], _FETCH_WAIT_S), self._lock:
                found = self._lease(sha256)
                if found is None:
                    with _Partial(self, size) as partial:
                        if stream(partial.write) == sha256:
                            partial.keep(sha256)
                    found = self._lease(sha256)
        return found

    def touch(self, sha256: str) -> None:
        """Count the bytes with this digest as used now."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                os.utime(self._path(sha256))

    def read_note(self, name: str) -> bytes | None:
        """The note that was written last under ``name``; None if there is none that can be trusted."""
        if self.folder is None:
            return None
        path = self._note_path(name)
        try:
            handle = open_regular_file(path)
            if handle is None:
                return None
            with os.fdopen(handle, "rb") as file:
                owner = os.fstat(handle).st_uid
                digest, _, data = file.read(_MAX_NOTE_BYTES).partition(b"\n")
        except OSError as error:
            self._tell_unread(path, error)
            return None
        if owner not in {0, os.geteuid()}:
            self.tell_once("note not trusted", path, f"it belongs to user {owner}")
            return None
        if digest.decode("ascii", "replace") != digest_bytes(data):
            self.tell_once("cache entry damaged", path, "its digest is another; it is not used")
            return None
        return data

    def write_note(self, name: str, data: bytes) -> None:
        """Keep ``data`` under ``name`` in place of what was there; any bytes up to a megabyte."""
        if self.folder is None:
            return
        path = self._note_path(name)
        try:
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL_PREFIX)
            try:
                with os.fdopen(handle, "wb") as file:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.write(digest_bytes(data).encode() + b"\n" + data)
                Path(partial).replace(path)
            except BaseException:
                _remove(Path(partial))
                raise
        except OSError as error:
            self.tell_unwritten(error)

    def tell_unwritten(self, error: OSError) -> None:
        """Say in the log, once a process, that nothing is written."""
        self.tell_once("cache not written", self.folder, error.strerror or str(error))

    def tell_once(self, event: str, path: Path | None, why: str) -> None:
        """Log an event, once a process."""
        if event not in self._told:
            self._told.add(event)
            log_event(_logger, event, logging.WARNING, path=str(path), why=why)

    def _tell_unread(self, path: Path, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            self.tell_once("cache not readable", path, error.strerror or str(error))

    def _read(self, sha256: str, size: int) -> bytes | None:
        """The bytes in the cache, if they have this digest; others are removed."""
        path = self._path(sha256)
        try:
            handle = open_regular_file(path)
            if handle is None:
                self._drop(path)
                return None
            with os.fdopen(handle, "rb") as file:
                data = file.read(size + 1)
        except OSError as error:
            self._tell_unread(path, error)
            return None
        if digest_bytes(data) != sha256:
            self._drop(path)
            return None
        self.touch(sha256)
        return data

    def _drop(self, path: Path) -> None:
        """Remove what is damaged; if another process has put good bytes there meanwhile, they come again."""
        log_event(_logger, "cache entry damaged", logging.WARNING, path=str(path), why="it is fetched again")
        _remove(path)

    def _lease(self, sha256: str) -> Path | None:
        """The file in the cache, if it has this digest, locked so that it stays until this process ends."""
        if sha256 in self._leases:
            return self._leases[sha256][1]
        path = self._path(sha256)
        try:
            handle = open_regular_file(path)
            if handle is None:
                self._drop(path)
                return None
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(handle), path.stat()):
                    raise FileNotFoundError  # noqa: TRY301 - it went before it was locked
                with os.fdopen(os.dup(handle), "rb") as file:
                    is_whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            except BaseException:
                os.close(handle)
                raise
        except BlockingIOError:  # it has only just been written
            return None
        except OSError as error:  # above all a file system without locks: no file of it is given out
            self._tell_unread(path, error)
            return None
        if not is_whole:
            os.close(handle)
            self._drop(path)
            return None
        self._leases[sha256] = (handle, path)
        self.touch(sha256)
        return path

    def admit(self, partial: Path, sha256: str, size: int) -> None:
        """Make room for a file that was written whole, and give it its name; it may also go.

        Raises:
            OSError: it cannot be done.
        """
        with self.alone("room", _ROOM_WAIT_S) as is_alone:
            if not is_alone:
                return
            self._clean()
            if self._make_room(size):
                # A link leaves a file that is there already: a reader may hold its lock.
                with contextlib.suppress(FileExistsError):
                    self._path(sha256).hardlink_to(partial)

    def _make_room(self, size: int) -> bool:
        """Remove what was used longest ago until there is room for so many bytes; False if there is not."""
        found: list[tuple[int, int, Path]] = []
        with os.scandir(self.require_folder() / "sha256") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if _DIGEST.fullmatch(entry.name):
                        found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        held = sum(size for _, size, _ in found)
        for _, freed, path in sorted(found):
            if held + size <= self.most_bytes:
                break
            if _remove_unlocked(path):
                held -= freed
        return held + size <= self.most_bytes

    def _clean(self) -> None:
        """Remove what killed writers left, once a process; the others hold their locks."""
        if not self._is_clean:
            self._is_clean = True
            for path in self.require_folder().glob(f"*/{PARTIAL_PREFIX}*"):
                _remove_unlocked(path)

    @contextlib.contextmanager
    def alone(self, name: str, wait_s: float) -> Iterator[bool]:
        """Keep other processes and threads out; False if that cannot be had within ``wait_s``."""
        handle = None
        try:
            path = self.require_folder() / "locks" / name
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            self.tell_unwritten(error)
        try:
            yield handle is not None and _wait_for_lock(handle, wait_s)
        finally:
            if handle is not None:
                os.close(handle)

    def require_folder(self) -> Path:
        """The folder, where it is known that there is one."""
        assert self.folder is not None
        return self.folder

    def _path(self, sha256: str) -> Path:
        assert _DIGEST.fullmatch(sha256), sha256
        return self.require_folder() / "sha256" / sha256

    def _note_path(self, name: str) -> Path:
        return self.require_folder() / "notes" / digest_bytes(name.encode())


class _Partial:
    """A file in the making, which takes bytes and never fails: they are on their way to somebody else."""

    def __init__(self, cache: Cache, size: int) -> None:
        self._cache = cache
        self._size = size
        self._written = 0
        self._file: BinaryIO | None = None
        self._path: Path | None = None

    def __enter__(self) -> _Partial:
        if self._size > self._cache.most_bytes:
            self._cache.tell_once("too large for the cache", self._cache.folder, f"{self._size:,} bytes")
            return self
        try:
            folder = self._cache.require_folder() / "sha256"
            folder.mkdir(0o700, parents=True, exist_ok=True)
            with self._cache.alone("room", _ROOM_WAIT_S):  # else it may be cleaned up before it is locked
                handle, name = tempfile.mkstemp(dir=folder, prefix=PARTIAL_PREFIX)
                self._path, self._file = Path(name), os.fdopen(handle, "wb")
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._fail(error)
        return self

    def write(self, data: bytes) -> None:
        """Write some bytes, as long as that goes well."""
        if self._file is not None:
            try:
                self._file.write(data)
                self._written += len(data)
            except OSError as error:
                self._fail(error)

    def keep(self, sha256: str) -> None:
        """Let the file have its name: it has the bytes with this digest."""
        if self._file is not None and self._path is not None:
            try:
                self._file.flush()
                self._cache.admit(self._path, sha256, self._written)
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._cache.tell_unwritten(error)
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            _remove(self._path)
        if self._file is not None:
            with contextlib.suppress(OSError):  # what was not written yet may not find room again
                self._file.close()
        self._file = self._path = None


def _wait_for_lock(handle: int, wait_s: float) -> bool:
    until = monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > until:
                return False
            sleep(_TURN_S)
        except OSError:  # a file system without locks
            return False
        else:
            return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _remove_unlocked(path: Path) -> bool:
    """Remove a file that no process has locked; whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
