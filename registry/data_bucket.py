"""What working copies of data ask of a bucket; see `registry.runtime.working_copy`.

No conditional request: whole objects are replaced, and the last writer counts. So any server will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import obstore

from timberline.registry.bucket import BULK, PART_BYTES, PARTS_AT_ONCE, UNKNOWN, BucketStore
from timberline.registry.refusals import LostError

_AGAIN = "Run the same command again: what is done is not done twice."
# A file may have 10,000 (Amazon's limit).
_MOST_PARTS = 9_000


class Item(NamedTuple):
    """One object: its time is of the server's clock, in seconds."""

    key: str
    size: int
    time: float


class DataBucket(BucketStore):
    """Objects under ``s3://bucket/prefix``. What cannot be reached or read is an ``OSError``."""

    def fetch(self, key: str, take: Callable[[bytes], object], *, most_bytes: int) -> str | None:
        """Have ``take`` get an object's bytes as they come; their SHA-256, None when there is no object.

        Raises:
            DamageError: there are more than ``most_bytes``.
        """
        return self._stream(key, take, most_bytes)

    def find_time(self, key: str) -> float:
        """When the object was written; 0 when there is none."""
        found = self._ask(key, lambda: obstore.head(self._client, self._path(key)))
        return 0.0 if found is None else found["last_modified"].timestamp()

    def list_items(self, prefix: str) -> list[Item]:
        """Every object below the folder ``prefix``, hidden or not."""
        found = self._ask(prefix, lambda: self._list(prefix))
        return [
            Item(each["path"], each["size"], each["last_modified"].timestamp())
            for each in found or []
            if each["path"] != prefix
        ]

    def send(self, key: str, path: Path, count: Callable[[int], object]) -> None:
        """Put a file under ``key``; ``count`` gets how many bytes more were read of it."""
        client = self._open_client(BULK)
        part = max(PART_BYTES, path.stat().st_size // _MOST_PARTS)
        with path.open("rb") as file:
            counted: Any = _Counted(file, count)
            self._change(
                key,
                lambda: obstore.put(
                    client, self._path(key), counted, chunk_size=part, max_concurrency=PARTS_AT_ONCE
                ),
            )

    def replace(self, key: str, data: bytes) -> None:
        """Put ``data`` under ``key``."""
        self._change(key, lambda: obstore.put(self._client, self._path(key), data, use_multipart=False))

    def remove(self, keys: Sequence[str]) -> None:
        """Remove these objects; those that are not there are none."""
        if keys:
            self._change(keys[0], lambda: obstore.delete(self._client, list(keys)))

    def _change(self, key: str, change: Callable[[], object]) -> None:
        lost: LostError | None = None
        try:
            self._write(key, change)
        except LostError as error:
            lost = error.replace(UNKNOWN, _AGAIN)
        if lost is not None:
            raise lost


class _Counted:
    """A file that tells how much was read of it; the client asks a file for no more than these."""

    def __init__(self, file: BinaryIO, count: Callable[[int], object]) -> None:
        self._file = file
        self._count = count

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._count(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
