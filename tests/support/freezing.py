"""A process that stands still now and then, as under a garbage collector or a starved machine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.service import DEADLINE_S


@contextlib.contextmanager
def freezing(pid: int, *, frozen_s: float, every_s: float) -> Iterator[None]:
    """Stop the process for ``frozen_s`` at the end of every ``every_s``, until the block is left."""
    is_over = threading.Event()

    def freeze() -> None:
        while not is_over.wait(every_s - frozen_s):
            os.kill(pid, signal.SIGSTOP)
            is_over.wait(frozen_s)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop the process until the block is left; what is sent to it meanwhile it finds all at once."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the process goes on after SIGSTOP"
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
