"""How many processors and how much memory a container may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from timberline.registry.runtime.cpus import count_cpus, find_memory_bytes

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(root: Path, files: dict[str, str]) -> None:
    """Lay ``files`` out under ``root``."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/cpu.max": "90000 100000\n"},
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "100000 100000\n",
        },
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "1000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2 inside", "v1 inside", "v2 outside", "v2 group above", "v1 outside"],
)
def test_a_quota_of_up_to_one_processor_means_one(tmp_path: Path, files: dict[str, str]) -> None:
    """More threads than the quota only take it from each other and are then throttled together."""
    write(tmp_path, files)
    assert count_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sys/fs/cgroup/memory.max": "536870912\n"}, 2**29),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n"}, 2**29),
        ({"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/memory.max": "1000\n"}, 1000),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/memory.max": "2000\n",
                "sys/fs/cgroup/pod/memory.max": "1000\n",
            },
            1000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/other\n4:memory:/box\n",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "3000\n",
                "sys/fs/cgroup/memory/other/memory.limit_in_bytes": "1\n",
            },
            3000,
        ),
        ({}, None),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"sys/fs/cgroup/memory.max": "what\n"}, None),
    ],
    ids=[
        "v2",
        "v1",
        "v2 outside",
        "v2 above",
        "v1 outside",
        "none",
        "v2 no limit",
        "v1 no limit",
        "unreadable",
    ],
)
def test_the_tightest_memory_limit_counts(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    """The kernel kills a process at any of them, and without a word."""
    write(tmp_path, files)
    assert find_memory_bytes(tmp_path) == limit


LEVELS = ("", "pod", "pod/box")
V1 = "4:cpu,cpuacct:/pod/box\n"
V2 = "0::/pod/box\n"


@pytest.mark.parametrize("tightest", LEVELS, ids=["root", "pod", "box"])
@pytest.mark.parametrize("line", [V1, V2], ids=["v1", "v2"])
def test_the_tightest_quota_of_nested_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, tightest: str
) -> None:
    """A quota of a pod binds its containers, whatever their own says; each level in turn is the tightest."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    quotas = {level: 3 if level == tightest else 7 + number for number, level in enumerate(LEVELS)}
    files = {"proc/self/cgroup": line}
    for level, processors in quotas.items():
        # A fraction of a processor is rounded up.
        quota, folder = processors * 100_000 - 50_000, "sys/fs/cgroup"
        if line == V2:
            files[f"{folder}/{level}/cpu.max"] = f"{quota} 100000\n"
        else:
            files[f"{folder}/cpu/{level}/cpu.cfs_quota_us"] = f"{quota}\n"
            files[f"{folder}/cpu/{level}/cpu.cfs_period_us"] = "100000\n"
    write(tmp_path, files)
    assert count_cpus(tmp_path) == 3


def test_both_versions_of_groups_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may run both at once, and either may hold the processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for narrow in (V1, V2):
        root = tmp_path / ("v1" if narrow == V1 else "v2")
        old, new = ("200000", "900000") if narrow == V1 else ("900000", "200000")
        files = {
            "proc/self/cgroup": f"{V1}2:memory:/pod\n{V2}",
            "sys/fs/cgroup/cpu/pod/box/cpu.cfs_quota_us": f"{old}\n",
            "sys/fs/cgroup/cpu/pod/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/pod/box/cpu.max": f"{new} 100000\n",
        }
        write(root, files)
        assert count_cpus(root) == 2


@pytest.mark.parametrize(
    ("group", "place"),
    [("/../../pod", "pod"), ("/./pod//box/", "pod/box"), ("/pod:1/box", "pod:1"), ("/", "")],
)
def test_a_group_is_looked_for_below_the_mount(tmp_path: Path, group: str, place: str) -> None:
    """From within a namespace its path may climb out of it, and its name may hold a colon."""
    files = {
        "proc/self/cgroup": f"0::{group}\n",
        f"sys/fs/cgroup/{place}/cpu.max": "100000 100000\n",
    }
    write(tmp_path, files)
    assert count_cpus(tmp_path) == 1


def test_what_is_not_below_the_mount_binds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of that name elsewhere are no quotas of this process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    files = {"proc/self/cgroup": "0::/../..\n", "sys/fs/cpu.max": "100000 100000\n"}
    write(tmp_path, {**files, "sys/cpu.max": "100000 100000\n"})
    assert count_cpus(tmp_path) == 64


@pytest.mark.parametrize(("quota", "count"), [("0", 64), ("-1", 64), ("1", 1), ("100001", 2)])
def test_an_old_quota_of_nothing_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, count: int
) -> None:
    """The kernel says -1 for no limit; a microsecond is a limit, and a fraction is rounded up."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    folder = "sys/fs/cgroup/cpu"
    write(tmp_path, {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"})
    assert count_cpus(tmp_path) == count


def test_there_is_always_one_processor(tmp_path: Path) -> None:
    """No quota is so tight that nothing may run."""
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "0 100000\n"})
    assert count_cpus(tmp_path) == 1


@pytest.mark.parametrize(("reported", "count"), [(6, 6), (None, 1)])
def test_systems_without_an_affinity_count_what_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: int | None, count: int
) -> None:
    """macOS and Windows; and a system that does not know has one."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: reported)
    assert count_cpus(tmp_path) == count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound there")
def test_the_affinity_is_that_of_this_process(tmp_path: Path) -> None:
    """A process that was bound to one processor has one, whatever others have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert count_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"sys/fs/cgroup/cpu.max": "99900000 100000\n"},
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        {"sys/fs/cgroup/cpu.max": "what\n"},
    ],
    ids=["no groups", "no limit", "wide limit", "v1 no limit", "unreadable"],
)
def test_without_a_tighter_quota_the_affinity_counts(tmp_path: Path, files: dict[str, str]) -> None:
    """Outside of a container, and on systems that have no such groups."""
    write(tmp_path, files)
    assert count_cpus(tmp_path) == AFFINITY
