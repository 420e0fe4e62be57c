"""Loading a version in a process that may hang, grow or crash, before it is loaded where answers are given.

A graph is a program: it may run for ever, or ask for more memory than the machine has. Nothing can end it
inside a process but the end of that process. So a version that an alias moved to is first loaded, and
asked its golden rows, by ``python -m inference trial`` (`inference.models.proven.run_trial`): started anew,
with a time and a memory limit, with nothing of its parent's but the environment, and ended before the
version is loaded by its parent.

Of several workers one tries at a time, and what it finds speaks for all (`Ledger`).

This module imports nothing heavy, as the supervisor imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import msgspec

from timberline.inference.errors import LoadFailedError, NotReadyError, ServingError
from timberline.inference.metrics.shared_memory import open_memory
from timberline.registry.errors import LifecycleError, RegistryError
from timberline.registry.runtime.documents import decode_json

# Moves whose outcome is remembered.
_MOST_ENTRIES = 64
# How often a trial that lasts is held against where the alias points by then.
_LOOK_AGAIN_S = 0.5


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What to try, and within which limits.

    - ``registry``: its folder, free of symbolic links, so that all of the trial is about one tree; or a
      bucket, with the cache (``cache_dir``, ``cache_bytes``) that the parent has as well;
    - ``manifest_sha256``, ``sequence``: of the move that asks for it;
    - ``parent_pid``: of the process that asks; a trial of another process is refused;
    - ``timeout_s``: from the start of the process to its end;
    - ``memory_bytes``: that loading may add to the process's address space.
    """

    registry: str
    model: str
    version: int
    manifest_sha256: str
    sequence: int
    max_rows: int
    parent_pid: int
    timeout_s: float
    memory_bytes: int
    cache_dir: str = ""
    cache_bytes: int = 0

    @property
    def key(self) -> tuple[str, int, str, int]:
        """The same for all workers that follow the same move."""
        return (self.model, self.version, self.manifest_sha256, self.sequence)


class Outcome(msgspec.Struct, frozen=True):
    """What came of a trial: an error's ``code`` and parts, or an empty code if the version is good."""

    code: str = ""
    what: str = ""
    where: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: Exception) -> Outcome:
        """An error in a form that another process reads."""
        if isinstance(error, LifecycleError):
            return cls(error.code, error.what, error.where, error.hint)
        code = _OS_ERROR if isinstance(error, OSError) else ServingError.code
        return cls(code, f"{type(error).__name__}: {error}"[:300])

    @property
    def may_heal(self) -> bool:
        """As `may_heal` of the error."""
        try:
            self.check()
        except Exception as error:
            return may_heal(error)
        return False

    def check(self) -> None:
        """Raise the error, if it is one."""
        if self.code == _OS_ERROR:
            raise OSError(self.what)
        if self.code:
            raise _find_error(LifecycleError, self.code)(self.what, where=self.where, hint=self.hint)


_OS_ERROR = "os"
_STOPPING = NotReadyError("the service is stopping")


def _find_error(base: type[LifecycleError], code: str) -> type[LifecycleError]:
    """The class with this code; `ServingError` if there is none."""
    found = [base] if base.code == code else []
    found += [_find_error(kind, code) for kind in base.__subclasses__()]
    return next((kind for kind in found if kind.code == code), ServingError)


class Ledger:
    """Outcomes in memory that workers share, and the lock that a process holds during a trial.

    Args:
        fd: of that memory, made by `open_memory`; None for a process on its own.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = open_memory("timberline-trials") if fd is None else fd

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process is trying; the kernel frees the lock of one that is killed."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def find(self, trial: Trial) -> Outcome | None:
        """What came of an equal trial."""
        return dict(self._read()).get(trial.key)

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Keep what came of a trial, for all workers."""
        entries = [entry for entry in self._read() if entry[0] != trial.key]
        data = msgspec.json.encode([*entries[1 - _MOST_ENTRIES :], (trial.key, outcome)])
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def _read(self) -> list[tuple[tuple[str, int, str, int], Outcome]]:
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        try:
            return decode_json(data, list[tuple[tuple[str, int, str, int], Outcome]])
        except msgspec.DecodeError:  # nothing yet, or its last writer was killed: it is tried again
            return []


class TrialRunner:
    """Tries versions, each in a process of its own; `stop` may be called from another thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def check(self, trial: Trial, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Return if the version loads and answers within the limits.

        What is found is remembered, unless later bytes of the registry may change it.

        Args:
            trial: what to try.
            is_wanted: asked now and then; a version that is wanted no longer is not worth the rest.

        Raises:
            LoadFailedError: it takes longer or more memory than it may, or crashes.
            NotReadyError: `stop` was called, or it is not wanted any more; nothing was found out.
            LifecycleError: as `inference.models.proven.open_proven`.
            OSError: no process could be started, or the registry could not be read.
        """
        with self._ledger.locked():
            outcome = self._ledger.find(trial)
            if outcome is None:
                outcome = self._try(trial, is_wanted)
                if not outcome.may_heal:
                    self._ledger.add(trial, outcome)
        outcome.check()

    def stop(self) -> None:
        """End the trial that is under way, and begin no other."""
        with self._lock:
            self._is_over = True
            if self._process is not None:
                self._process.kill()

    def _try(self, trial: Trial, is_wanted: Callable[[], bool]) -> Outcome:
        where = f"{trial.model}@{trial.version}"
        with self._start() as process:
            try:
                output = _converse(process, trial, is_wanted)
                if output is None:
                    return Outcome.of(took_too_long(where, trial.timeout_s))
            finally:
                process.kill()  # does nothing to one that has ended
                with self._lock:
                    self._process = None
        if self._is_over:
            raise _STOPPING
        try:
            return decode_json(output, Outcome)
        except msgspec.DecodeError:
            code = process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            what = f"ended the process that tried to load it ({how})"
            return Outcome.of(LoadFailedError(what, where=where, hint="It was not loaded here."))

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_over:
                raise _STOPPING
            self._process = subprocess.Popen(
                [sys.executable, "-m", "timberline.inference", "trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # it is not ours to log: what matters is in the outcome
                process_group=0,  # Ctrl+C is for its parent, which ends it
            )
            return self._process


def _converse(process: subprocess.Popen[bytes], trial: Trial, is_wanted: Callable[[], bool]) -> bytes | None:
    """What the process writes about ``trial``; None if it writes nothing in time.

    Raises:
        NotReadyError: the trial is not wanted any more.
    """
    until = monotonic() + trial.timeout_s
    asked: bytes | None = msgspec.json.encode(trial) + b"\n"
    while True:
        left = max(0.0, until - monotonic())
        try:
            output, _ = process.communicate(asked, min(left, _LOOK_AGAIN_S))
        except subprocess.TimeoutExpired:
            asked = None
            if left <= _LOOK_AGAIN_S:
                return None
            if not is_wanted():
                raise NotReadyError("the alias has moved on") from None
        else:
            return output


def may_heal(error: Exception) -> bool:
    """Whether later bytes of the registry may make a good version of it, with the alias where it is.

    They cannot where the right bytes were found, and their graph is not what was promised.
    """
    return isinstance(error, OSError | RegistryError)


def took_too_long(where: str, seconds: float) -> LoadFailedError:
    """The error of a version that was given ``seconds``."""
    hint = "A graph that never returns is not served; for a large one raise --load-timeout-s."
    return LoadFailedError(f"was not loaded within {seconds:g} s", where=where, hint=hint)


@contextlib.contextmanager
def limit_memory(more_bytes: int) -> Iterator[None]:
    """Let this process have so much more address space than it has now, until the block ends.

    What goes beyond is refused by the kernel before it is there, unlike with a limit on what is used. Address
    space is more than memory: threads and arenas reserve some of it, which is why it is counted
    from here and not from nothing. Without /proc there is no limit.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + more_bytes
        if before[0] == resource.RLIM_INFINITY or most < before[0]:
            resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    except (OSError, ValueError):
        pass
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
