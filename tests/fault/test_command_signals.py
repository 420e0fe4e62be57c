"""SIGTERM and SIGINT while a command runs: it ends by itself, whatever it is doing, and leaves no process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.support.ended import ROOT, poll, starting

# What a command may be doing; each says "working" first.
_COMMANDS = """
import logging, subprocess, sys, threading
from pathlib import Path
from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.runtime.logs import configure_logging, log_event

def say(event): log_event(logging.getLogger("test"), event)

def query():
    import duckdb
    say("working")
    duckdb.sql("SELECT count(*) FROM range(1000000000000) AS t(i) WHERE hash(i) % 7 = 3").fetchall()

def compute():
    import hashlib
    say("working")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)

def wait(): say("working"); threading.Event().wait()

def write():
    with fresh_folder(Path(sys.argv[2])) as folder:
        (folder / "half").write_bytes(b"half")
        wait()

class Discarded:
    def __del__(self): wait()

def discard():
    with fresh_folder(Path(sys.argv[2])):
        Discarded()
        threading.Event().wait()

def run_others():
    say("working")
    subprocess.run(["sh", "-c", "sleep 1000 & sleep 1000 & wait"])

def compute_beside_others():
    subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
    compute()

def swallow():
    try: wait()
    except KeyboardInterrupt: raise RuntimeError("as DuckDB does")

def finish():
    try: wait()
    except KeyboardInterrupt: pass
    return 5

def log_for_ever():
    while True: say("x" * 1000)

configure_logging("info", "json")
sys.exit(run_command("test", lambda: globals()[sys.argv[1]]() or 0))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A file with all of the commands."""
    path = tmp_path / "program.py"
    path.write_text(_COMMANDS, "utf-8")
    return path


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "child"])
@pytest.mark.parametrize("work", ["wait", "query", "compute"])
def test_a_command_ends_on_sigterm_also_while_c_code_runs(
    tmp_path: Path, program: Path, work: str, is_first: bool
) -> None:
    """Python runs no handler before C code is done; a container was killed 20 s later for that."""
    with starting([str(program), work], tmp_path / "log", is_first=is_first) as command:
        command.await_event("working")
        command.end()


@pytest.mark.parametrize("work", ["wait", "compute"])
def test_a_command_ends_on_sigint_as_the_first_process(tmp_path: Path, program: Path, work: str) -> None:
    """Ctrl-C in `docker run -it`, with the exit code of an interrupt."""
    with starting([str(program), work], tmp_path / "log") as command:
        command.await_event("working")
        command.end(signal.SIGINT)


@pytest.mark.parametrize("work", ["run_others", "compute_beside_others"])
def test_no_process_outlives_the_command_that_started_it(tmp_path: Path, program: Path, work: str) -> None:
    """Neither children nor theirs: an orphan goes on writing, and holds the terminal's pipe open."""
    with starting([str(program), work], tmp_path / "log", is_first=False) as command:
        command.await_event("working")
        command.await_fact(lambda: len(command.find().children(recursive=True)) == 3)
        command.end()


def test_a_command_that_is_ended_removes_what_is_half_made(tmp_path: Path, program: Path) -> None:
    """It unwinds as from an error wherever Python can; only what hangs is cut off."""
    with starting([str(program), "write", str(tmp_path / "made" / "folder")], tmp_path / "log") as command:
        command.await_event("working")
        command.end()
    assert list((tmp_path / "made").iterdir()) == []


def test_a_signal_in_the_middle_of_a_finalizer_ends_the_command_behind_it(
    tmp_path: Path, program: Path
) -> None:
    """Nothing is raised out of ``__del__``: one of TensorFlow's swallowed the end, with a traceback."""
    words = [str(program), "discard", str(tmp_path / "made" / "folder")]
    with starting(words, tmp_path / "log") as command:
        command.await_event("working")
        command.end()
    assert list((tmp_path / "made").iterdir()) == []


def test_an_error_that_came_of_the_signal_is_not_reported_as_one(tmp_path: Path, program: Path) -> None:
    """DuckDB makes a RuntimeError of what a signal handler raises; a traceback would look like a fault."""
    with starting([str(program), "swallow"], tmp_path / "log") as command:
        command.await_event("working")
        command.end()


def test_a_command_that_was_done_all_the_same_ends_with_its_own_code(tmp_path: Path, program: Path) -> None:
    """Its result is there; to say that it has to run again would be wrong."""
    with starting([str(program), "finish"], tmp_path / "log") as command:
        command.await_event("working")
        command.send(signal.SIGTERM)
        assert command.wait() == 5
        assert "ended by" not in command.log.read_text("utf-8")


_TIDYING = """
import logging, sys, threading
from pathlib import Path
from timberline.registry.runtime.logs import configure_logging, log_event
from timberline.registry.runtime.cli import EndOnSignals

configure_logging("info", "json")
logger = logging.getLogger("test")
signals = EndOnSignals(logger, "again", unwinding_s=3600)
try:
    with signals:
        try:
            log_event(logger, "working")
            threading.Event().wait()
        finally:
            log_event(logger, "tidying")
            while not Path(sys.argv[1]).exists():
                threading.Event().wait(0.01)
            log_event(logger, "tidied")
except BaseException:
    signals.end_if_asked()
"""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_cut_the_tidying_short(tmp_path: Path, second: signal.Signals) -> None:
    """A supervisor, or a finger on Ctrl-C, that asks twice must not leave services behind."""
    with starting(["-c", _TIDYING, str(tmp_path / "go on")], tmp_path / "log") as command:
        command.await_event("working")
        command.send(signal.SIGTERM)
        command.await_event("tidying")
        command.send(second)
        (tmp_path / "go on").touch()
        assert command.wait() == 143
    events = [json.loads(line)["event"] for line in command.log.read_text("utf-8").splitlines()]
    assert events == ["working", "tidying", "tidied", "ended by SIGTERM; again"]


_BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_signal_from_before_there_was_a_handler_is_not_lost(tmp_path: Path, program: Path) -> None:
    """`deploy/stage` blocks it while Python starts, since the kernel drops what has no handler."""
    with starting(["-c", _BLOCKED, str(program), "wait"], tmp_path / "log") as command:
        assert command.wait() == 143
    (line,) = command.log.read_text("utf-8").splitlines()
    assert json.loads(line)["event"].startswith("ended by SIGTERM; ")


def test_a_command_in_the_background_still_ignores_ctrl_c(tmp_path: Path, program: Path) -> None:
    """A shell starts `command &` with SIGINT ignored, so that Ctrl-C ends what is in front alone."""
    with starting(
        ["-c", f"import os, signal, sys\nsignal.signal(2, signal.SIG_IGN)\n{_EXEC}", str(program), "wait"],
        tmp_path / "log",
    ) as command:
        command.await_event("working")
        command.send(signal.SIGINT)
        command.end()


_EXEC = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


def test_a_log_that_nobody_reads_does_not_keep_a_command_from_ending(program: Path) -> None:
    """A write into a full pipe waits, with the logger's lock; the last line must not wait for it."""
    read, write = os.pipe()
    command = [sys.executable, str(program), "log_for_ever"]
    with subprocess.Popen(command, stderr=write) as process:
        try:
            os.close(write)
            size = fcntl.fcntl(read, fcntl.F_GETPIPE_SZ)  # of which pages are not filled to the end
            poll(lambda: unread_bytes(read) > size * 3 // 4, lambda: unread_bytes(read))
            process.terminate()
            assert process.wait(10) == 143
        finally:
            process.kill()
            os.close(read)


def unread_bytes(pipe: int) -> int:
    """How much waits in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
