"""A stream whose writes never wait: what gets through, in which order, and what is dropped and counted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.service import DEADLINE_S, ROOT
from timberline.registry.runtime.logs import _MAX_WAITING_BYTES, BackgroundStream

LINE = "x" * 999 + "\n"
# What the pipe and the stream hold together, and half as much again.
MANY = (_MAX_WAITING_BYTES + (1 << 16)) * 3 // 2 // len(LINE)


@contextlib.contextmanager
def piped() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe, closed at the end as far as they are not."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            with contextlib.suppress(OSError):
                os.close(fd)


def read_some(fd: int, count: int) -> bytes:
    """``count`` bytes; fails if they do not come."""
    data = b""
    while len(data) < count:
        assert select.select([fd], [], [], DEADLINE_S)[0], f"{len(data)} of {count} bytes came"
        data += os.read(fd, count - len(data))
    return data


def test_everything_gets_through_in_order() -> None:
    """From several threads, each line whole: the log is read by a machine, line by line."""
    with piped() as (source, target):
        stream = BackgroundStream(target)
        writers = [
            threading.Thread(target=lambda n=n: [stream.write(f"{n} {i}\n") for i in range(200)])
            for n in range(4)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(DEADLINE_S)
        assert stream.drain(DEADLINE_S)
        lines = os.read(source, 1 << 16).decode().splitlines()
    found = {n: [int(line[2:]) for line in lines if line[0] == str(n)] for n in range(4)}
    assert found == {n: list(range(200)) for n in range(4)}


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    """What does not fit is dropped and counted, line by line; memory stays within its bound."""
    reported: list[int] = []
    with piped() as (source, target):
        stream = BackgroundStream(target)
        stream.watch_drops(reported.append)
        for _ in range(MANY):
            stream.write(LINE)
        assert stream._bytes <= _MAX_WAITING_BYTES
        kept = MANY - sum(reported)
        assert sum(reported) > MANY // 4
        assert not stream.drain(0)
        assert read_some(source, kept * len(LINE)) == LINE.encode() * kept
        assert stream.drain(DEADLINE_S)
        stream.write("again\n")
        assert read_some(source, 6) == b"again\n"


def test_the_log_says_how_much_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    """A gap that is not reported is taken for silence."""
    with piped() as (source, target), caplog.at_level("WARNING", logger="registry.runtime.logs"):
        stream = BackgroundStream(target)
        for _ in range(MANY):
            stream.write(LINE)
        dropped = stream._dropped
        read_some(source, (MANY - dropped) * len(LINE))
        deadline = time.monotonic() + DEADLINE_S
        while sum(vars(record)["fields"]["lines"] for record in caplog.records) < dropped:
            assert time.monotonic() < deadline
    assert sum(vars(record)["fields"]["lines"] for record in caplog.records) == dropped
    assert {record.getMessage() for record in caplog.records} == {"log lines dropped"}


@pytest.mark.parametrize("kind", ["broken pipe", "full disk", "closed"])
def test_a_descriptor_that_refuses_ends_nothing(kind: str) -> None:
    """Nobody's reading, no room and no descriptor: the service has more to do than to log."""
    reported: list[int] = []
    with piped() as (source, target):
        if kind == "broken pipe":
            os.close(source)
        elif kind == "full disk":
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, target)
            os.close(full)
        else:
            os.close(target)
        stream = BackgroundStream(target)
        stream.watch_drops(reported.append)
        for _ in range(10):
            assert stream.write("line\n") == 5
        assert stream.drain(DEADLINE_S)
    assert sum(reported) == 10


def test_a_descriptor_that_somebody_made_non_blocking_loses_nothing() -> None:
    """The flag is shared with every process that has the pipe, as Node.js sets it; half a line is no line."""
    with piped() as (source, target):
        fcntl.fcntl(target, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.fcntl(target, fcntl.F_GETFL))
        stream = BackgroundStream(target)
        for _ in range(200):
            stream.write(LINE)
        assert read_some(source, 200 * len(LINE)) == LINE.encode() * 200


def test_standard_output_comes_after_what_was_logged_before_it() -> None:
    """Whoever waits for the announcement may then look for a line of the log; but not for ever."""
    with piped() as (source, target):
        logs = BackgroundStream(target)
        output = BackgroundStream(target, after=logs)
        for number in range(50):
            logs.write(f"log {number}\n")
            output.write(f"out {number}\n")
            assert read_some(source, 12 if number < 10 else 14).split()[0] == b"log"
    with piped() as (source, target), piped() as (out_source, out_target):
        logs = BackgroundStream(target)
        for _ in range(100):
            logs.write(LINE)  # more than the pipe holds
        BackgroundStream(out_target, after=logs).write("out\n")
        assert read_some(out_source, 4) == b"out\n"
        os.close(source)
        assert logs.drain(DEADLINE_S)  # or its thread would write into whatever gets this number next


def test_a_forked_child_writes_its_own_text_only() -> None:
    """It has no writing thread, and what waits is its parent's to write."""
    with piped() as (source, target):
        stream = BackgroundStream(target)
        for _ in range(100):
            stream.write(LINE)
        child = os.fork()
        if child == 0:
            stream.write("child\n")
            stream.drain(DEADLINE_S)
            os._exit(0)
        data = read_some(source, 100 * len(LINE) + 6)
        assert os.waitpid(child, 0)[1] == 0
        assert stream.drain(DEADLINE_S)
    assert data.count(b"child\n") == 1
    assert data.count(b"x") == 100 * 999


def test_what_cannot_be_encoded_is_written_all_the_same() -> None:
    """A file name of another time's encoding must not cost a line."""
    with piped() as (source, target):
        BackgroundStream(target).write("caf\udce9\n")
        assert os.read(source, 100) == b"caf\\udce9\n"


SCRIPT = """
import sys, logging
from timberline.registry.runtime.logs import configure_logging, end_output, log_event, write_in_background
write_in_background()
configure_logging("info", "json")
log = logging.getLogger("x")
{}
"""


def run_script(body: str, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a program that writes in the background; ``shell`` redirects."""
    code = SCRIPT.format(body)
    command = ["sh", "-c", f'exec "$0" "$@" {shell}', sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=DEADLINE_S)


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "import os; end_output(); os._exit(3)"])
def test_the_last_lines_are_out_before_the_end(end: str) -> None:
    """Why a service ended is in its last line."""
    done = run_script(
        f"for number in range(1000): log_event(log, 'line', number=number)\nprint('out')\n{end}"
    )
    assert done.returncode == 3
    assert done.stdout == b"out\n"
    assert done.stderr.count(b"\n") == 1000
    assert b'"number":999' in done.stderr


def test_an_unexpected_end_shows_its_traceback() -> None:
    """Also what the interpreter itself writes, and what threads and warnings do."""
    done = run_script(
        "import threading, warnings\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "warnings.warn('careful')\n"
        "raise KeyError('gone')"
    )
    assert done.returncode == 1
    assert done.stderr.count(b"ZeroDivisionError") == 1
    assert b"UserWarning: careful" in done.stderr
    assert done.stderr.rstrip().endswith(b"KeyError: 'gone'")


def test_closed_descriptors_are_nobodys() -> None:
    """The first file that a program opens takes the free number 2, and would get the log into it."""
    body = (
        "import os, tempfile\n"
        "with tempfile.TemporaryFile() as file:\n"
        "    log_event(log, 'line'); sys.stderr.drain(60); print('out'); sys.stdout.drain(60)\n"
        "    sys.exit(0 if file.fileno() > 2 and os.fstat(file.fileno()).st_size == 0 else 5)"
    )
    for shell in ("2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        assert run_script(body, shell).returncode == 0, shell


def test_the_end_does_not_wait_for_a_reader_that_is_gone() -> None:
    """SIGTERM, then SIGKILL after a grace: what hangs at its end is killed, and its lines with it."""
    with piped() as (_, target):
        body = f"for _ in range(200): sys.stderr.write({LINE!r})\n"
        command = [sys.executable, "-c", SCRIPT.format(body)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=target)
        try:
            assert process.wait(DEADLINE_S) == 0
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
