"""How long the proofs of tests/soak and the histories of a registry are, and what they measure of a process.

``make soak`` sets ``TIMBERLINE_SOAK=full``; without it, as in ``make test``, they are the same in small.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple


class Sizes(NamedTuple):
    """How much each proof does."""

    requests: int  # over moves and restarts; more are sent if these take longer
    moves: int
    restarts: int
    bodies: int  # fuzzed
    trees: int  # of the seeds for those, drawn by hypothesis
    documented: int  # the same, by schemathesis
    living_requests: int  # over swaps, for leaks
    living_swaps: int
    histories: int  # of a registry
    steps: int  # of each
    bucket_histories: int  # the same in a bucket
    bucket_steps: int
    racers: int  # processes that change a registry at the same moment
    races: int  # rounds of them


_FULL = Sizes(
    requests=100_000,
    moves=20,
    restarts=20,
    bodies=1_000_000,
    trees=5_000,
    documented=1_000,
    living_requests=50_000,
    living_swaps=24,
    histories=3_000,
    steps=40,
    bucket_histories=60,
    bucket_steps=40,
    racers=8,
    races=60,
)
_REDUCED = Sizes(
    requests=3_000,
    moves=4,
    restarts=3,
    bodies=5_000,
    trees=150,
    documented=50,
    living_requests=2_000,
    living_swaps=6,
    histories=40,
    steps=25,
    bucket_histories=4,
    bucket_steps=15,
    racers=4,
    races=5,
)
IS_FULL = os.environ.get("TIMBERLINE_SOAK") == "full"
SIZES = _FULL if IS_FULL else _REDUCED

# What a proof's process may grow by after its warm-up.
MOST_GROWTH_BYTES = 10 * 1024 * 1024


class Footprint(NamedTuple):
    """What a process holds."""

    resident_bytes: int
    file_descriptors: int
    threads: int


def measure_footprint(pid: int) -> Footprint:
    """Of a running process, from /proc (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return Footprint(
        resident_bytes=int(fields["VmRSS"].split()[0]) * 1024,
        file_descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(fields["Threads"]),
    )


class Summary:
    """What a proof found, for whoever runs it; its seconds begin when it is made."""

    def __init__(self, proof: str) -> None:
        self._proof = proof
        self._started = time.monotonic()

    def show(self, **figures: object) -> None:
        """Print one line."""
        seconds = time.monotonic() - self._started
        parts = [f"{name} {_show(value)}" for name, value in figures.items()]
        print(f"\n{self._proof}: {', '.join(parts)}, {seconds:.0f} s", flush=True)


def show_bytes(count: float) -> str:
    """Mebibytes, as in ``97.3 MiB``."""
    return f"{count / 2**20:.1f} MiB"


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
