"""Logs on stderr: one readable line an event on a terminal, one JSON object otherwise.

A command writes them where they are made. A service does so in the background (`write_in_background`): the
reader of its stderr may stop reading, and a write into a full pipe waits until it goes on. Native libraries
are kept quiet: `capture_native_stderr`, `silence_tensorflow`, `NO_TELEMETRY`.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import io
import json
import logging
import os
import re
import select
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Literal

import msgspec

LogFormat = Literal["auto", "human", "json"]

_logger = logging.getLogger("registry.runtime.logs")

_MAX_INLINE_CHARS = 60
# Text that waits to be written: some 5,000 lines of 200 bytes, little memory for a container.
_MAX_WAITING_BYTES = 1 << 20
# Several processes write into one pipe, which keeps the bytes of a write together up to here (POSIX).
_WHOLE_BYTES = select.PIPE_BUF
# How long a line waits for others: waking the thread for each costs as much as writing the line.
_GATHER_S = 0.01
# How often a slow reader gets the number of lines that it missed.
_REPORT_INTERVAL_S = 1.0
# How long a process waits at its end for its last lines: a slow reader needs less.
_DRAIN_S = 1.0
# How long standard output waits for the lines logged before it.
_ORDER_S = 0.25

_encoder = msgspec.json.Encoder(enc_hook=str)


def encode_printable(value: object) -> bytes:
    """JSON for people and their programs; what has no form of its own stands as its text.

    A path on a POSIX system is bytes: those of it that are no text stand as ``\\udcff``.
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value, enc_hook=str), ensure_ascii=False)
        return re.sub("[\ud800-\udfff]", lambda lone: rf"\\u{ord(lone[0]):04x}", text).encode()


def log_event(logger: logging.Logger, event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event with named fields: ``log_event(log, "etl finished", rows=581012)``."""
    logger.log(level, event, extra={"fields": fields})


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname.lower(),
            "part": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return encode_printable(line).decode()


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields = getattr(record, "fields", {})
        tail = "".join(_show(name, _short(value)) for name, value in fields.items())
        line = f"{clock} {record.name.partition('.')[0]:<10} {level}{record.getMessage()}{tail}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at that moment.

    ``StreamHandler`` keeps the stream that it started with, and writes into a closed file once another has
    taken its place: a caller that captures output, a test.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, in one call; errors go to `handleError`, as in every handler."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _show(name: str, text: str) -> str:
    """Beside the event, or on a line of its own if it is long: a command to copy, a path."""
    return f"  {name}={text}" if len(text) <= _MAX_INLINE_CHARS else f"\n    {name}: {text}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_record(record: logging.LogRecord) -> str:
    """The line, or lines, that a record is on stderr; no lock is taken and nothing is written."""
    for handler in logging.root.handlers:
        if isinstance(handler, _StderrHandler):
            return handler.format(record)
    return record.getMessage()


def configure_logging(level: str = "info", format: LogFormat = "auto") -> None:
    """Send every logger of the process to stderr in one format; called once, at the process edge.

    ``auto`` is ``human`` when stderr is a terminal and ``json`` when it is not.
    """
    human = sys.stderr is not None and sys.stderr.isatty() if format == "auto" else format == "human"
    handler = _StderrHandler()
    handler.setFormatter(_HumanFormatter() if human else _JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class BackgroundStream(io.TextIOBase):
    """A text stream over a file descriptor whose ``write`` never waits and never fails.

    A thread writes what waits, in order. What is beyond `_MAX_WAITING_BYTES`, or what the descriptor
    refuses (a broken pipe, a full disk), is dropped and counted; a line says how much is missing once
    the reader has caught up, or every second until then. Belongs to every thread.

    Args:
        fd: stays open and keeps its flags, which other processes may share.
        after: a stream whose text of before is to be out first, if it can be soon.
    """

    def __init__(self, fd: int, after: BackgroundStream | None = None) -> None:
        super().__init__()
        self._fd = fd
        self._after = after
        self._report_drops: Callable[[int], None] | None = None
        self._dropped = 0  # all, and those not reported yet
        self._unreported = 0
        self._reported_at = monotonic()
        self._is_ending = False
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Nothing waits; a forked child has neither the thread nor a right to its parent's text."""
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # waiting or being written
        self._hurrying = 0  # who waits in `drain`
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As of every log."""
        return "utf-8"

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Whether a terminal is behind it."""
        return os.isatty(self._fd)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Have ``text`` written soon; the number of its characters."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._is_ending:
                self._write_at_the_end(data)
            elif self._bytes + len(data) > _MAX_WAITING_BYTES:
                self._drop(1)
            else:
                self._waiting.append(data)
                self._bytes += len(data)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=f"writer-{self._fd}", daemon=True)
                    self._thread.start()
                if len(self._waiting) == 1:
                    self._changed.notify_all()
        return len(text)

    def drain(self, limit_s: float) -> bool:
        """Wait until nothing waits, for at most ``limit_s``; whether nothing does."""
        with self._changed:
            self._hurrying += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._bytes, limit_s)
            finally:
                self._hurrying -= 1

    def end(self) -> None:
        """Write what waits for as long as a reader may need; what comes later is written at once or not."""
        self.drain(_DRAIN_S)
        with self._changed:
            self._is_ending = True

    def watch_drops(self, report: Callable[[int], None]) -> None:
        """Call ``report`` with every number of texts dropped, from any thread, one call at a time."""
        with self._changed:
            self._report_drops = report
            if self._dropped:
                report(self._dropped)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                if self._after is None and self._bytes < _WHOLE_BYTES:
                    self._changed.wait_for(lambda: self._hurrying, _GATHER_S)
            if self._after is not None:
                self._after.drain(_ORDER_S)
            with self._changed:
                count, data = self._take()
            is_written = _write_all(self._fd, data)
            with self._changed:
                self._bytes -= len(data)
                if not is_written:
                    self._drop(count)
                missing = self._find_missing() if is_written else 0
                self._changed.notify_all()
            if missing:
                log_event(_logger, "log lines dropped", logging.WARNING, lines=missing)

    def _find_missing(self) -> int:
        """How many dropped texts to report: all when nothing waits, else once a second."""
        if self._bytes and monotonic() - self._reported_at < _REPORT_INTERVAL_S:
            return 0
        missing, self._unreported, self._reported_at = self._unreported, 0, monotonic()
        return missing

    def _take(self) -> tuple[int, bytes]:
        """The texts to be written next in one, and how many they are; at least one."""
        parts = [self._waiting.popleft()]
        size = len(parts[0])
        while self._waiting and size + len(self._waiting[0]) <= _WHOLE_BYTES:
            parts.append(self._waiting.popleft())
            size += len(parts[-1])
        return len(parts), b"".join(parts)

    def _drop(self, count: int) -> None:
        self._dropped += count
        self._unreported += count
        if self._report_drops is not None:
            self._report_drops(count)

    def _write_at_the_end(self, data: bytes) -> None:
        """The interpreter is ending, and its threads may be gone: write if there is room for it."""
        with contextlib.suppress(OSError):
            if not self._bytes and select.select([], [self._fd], [], 0)[1]:
                os.write(self._fd, data[:_WHOLE_BYTES])


def _write_all(fd: int, data: bytes) -> bool:
    """Write all of it, waiting as long as need be; False if the descriptor refuses it."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # another process that shares it made it non-blocking
            select.select([], [fd], [])
        except OSError:
            return False
    return True


def write_in_background() -> None:
    """From now on nothing that this process prints or logs can hold it up or end it.

    Standard output and error become `BackgroundStream`; a standard descriptor that is closed is opened
    on the null device, or the next socket would get its number, and a client our log. Streams that
    replace the standard ones are left alone. Before `configure_logging`.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    if sys.stderr is sys.__stderr__:
        sys.stderr = BackgroundStream(2)
        logging.captureWarnings(True)
    if sys.stdout is sys.__stdout__:
        logs = sys.stderr if isinstance(sys.stderr, BackgroundStream) else None
        sys.stdout = BackgroundStream(1, after=logs)
    atexit.register(end_output)


def end_output() -> None:
    """Write what still waits, for a second or two at most; for the end of the process, however it ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, BackgroundStream):
            stream.end()


def watch_dropped_lines(report: Callable[[int], None]) -> None:
    """Call ``report`` with every number of log lines that are dropped, if they can be; from any thread."""
    if isinstance(sys.stderr, BackgroundStream):
        sys.stderr.watch_drops(report)


# ONNX Runtime's official wheels report usage to their maker: a device number in the user's cache folder
# at load, packets some ten seconds later. Only a variable that is set before the library loads stops
# both (measured with 1.31, which knows the first; later releases know the second). To be written into
# os.environ above each import of onnxruntime, or of tf2onnx, which imports it.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}


@contextlib.contextmanager
def capture_native_stderr() -> Iterator[None]:
    """Hold back what the block writes to file descriptor 2; show it if the block fails.

    TensorFlow logs lines before its log level can be set, straight to the descriptor, so
    neither `TF_CPP_MIN_LOG_LEVEL` nor Python's `logging` reaches them.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # an interrupt needs no explanation
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def silence_tensorflow() -> None:
    """Ask TensorFlow and Keras to log errors only; before the first import of either."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
