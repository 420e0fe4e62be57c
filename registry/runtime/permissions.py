"""Why the system refuses a file, in one sentence: which folder it is, whose, for whom, and what to do.

"Permission denied" names the file alone. What refuses is mostly a folder above it: a volume that
belongs to another user than the one that the container runs as.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

# A library of C++ (DuckDB, Arrow, TensorFlow) says it in words of its own, with the path before or behind.
_WORDS = re.compile(r"permission denied|read-only file system", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w.~:/-])/(?!/)[^'\";:\n]+")  # and no URL
# How `tempfile` says that it found no folder at all: mostly a root file system that is read-only.
_NO_TEMPORARY = "No usable temporary directory"
_CODES = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain_refusal(error: BaseException) -> str:
    """What to do about a file that may not be read or written; "" if ``error`` did not come of one.

    The errors that it was raised from are looked at too. Modes are asked now, not when it happened.
    """
    with contextlib.suppress(OSError, ValueError):  # it is gone, or no path: what there is to say was said
        for cause in _causes(error):
            if isinstance(cause, FileNotFoundError) and _NO_TEMPORARY in str(cause):
                return "Mount one (in a container: `--tmpfs /tmp`), or name another folder with TMPDIR."
            for path in _refused_paths(cause):
                return explain_path(path)
    return ""


def explain_path(path: Path) -> str:
    """Whom this process is, and what on the way to ``path`` refuses it, for people."""
    found = find_refusing(path)
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


def find_refusing(path: Path) -> Path | None:
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
    cause: BaseException | None = error
    while cause is not None:
        yield cause
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
    yield from sorted(map(Path, names), key=lambda path: find_refusing(path) is None)
