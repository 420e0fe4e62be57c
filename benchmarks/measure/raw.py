"""Raw observations in a file: compressed CSV, whose equal rows give equal bytes."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from timberline.benchmarks.errors import EvidenceError

_Row = TypeVar("_Row", bound=msgspec.Struct)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[str]) -> None:
    """Write rows that are CSV already; see `quote`."""
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
        packed.write(("\n".join([",".join(columns), *rows]) + "\n").encode())


def quote(text: str) -> str:
    """Any text as one cell on one line."""
    return '"' + text.replace('"', "'").replace("\n", " ") + '"' if text else ""


def read_rows(path: Path, kind: type[_Row]) -> list[_Row]:
    """Read what `write_rows` wrote, a ``kind`` for each row.

    Raises:
        EvidenceError: the file is missing, damaged or cut short.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None:
                raise EvidenceError("raw observations cannot be read: there is no line", where=str(path))
            return [msgspec.convert(row, kind, strict=False) for row in reader]
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:  # the last: not UTF-8, no row
        raise EvidenceError(f"raw observations cannot be read: {error}", where=str(path)) from error
