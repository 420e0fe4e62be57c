"""A stage runs once for the same inputs: its receipt names what its folder was made from.

A stage owns one folder. It writes the folder under a temporary name, leaves a receipt with the
digest of every input and of every output in it, and renames it when it is whole. Run again with
the same inputs it does nothing; with one changed input it runs again.

`Progress` is a bar on a terminal and a log line now and then elsewhere. A thread also watches a stage that
works in steps of unknown length (`Progress.begin`), so that a bar or a line appears while one statement runs
for minutes.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.runtime.documents import decode_json, encode_canonical, encode_document
from timberline.registry.runtime.files import digest_bytes, digest_file, fresh_folder
from timberline.registry.runtime.logs import log_event

RECEIPT = "receipt.json"


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a stage: SHA-256 and size in bytes."""

    sha256: str
    size: int

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one."""
        return path.is_file() and path.stat().st_size == self.size and digest_file(path) == self.sha256


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stage's folder was made from and what is in it. No times: equal work, equal bytes."""

    stage: str
    inputs: dict[str, str]
    outputs: dict[str, Output]

    @property
    def digest(self) -> str:
        """Identity of the stage's result: the digest of its outputs' digests."""
        return digest_bytes(encode_canonical(self.outputs))

    def is_kept_in(self, folder: Path) -> bool:
        """Whether every output is in ``folder`` with the bytes that are named here."""
        return all(output.is_at(folder / name) for name, output in self.outputs.items())


def digest_value(value: object) -> str:
    """SHA-256 of a value's canonical JSON; for configuration that takes part in a receipt."""
    return digest_bytes(encode_canonical(value))


def digest_code(package: Path) -> str:
    """SHA-256 over the names and bytes of every Python file below ``package``.

    A stage that names it among its inputs runs again when its program changes, released or not.
    """
    files = sorted(package.rglob("*.py"))
    return digest_value([(path.relative_to(package).as_posix(), digest_file(path)) for path in files])


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt in ``folder``, or None when there is none or it is not one.

    Raises:
        OSError: it may not be read, or the disk fails; that does not mean that the stage has not run.
    """
    try:
        return decode_json((folder / RECEIPT).read_bytes(), Receipt)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, msgspec.DecodeError):
        return None


def require_receipt(folder: Path, command: str) -> Receipt:
    """The receipt of the stage that filled ``folder``, all of whose files are whole.

    Raises:
        StageError: the stage has not run, or a file of it is damaged; names ``command``, which runs it.
    """
    receipt = read_receipt(folder)
    if receipt is None:
        raise StageError("this stage has not run", where=str(folder), hint=f"Run `{command}`.")
    if not receipt.is_kept_in(folder):
        raise StageError(
            "a file is missing or has other bytes than the receipt says",
            where=str(folder),
            hint=f"Run `{command}` again.",
        )
    return receipt


@dataclass(frozen=True)
class Stage:
    """One run of a stage: the folder that it fills, from inputs of these digests."""

    name: str
    folder: Path
    inputs: Mapping[str, str]

    def find_receipt(self) -> Receipt | None:
        """The receipt of a finished run on these very inputs, or None.

        Every output is there with the bytes the receipt names; a damaged or missing file means
        that the stage has to run again.
        """
        receipt = read_receipt(self.folder)
        if receipt is None or receipt.stage != self.name or receipt.inputs != dict(self.inputs):
            return None
        return receipt if receipt.is_kept_in(self.folder) else None

    def is_current(self, logger: logging.Logger, **about: object) -> bool:
        """Whether there is nothing to do, which is then logged with ``about``."""
        if self.find_receipt() is None:
            return False
        log_event(logger, f"{self.name} is skipped: its inputs are unchanged", logging.INFO, **about)
        return True

    @contextlib.contextmanager
    def fill(self) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes ``folder``, with its receipt, if the block succeeds."""
        with fresh_folder(self.folder, mark=RECEIPT) as partial:
            yield partial
            outputs = {
                path.relative_to(partial).as_posix(): Output(digest_file(path), path.stat().st_size)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            }
            receipt = Receipt(self.name, dict(self.inputs), outputs)
            (partial / RECEIPT).write_bytes(encode_document(receipt))


_BAR_WIDTH = 28
_REDRAW_S = 0.1
_LOG_INTERVAL_S = 10.0
# How often the thread looks whether it is time for a line.
_CHECK_INTERVAL_S = 0.5


class Progress:
    """Report how far a piece of work has come; use as a context manager.

    Args:
        what: what is being done, in a few words.
        total: size of the work in ``unit``, or None when it is not known.
        unit: what ``advance`` counts: ``rows``, ``bytes``, ``steps``.
        clock: monotonic seconds; a parameter so that tests need not wait.
        running: the share of the running part of a step that is done, 0 to 1 (below 0: not known). A
            thread calls it, from ``__enter__`` to ``__exit__``.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        running: Callable[[], float] | None = None,
    ) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._logger = logger
        self._clock = clock
        self._running = running
        self._done = 0
        self._note = ""
        # The step that is being done: its size in units; its parts: all, done, running (0: all of them).
        self._size, self._parts, self._parts_done, self._parts_running = 0, 1, 0, 0
        self._started = self._reported = clock()
        self._bar = sys.stderr.isatty()
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._running is not None:
            self._thread.start()
        return self

    def begin(self, note: str, *, size: int = 1, parts: int = 1) -> None:
        """Count the step before as done; begin the one named ``note``, of ``size`` units, in ``parts`` parts.

        All parts run at once unless `begin_part` says otherwise.
        """
        with self._lock:
            done, self._size = self._size, size
            self._parts, self._parts_done, self._parts_running = max(parts, 1), 0, 0
            self.advance(done, note)

    def begin_part(self, count: int = 1) -> None:
        """Count the parts of the step that ran as done, and ``count`` more as running."""
        with self._lock:
            self._parts_done += self._parts_running
            self._parts_running = count
            self._report()

    def advance(self, count: int, note: str = "") -> None:
        """Count ``count`` more units as done; ``note`` replaces the text behind the bar."""
        with self._lock:
            self._done += count
            self._note = note or self._note
            self._report()

    def _look(self) -> None:
        while not self._is_over.wait(_CHECK_INTERVAL_S):
            with self._lock:
                self._report()

    def _report(self) -> None:
        """Draw or log, if the last time is long enough ago."""
        now = self._clock()
        if now - self._reported >= (_REDRAW_S if self._bar else _LOG_INTERVAL_S):
            self._reported = now
            self._draw() if self._bar else self._log()

    def _share(self) -> float:
        """How much of the step is done, 0 to 1."""
        # DuckDB says 100 % while it still writes what it has read.
        running = min(max(self._running() if self._running else 0.0, 0.0), 0.99)
        done = self._parts_done + running * (self._parts_running or self._parts)
        return min(done / self._parts, 1.0)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        if kind is None:
            self._done += self._size
        self._size = 0
        if self._bar:
            self._draw()
            sys.stderr.write("\n")

    def _draw(self) -> None:
        seconds = self._clock() - self._started
        step = self._share() if self._size else 0.0
        if self._total:
            share = min((self._done + self._size * step) / self._total, 1.0)
            filled = round(share * _BAR_WIDTH)
            bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:4.0%}"
        else:
            bar = f"{self._done:,} {self._unit}"
        note = f"{self._note} {step:.0%}" if self._size else self._note
        sys.stderr.write(f"\r\x1b[K{self._what} {bar} {seconds:.0f} s {note}")
        sys.stderr.flush()

    def _log(self) -> None:
        fields: dict[str, Any] = {"done": self._done, "unit": self._unit}
        if self._total:
            fields["total"] = self._total
        if self._note:
            fields["note"] = self._note
        if self._size:
            fields["share"] = round(self._share(), 2)
        log_event(self._logger, self._what, **fields)
