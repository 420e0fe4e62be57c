"""Run a function in a child process, which ends with its parent.

TensorFlow keeps memory of every network for as long as its process runs. This file imports nothing that
loads TensorFlow: what it writes as it loads is kept off stderr (`registry.runtime.logs`).
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable

from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.logs import capture_native_stderr, configure_logging, silence_tensorflow

_KILLED = 137


def run_in_child_process(work: Callable[..., None], *arguments: object) -> int:
    """Run a module's function in a fresh process, wait for it, and return its exit code.

    An error in it is logged, as by `registry.runtime.cli.run_command`. It is killed when the wait is
    interrupted, and when this process is killed.
    """
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
    # Not forked: TensorFlow has threads.
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(level, pickle.dumps((work, arguments))), daemon=True
    )
    process.start()
    try:
        process.join()
    finally:
        process.kill()
    assert process.exitcode is not None
    return process.exitcode


def _run(level: str, packed: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the parent handles it
    silence_tensorflow()
    with capture_native_stderr():
        work, arguments = pickle.loads(packed)
        import tensorflow  # noqa: PLC0415  (only here is stderr quiet)

        tensorflow.config.list_physical_devices()  # logs missing devices at its first use
    configure_logging(level)

    def do() -> int:
        work(*arguments)
        return 0

    sys.exit(run_command("training", do, ends_on_signals=False))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(_KILLED)
