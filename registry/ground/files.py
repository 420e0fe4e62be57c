"""Files that are either whole or absent: digests, atomic writes, atomic folders."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

# A reader never sees a name with this prefix as a result; a killed writer leaves only such names.
PARTIAL_PREFIX = ".partial-"


def digest_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut (POSIX: fsync of the directory)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path`` so that a reader sees the old bytes or the new ones.

    The bytes are on disk before the name is: temporary name, fsync, rename, fsync of the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{PARTIAL_PREFIX}{path.name}-{secrets.token_hex(4)}"
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` when the block ends without an error.

    An older ``target`` is replaced whole. Killed at any point, ``target`` is the old folder,
    the new one, or (between two renames) absent; never a mixture. What a killed writer left
    behind is removed by the next one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f"{PARTIAL_PREFIX}{target.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = target.parent / f"{PARTIAL_PREFIX}{target.name}-{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            aside = target.parent / f"{PARTIAL_PREFIX}{target.name}-{secrets.token_hex(4)}"
            target.rename(aside)
            partial.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(target.parent)
