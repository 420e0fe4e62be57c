"""Processor time of other processes, in nanoseconds, and their memory.

The kernel's clock of a process counts what all of its threads ran, user and system, also of those
that have ended; unlike ``/proc/<pid>/stat`` it is not rounded to ticks of 10 ms. Where there is no such
clock, `read_cpu_s` takes what psutil tells.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from timberline.benchmarks.errors import BenchmarkError

# CPUCLOCK_SCHED of <linux/posix-timers.h>: what the scheduler ran, as clock_getcpuclockid(3) makes it.
_SCHEDULED = 2


def read_cpu_s(pid: int) -> float:
    """Seconds of processor time that all threads of the process have used so far, ended ones too.

    Raises:
        BenchmarkError: there is no such process (any longer), or nothing tells its time.
    """
    try:
        if sys.platform == "linux":
            return time.clock_gettime_ns((~pid << 3) | _SCHEDULED) / 1e9
        return sum(psutil.Process(pid).cpu_times()[:2])
    except (OSError, psutil.Error):
        raise BenchmarkError("ended while it was measured", where=f"process {pid}") from None


def read_each_cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """`read_cpu_s` of each process by its name; without those that have ended."""
    found = {}
    for name, pid in pids.items():
        with contextlib.suppress(BenchmarkError):
            found[name] = read_cpu_s(pid)
    return found


def read_wait_s(pid: int) -> float:
    """Seconds in which the process's threads could have run, but others had the processor."""
    waited = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            waited += int((task / "schedstat").read_bytes().split()[1])
    return waited / 1e9


def list_processes(pid: int) -> list[int]:
    """The process and everything below it, now; the process itself comes first."""
    return [pid, *sorted(child.pid for child in psutil.Process(pid).children(recursive=True))]


def read_resident_bytes(pids: Sequence[int]) -> list[int]:
    """Memory of each process now (RSS; pages that several share count for each)."""
    return [int(psutil.Process(pid).memory_info().rss) for pid in pids]


class ProcessMemory(NamedTuple):
    """Memory of one process: now (RSS), and the most since it was started (VmHWM)."""

    resident_bytes: int
    peak_bytes: int


def read_memory(pid: int) -> ProcessMemory:
    """Memory of the process, now and at its peak; Linux only.

    Raises:
        BenchmarkError: there is no such process (any longer).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return ProcessMemory(*(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")))
    except (OSError, KeyError):  # a process that has ended keeps its file for a moment, without these
        raise BenchmarkError("ended while it was measured", where=f"process {pid}") from None
