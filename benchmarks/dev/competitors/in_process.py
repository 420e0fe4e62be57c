"""ONNX Runtime without a service: what the graph alone takes, measured on demand.

Reads one JSON line a measurement, ``{"rows": 1, "window_s": 2.0, "warmup_s": 0.2, "matrix": "…"}``
(float64 rows in base64), and writes one: runs, seconds and processor seconds. One row is bound
beforehand and only run; more are given to ``session.run`` each time, as their number differs from
request to request.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timberline.benchmarks.dev.competitors.program import announce, open_version, parse_arguments

_OUTPUTS = ["probabilities", "label"]


def bind_row(session: Any, row: npt.NDArray[np.float64], classes: int) -> Callable[[], None]:
    """A Run of one row, (1, columns), from bound memory into bound memory."""
    binding = session.io_binding()
    probabilities = np.zeros((1, classes), np.float32)
    label = np.zeros(1, np.int64)
    binding.bind_cpu_input("numeric", row)
    outputs: tuple[npt.NDArray[Any], ...] = (probabilities, label)
    for name, array in zip(_OUTPUTS, outputs, strict=True):
        binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
    # As our service calls it, past the question whether a graph is captured on a GPU.
    run_row: Callable[[], None] = partial(session._sess.run_with_iobinding, binding._iobinding, None)
    # The binding holds addresses and neither the arrays nor itself.
    run_row.__dict__["bound"] = (binding, row, probabilities, label)
    return run_row


def measure(run: Callable[[], object], seconds: float, warmup_s: float) -> dict[str, Any]:
    """Call ``run`` over and over for ``seconds``, after ``warmup_s`` that do not count."""
    _repeat(run, warmup_s)
    cpu, wall = time.process_time(), time.perf_counter()
    runs = _repeat(run, seconds)
    elapsed_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {"requests": runs, "elapsed_s": elapsed_s, "server_cpu_s": [cpu_s]}


def _repeat(run: Callable[[], object], seconds: float) -> int:
    runs = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(10):  # reading the clock must not count much beside a Run of 10 µs
            run()
        runs += 10
    return runs


def main() -> None:
    """Answer every line on stdin, until it is closed."""
    options = parse_arguments(__doc__, version={"type": Path, "required": True})
    graph = open_version(options.version)
    announce(0, options.name)
    for line in sys.stdin:
        asked = json.loads(line)
        data = np.frombuffer(base64.b64decode(asked["matrix"]), np.float64)
        matrix = np.ascontiguousarray(data.reshape(asked["rows"], len(graph.columns)))
        if len(matrix) == 1:
            run: Callable[[], object] = bind_row(graph.session, matrix, len(graph.classes))
        else:
            feed = {"numeric": matrix}

            def run(feed: dict[str, Any] = feed) -> object:
                return graph.session.run(_OUTPUTS, feed)

        sys.stdout.write(json.dumps(measure(run, asked["window_s"], asked["warmup_s"])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
