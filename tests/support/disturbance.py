"""Disturb the processes of a gate in this process, from the moment at which they are ready.

with disturbing(lambda pids: pulse(pids["champion"])):
    run_gate(...)

What is started by then goes on until the block is left.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

# What is done to the processes, by arm and "driver", in a thread of its own, until the event is set.
Act = Callable[[Mapping[str, psutil.Process], threading.Event], None]


@contextlib.contextmanager
def disturbing(act: Act, arms: Mapping[str, str]) -> Iterator[None]:
    """Call ``act`` in every restart, once the services are ready and before the first request.

    Args:
        act: what is done.
        arms: ``model@version`` by arm.
    """
    logger = logging.getLogger("benchmarks")
    level, listener = logger.level, _Listener(act, arms)
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)
        listener.end()
    assert listener.threads, "no restart was disturbed: no service got ready"


def pulse(process: psutil.Process, stop_s: float, go_s: float, is_over: threading.Event) -> None:
    """Stop and continue a process in turn, until the event is set or the process has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            while not is_over.is_set():
                process.suspend()
                is_over.wait(stop_s)
                process.resume()
                is_over.wait(go_s)
        finally:
            process.resume()


class _Listener(logging.Handler):
    """Hears the gate say that the services of a restart are ready."""

    def __init__(self, act: Act, arms: Mapping[str, str]) -> None:
        super().__init__()
        self._act = act
        self._arms = arms
        self._is_over = threading.Event()
        self.threads: list[threading.Thread] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() != "services ready":
            return
        fields: dict[str, Any] = record.__dict__["fields"]
        processes = {self._find_role(pid): psutil.Process(pid) for pid in fields["pids"]}
        thread = threading.Thread(target=self._act, args=(processes, self._is_over))
        self.threads.append(thread)
        thread.start()

    def end(self) -> None:
        self._is_over.set()
        for thread in self.threads:
            thread.join()

    def _find_role(self, pid: int) -> str:
        command = psutil.Process(pid).cmdline()
        return next((arm for arm, name in self._arms.items() if name in command), "driver")
