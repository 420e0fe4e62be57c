"""What of the machine this process may use: processors (affinity mask, quota, run queue) and memory."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

_ROOT = Path("/")
# Three numbers: nanoseconds on a processor, nanoseconds waiting for one, turns (Linux,
# Documentation/scheduler/sched-stats.rst). Opened by a thread, the file goes on to be about that thread.
SCHEDSTAT = "/proc/thread-self/schedstat"
_LONGEST = 80  # of three numbers of 64 bits


class RunQueue(threading.local):
    """How long the calling thread has ever waited for a processor; one file is open for each thread.

    Args:
        path: the kernel's figures of the calling thread.
    """

    def __init__(self, path: str = SCHEDSTAT) -> None:
        self._fd: int | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # not Linux, a kernel without CONFIG_SCHED_INFO, a sandbox

    @property
    def is_known(self) -> bool:
        """Whether the kernel reports it."""
        return self._fd is not None

    def read_ns(self) -> int:
        """Nanoseconds; takes 1.5 µs. 0 where it is not known."""
        return 0 if self._fd is None else int(os.pread(self._fd, _LONGEST, 0).split()[1])


def count_cpus(root: Path = _ROOT) -> int:
    """Processors of the affinity mask, cut down to the cgroup's CPU quota (rounded up), at least 1.

    ``root`` is where ``/sys`` and ``/proc`` are looked for. Both cgroup versions are understood,
    inside a container (the group is mounted as the root) and outside (it is named by ``/proc``);
    the tightest quota on the way up counts.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min([affinity, *quotas]))


def find_memory_bytes(root: Path = _ROOT) -> int | None:
    """The tightest memory limit of the cgroups that bind this process, in bytes; None: there is none.

    The kernel kills a process that needs more, without a message.
    """
    limits = [
        limit
        for folder in _group_folders(root, "memory")
        for limit in (_read_bytes(folder / "memory.max"), _read_bytes(folder / "memory.limit_in_bytes"))
        if limit is not None
    ]
    return min(limits, default=None)


def _read_bytes(path: Path) -> int | None:
    """A number of bytes; None for "max", and for the number near 2**63 that means it in version 1."""
    words = _read_words(path)
    limit = int(words[0]) if words and words[0].isdecimal() else 2**63
    return limit if limit < 2**62 else None


def _quotas(root: Path) -> list[float]:
    """The CPU quotas, in processors: a quota over a period, both in microseconds.

    Version 2: "quota period" or "max period" in one file. Version 1: two files, and -1 or 0 for no limit.
    """
    found = []
    for folder in _group_folders(root, "cpu"):
        old = _read_words(folder / "cpu.cfs_quota_us") + _read_words(folder / "cpu.cfs_period_us")
        for words, least in ((_read_words(folder / "cpu.max"), 0), (old, 1)):
            if len(words) == 2 and all(map(str.isdecimal, words)):
                quota, period = map(int, words)
                found += [quota / period] if quota >= least and period else []
    return found


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").split()
    except (OSError, ValueError):
        return []


def _group_folders(root: Path, controller: str) -> list[Path]:
    """Every folder whose limits bind this process: its own group and the groups above it."""
    mounts = {"": root / "sys/fs/cgroup", controller: root / "sys/fs/cgroup" / controller}
    folders = list(mounts.values())
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, group = line.split(":", 2)  # hierarchy:controllers:/group, see cgroups(7)
        kind = controller if controller in controllers.split(",") else controllers
        if kind in mounts:
            steps = [step for step in group.split("/") if step not in {"", ".", ".."}]
            folders += [mounts[kind].joinpath(*steps[: end + 1]) for end in range(len(steps))]
    return folders
