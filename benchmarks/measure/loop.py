"""What every Locust process of ours does: run users to their end, and plan after plan.

No import of Locust here.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from timberline.registry.runtime.documents import decode_json

_Plan = TypeVar("_Plan")


def run_users(runner: Any, users: int, begin: Callable[[], object] | None = None) -> tuple[float, float]:
    """Start the users of a local runner, and wait until all have stopped by themselves.

    Args:
        runner: of Locust.
        users: how many.
        begin: called just before the first one starts.

    Returns:
        how far the wall clock and the monotonic clock parted, in seconds, and the processor time of this
        process as a share of one core.
    """
    # No collection meanwhile: it would hit one request or the other.
    gc.collect()
    gc.disable()
    if begin is not None:
        begin()
    wall, steady, cpu = time.time(), time.monotonic(), time.process_time()
    runner.start(users, spawn_rate=max(users, 1))
    runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    elapsed = max(time.monotonic() - steady, 1e-9)
    jump = abs((time.time() - wall) - elapsed)
    share = (time.process_time() - cpu) / elapsed
    gc.enable()
    runner.quit()
    return jump, share


def serve_plans(kind: type[_Plan], run: Callable[[_Plan], object]) -> None:
    """Run every plan that comes on stdin, a line each, and answer each with a line."""
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(run(decode_json(line, kind))) + b"\n")
        sys.stdout.buffer.flush()
