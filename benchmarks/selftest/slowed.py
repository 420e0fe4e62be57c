"""The real service with a really slower model: an injected regression for the gate to find.

``python -m benchmarks.selftest.slowed --cpu-us 40 serve …`` is ``timberline serve …``, except
that every Run of ONNX Runtime costs 40 µs of processor time more; ``--tail-share`` and ``--tail-ms``
make a random share of the Runs slower, and ``--work-us`` makes the process compute after every answer.
What is added is computed under the interpreter's lock, so that a batch in a thread holds up the event
loop; for single rows there is no difference.

A Run is a request, except of a graph that runs the rows of a batch one by one, and in the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import random
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

from timberline.registry.runtime.cli import read_options
from timberline.registry.runtime.logs import NO_TELEMETRY

os.environ.update(NO_TELEMETRY)

from onnxruntime.capi.onnxruntime_pybind11_state import InferenceSession

# Both ways of the service to run a graph end in one of these: a single row through bound memory,
# everything else through arrays.
_RUNS = ("run_with_iobinding", "run")

# Some 10 ms at the start, which no measured request sees.
_PROBES = 1000
_PROBE_NS = 8_000


class Delay:
    """What every Run costs more; to be called once a Run.

    Args:
        cpu_us: processor time added to every Run, in µs.
        work_us: likewise, computed when the event loop comes to it again: the answer is sent by then.
        tail_share: share of the Runs, 0 to 1, that are slower still; drawn one by one.
        tail_ms: by how many ms those are slower.
        is_asleep: whether they sleep for it or compute.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        cpu_us: float,
        work_us: float,
        tail_share: float,
        tail_ms: float,
        is_asleep: bool,
        seed: str,
    ) -> None:
        self._overhead_ns = measure_overhead_ns()
        self._cpu_ns = round(cpu_us * 1e3)
        self._work_ns = round(work_us * 1e3)
        self._tail_share = tail_share
        self._tail_s = tail_ms / 1e3
        self._is_asleep = is_asleep
        self._draw = random.Random(seed).random

    def draw(self) -> tuple[int, float]:
        """What the next Run costs more: ns of processor time and seconds of sleep."""
        is_slower = self._draw() < self._tail_share
        if is_slower and self._is_asleep:
            return self._cpu_ns, self._tail_s
        return self._cpu_ns + is_slower * round(self._tail_s * 1e9), 0.0

    def __call__(self) -> None:
        """Take the time, and see to it that what comes after the answer is taken then."""
        if self._work_ns:
            put_off(functools.partial(burn, self._work_ns - self._overhead_ns))
        cpu_ns, sleep_s = self.draw()
        if cpu_ns:
            burn(cpu_ns - self._overhead_ns)
        if sleep_s:
            time.sleep(sleep_s)


def burn(cpu_ns: int) -> None:
    """Compute until this thread has used ``cpu_ns`` more of a processor, however long others have it."""
    clock = time.thread_time_ns
    end = clock() + cpu_ns
    while clock() < end:
        pass


def put_off(work: Callable[[], None]) -> None:
    """Do ``work`` in the next turn of the event loop that runs here; at once in a thread without one.

    Both loops that serve send what was written before they begin their next turn.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work()
    else:
        loop.call_soon(work)


def measure_overhead_ns() -> int:
    """How much longer `burn` takes than it should, as it has to ask the kernel for the time.

    About 1.8 µs where this was written, a seventh of a regression of 12 µs; the overhead is taken off.
    """
    began = time.thread_time_ns()
    for _ in range(_PROBES):
        burn(_PROBE_NS)
    return (time.thread_time_ns() - began) // _PROBES - _PROBE_NS


def slow_down(kind: Any, delay: Callable[[], None]) -> None:
    """Make every Run of the session class ``kind`` call ``delay`` first."""
    for name in _RUNS:
        setattr(kind, name, _precede(getattr(kind, name), delay))


def _precede(run: Callable[..., Any], delay: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(run)
    def slowed(*arguments: Any) -> Any:
        delay()
        return run(*arguments)

    return slowed


def main() -> None:
    """Slow ONNX Runtime down, then become the service."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selftest.slowed", description=__doc__)
    parser.add_argument("--cpu-us", type=float, default=0.0, help="µs of processor time a Run more")
    parser.add_argument("--work-us", type=float, default=0.0, help="µs of it after every answer")
    parser.add_argument("--tail-share", type=float, default=0.0, help="share of slower Runs, 0 to 1")
    parser.add_argument("--tail-ms", type=float, default=0.0, help="by how many ms they are slower")
    parser.add_argument("--tail-kind", choices=["cpu", "sleep"], default="cpu", help="compute or sleep")
    parser.add_argument("--seed", default="0", help="of the choice of the slower Runs")
    parser.add_argument("service", nargs=argparse.REMAINDER, help="serve …, as of python -m inference")
    options = read_options(parser, None)
    delay = Delay(
        cpu_us=options.cpu_us,
        work_us=options.work_us,
        tail_share=options.tail_share,
        tail_ms=options.tail_ms,
        is_asleep=options.tail_kind == "sleep",
        # Restarts of one gate have one command line and must not all draw the same Runs.
        seed=f"{options.seed}-{os.getpid()}",
    )
    slow_down(InferenceSession, delay)
    sys.argv = ["inference", *options.service]
    runpy.run_module("timberline.inference", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
