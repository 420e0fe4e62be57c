"""Files that are here already: recorded with their digests, so that a change is seen, and copied if asked."""

from __future__ import annotations

import glob
import os.path
import shutil
from pathlib import Path

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.files import digest_file
from timberline.training.errors import SourceError
from timberline.training.sources.download import Fetcher, require_digest

REFERENCES = "references.json"


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One local file as it was when it was fetched; ``path`` as the configuration spells it."""

    path: str
    sha256: str
    size: int


class LocalFiles(Fetcher):
    """The files that a path or glob names, in the order of their names."""

    def __init__(self, path: str, sha256: str | None, *, copies_files: bool = False) -> None:
        self._path = path
        self._copies_files = copies_files
        self._sha256 = sha256
        self._found: tuple[Reference, ...] | None = None
        self.label = f"local {path}"

    def inputs(self) -> dict[str, str]:
        """The digest of every file: one changed byte makes the stage run again."""
        kind = "copy" if self._copies_files else "file"
        return {f"{kind} {reference.path}": reference.sha256 for reference in self._references()}

    def fetch(self, folder: Path, scratch: Path) -> None:
        """Check the digest if one is pinned; copy the files, or note what they are."""
        references = self._references()
        if self._sha256 and len(references) > 1:
            raise SourceError(f"source.sha256 pins one file, {len(references)} are named", where=self.label)
        hint = "It is not the file that was pinned; correct the file or source.sha256."
        require_digest(references[0].sha256, self._sha256, where=references[0].path, hint=hint)
        if not self._copies_files:
            (folder / REFERENCES).write_bytes(msgspec.json.encode(references))
            return
        for number, reference in enumerate(references):
            path = Path(reference.path)
            # In the order of their paths, two of which may end alike.
            name = path.name if len(references) == 1 else f"{number:05}-{path.name}"
            shutil.copyfile(path, folder / name)
            hint = "It changed while it was copied. Run `timberline fetch` again."
            require_digest(digest_file(folder / name), reference.sha256, where=reference.path, hint=hint)

    def _references(self) -> tuple[Reference, ...]:
        if self._found is None:
            self._found = tuple(_describe(path) for path in self._paths())
        return self._found

    def _paths(self) -> list[Path]:
        wanted = os.path.expanduser(self._path)  # noqa: PTH111 - Path would fold `./` and `//` in a glob
        if Path(wanted).is_file():
            return [Path(wanted)]
        _check_folders(Path(wanted))
        paths = sorted(Path(name) for name in glob.glob(wanted, recursive=True))  # noqa: PTH207 - absolute globs
        files = [path for path in paths if path.is_file()]
        if not files:
            raise SourceError(
                "no such file", where=self._path, hint="Give a file or glob in source.path of model.toml."
            )
        return files


def _check_folders(pattern: Path) -> None:
    """Refuse a folder that ``pattern`` leads through and that cannot be read: glob passes it over in silence.

    Raises:
        SourceError: there is one.
    """
    parts = pattern.parts
    first = next((count for count, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    for count in range(max(first, 1), len(parts)):
        needs = os.R_OK | os.X_OK if glob.has_magic(parts[count]) else os.X_OK
        for folder in glob.iglob(str(Path(*parts[:count])), recursive=True):  # noqa: PTH207 - as in _paths
            if Path(folder).is_dir() and not os.access(folder, needs):
                raise SourceError("cannot be read: Permission denied", where=folder)


def _describe(path: Path) -> Reference:
    try:
        return Reference(str(path), digest_file(path), path.stat().st_size)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from error


def read_references(folder: Path) -> tuple[Path, ...] | None:
    """The files noted in a fetched folder, or None when it holds the files themselves.

    Raises:
        StageError: a file is gone or has changed since it was fetched, or the note is damaged.
    """
    path = folder / REFERENCES
    if not path.is_file():
        return None
    try:
        references = decode_json(path.read_bytes(), tuple[Reference, ...])
    except msgspec.DecodeError as error:
        raise StageError(
            f"not a list of files: {error}", where=str(path), hint="Remove its folder, and fetch again."
        ) from error
    return tuple(_check(reference) for reference in references)


def _check(reference: Reference) -> Path:
    path = Path(reference.path)
    if not path.is_file():
        raise StageError(
            "is gone since it was fetched", where=str(path), hint="Run `timberline fetch` again."
        )
    if path.stat().st_size != reference.size or digest_file(path) != reference.sha256:
        raise StageError(
            "has changed since it was fetched", where=str(path), hint="Run `timberline fetch` again."
        )
    return path
