"""A table as one or more files: a path, a glob, an http(s) or an s3 URL; CSV (.gz, .zst) or Parquet.

The bytes are passed on as they are: `training.data.source_files` finds out what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from timberline.registry.runtime.files import digest_file
from timberline.registry.runtime.receipts import RECEIPT
from timberline.training.config import CsvSource
from timberline.training.errors import SourceError
from timberline.training.sources.archive import is_safe_name
from timberline.training.sources.download import (
    Fetcher,
    Opener,
    Pause,
    check_url,
    download,
    open_url,
    require_digest,
    show_url,
)
from timberline.training.sources.local import REFERENCES, LocalFiles
from timberline.training.sources.s3 import S3Object

_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]*)://", re.IGNORECASE)
# First bytes → the suffix by which other programs know the format; ours looks at the bytes.
# RFC 1952, RFC 8878, Parquet's magic.
_MAGIC = ((b"\x1f\x8b", ".gz"), (b"\x28\xb5\x2f\xfd", ".zst"), (b"PAR1", ".parquet"))
_ZIP_MAGIC = b"PK\x03\x04"


def open_csv_source(
    source: CsvSource, environment: Mapping[str, str], pause: Pause, *, copies_files: bool = False
) -> Fetcher:
    """The fetcher for what ``source.path`` is.

    Args:
        copies_files: files of this machine are copied, and do not stay where they are.

    Raises:
        SourceError: a URL of a kind that cannot be fetched, or with credentials in it.
    """
    match = _SCHEME.match(source.path)
    scheme = match[1].lower() if match else None
    if scheme is None:
        return LocalFiles(source.path, source.sha256, copies_files=copies_files)
    if scheme == "s3":
        return RemoteFile(source, S3Object(source.path, environment).open_at, pause)
    if scheme in ("http", "https"):
        check_url(source.path)
        return RemoteFile(source, partial(open_url, source.path), pause)
    raise SourceError(
        f"cannot fetch {scheme}:// URLs",
        where="source.path in model.toml",
        hint="Give a path, a glob, or an http(s):// or s3:// URL.",
    )


class RemoteFile(Fetcher):
    """One file behind a URL."""

    def __init__(self, source: CsvSource, open_at: Opener, pause: Pause) -> None:
        self._source = source
        self._open_at = open_at
        self._pause = pause
        self.label = show_url(source.path)

    def fetch(self, folder: Path, scratch: Path) -> None:
        """Download the file, check its digest if one is pinned, and name it so that its format shows."""
        body = scratch / "body"
        download(self._open_at, body, label=self.label, pause=self._pause)
        if self._source.sha256:
            hint = "It is not the file that was pinned; it is not used."
            require_digest(digest_file(body), self._source.sha256, where=self.label, hint=hint)
        body.replace(folder / self._name(body))

    def _name(self, body: Path) -> str:
        name = PurePosixPath(unquote(urlsplit(self._source.path).path)).name
        if not is_safe_name(name) or name in (RECEIPT, REFERENCES):
            name = "table.csv"
        with body.open("rb") as file:
            first = file.read(4)
        if first == _ZIP_MAGIC:
            raise SourceError(
                "is a zip archive", where=self.label, hint="Unpack it, and give the path of the table in it."
            )
        suffix = next((suffix for magic, suffix in _MAGIC if first.startswith(magic)), "")
        return name if name.endswith(suffix) else name + suffix
