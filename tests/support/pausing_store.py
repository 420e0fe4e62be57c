"""A place for bytes that calls back before it writes: holds an interleaving open without a sleep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from timberline.registry.folder import FolderStore


class PausingStore(FolderStore):
    """Calls ``pause`` before each write becomes visible; a barrier's ``wait`` lines two writers up."""

    def __init__(self, root: Path, pause: Callable[[], object]) -> None:
        super().__init__(root)
        self._pause = pause

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._pause()
        return super().put_if_absent(key, data)

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        self._pause()
        return super().commit(staged, prefix, last=last)
