"""A command that is asked to end, by itself or as the first process of a container.

The first process of a PID namespace is what a container's is: the kernel drops a signal that it has no
handler for. Making one needs root or user namespaces; where neither is there the command is an ordinary
child, whose handler is the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# What supervisors wait before they kill: `docker stop` by default. Nothing here is measured by it.
KILL_AFTER_S = 10.0
_DEADLINE_S = 120.0
_NAMESPACES = (
    ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"],
)


@functools.cache
def find_namespace() -> tuple[str, ...]:
    """The words in front of a command that make it the first process; none where that is not permitted."""
    for words in _NAMESPACES:
        with contextlib.suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return tuple(words)
    return ()


def poll(fact: Callable[[], bool], told: Callable[[], object]) -> None:
    """Wait until ``fact`` is true; fails with what is ``told`` when it does not become so."""
    deadline = time.monotonic() + _DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, told()
        time.sleep(0.005)


class Started:
    """A running command; its stderr is in ``log``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, *, is_first: bool) -> None:
        self._process = process
        self._is_first = is_first
        self.log = log

    def await_event(self, event: str) -> None:
        """Wait until it has logged ``event``."""
        self.await_fact(lambda: event in self.log.read_text("utf-8"))

    def await_fact(self, fact: Callable[[], bool]) -> None:
        """Wait until ``fact`` is true; fails when the command ends before it is."""
        poll(lambda: fact() or self._process.poll() is not None, lambda: self.log.read_text("utf-8"))
        assert self._process.poll() is None, self.log.read_text("utf-8")

    def find(self) -> psutil.Process:
        """The command itself, seen from outside of its namespace."""
        own = psutil.Process(self._process.pid)
        if not self._is_first:
            return own
        poll(lambda: bool(own.children()), lambda: "not started")
        return own.children()[0]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.find().send_signal(number)

    def wait(self) -> int:
        """Its exit code, which has to come before a supervisor would kill it."""
        try:
            return self._process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end\n{self.log.read_text('utf-8')}") from None

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end; it does so, with the exit code of the signal, one line that says so and no child."""
        children = self.find().children(recursive=True)
        self.send(number)
        code = self.wait()
        said = self.log.read_text("utf-8")
        assert code == 128 + number, said
        assert said.count("ended by ") == 1, said
        last = json.loads(said.splitlines()[-1])
        assert last["event"].startswith(f"ended by {number.name}; "), said
        assert "Traceback" not in said
        _, alive = psutil.wait_procs(children, timeout=KILL_AFTER_S)
        assert alive == []


_IN_FRONT = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@contextlib.contextmanager
def starting(
    command: Sequence[str],
    log: Path,
    *,
    is_first: bool = True,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Started]:
    """Start ``command``, the words behind ``python``; it is killed when the block is left.

    SIGINT is as for a command in front, also where the tests themselves run in the background.
    """
    namespace = find_namespace() if is_first else ()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*namespace, sys.executable, "-c", _IN_FRONT, *command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            **options,
        )
    try:
        yield Started(process, log, is_first=bool(namespace))
    finally:
        process.kill()
        process.wait()
