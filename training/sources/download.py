"""One download: resumed where the server can prove that the file is still the same, else restarted.

The bytes lie beside ``target`` under a temporary name, with a marker that says which version of
the remote file they belong to. A killed run leaves both; the next one goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.files import PARTIAL_PREFIX, sync_folder, write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.stages import Progress
from timberline.training.errors import SourceError
from timberline.training.sources.protocol import Pause

CHUNK_BYTES = 1 << 20
# In a row and without one new byte; a connection that drops but gets further is asked again.
_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5

_logger = logging.getLogger("training.data.fetch")


@dataclass(frozen=True)
class Reply:
    """A server's answer: bytes of the file from ``start`` on.

    ``total`` is the size of the whole file, None when the server does not say. ``validator`` (an
    ETag or a date) identifies this version of the file; without one nothing can be resumed.
    """

    start: int
    total: int | None
    validator: str | None
    chunks: Iterator[bytes]


# Called with the offset to go on from and the validator of the bytes so far; (0, None) at first.
Opener = Callable[[int, str | None], AbstractContextManager[Reply]]


class LostConnectionError(Exception):
    """An opener's word for "ask again": the connection broke or the server is busy. Never leaves here."""


class FileChangedError(LostConnectionError):
    """An opener's word for "start again": the bytes so far belong to another version of the file."""


class InterruptedDownloadError(SourceError):
    """The connection broke too often; what was fetched is kept, so that a re-run goes on from there."""

    code = "source_interrupted"


class _Marker(msgspec.Struct, frozen=True):
    validator: str | None
    total: int | None


def download(open_at: Opener, target: Path, *, label: str, pause: Pause) -> None:
    """Fetch one file to ``target``; nothing is asked when it is there already.

    Raises:
        InterruptedDownloadError: no new byte in four attempts in a row.
        SourceError: whatever the opener refuses for good, or more bytes than were announced.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(target, label)
    failures, furthest = 0, partial.offset
    while not partial.is_whole:
        try:
            with open_at(partial.offset, partial.validator) as reply:
                partial.append(reply)
        except LostConnectionError as error:
            if isinstance(error, FileChangedError):
                partial.discard()
            failures = 1 if partial.size > furthest else failures + 1
            furthest = max(furthest, partial.size)
            if failures >= _ATTEMPTS:
                raise _interrupted(partial, label, error) from None
            log_event(_logger, "connection lost, trying again", source=label, reason=str(error))
            pause(_FIRST_PAUSE_S * 2 ** (failures - 1))
    partial.publish()


def _interrupted(partial: _Partial, label: str, error: LostConnectionError) -> InterruptedDownloadError:
    kept = f"; {partial.offset:,} bytes are kept" if partial.offset else ""
    return InterruptedDownloadError(
        f"gave up after {_ATTEMPTS} attempts: {error}{kept}",
        where=label,
        hint="Check the connection and run the same command again; it goes on from where it stopped.",
    )


class _Partial:
    """The bytes so far, and which version of the remote file they belong to."""

    def __init__(self, target: Path, label: str) -> None:
        self._target = target
        self._label = label
        self._path = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
        self._marker_path = target.with_name(f"{PARTIAL_PREFIX}{target.name}.json")
        self._marker = self._read_marker()
        self._ended = False

    def _read_marker(self) -> _Marker | None:
        try:
            return decode_json(self._marker_path.read_bytes(), _Marker)
        except (OSError, msgspec.DecodeError):
            return None

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    @property
    def validator(self) -> str | None:
        return self._marker.validator if self._marker else None

    @property
    def offset(self) -> int:
        """Where to go on; 0 when nothing proves which version the bytes so far belong to."""
        return self.size if self.validator else 0

    @property
    def is_whole(self) -> bool:
        if self._marker is None or self._marker.total is None:
            return self._ended
        return self.size == self._marker.total

    def append(self, reply: Reply) -> None:
        """Write a reply's bytes behind those so far, or from the start if it begins there."""
        if reply.start == 0:
            self.discard()
            self._marker = _Marker(reply.validator, reply.total)
            write_atomically(self._marker_path, msgspec.json.encode(self._marker))
        elif reply.start != self.offset or self._marker is None or reply.total != self._marker.total:
            raise FileChangedError("the server sent another part of the file than was asked for")
        with (
            self._path.open("ab") as file,
            Progress(f"fetch {self._label}", reply.total, "bytes", logger=_logger) as progress,
        ):
            progress.advance(reply.start)
            for chunk in reply.chunks:
                file.write(chunk)
                progress.advance(len(chunk))
        self._check_size(reply.total)
        self._ended = True

    def _check_size(self, total: int | None) -> None:
        if total is None or self.size == total:
            return
        if self.size < total:
            raise LostConnectionError(f"the body ended after {self.size:,} of {total:,} bytes")
        size = self.size
        self.discard()
        raise SourceError(f"sent {size:,} bytes, had announced {total:,}", where=self._label)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._marker_path.unlink(missing_ok=True)
        self._marker = None

    def publish(self) -> None:
        self._path.touch()  # an empty remote file has sent no chunk
        self._path.replace(self._target)
        self._marker_path.unlink(missing_ok=True)
        sync_folder(self._target.parent)
