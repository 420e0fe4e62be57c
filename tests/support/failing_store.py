"""A registry on a disk that fails when told to: the edge, with a real store behind it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from timberline.registry.errors import RegistryError
from timberline.registry.objects import MAX_BYTES, Known, ObjectStore, OnError, Tagged, read_or_error


class FailingStore:
    """`registry.objects.ObjectStore` that reads from ``store`` unless ``failing`` is a part of the key.

    A folder of this name cannot be listed, also where a listing comes by it on its way.
    """

    def __init__(self, store: ObjectStore, code: int = errno.EIO) -> None:
        self._store = store
        self._code = code
        self.failing: str | None = None
        self.location = store.location
        self.is_remote = store.is_remote

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        self._check(prefix)
        keys = self._store.list_keys(prefix, on_error=on_error)
        below = [key for key in keys if self.failing and key.startswith(f"{self.failing}/")]
        if below and self.failing:
            if on_error is None:
                raise self._fail(self.failing)
            on_error(self.failing, self._fail(self.failing))
        return [key for key in keys if key not in below]

    def list_names(self, prefix: str = "") -> list[str]:
        self._check(prefix)
        return self._store.list_names(prefix)

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        self._check(key)
        return self._store.read(key, most_bytes)

    def list_sizes(self, prefix: str) -> dict[str, int | None]:
        self._check(prefix)
        return self._store.list_sizes(prefix)

    def find_size(self, key: str) -> int | None:
        self._check(key)
        return self._store.find_size(key)

    def read_many(
        self, keys: Sequence[str], most_bytes: int = MAX_BYTES
    ) -> list[bytes | OSError | RegistryError | None]:
        return [read_or_error(self, key, most_bytes) for key in keys]

    def read_known(self, key: str, sha256: str, size: int) -> Known | None:
        self._check(key)
        return self._store.read_known(key, sha256, size)

    def read_tagged(self, key: str, seen: str = "", most_bytes: int = MAX_BYTES) -> Tagged | None:
        self._check(key)
        return self._store.read_tagged(key, seen, most_bytes)

    def digest(self, key: str) -> str:
        self._check(key)
        return self._store.digest(key)

    def put_if_same(self, key: str, data: bytes, seen: str) -> bool:
        return self._store.put_if_same(key, data, seen)

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._store.put_if_absent(key, data)

    def open_staging(self) -> AbstractContextManager[Path]:
        return self._store.open_staging()

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        return self._store.commit(staged, prefix, last=last)

    def open_file(self, key: str, sha256: str, size: int) -> Path:
        self._check(key)
        return self._store.open_file(key, sha256, size)

    def _check(self, key: str) -> None:
        if self.failing is not None and self.failing in key:
            raise self._fail(key)

    def _fail(self, key: str) -> OSError:
        return OSError(self._code, os.strerror(self._code), key)
