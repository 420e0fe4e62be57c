"""Raw observations in a file: compressed CSV, whose equal rows give equal bytes."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.errors import EvidenceError

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
            return [msgspec.convert(row, kind, strict=False) for row in csv.DictReader(file)]
    except (OSError, EOFError, msgspec.ValidationError) as error:
        raise EvidenceError(f"raw observations cannot be read: {error}", where=str(path)) from error
