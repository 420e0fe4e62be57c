"""The registry's bytes: what an object store has to do. `registry.folder` and `registry.bucket` are two.

Keys are ``/``-separated paths: ``forest_cover/7/manifest.json``. Names that start with a dot belong to the
store itself and are never listed. What a version or an alias is, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from timberline.registry.errors import RegistryError

# What is read whole is far smaller: a graph is up to some 100 MB. ONNX itself ends at 2 GiB.
MAX_BYTES = 2 << 30
# What a bucket's store puts beside the files of a version: that somebody has taken its number.
CLAIM_FILE = "claim"
# Of places in a bucket; the last two come with the client, and no test of ours reaches them.
SCHEMES = ("s3://", "gs://", "az://")
# Gets the key of a folder, "" for the whole store, and why it cannot be read; may raise.
OnError = Callable[[str, OSError], None]

T = TypeVar("T")
R = TypeVar("R")
# Round trips to a bucket at the same time.
_AT_ONCE = 16


class Tagged(NamedTuple):
    """Bytes, and the tag that changes with them: of a bucket the ETag."""

    data: bytes
    tag: str


class Known(NamedTuple):
    """Bytes, and their SHA-256, which was computed as they were read."""

    data: bytes
    sha256: str


class ObjectStore(Protocol):
    """Named bytes that appear whole or not at all, to every reader and after every kill.

    ``put``, ``put_if_absent``, ``put_if_same`` and ``commit`` change nothing when they raise, but for
    `AfterChangeError`: then it is done, and only what a power cut would leave of it is unknown; and for a
    ``ConnectionError`` that says that the outcome is not known. A store that cannot do what one of them needs
    raises a `RegistryError`. What cannot be reached or read is an ``OSError``, as with a disk.
    """

    @property
    def location(self) -> str:
        """Where the store is, for people, and for `registry.store.open_store`."""

    @property
    def is_remote(self) -> bool:
        """Whether every question takes a round trip, and may cost money."""

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        """Every key below the folder ``prefix``, sorted; none if there is no such folder.

        What is no regular file is listed as well; `read` refuses it. An empty folder is listed with a ``/``
        at its end.

        Args:
            on_error: called for each folder that cannot be read, and the others are listed.

        Raises:
            OSError: a folder cannot be read, and ``on_error`` is None.
        """

    def list_names(self, prefix: str = "") -> list[str]:
        """What lies directly in the folder ``prefix``, sorted; folders with a ``/`` at their end.

        Raises:
            OSError: the folder is there and cannot be read.
        """

    def list_sizes(self, prefix: str) -> dict[str, int | None]:
        """What lies directly in the folder ``prefix``: size in bytes by name; None if it is no regular file.

        Hidden names are among them, but for those of `is_system_file`.

        Raises:
            OSError: the folder cannot be read, or is not there.
        """

    def find_size(self, key: str) -> int | None:
        """The bytes that `read` would return; -1 for what is no regular file, None for nothing."""

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        """The bytes under ``key``, or None when there is nothing.

        Raises:
            DamageError: there are more than ``most_bytes``, or it is no regular file.
            OSError: something is there and cannot be read.
        """

    def read_many(
        self, keys: Sequence[str], most_bytes: int = MAX_BYTES
    ) -> list[bytes | OSError | RegistryError | None]:
        """`read` of each key, many at once where that takes less time; errors are among the answers."""

    def read_known(self, key: str, sha256: str, size: int) -> Known | None:
        """The bytes under ``key``, which should be of this size and SHA-256; None when there is nothing.

        They are hashed once, as they come; a store may have a copy of bytes with that digest at hand.

        Raises:
            DamageError, OSError: as `read`.
        """

    def read_tagged(self, key: str, seen: str = "", most_bytes: int = MAX_BYTES) -> Tagged | None:
        """The bytes under ``key`` and their tag; None when there is nothing.

        Args:
            seen: a tag: if it still is the same, the answer has it, and no bytes.

        Raises:
            DamageError, OSError: as `read`.
        """

    def digest(self, key: str) -> str:
        """SHA-256 of the bytes under ``key``, read in constant memory; "" if it is no regular file.

        Raises:
            OSError: there is nothing, or it cannot be read.
        """

    def put(self, key: str, data: bytes) -> None:
        """Put ``data`` under ``key``, replacing what was there."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put ``data`` under ``key`` unless it is taken; exactly one of racing callers gets True.

        Where the caller has to know that it was the one, nobody else may put the same bytes: they carry a
        nonce. A bucket whose answer was lost is read back, and its bytes are compared.
        """

    def put_if_same(self, key: str, data: bytes, seen: str) -> bool:
        """Replace the bytes under ``key`` if their tag still is ``seen``; False if it is another by now.

        Every state of ``key`` has bytes of its own, as tags may be digests of them. In a folder another
        writer's bytes may be replaced: look again afterwards.
        """

    def open_staging(self) -> AbstractContextManager[Path]:
        """An empty local folder to fill and commit; what is left of it afterwards is removed."""

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        """Make the files in ``staged`` appear under ``prefix``, the file ``last`` never before the others.

        A bucket claims the prefix first. A claim whose owner died leaves a prefix without its ``last`` file,
        which is not used again.

        Returns:
            False if ``prefix`` is taken; ``staged`` is then untouched and may be committed elsewhere.
        """

    def open_file(self, key: str, sha256: str, size: int) -> Path:
        """A local file with the bytes under ``key``, which should be of this size and SHA-256.

        In a folder it is the file itself, which is not verified; of a bucket it is a copy, which is.

        Raises:
            DigestMismatchError: a bucket has other bytes, or nothing.
            OSError: it cannot be read, or the copy cannot be written.
        """


def read_or_error(objects: ObjectStore, key: str, most_bytes: int) -> bytes | OSError | RegistryError | None:
    """`ObjectStore.read`, its error as the answer."""
    try:
        return objects.read(key, most_bytes)
    except (OSError, RegistryError) as error:
        return error


def ask_each(objects: ObjectStore, ask: Callable[[T], R], about: Iterable[T]) -> list[R]:
    """``ask`` about each, in order; in a bucket several at the same time. After an error no more is asked."""
    things = list(about)
    if not objects.is_remote or len(things) < 2:
        return [ask(each) for each in things]
    with ThreadPoolExecutor(min(_AT_ONCE, len(things))) as pool:
        asked = [pool.submit(ask, each) for each in things]
        try:
            return [each.result() for each in asked]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_key(key: str, location: str) -> list[str]:
    """The parts of a key.

    Raises:
        RegistryError: it is none.
    """
    parts = key.split("/")
    if any(not part or part.startswith(".") or "\\" in part or "\x00" in part for part in parts):
        raise RegistryError(f"{key[:80]!r} is not a key", where=location)
    return parts


def is_hidden(name: str) -> bool:
    """Whether a name is the store's own, or as of `is_system_file`."""
    return name.startswith(".") or is_system_file(name)


def is_system_file(name: str) -> bool:
    """Whether file managers or file systems leave files of this name."""
    return name in _SYSTEM_FILES or name.startswith(_SYSTEM_FILE_PREFIXES)


# macOS, Windows, ext4; NFS and FUSE rename removed files that are still open to such names.
_SYSTEM_FILES = {".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "lost+found"}
_SYSTEM_FILE_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".Trash", ".Spotlight-", ".fseventsd")


def printable_name(name: str) -> str:
    """A file's name for people: at most 80 characters; bytes that are no text are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()[:80]
