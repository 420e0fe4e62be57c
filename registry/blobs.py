"""What the registry asks of a place that keeps bytes: little enough that an object store has it.

Keys are ``/``-separated paths relative to the place: ``forest_cover/7/manifest.json``. Names that
start with a dot belong to the place itself and are never listed. `registry/folder.py` is the place
on a file system; what a version or an alias is, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

# What is read whole is far smaller: a graph is up to some 100 MB. ONNX itself ends at 2 GiB.
MOST_BYTES = 2 << 30
# Gets the key of a folder, "" for the whole place, and why it cannot be read; may raise.
OnError = Callable[[str, OSError], None]


class Blobs(Protocol):
    """Named bytes that appear whole or not at all, for every reader and after every kill.

    ``put``, ``put_if_absent`` and ``commit`` change nothing when they raise, but for `AfterChangeError`:
    then it is done, and only what a power cut would leave of it is unknown. A place that cannot do what
    one of them needs says so in a `RegistryError`.

    On an object store: ``put_if_absent`` is a conditional PUT (If-None-Match: *), ``commit`` claims
    the prefix by one and uploads ``last`` after everything else, ``open_folder`` fills a local
    cache. A claim whose owner died leaves a prefix without its ``last`` file: no version, and its
    number is not used again.
    """

    @property
    def location(self) -> str:
        """Where the place is, for people."""
        ...

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        """Every key below the folder ``prefix``, sorted; none if there is no such folder.

        What is there and no plain file is listed as well; that it is none is found by `read`. A folder
        that holds nothing is listed with a ``/`` at its end.

        Args:
            on_error: called for each folder that cannot be read, and the others are listed.

        Raises:
            OSError: a folder cannot be read, and ``on_error`` is None.
        """
        ...

    def list_names(self, prefix: str = "") -> list[str]:
        """What lies directly in the folder ``prefix``, sorted; folders with a ``/`` at their end.

        Raises:
            OSError: the folder is there and cannot be read.
        """
        ...

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes | None:
        """The bytes under ``key``, or None when there is nothing.

        Raises:
            DamageError: there are more than ``most_bytes``, or what is there is no plain file.
            OSError: something is there and cannot be read.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Put ``data`` under ``key``, replacing what was there."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put ``data`` under ``key`` unless it is taken; of any number of racing callers one gets True."""
        ...

    def stage(self) -> AbstractContextManager[Path]:
        """An empty local folder to fill and commit; what is left of it afterwards is removed."""
        ...

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        """Make the files in ``staged`` appear under ``prefix``, the file ``last`` never before the others.

        Returns:
            False if ``prefix`` is taken; ``staged`` is then untouched and may be committed elsewhere.
        """
        ...

    def open_folder(self, prefix: str) -> Path:
        """A local folder with the files under ``prefix``."""
        ...
