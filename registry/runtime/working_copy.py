"""Data in a bucket: stages work in a folder of this machine, and the bucket holds what they have finished.

    with open_data("s3://bucket/prefix") as data:    # a folder is itself
        ...                                          # stages read and fill folders below `data`

A folder that a stage has filled becomes objects ``<folder>/<name of their own>/<file>``, and after all of
them ``<folder>/receipt.json``, which names them: whoever reads the receipt first sees the old state or the
new one, whole, and of two machines that fill a folder at once the last receipt counts. What a receipt does
not name any more is removed when it has been unnamed for a day, so that no reader loses what it is reading.
A file that stands alone (a pointer, a checkpoint) is one object.

A command asks once for the receipt of what it reads, and gets the files that this receipt names, each
compared with its digest. What is here already is not fetched again.

The functions below do nothing for a folder that is no copy of a bucket, so that stages need not ask.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from timberline.registry.cache import list_usual
from timberline.registry.errors import ConfigError, DigestMismatchError
from timberline.registry.objects import SCHEMES, check_key
from timberline.registry.runtime.documents import decode_json, encode_document
from timberline.registry.runtime.files import PARTIAL_PREFIX, digest_bytes, write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.registry.runtime.receipts import RECEIPT, Output, Receipt, SharedReceipt, list_outputs

if TYPE_CHECKING:
    from timberline.registry.data_bucket import DataBucket

_logger = logging.getLogger("registry.runtime.working_copy")

CACHE_VARIABLE = "TIMBERLINE_CACHE"
# A receipt's files lie under the first digits of their digest and a nonce. Nothing else is ever removed.
_GENERATION = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}")
# How long the files of an older receipt stay for those who read it. No download takes a day.
_KEPT_S = 24 * 3600
# Files; of a large one some parts are sent at once, too, and held in memory.
_AT_ONCE = 4
# A checkpoint may be due every second, and has megabytes.
_MIN_INTERVAL_S = 60.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_remote(location: str) -> bool:
    """Whether ``location`` is a bucket.

    Raises:
        ConfigError: it is a URL of another kind.
    """
    if "://" not in location or location.startswith("file://"):
        return False
    if not location.startswith(SCHEMES):
        raise ConfigError("expected a folder or s3://bucket/prefix", where=location)
    return True


@contextlib.contextmanager
def open_data(location: str) -> Iterator[Path]:
    """Yield the folder ``location`` itself; of a bucket, the folder of this machine that stands for it.

    Raises:
        ConfigError: ``location`` is a URL of another kind; or obstore is not installed.
        OSError: the folder that ``TIMBERLINE_CACHE`` names cannot be written.
    """
    if not is_remote(location):
        yield Path(unquote(location.removeprefix("file://")) if location.startswith("file://") else location)
        return
    bucket = _open_bucket(location.rstrip("/"))
    with _open_root(bucket.location) as root:
        _copies[root] = WorkingCopy(bucket, root)
        try:
            yield root
        finally:
            del _copies[root]


def _open_bucket(url: str) -> DataBucket:
    try:
        # Late: a folder needs no client.
        from timberline.registry.data_bucket import DataBucket  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a bucket needs the package {error.name}", where=url, hint="pip install 'timberline[s3]'"
        ) from None
    return DataBucket(url)


@contextlib.contextmanager
def _open_root(location: str) -> Iterator[Path]:
    roots = list_roots(location)
    is_given = os.environ.get(CACHE_VARIABLE, "off") not in ("", "off")
    found = next((root for root in roots if _is_usable(root, is_given=is_given)), None)
    if found is not None:
        yield found
        return
    if is_given:
        raise PermissionError(errno.EACCES, f"cannot be written; {CACHE_VARIABLE} names it", str(roots[0]))
    with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
        log_event(_logger, "no folder for a cache: what is fetched is kept for this command alone")
        yield Path(folder)


def list_roots(location: str, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders that may stand for a bucket, the preferred one first; none of them need be there.

    They lie in ``$TIMBERLINE_CACHE`` if that is set (``off`` is none), else in
    ``$XDG_CACHE_HOME/timberline``, ``~/.cache/timberline``, or ``timberline-cache-<uid>`` in the folder
    for temporary files.
    """
    given = environment.get(CACHE_VARIABLE, "")
    named = [Path(given)] if given and given != "off" else []
    caches = named or ([] if given else list(list_usual(environment)))
    name = re.sub(r"[^a-z0-9.]+", "-", location.rstrip("/").partition("://")[2].lower())[:60]
    digest = digest_bytes(location.rstrip("/").encode())[:8]
    return [cache.absolute() / "data" / f"{name}-{digest}" for cache in caches]


def _is_usable(folder: Path, *, is_given: bool) -> bool:
    """Make the folder, if it may be used.

    Where nobody has chosen it, it has to be this user's own: in /tmp another one may have made one of that
    name, or a link. A volume that was named may be shared by a group.
    """
    with contextlib.suppress(OSError):
        steps = (folder.parents[1], folder.parent, folder)
        for step in steps:
            step.mkdir(0o777 if is_given else 0o700, parents=True, exist_ok=True)
        is_own = all(step.lstat().st_uid == os.geteuid() for step in steps)
        return (is_given or is_own) and os.access(folder, os.W_OK | os.X_OK)
    return False


# The copies that are open in this process, by their folder.
_copies: dict[Path, WorkingCopy] = {}


def find_copy(path: Path) -> WorkingCopy | None:
    """The open working copy that ``path`` is in, or None."""
    return next((copy for root, copy in _copies.items() if path.is_relative_to(root)), None)


def name_path(path: Path) -> str:
    """``path`` for people: where it is in the bucket, if it is in a copy of one."""
    copy = find_copy(path)
    return copy.name(path) if copy else str(path)


def bring(folder: Path, *names: str) -> None:
    """Have files of a finished stage here: those ``names`` (or folders), or all of them.

    Of a stage that has not run nothing comes; nor does a name that it has not left.

    Raises:
        DigestMismatchError: the bucket lacks one, or has other bytes than its receipt says.
        OSError: it cannot be read, or there is no room here.
    """
    if copy := find_copy(folder):
        copy.bring(folder, names)


def refresh(path: Path) -> None:
    """Have the file ``path``, which stands alone, be here as it is in the bucket: absent, if it is absent.

    Raises:
        OSError: it cannot be read.
    """
    if copy := find_copy(path):
        copy.refresh(path)


def share_file(path: Path, *, is_frequent: bool = False) -> None:
    """Put a file that stands alone into the bucket.

    Args:
        is_frequent: once a minute is enough.

    Raises:
        OSError: it could not be put.
    """
    if copy := find_copy(path):
        copy.share_file(path, is_frequent=is_frequent)


def share_folder(folder: Path, stage: str) -> None:
    """Put a folder into the bucket that was filled without a receipt of its own.

    Raises:
        OSError: it could not be put; in the bucket is what was there before.
    """
    if copy := find_copy(folder):
        copy.share(folder, Receipt(stage, {}, list_outputs(folder)))


def discard(folder: Path) -> None:
    """Remove a folder that nobody reads, here and in the bucket; as far as that is allowed."""
    shutil.rmtree(folder, ignore_errors=True)
    if copy := find_copy(folder):
        with contextlib.suppress(OSError):
            copy.remove(folder)


class WorkingCopy:
    """A folder of this machine that stands for ``bucket``.

    Args:
        kept_s: how long files stay that no receipt names any more.
    """

    def __init__(self, bucket: DataBucket, root: Path, *, kept_s: float = _KEPT_S) -> None:
        self.bucket = bucket
        self.root = root
        self._kept_s = kept_s
        self._receipts: dict[str, SharedReceipt | None] = {}
        self._refreshed: set[Path] = set()
        self._shared_at: dict[Path, float] = {}

    def key(self, path: Path) -> str:
        """Where ``path`` is in the bucket, or would be as a file that stands alone."""
        return path.relative_to(self.root).as_posix()

    def name(self, path: Path) -> str:
        """The URL of ``path``, as far as it is known."""
        for folder in (path, *path.parents):
            if folder == self.root:
                break
            if receipt := self._receipts.get(self.key(folder)):
                rest = path.relative_to(folder).as_posix()
                parts = [self.key(folder), receipt.folder, "" if rest == "." else rest]
                return "/".join([self.bucket.location, *filter(None, parts)])
        return "/".join(filter(None, [self.bucket.location, self.key(path).removeprefix(".")]))

    def receipt(self, folder: Path, *, again: bool = False) -> SharedReceipt | None:
        """What the bucket says is in ``folder``, asked once; None when no stage has filled it.

        Args:
            again: ask once more.

        Raises:
            OSError: it cannot be read.
        """
        key = self.key(folder)
        if again or key not in self._receipts:
            self._receipts[key] = _decode(self.bucket.read(f"{key}/{RECEIPT}"))
        return self._receipts[key]

    def is_whole(self, folder: Path) -> bool:
        """Whether every file that the receipt names is in the bucket, in its size; bytes are not read."""
        receipt = self.receipt(folder)
        if receipt is None:
            return False
        prefix = self._prefix(folder, receipt)
        found = {item.key.removeprefix(f"{prefix}/"): item.size for item in self.bucket.list_items(prefix)}
        return all(found.get(name) == output.size for name, output in receipt.outputs.items())

    def bring(self, folder: Path, names: Sequence[str] = ()) -> None:
        """`bring`."""
        receipt = self.receipt(folder)
        if receipt is None:
            return
        wanted = {
            name: output
            for name, output in receipt.outputs.items()
            if not names or any(name == each or name.startswith(f"{each}/") for each in names)
        }
        missing = {name: output for name, output in wanted.items() if not output.is_at(folder / name)}
        here = read_local_receipt(folder)
        if here is not None and here.outputs != receipt.outputs:
            (folder / RECEIPT).unlink()  # it would soon name files that are others
        if missing:
            self._fetch(folder, receipt, missing)
        own = Receipt(receipt.stage, receipt.inputs, receipt.outputs)
        if len(wanted) == len(receipt.outputs) and here != own:
            write_atomically(folder / RECEIPT, encode_document(own))

    def _prefix(self, folder: Path, receipt: SharedReceipt) -> str:
        """The key of the folder that a receipt's files are in."""
        return "/".join(filter(None, [self.key(folder), receipt.folder]))

    def _fetch(self, folder: Path, receipt: SharedReceipt, missing: Mapping[str, Output]) -> None:
        total = sum(output.size for output in missing.values())
        key, prefix = self.key(folder), self._prefix(folder, receipt)
        for name in missing:  # a receipt is not to name a path elsewhere on this machine
            check_key(f"{prefix}/{name}", self.bucket.location)
        with (
            _explain_disk(self.root, total),
            Progress(f"get {key}", total, "bytes", logger=_logger) as progress,
        ):

            def fetch(name: str) -> None:
                problem = self._fetch_file(f"{prefix}/{name}", folder / name, missing[name], progress.advance)
                if problem:
                    raise DigestMismatchError(
                        problem,
                        where=f"{self.bucket.location}/{prefix}/{name}",
                        hint="It is damaged, or was replaced meanwhile. Run the same command again; if it "
                        f"says so again, remove {self.bucket.location}/{key}/{RECEIPT} and run "
                        f"the stage {receipt.stage} again.",
                    )

            _side_by_side(fetch, list(missing))
        log_event(_logger, "fetched from the bucket", folder=key, files=len(missing), bytes=total)

    def _fetch_file(self, key: str, path: Path, output: Output, count: Callable[[int], object]) -> str:
        """Fetch one file; what is wrong with it, "" if nothing is."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(4)}")
        try:
            with partial.open("wb") as file:

                def take(data: bytes) -> None:
                    file.write(data)
                    count(len(data))

                found = self.bucket.fetch(key, take, most_bytes=output.size)
            if found == output.sha256:
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        if found is None:
            return "is missing"
        same = found == output.sha256
        return "" if same else f"has digest {found[:12]}…, its receipt says {output.sha256[:12]}…"

    def share(self, folder: Path, receipt: Receipt) -> None:
        """Make the files that ``receipt`` names, which are in ``folder``, the bucket's.

        Raises:
            OSError: they could not be put; in the bucket is what was there before.
        """
        key = self.key(folder)
        before, since = self._read_before(key)
        if before and before.folder and before.outputs == receipt.outputs and self.is_whole(folder):
            generation = before.folder
        else:
            generation = f"{receipt.digest[:12]}-{secrets.token_hex(4)}"
            self._send(folder, f"{key}/{generation}", receipt.outputs)
        named = SharedReceipt(receipt.stage, receipt.inputs, receipt.outputs, generation)
        self.bucket.replace(f"{key}/{RECEIPT}", encode_document(named))
        self._receipts[key] = named
        if before:
            with contextlib.suppress(OSError):  # not every account may list or delete
                self._remove_old(key, {generation, before.folder}, since)

    def _read_before(self, key: str) -> tuple[SharedReceipt | None, float]:
        """The receipt as it is now, and the server's time at which it was written."""
        receipt = self._receipts[key] = _decode(self.bucket.read(f"{key}/{RECEIPT}"))
        return receipt, self.bucket.find_time(f"{key}/{RECEIPT}") if receipt else 0.0

    def _send(self, folder: Path, prefix: str, outputs: Mapping[str, Output]) -> None:
        total = sum(output.size for output in outputs.values())
        with Progress(f"put {self.key(folder)}", total, "bytes", logger=_logger) as progress:

            def send(name: str) -> None:
                self.bucket.send(f"{prefix}/{name}", folder / name, progress.advance)

            _side_by_side(send, list(outputs))
        log_event(_logger, "put into the bucket", folder=self.key(folder), files=len(outputs), bytes=total)

    def _remove_old(self, key: str, kept: set[str], since: float) -> None:
        """Remove what has been named by no receipt for a day.

        Args:
            kept: the generations that the receipt names and that it named before.
            since: when the one before was written: what neither names has been unnamed for as long.
        """
        now = self.bucket.find_time(f"{key}/{RECEIPT}")  # of the server's clock, as are the others
        if now - since < self._kept_s:
            return
        old: dict[str, list[str]] = {}
        young = set(kept)
        for item in self.bucket.list_items(key):
            generation, _, name = item.key.removeprefix(f"{key}/").partition("/")
            if not name or not _GENERATION.fullmatch(generation):
                continue
            old.setdefault(generation, []).append(item.key)
            if now - item.time < self._kept_s:  # somebody is about to name it
                young.add(generation)
        self.bucket.remove([each for name, keys in old.items() if name not in young for each in keys])

    def refresh(self, path: Path) -> None:
        """`refresh`; asked once."""
        if path in self._refreshed:
            return
        data = self.bucket.read(self.key(path))
        if data is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, data)
        self._refreshed.add(path)

    def share_file(self, path: Path, *, is_frequent: bool = False) -> None:
        """`share_file`."""
        now = time.monotonic()
        if is_frequent and now - self._shared_at.get(path, -_MIN_INTERVAL_S) < _MIN_INTERVAL_S:
            return
        self._shared_at[path] = now
        self._refreshed.add(path)
        self.bucket.send(self.key(path), path, lambda _: None)

    def remove(self, folder: Path) -> None:
        """Remove every object below ``folder``."""
        key = self.key(folder)
        self._receipts.pop(key, None)
        self.bucket.remove([item.key for item in self.bucket.list_items(key)])


def read_local_receipt(folder: Path) -> Receipt | None:
    """The receipt in a folder of this machine, or None when there is none or it is not one.

    Raises:
        OSError: it may not be read, or the disk fails; that does not mean that the stage has not run.
    """
    try:
        return decode_json((folder / RECEIPT).read_bytes(), Receipt)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, msgspec.DecodeError):
        return None


def _decode(data: bytes | None) -> SharedReceipt | None:
    if data is None:
        return None
    try:
        return decode_json(data, SharedReceipt)
    except msgspec.DecodeError:
        return None


def _side_by_side(do: Callable[[str], None], names: Sequence[str]) -> None:
    """Call ``do`` with each name; after an error no further one is begun."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [pool.submit(do, name) for name in names]
        try:
            for each in running:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _explain_disk(root: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(root).free
        raise OSError(
            error.errno,
            f"no room for what is fetched ({needed:,} bytes, {free:,} are free): make room, or set "
            f"{CACHE_VARIABLE} to a folder on another disk",
            str(root),
        ) from error
