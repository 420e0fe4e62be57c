"""An object store in a folder of a POSIX file system.

Everything is written under ``.staging/<token>/`` first and appears by one rename or link, so a reader sees
the old state or the new one. The writer holds ``.staging/<token>.lock`` (flock) while it lives. The next
publisher removes what a killed writer left behind: its lock is free.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from timberline.registry.errors import DamageError, RegistryError
from timberline.registry.objects import (
    MAX_BYTES,
    Known,
    OnError,
    Tagged,
    check_key,
    is_hidden,
    is_system_file,
    read_or_error,
)
from timberline.registry.runtime.files import digest_bytes, lacks_locks, sync_change, sync_folder
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("registry.folder")

_STAGING = ".staging"
# rename(2) of a folder onto one with files in it, or onto something that is no folder.
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
# open(2) of a socket or of a device without a driver, and of a symbolic link that must not be followed.
_NO_FILE = {errno.ENXIO, errno.ENODEV, errno.ELOOP}
# link(2) where there are no hard links: SMB, exFAT, much of FUSE; the last where two folders of the registry
# are two mounts.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}
# Where Kubernetes keeps the files of a volume that it writes: a link that is switched to the next tree.
_KUBERNETES_DATA = "..data"


def find_root(location: Path) -> Path:
    """The folder that ``location`` leads to now, free of symbolic links; it need not be there.

    The last of the links on the way may be switched to another tree at any time (git-sync, Kubernetes).
    Whoever wants to see one tree reads all of it below one answer of this function.

    Raises:
        RegistryError: the links lead in a circle.
    """
    data = location / _KUBERNETES_DATA
    try:
        root = (data if data.is_symlink() else location).resolve()
        is_circle = _is_circle(root)
    except RuntimeError:
        is_circle = True
    if is_circle:
        raise RegistryError("its symbolic links lead in a circle", where=str(location))
    return root


def _is_circle(root: Path) -> bool:
    """Whether a resolved path still has links: from 3.13 on Python leaves circles as they are."""
    try:
        root.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


class FolderStore:
    """`registry.objects.ObjectStore` under ``root``, which need not exist before the first write."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self._root = find_root(root)
        self.location = str(root)

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        if prefix:
            self._path(prefix)
        keys, pending = [], [prefix]
        while pending:
            folder = pending.pop()
            try:
                entries = self._scan(folder)
            except OSError as error:
                if on_error is None:
                    raise
                on_error(folder, error)
                continue
            if entries == [] and folder:
                keys.append(f"{folder}/")
            for entry in entries or []:
                key = f"{folder}/{entry.name}" if folder else entry.name
                (pending if entry.is_dir(follow_symlinks=False) else keys).append(key)
        return sorted(keys)

    def list_names(self, prefix: str = "") -> list[str]:
        if prefix:
            self._path(prefix)
        entries = self._scan(prefix) or []
        return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)

    def _scan(self, folder: str) -> list[os.DirEntry[str]] | None:
        """What lies in ``folder``; None if it is not there."""
        try:
            with os.scandir(self._root / folder) as scanned:
                return [entry for entry in scanned if not is_hidden(entry.name)]
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise self._no_folder(folder) from error

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        path = self._path(key)
        try:
            handle = open_regular_file(path)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise self._no_folder(key.rpartition("/")[0]) from error
        if handle is None:
            raise DamageError(
                "is no plain file",
                where=str(path),
                hint="It was not read: a registry holds files. Remove it.",
            )
        with os.fdopen(handle, "rb") as file:
            size = os.fstat(handle).st_size
            if size > most_bytes:
                raise DamageError(f"has more than {most_bytes:,} bytes", where=str(path))
            return file.read(size)  # and no more, though it may be growing

    def list_sizes(self, prefix: str) -> dict[str, int | None]:
        with os.scandir(self._path(prefix)) as scanned:
            entries = [entry for entry in scanned if not is_system_file(entry.name)]
        return {
            entry.name: entry.stat(follow_symlinks=False).st_size
            if entry.is_file(follow_symlinks=False)
            else None
            for entry in entries
        }

    def find_size(self, key: str) -> int | None:
        try:
            found = self._path(key).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else -1

    def read_many(
        self, keys: Sequence[str], most_bytes: int = MAX_BYTES
    ) -> list[bytes | OSError | RegistryError | None]:
        return [read_or_error(self, key, most_bytes) for key in keys]

    def read_known(self, key: str, sha256: str, size: int) -> Known | None:
        data = self.read(key, size + 1)
        return None if data is None else Known(data, digest_bytes(data))

    def read_tagged(self, key: str, seen: str = "", most_bytes: int = MAX_BYTES) -> Tagged | None:
        data = self.read(key, most_bytes)
        return None if data is None else Tagged(data, digest_bytes(data))

    def digest(self, key: str) -> str:
        handle = open_regular_file(self._path(key))
        if handle is None:
            return ""
        with os.fdopen(handle, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def put(self, key: str, data: bytes) -> None:
        with self._written(data) as file:
            target = self._prepare_path(key)
            file.replace(target)
            sync_change(target)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._written(data) as file:
            target = self._prepare_path(key)
            try:
                target.hardlink_to(file)
            except OSError as error:
                # open(2), O_EXCL: an NFS server may have made the link, and its answer may be lost.
                if not _is_linked(file, target):
                    if isinstance(error, FileExistsError):
                        return False
                    if error.errno in _NO_LINKS:
                        raise self._miss("hard links", error) from error
                    raise
            sync_change(target)
        return True

    def put_if_same(self, key: str, data: bytes, seen: str) -> bool:
        found = self.read_tagged(key)
        if found is None or found.tag != seen:
            return False
        self.put(key, data)
        return True

    @contextlib.contextmanager
    def open_staging(self) -> Iterator[Path]:
        staging = self._root / _STAGING
        staging.mkdir(parents=True, exist_ok=True)
        _remove_dead(staging)
        with self._held_lock(staging) as lock:
            folder = lock.with_suffix("")
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        assert (staged / last).is_file()
        for path in staged.iterdir():
            _sync_file(path)
        sync_folder(staged)
        target = self._prepare_path(prefix)
        try:
            staged.rename(target)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        sync_change(target)
        return True

    def open_file(self, key: str, sha256: str, size: int) -> Path:
        return self._path(key)

    def _path(self, key: str) -> Path:
        """Where ``key`` lies; a key or a symbolic link that leads elsewhere is refused."""
        parts = check_key(key, self.location)
        path = str(self._root)
        for part in parts:  # strings: with Path objects this took half the time of a list
            path = f"{path}/{part}"
            if os.path.islink(path):  # noqa: PTH114
                raise DamageError(
                    "is reached through a symbolic link",
                    where=str(self._root.joinpath(*parts)),
                    hint="It was not followed: a registry holds files, not links. Remove it.",
                )
        return Path(path)

    def _no_folder(self, prefix: str) -> DamageError:
        return DamageError("is no folder", where=str(self._root / prefix), hint="It was not read. Remove it.")

    def _prepare_path(self, key: str) -> Path:
        """The path of ``key``, its folder made."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        with self.open_staging() as folder:
            file = folder / "blob"
            file.write_bytes(data)
            _sync_file(file)
            yield file

    @contextlib.contextmanager
    def _held_lock(self, staging: Path) -> Iterator[Path]:
        """A new lock file, held until the block ends or the process does."""
        while True:
            path = staging / f"{secrets.token_hex(8)}.lock"
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                _clean_up(path, handle)
                if lacks_locks(error):
                    raise self._miss("file locks", error) from error
                raise
            if path.exists():  # else another writer removed it before it was locked
                break
            os.close(handle)
        try:
            yield path
        finally:
            _clean_up(path, handle)

    def _miss(self, what: str, error: OSError) -> RegistryError:
        return RegistryError(
            f"its file system has no {what} ({error.strerror}), and a registry cannot be written without",
            where=self.location,
            hint="Nothing was changed. Keep it on a local disk (ext4, XFS, Btrfs, APFS) or on NFSv4.",
        )


def open_regular_file(path: Path) -> int | None:
    """A descriptor to read a regular file with; None if it is something else.

    Opening a FIFO without a writer, or a device, would block for ever; so the open does not wait.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_linked(file: Path, target: Path) -> bool:
    try:
        return target.samefile(file)
    except OSError:
        return False


def _clean_up(lock: Path, handle: int) -> None:
    """Release a lock. The next writer removes what is left, so a failure here is only logged."""
    try:
        lock.unlink(missing_ok=True)
    except OSError as error:
        log_event(_logger, f"{lock} could not be removed: {error.strerror}", logging.WARNING)
    with contextlib.suppress(OSError):  # close(2): it is closed all the same
        os.close(handle)


def _remove_dead(staging: Path) -> None:
    """Remove what dead writers left; a live one holds its lock and is skipped.

    So is what this process may not open or remove, and what is no lock: it does no harm.
    """
    for path in staging.glob("*.lock"):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(handle)
