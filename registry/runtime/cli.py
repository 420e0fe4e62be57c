"""The edge of a command: errors become one line on stderr and an exit code, results JSON on stdout.

Exit codes: 0 done; 1 the answer is no; 2 wrong use or configuration; 3 the environment failed;
130 ended by SIGINT; 143 ended by SIGTERM.

A command ends within two seconds of SIGTERM or SIGINT, whatever it is doing. The kernel drops a signal that
the first process of a container has no handler for; so both have one here. The handler raises `Ended` in the
main thread, which unwinds as from any error: half-made folders are removed, child processes are ended. But
Python runs a handler only between two of its own instructions, and a query, a training step or a host lookup
may stay in C for minutes. So the signal also wakes a thread (`signal.set_wakeup_fd`), which ends the process
if the main thread has not done so in time. That is as safe as a kill, and a kill is safe: what a stage writes
gets its name once it is whole.

C code that holds the interpreter's lock delays both ways. In the stages that is the loading of TensorFlow's
library (0.6 s when it is read from the disk), and no other call beyond 0.2 s.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import ctypes
import io
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from timberline.registry.errors import AfterChangeError, LifecycleError
from timberline.registry.runtime.files import explain_refusal
from timberline.registry.runtime.logs import encode_printable, format_record

# Every stage continues where it was ended.
RERUN_HINT = "run the same command again to go on"

# The extra that brings the packages of a part; of training and exporter it is train.
_EXTRAS = {"benchmarks": "bench", "inference": "serve", "registry": "tools", "completion": "tools"}


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line (the process's own when None), once standard output and error take any text.

    What their encoding lacks (an ASCII locale, Latin-1) is written as JSON escapes it, ``\\u00e9``, so
    that results and logs stay JSON; Python itself would end a result with a traceback.
    """
    codecs.register_error("timberline-escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a replacement by a test or a service
            stream.reconfigure(errors="timberline-escape")
    return parser.parse_args(arguments)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Two escapes beyond U+FFFF, as in JSON; one for a lone surrogate, which stands for a byte of a path.
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def print_json(value: object) -> None:
    """Write a command's result to stdout as indented JSON.

    Raises:
        AfterChangeError: it cannot be written (a full disk, a reader that has gone); the command is done.
    """
    text = msgspec.json.format(encode_printable(value), indent=2).decode() + "\n"
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _forget_output()
        raise AfterChangeError(
            f"done, but the result could not be written: {error}", where="standard output"
        ) from error


def _forget_output() -> None:
    """Keep the interpreter from flushing again as it ends, which would change the exit code to 120."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor behind it: nothing is tried
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def print_result(value: object) -> None:
    """`print_json`, unless a person is looking: on a terminal the log has just shown the same."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        print_json(value)


def run_command(
    part: str, command: Callable[[], int], *, ends_on_signals: bool = True, hint: str = RERUN_HINT
) -> int:
    """Run ``command`` and return the exit code of the process.

    A `LifecycleError` becomes one line and ends with its own exit code; an `OSError` (disk
    full, no permission) ends with 3; anything else is our bug and ends with 3 and its traceback.

    Args:
        ends_on_signals: SIGTERM and SIGINT end the process within two seconds (`EndOnSignals`). Not for
            a service, which has an end of its own, nor outside of the main thread.
        hint: what to do next, after the command was ended.
    """
    logger = logging.getLogger(part)
    is_main = threading.current_thread() is threading.main_thread()
    signals = EndOnSignals(logger, hint) if ends_on_signals and is_main else None
    try:
        with signals or contextlib.nullcontext():
            return command()
    except BaseException as error:
        if signals:
            signals.end_if_asked()
        return _log_error(logger, error, hint)


def _log_error(logger: logging.Logger, error: BaseException, hint: str) -> int:
    """Log what ended a command and return the exit code. For a refused file, name what refuses it."""
    text, reason = str(error), explain_refusal(error)
    if reason:
        text = f"{text.rstrip('.')}. {reason}"
    match error:
        case LifecycleError():
            logger.error("%s", text, extra={"fields": {"code": error.code}})
            return error.exit_code
        case KeyboardInterrupt():
            logger.error("interrupted; %s", hint)
            return 130
        case ModuleNotFoundError():  # such as `etl` where only the role `tools` is installed
            extra = _EXTRAS.get(logger.name, "train")
            text = f"no package {error.name} in this environment: pip install 'timberline[{extra}]'"
        case Exception() if _is_path_beyond_locale(error):
            text = f"a path is not {sys.getfilesystemencoding()}; set PYTHONUTF8=1, or a locale of UTF-8"
        case OSError():
            pass
        case Exception():
            logger.error("unexpected failure", exc_info=error)
            return 3
        case _:
            raise error
    logger.error("%s", text, exc_info=error if logger.isEnabledFor(logging.DEBUG) else None)
    return 3


def _is_path_beyond_locale(error: Exception) -> bool:
    """Whether the locale cannot name a path; libraries that want UTF-8 raise various errors for it."""
    if sys.getfilesystemencoding() == "utf-8" or isinstance(error, OSError):
        return False
    return isinstance(error, UnicodeEncodeError) or not all(word.isascii() for word in sys.argv)


SIGNALS = (signal.SIGTERM, signal.SIGINT)

# How often the watching thread looks whether the end was swallowed.
_CHECK_INTERVAL_S = 0.05
# How long the last line waits for a reader.
_LAST_LINE_S = 0.2
# A process may start another while they are being killed; no tree of ours is ten levels deep.
_ROUNDS = 10
# <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36


class Ended(KeyboardInterrupt):
    """The command was asked to end; raised once, in the main thread."""


class EndOnSignals:
    """Within the block SIGTERM and SIGINT end the process: 143 or 130, one line on stderr, no child left.

        with signals:
            command()
        # then, whatever the block raised: signals.end_if_asked()

    For the main thread. A second signal changes nothing, so that tidying up is not cut short. SIGINT
    stays ignored where the shell made it so, as for a command in the background.

    Args:
        logger: whose line it is.
        hint: what to do next; the end of the line.
        unwinding_s: what the main thread has. Of the two seconds; the rest is for ending processes and
            giving back gigabytes of memory.
    """

    def __init__(self, logger: logging.Logger, hint: str, *, unwinding_s: float = 1.5) -> None:
        self._unwinding_s = unwinding_s
        self._logger = logger
        self._hint = hint
        self._number = 0
        self._is_swallowed = False
        self._is_over = threading.Event()
        self._last_line = threading.Lock()  # held by the thread that writes it; never released

    def __enter__(self) -> None:
        self._stderr = os.dup(2)  # fd 2 itself is redirected while TensorFlow loads
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._hook_before = sys.unraisablehook
        sys.unraisablehook = self._note_swallowed
        self._woken_before = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._watcher.start()
        for number, handler in self._before.items():
            if number == signal.SIGTERM or handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        # `deploy/stage` blocks them until now: before there was a handler they would have been lost.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._number and error is not None:
            return  # `end_if_asked` or the thread ends the process
        self._is_over.set()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's
        sys.unraisablehook = self._hook_before
        signal.set_wakeup_fd(self._woken_before)
        os.close(self._woken)
        self._watcher.join()
        os.close(self._wake)
        os.close(self._stderr)

    def end_if_asked(self) -> None:
        """End the process if a signal asked for it before the block was done; else do nothing.

        Whatever error came of it: DuckDB makes a RuntimeError of an exception in a signal handler.
        """
        if self._number and not self._is_over.is_set():
            self._end(self._number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_over.is_set() or (self._number and not self._is_swallowed):
            return
        self._number, self._is_swallowed = self._number or number, False
        become_subreaper()
        raise Ended(signal.Signals(self._number).name)

    def _note_swallowed(self, unraisable: sys.UnraisableHookArgs) -> None:
        """`Ended` was raised in a ``__del__`` or a callback of C, and lost there: raise it again."""
        if unraisable.exc_type is Ended:
            self._is_swallowed = True
        else:
            self._hook_before(unraisable)

    def _watch(self) -> None:
        while numbers := os.read(self._wake, 64):  # nothing more when the block is left
            asked = [number for number in numbers if number in SIGNALS]
            if asked and not self._await_unwinding():
                self._end(asked[0])

    def _await_unwinding(self) -> bool:
        """Whether the block was left in time."""
        main = threading.main_thread().ident
        assert main is not None
        until = time.monotonic() + self._unwinding_s
        while not self._is_over.wait(_CHECK_INTERVAL_S):
            if time.monotonic() > until:
                return False
            if self._is_swallowed:
                signal.pthread_kill(main, self._number)
        return True

    def _end(self, number: int) -> NoReturn:
        kill_descendants()
        if self._last_line.acquire(timeout=_LAST_LINE_S):
            self._write_last_line(number)
        os._exit(128 + number)

    def _write_last_line(self, number: int) -> None:
        """Without anything that could block: not the logger's lock, not a full pipe."""
        text = f"ended by {signal.Signals(number).name}; {self._hint}"
        line = format_record(self._logger.makeRecord(self._logger.name, logging.ERROR, "", 0, text, (), None))
        with contextlib.suppress(OSError):
            if select.select([], [self._stderr], [], _LAST_LINE_S)[1]:
                os.write(self._stderr, f"{line}\n".encode(errors="backslashreplace"))


def become_subreaper() -> None:
    """From now on a process below this one, whose parent ends, becomes a child of this one (Linux only).

    `subprocess.run`, when it is broken off, kills the one process that it waits for.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Kill every process below this one (Linux only); one that is to end gently must have ended before."""
    become_subreaper()
    for _ in range(_ROUNDS):
        found = find_descendants()
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def find_descendants() -> list[int]:
    """The processes below this one that have not ended, as /proc shows them; parents first."""
    parents = dict(filter(None, map(_read_parent, Path("/proc").glob("[0-9]*/stat"))))
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _read_parent(path: Path) -> tuple[int, int] | None:
    """Process and parent out of one stat file (proc_pid_stat(5)); None if it has ended."""
    try:
        front, _, rest = path.read_bytes().rpartition(b")")  # a name may hold spaces and brackets
    except OSError:
        return None
    state, parent = rest.split()[:2]
    return None if state in (b"Z", b"X") else (int(front.split(b" ", 1)[0]), int(parent))
