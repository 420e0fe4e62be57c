"""The real service with a fault, to stand in the place of ``inference`` in a gate.

``python -m tests.support.broken_service --fail-every 2 serve …`` answers every second prediction with
an error; ``--exit-at 40`` ends the process at its 40th; ``--serve tiny@1`` serves that version and
announces the one that was asked for. Start-up is never disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import runpy
import sys
from typing import TextIO

from timberline.registry.runtime.logs import NO_TELEMETRY

os.environ.update(NO_TELEMETRY)

from onnxruntime.capi.onnxruntime_pybind11_state import InferenceSession

from timberline.benchmarks.selftest.slowed import slow_down


class Fault:
    """What happens to every Run that answers a request; counted from 1."""

    def __init__(self, fail_every: int, exit_at: int) -> None:
        self._numbers = itertools.count(1)
        self._fail_every = fail_every
        self._exit_at = exit_at

    def __call__(self) -> None:
        """Fail, end the process, or do nothing."""
        if asyncio._get_running_loop() is None:
            return  # a Run of the start: the event loop is not there yet
        number = next(self._numbers)
        if number == self._exit_at:
            os._exit(1)
        if self._fail_every and number % self._fail_every == 0:
            raise RuntimeError("a Run that was made to fail")


class Pretence:
    """Standard output that announces another version than the one that is served."""

    def __init__(self, stream: TextIO, version: int) -> None:
        self._stream = stream
        self._version = version

    def write(self, text: str) -> int:
        """One line of JSON."""
        return self._stream.write(json.dumps(json.loads(text) | {"version": self._version}) + "\n")

    def flush(self) -> None:
        """As the stream's."""
        self._stream.flush()


def main() -> None:
    """Break what is asked for, then become the service."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--exit-at", type=int, default=0)
    parser.add_argument("--serve", default="")
    parser.add_argument("service", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    slow_down(InferenceSession, Fault(options.fail_every, options.exit_at))
    arguments = list(options.service)
    if options.serve:
        place = arguments.index("--model") + 1
        announced = int(arguments[place].partition("@")[2])
        arguments[place] = options.serve
        sys.stdout = Pretence(sys.stdout, announced)
    sys.argv = ["inference", *arguments]
    runpy.run_module("inference", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
