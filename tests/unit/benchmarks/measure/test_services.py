"""Processes of the gate: how they are started, waited for, talked to, and ended; with small real ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support.ended import poll
from tests.support.service import has_ended
from timberline.benchmarks.errors import BenchmarkError, ServiceStartError
from timberline.benchmarks.measure.records import Outcome
from timberline.benchmarks.measure.services import (
    Launch,
    exchange,
    launch_command,
    launch_service,
    read_line,
    running_process,
)

READY = {"event": "listening", "host": "127.0.0.1", "port": 4711, "model": "tiny", "version": 3}
SOON_S = 30.0  # far beyond what any of these takes


def write_program(*lines: str) -> list[str]:
    """A command that runs these lines of Python."""
    return [sys.executable, "-c", "\n".join(["import json, os, signal, sys, time", *lines])]


def say(**changes: object) -> str:
    """A line of Python that announces version 3 of tiny, or something else."""
    return f"print(json.dumps({READY | changes!r}), flush=True)"


WAIT = "sys.stdin.read()"


@contextlib.contextmanager
def launching(
    folder: Path, *lines: str, stop_timeout_s: float = SOON_S, environment: Mapping[str, str] | None = None
) -> Iterator[Launch]:
    """A process of these lines that should announce tiny@3."""
    with launch_command(
        write_program(*lines),
        "tiny@3",
        log=folder / "log",
        stop_timeout_s=stop_timeout_s,
        environment=environment,
    ) as launch:
        yield launch


def test_a_service_is_ready_when_it_announces_itself(tmp_path: Path) -> None:
    """Its address is what it says; its start-up counts from the start of the process."""
    before = time.monotonic()
    with launching(tmp_path, "time.sleep(0.2)", say(), WAIT) as launch:
        service = launch.await_ready(SOON_S)
        assert service.url == "http://127.0.0.1:4711"
        assert 0.2 <= service.ready_s <= time.monotonic() - before
        assert service.process.poll() is None
        assert service.resident_bytes() == pytest.approx(
            psutil.Process(service.process.pid).memory_info().rss, rel=0.2
        )
        pid = service.process.pid
    assert service.process.returncode == -signal.SIGTERM
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((say(version=4), WAIT), "announced tiny@4"),
        ((say(model="other"), WAIT), "announced other@3"),
        (("print('hello')", WAIT), "announced b'hello'"),
        (("print('first words', file=sys.stderr)", "sys.exit('last words')"), "ended with exit code 1"),
        (("sys.exit('last words')",), "Last log line: last words"),
        (("sys.stdout.write('{'); sys.stdout.flush()", "os._exit(3)"), "exit code 3. Last log line: none"),
    ],
    ids=["version", "model", "no JSON", "ended", "words", "half a line"],
)
def test_a_service_that_is_not_the_one_is_refused(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    """What it said is in the error, with whose start it was."""
    with launching(tmp_path, "sys.stdout.reconfigure(line_buffering=True)", *lines) as launch:
        with pytest.raises(ServiceStartError) as caught:
            launch.await_ready(SOON_S)
        assert message in str(caught.value)
        assert str(caught.value).startswith("tiny@3: ")


def test_a_service_that_stays_silent_is_given_up(tmp_path: Path) -> None:
    """From its start on, and not from when it is waited for; it is ended all the same."""
    with launching(tmp_path, WAIT) as launch:
        launch.started -= 100
        with pytest.raises(ServiceStartError, match=r"not ready in 100 s\. Last log line: none"):
            launch.await_ready(100.0)
        assert launch.process.poll() is None
    assert launch.process.returncode == -signal.SIGTERM


def test_last_words_are_one_line_and_not_too_long(tmp_path: Path) -> None:
    """A traceback of megabytes is not read into an error; its last line is what it says."""
    words = "print('x' * 5000 + '\\n' + 'y' * 400 + 'z' * 200, file=sys.stderr)"
    with launching(tmp_path, words) as launch:
        with pytest.raises(ServiceStartError) as caught:
            launch.await_ready(SOON_S)
        assert f"Last log line: {'y' * 300}" in str(caught.value)
        assert not any(letter in str(caught.value).partition("words: ")[2] for letter in "xz")


def test_a_line_is_read_whole_and_without_its_end(tmp_path: Path) -> None:
    """It may come in parts; and what ended without a line said nothing."""
    parts = ("sys.stdout.write('ab'); sys.stdout.flush(); time.sleep(0.1); print('cd', flush=True)", WAIT)
    for lines, expected in ((parts, b"abcd"), (("sys.stdout.write('ab')",), None), ((WAIT,), None)):
        with launching(tmp_path, *lines) as launch:
            patience = SOON_S if lines != (WAIT,) else 0.1
            assert read_line(launch.process, time.monotonic() + patience) == expected


def test_what_is_read_of_a_process_that_ended_is_told_with_its_code(tmp_path: Path) -> None:
    """Its output closes a moment before there is a code, which is the news."""
    with launching(tmp_path, "sys.stdout.close(); os.close(1); time.sleep(0.1); os._exit(7)") as launch:
        assert read_line(launch.process, time.monotonic() + SOON_S) is None
        assert launch.process.returncode == 7


def test_a_process_is_asked_to_end_and_then_made_to(tmp_path: Path) -> None:
    """One that hears SIGTERM says goodbye; one that is deaf is killed after its time."""
    heard = "signal.signal(signal.SIGTERM, lambda *_: (print('bye', file=sys.stderr), sys.exit(5)))"
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    for first, code, patience in ((heard, 5, SOON_S), (deaf, -signal.SIGKILL, 0.2)):
        with launching(tmp_path, first, say(), WAIT, "time.sleep(100)", stop_timeout_s=patience) as launch:
            launch.await_ready(SOON_S)
        assert launch.process.returncode == code
        for stream in (launch.process.stdin, launch.process.stdout):
            assert stream is not None
            assert stream.closed
    assert (tmp_path / "log").read_text("utf-8") == "bye\n"


def test_a_process_that_ended_by_itself_keeps_its_code(tmp_path: Path) -> None:
    """It is not ended again, and what was never read is in nobody's way."""
    with launching(tmp_path, "sys.exit(9)") as launch:
        assert launch.process.stdin is not None
        launch.process.wait(SOON_S)
        launch.process.stdin.write(b"nobody reads this")
    assert launch.process.returncode == 9


def test_a_process_ends_also_when_the_block_fails(tmp_path: Path) -> None:
    """Whatever went wrong, nothing is left behind to measure beside."""
    with contextlib.suppress(RuntimeError), launching(tmp_path, say(), WAIT) as launch:
        launch.await_ready(SOON_S)
        raise RuntimeError("anything")
    assert launch.process.returncode == -signal.SIGTERM


def test_a_process_has_a_session_and_variables_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C reaches the gate alone, which ends its processes in order; variables are added to ours."""
    look = "print(json.dumps([os.getsid(0), os.getpid(), os.environ['OURS'], os.environ.get('HOME')]))"
    with launching(tmp_path, look, environment={"OURS": "is here"}) as launch:
        line = read_line(launch.process, time.monotonic() + SOON_S)
    session, pid, ours, home = json.loads(line or b"")
    assert (session, ours, home) == (pid, "is here", os.environ.get("HOME"))
    assert pid == launch.process.pid
    assert session != os.getsid(0)


def test_a_process_runs_where_it_is_told_to(tmp_path: Path) -> None:
    """Another checkout's service finds that checkout's modules first."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "ours.py").write_text(f"import json\n{say()}\n", "utf-8")
    command = write_program("import ours", WAIT)
    with launch_command(
        command, "tiny@3", log=tmp_path / "log", stop_timeout_s=SOON_S, folder=tmp_path / "elsewhere"
    ) as launch:
        assert launch.await_ready(SOON_S).url == "http://127.0.0.1:4711"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no such mask")
@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_process_keeps_to_its_processors(tmp_path: Path, is_pinned: bool) -> None:
    """A load generator on the service's processor would measure itself; none given is all."""
    ours = os.sched_getaffinity(0)
    cores = {max(ours)} if is_pinned else set()
    command = write_program("print(json.dumps(sorted(os.sched_getaffinity(0))))")
    log = tmp_path / "log"
    with running_process(command, log=log, stop_timeout_s=SOON_S, cores=cores) as process:
        line = read_line(process, time.monotonic() + SOON_S)
    assert set(json.loads(line or b"")) == (cores or ours)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no such signal")
@pytest.mark.parametrize("is_up", [False, True], ids=["while it starts", "when it is up"])
def test_a_process_ends_with_a_gate_that_was_killed(tmp_path: Path, is_up: bool) -> None:
    """SIGKILL leaves no chance to clean up, and a service that goes on would disturb the next gate."""
    gate = write_program(
        "from timberline.benchmarks.measure.services import read_line, running_process",
        f"child = {write_program('print(1, flush=True)', 'time.sleep(1000)')!r}",
        "from pathlib import Path",
        f"log = Path({str(tmp_path / 'log')!r})",
        "with running_process(child, log=log, stop_timeout_s=1) as process:",
        f"    if {is_up}: read_line(process, time.monotonic() + {SOON_S})",
        "    print(process.pid, flush=True)",
        "    time.sleep(1000)",
    )
    with subprocess.Popen(gate, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        killed.kill()
    poll(lambda: has_ended(child), lambda: f"process {child} goes on")


def test_a_version_is_served_as_it_was_asked_for(tmp_path: Path) -> None:
    """The program, the version, a free port of loopback, and the flags; in the other checkout if given."""
    root = Path(__file__).resolve().parents[4]
    log = tmp_path / "log"
    log.write_bytes(b"of the last restart\n")
    with launch_service(
        "some/registry",
        "tiny",
        12,
        log=log,
        stop_timeout_s=SOON_S,
        flags=("--server-timing",),
        program=("tests.support.announcing_service", "--before"),
        checkout=root,
    ) as launch:
        launch.await_ready(SOON_S)
        process = psutil.Process(launch.process.pid)
        assert process.cwd() == str(root)
        given = process.cmdline()
    assert given[given.index("-m") + 1 :] == [
        *("tests.support.announcing_service", "--before", "serve", "--model", "tiny@12"),
        *("--registry", "some/registry", "--host", "127.0.0.1", "--port", "0", "--server-timing"),
    ]
    assert log.read_bytes() == b"of the last restart\n"


OUTCOME = Outcome(
    cycles=7, failures=0, first_failure="", elapsed_s=1.5, clock_jump_s=0.0, cpu_share=0.25, asked={"x": 9}
)


def talk(folder: Path, *lines: str, timeout_s: float = SOON_S) -> Outcome:
    """Say something to a load generator of these lines, and what came of it."""
    with launching(folder, *lines) as launch:
        return exchange(launch.process, OUTCOME, Outcome, timeout_s=timeout_s, log=folder / "generator.log")


def test_a_word_is_answered_by_a_word(tmp_path: Path) -> None:
    """A line of JSON each way; this one is handed back."""
    assert talk(tmp_path, "print(sys.stdin.readline(), end='', flush=True)", WAIT) == OUTCOME


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((WAIT,), "not finished after 0.3 s"),
        (("sys.stdin.readline()", "os._exit(4)"), "ended with exit code 4 and no outcome"),
        (("sys.stdin.readline()", "print('{}', flush=True)", "os._exit(0)"), "no outcome"),
    ],
    ids=["hangs", "ends", "says something else"],
)
def test_a_load_generator_without_an_answer_is_told(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    """Nothing is made up in its place, and its log is named."""
    with pytest.raises(BenchmarkError, match=message) as caught:
        talk(tmp_path, *lines, timeout_s=0.3 if lines == (WAIT,) else SOON_S)
    assert str(caught.value).startswith("load generator: ")
    if lines != (WAIT,):
        assert str(tmp_path / "generator.log") in (caught.value.hint or "")


def test_a_load_generator_that_is_gone_is_told(tmp_path: Path) -> None:
    """Its pipe is broken, which is not the gate's own failure."""
    with launching(tmp_path, "os._exit(6)") as launch:
        launch.process.wait(SOON_S)
        large = msgspec.structs.replace(OUTCOME, first_failure="x" * 1_000_000)
        with pytest.raises(BenchmarkError, match="ended with exit code 6 and no outcome"):
            exchange(launch.process, large, Outcome, timeout_s=SOON_S, log=tmp_path / "log")
