"""Files that are either whole or absent: digests, atomic writes, atomic folders; and why one is refused.

What happens after a rename cannot undo it, and must not look as if it had: `sync_change`.

"Permission denied" names the file alone. What refuses is mostly a folder above it, such as a volume that
belongs to another user than the container's: `explain_refusal` finds it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from timberline.registry.errors import AfterChangeError
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("registry.runtime.files")

# A reader never sees a name with this prefix as a result; a killed writer leaves only such names.
PARTIAL_PREFIX = ".partial-"


def digest_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# As in PostgreSQL's fsync_fname_ext (src/backend/storage/file/fd.c): errors of open(2) and fsync(2) of a
# folder where folders cannot be synced (CIFS, some of FUSE). EPERM comes from seccomp. An ``EACCES`` may also
# be a folder that this user may write in and not read.
_CANNOT_OPEN = {errno.EACCES, errno.EISDIR, errno.EPERM}
_CANNOT_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
_unsynced: set[Path] = set()  # folders that were logged: once a process is enough


# flock(2) where there are no locks: NFS without its lock daemon, much of FUSE.
_NO_LOCKS = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def lacks_locks(error: OSError) -> bool:
    """Whether ``error`` of flock(2) means that the file system has no locks at all."""
    return error.errno in _NO_LOCKS


def sync_folder(folder: Path) -> OSError | None:
    """Make a rename inside ``folder`` survive a power cut (POSIX: fsync of the directory).

    Returns:
        The error of a file system that cannot sync any folder; None when it is done.

    Raises:
        OSError: it can, and failed.
    """
    allowed = _CANNOT_OPEN
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        allowed = _CANNOT_SYNC
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in allowed:
            raise
        return error
    return None


def sync_change(path: Path) -> None:
    """Make ``path``, which has just got its name, keep it after a power cut.

    Where the file system cannot sync folders there is a warning, once for each.

    Raises:
        AfterChangeError: the disk failed; ``path`` is written all the same.
    """
    done = f"{path} is written"
    try:
        unable = sync_folder(path.parent)
    except OSError as error:
        raise AfterChangeError(
            f"{done}, but its folder could not be synced: {error}; a power cut may undo it",
            hint="See to the disk, and look what is there before you repeat the command.",
        ) from error
    if unable is not None and path.parent not in _unsynced:
        _unsynced.add(path.parent)
        log_event(
            _logger,
            f"{done}; its folder could not be synced: {unable.strerror}; a power cut may undo it",
            logging.WARNING,
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path`` so that a reader sees the old bytes or the new ones.

    The bytes are on disk before the name is: temporary name, fsync, rename, fsync of the folder.

    Raises:
        OSError: nothing changed.
        AfterChangeError: as `sync_change`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _name_partial(path)
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # of two errors the first is raised
            partial.unlink(missing_ok=True)
        raise
    sync_change(path)


@contextlib.contextmanager
def fresh_folder(target: Path, *, mark: str = "") -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` when the block ends without an error.

    An older ``target`` is replaced whole. Killed at any point, ``target`` is the old folder,
    the new one, or (between two renames) absent; never a mixture. What a killed writer left
    behind is removed by the next one.

    An old folder from a lower layer of overlayfs (that of an image) cannot be renamed. It is removed file
    by file, ``mark`` first: killed meanwhile, ``target`` is what is left of the old folder, without its
    ``mark``, and never has a file of the new one.

    Args:
        target: the folder; those above it are made.
        mark: a file that readers take the folder for a result by, if there is one.

    Raises:
        OSError: ``target`` is the old folder still, or, from a lower layer, may be absent.
        AfterChangeError: as `sync_change`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f"{PARTIAL_PREFIX}{target.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = _name_partial(target)
    partial.mkdir()
    try:
        yield partial
        aside = _make_way(target, mark)
        try:
            partial.rename(target)
        except BaseException:
            if aside is not None:
                with contextlib.suppress(OSError):  # of two errors the first is raised
                    aside.rename(target)
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        sync_change(target)
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _make_way(target: Path, mark: str) -> Path | None:
    """Take ``target`` away; its new name, or None if it was not there or could only be removed."""
    if not target.exists():
        return None
    aside = _name_partial(target)
    try:
        target.rename(aside)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return aside
    if mark:
        (target / mark).unlink(missing_ok=True)
    shutil.rmtree(target)
    return None


def _name_partial(target: Path) -> Path:
    return target.parent / f"{PARTIAL_PREFIX}{target.name}-{secrets.token_hex(4)}"


# C++ libraries (DuckDB, Arrow, TensorFlow) word it themselves, with the path before or after.
_WORDS = re.compile(r"permission denied|read-only file system", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w.~:/-])/(?!/)[^'\";:\n]+")  # and no URL
# The message of `tempfile` when it finds no folder: mostly a read-only root file system.
_NO_TEMPORARY = "No usable temporary directory"
_CODES = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain_refusal(error: BaseException) -> str:
    """What to do about a file that may not be read or written; "" if ``error`` did not come of one.

    The errors that it was raised from are looked at too. Modes are asked now, not when it happened.
    """
    with contextlib.suppress(OSError, ValueError):  # it is gone, or no path: there is nothing to add
        for cause in _causes(error):
            if isinstance(cause, FileNotFoundError) and _NO_TEMPORARY in str(cause):
                return "Mount one (in a container: `--tmpfs /tmp`), or name another folder with TMPDIR."
            for path in _refused_paths(cause):
                return explain_path(path)
    return ""


def explain_path(path: Path) -> str:
    """Whom this process is, and what on the way to ``path`` refuses it, for people."""
    found = find_refusing_path(path)
    who = f"uid {os.geteuid()}, gid {os.getegid()}"
    if found is None:
        return f"The modes of {path} would allow it to {who}: ask its mount, or a security module."
    status = found.stat()
    if found == found.parent:
        return f"Only root may write into {found}: mount a folder that {who} may write, or name another."
    if os.statvfs(found).f_flag & os.ST_RDONLY and _may(found, os.R_OK):
        return f"{found} is on a read-only file system: mount it writable, or name another folder."
    return (
        f"{found} belongs to {status.st_uid}:{status.st_gid} with mode {stat.S_IMODE(status.st_mode):04o} "
        f"and refuses {who}. Run `chown -R {os.geteuid()} {found}` (in a container: on the folder that is "
        "mounted there), or start the container with `--user $(id -u):0`, or for any user of group 0 "
        f"`chgrp -R 0 {found} && chmod -R g+rwX {found}`."
    )


def find_refusing_path(path: Path) -> Path | None:
    """The first on the way to ``path``, or ``path`` itself, that this process may not use; None if none.

    A folder on the way has to be searched. What is at its end has to be read and written; where there is
    nothing, it is the last folder that has to be written.
    """
    path = path.absolute()
    for folder in reversed(path.parents):
        if not _may(folder, os.X_OK):
            return folder if folder.exists() else _first(folder.parent, os.W_OK)
    if not os.path.lexists(path):
        return _first(path.parent, os.W_OK)
    needs = os.R_OK | (os.X_OK if path.is_dir() else 0)
    return _first(path, needs) or _first(path, os.W_OK) or _first(path.parent, os.W_OK)


def _first(path: Path, needs: int) -> Path | None:
    return None if _may(path, needs) else path


def _may(path: Path, needs: int) -> bool:
    return os.access(path, needs, effective_ids=os.access in os.supports_effective_ids)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, each once: where threads hand errors on, these may form a circle."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def _refused_paths(error: BaseException) -> Iterator[Path]:
    """The paths of a refused operation, those that refuse first."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in _CODES:
            return
    elif not _WORDS.search(text):
        return
    given = [error.filename, error.filename2] if isinstance(error, OSError) else []
    names = [os.fsdecode(name) for name in given if isinstance(name, str | bytes)] or _PATH.findall(text)
    names = [name for name in names if "://" not in name]  # a bucket's error says itself what to do
    yield from sorted(map(Path, names), key=lambda path: find_refusing_path(path) is None)
