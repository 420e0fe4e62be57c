"""Extract single files from an untrusted zip (or wheel).

Only files named by the configuration are written, under the configuration's names; an archive
that tries to reach outside its folder is refused as a whole all the same.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import logging
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from timberline.registry.runtime.progress import Progress
from timberline.training.errors import SourceError
from timberline.training.sources.download import CHUNK_BYTES

_logger = logging.getLogger("training.data.fetch")
_ENCRYPTED = 0x1  # bit 0 of the general purpose flag, APPNOTE 4.4.4
_SHOWN_NAMES = 12
_COMPARED_NAMES = 5000  # comparing more would take seconds


def is_safe_name(name: str) -> bool:
    """Whether ``name`` is a relative path that stays inside the folder it is joined to."""
    path = PurePosixPath(name)
    return bool(name) and not (
        path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]
    )


class _Budget:
    """How many more bytes may be unpacked; it stops a decompression bomb before the disk is full."""

    def __init__(self, max_bytes: int, where: str) -> None:
        self._max = self._left = max_bytes
        self._where = where

    def spend(self, count: int) -> None:
        self.require(count)
        self._left -= count

    def require(self, count: int) -> None:
        if count > self._left:
            raise SourceError(
                f"unpacks to more than the allowed {self._max:,} bytes",
                where=self._where,
                hint="If the file is meant to be this large, raise the limit in [source] of model.toml.",
            )


def extract_member(archive: Path, member: str, target: Path, *, max_bytes: int, where: str) -> str:
    """Write one member of a zip to ``target`` and return the SHA-256 of its bytes.

    Raises:
        SourceError: not a whole zip, no such member, unsafe entries, or more than ``max_bytes``.
    """
    with _open(archive, where) as opened:
        return _extract(opened, _find(opened, member, where), target, _Budget(max_bytes, where))


def extract_files(
    archive: Path, files: Sequence[str], folder: Path, *, max_bytes: int, scratch: Path, where: str
) -> None:
    """Write each of ``files`` from a zip into ``folder``, under the same name.

    A file may also lie in a zip of its own inside (``train.csv`` in ``train.csv.zip``).
    ``max_bytes`` bounds everything unpacked, the inner zips included.
    """
    budget = _Budget(max_bytes, where)
    with _open(archive, where) as opened:
        for file in dict.fromkeys(files):
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            names = opened.namelist()
            if file not in names and f"{file}.zip" in names:
                inner = scratch / "inner.zip"
                inner.unlink(missing_ok=True)  # a killed run may have left its own
                inside = f"{where}: {file}.zip"
                _extract(opened, _find(opened, f"{file}.zip", where), inner, budget)
                with _open(inner, inside) as nested:
                    _extract(nested, _find(nested, Path(file).name, inside), target, budget)
                inner.unlink()
            else:
                _extract(opened, _find(opened, file, where), target, budget)


@contextlib.contextmanager
def _open(path: Path, where: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip and refuse it whole when one entry is unsafe; report every kind of damage in one way."""
    damaged = "is not a whole zip file"
    hint = "It is removed; run the same command again to fetch it anew."
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(entry, where)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SourceError(f"{damaged}: {error}", where=where, hint=hint) from error
    except (NotImplementedError, RuntimeError) as error:  # unknown compression, encryption
        raise SourceError(f"cannot be unpacked: {error}", where=where) from error


def _check_entry(entry: zipfile.ZipInfo, where: str) -> None:
    # zipfile rewrites `filename` at a NUL; `orig_filename` is what stands in the archive.
    if not is_safe_name(entry.orig_filename.rstrip("/") or "/"):
        problem = "has a path that leads out of its folder"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        problem = "is a symbolic link"
    elif entry.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    else:
        return
    raise SourceError(
        f"entry {entry.orig_filename[:80]!r} {problem}; nothing was unpacked",
        where=where,
        hint="This is not an archive to trust; tell its publisher.",
    )


def _find(archive: zipfile.ZipFile, name: str, where: str) -> zipfile.ZipInfo:
    found = [entry for entry in archive.infolist() if entry.filename == name and not entry.is_dir()]
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(f"has {len(found)} entries named {name!r}", where=where)
    names = sorted(entry.filename for entry in archive.infolist() if not entry.is_dir())
    near = difflib.get_close_matches(name, names[:_COMPARED_NAMES])
    held = f"It holds: {', '.join(names[:_SHOWN_NAMES]) or 'nothing'}."
    meant = f"Did you mean {' or '.join(near)}?" if near else held
    raise SourceError(
        f"has no file {name!r} among its {len(names)}",
        where=where,
        hint=f"{meant} Correct [source] in model.toml.",
    )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, budget: _Budget) -> str:
    budget.require(entry.file_size)
    digest = hashlib.sha256()
    with (
        archive.open(entry) as source,
        target.open("xb") as file,
        Progress(f"unpack {target.name}", entry.file_size, "bytes", logger=_logger) as progress,
    ):
        # The announced size may lie, so what comes out is counted as well.
        while chunk := source.read(CHUNK_BYTES):
            budget.spend(len(chunk))
            digest.update(chunk)
            file.write(chunk)
            progress.advance(len(chunk))
    return digest.hexdigest()
