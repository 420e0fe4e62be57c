"""The class of a machine."""

from __future__ import annotations

import platform
import re
import threading
from pathlib import Path

import pytest

from timberline.benchmarks.machine import (
    UNKNOWN_CPU,
    classify,
    describe_machine,
    has_schedstat,
    machine_class,
    name_cpu,
)

AMD = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC 7B13 64-Core Processor
stepping\t: 0
cpu MHz\t\t: 2449.998
siblings\t: 2
"""
AMD_HIDDEN = AMD.replace("AMD EPYC 7B13 64-Core Processor", "AMD EPYC")
INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 63
model name\t: Intel(R) Xeon(R) CPU E5-2650 v3 @ 2.30GHz
"""
INTEL_HIDDEN = INTEL.replace("CPU E5-2650 v3 @ 2.30GHz", "CPU @ 2.20GHz").replace(": 63", ": 79")
QEMU = INTEL.replace("Intel(R) Xeon(R) CPU E5-2650 v3 @ 2.30GHz", "QEMU Virtual CPU version 2.5+")
# arm64 tells no "model name", and has its serial-like lines only on boards.
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""
BOARD = f"{ARM}\n{ARM.replace('0xd0c', '0xd03')}\nHardware\t: BCM2835\nSerial\t\t: 000000008210e7dd\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (AMD, "amd-epyc-7b13"),
        (AMD_HIDDEN, "amd-epyc-25-1"),
        (INTEL, "intel-xeon-e5-2650-v3"),
        (INTEL_HIDDEN, "intel-xeon-6-79"),
        (QEMU, "intel-qemu-virtual-version-2-5"),
        (ARM, "arm-41-d0c"),
        (BOARD, "arm-41-d03-arm-41-d0c"),
        ("", UNKNOWN_CPU),
        ("no such thing", UNKNOWN_CPU),
    ],
)
def test_processor_is_named_by_its_model(cpuinfo: str, name: str) -> None:
    """Two generations under one name would share a spread that belongs to one of them."""
    assert name_cpu(cpuinfo) == name


def test_name_is_the_same_for_any_number_of_cores_and_any_clock() -> None:
    """The clock varies from one reading to the next; a class that follows it is never met again."""
    faster = AMD.replace("2449.998", "3243.100").replace("processor\t: 0", "processor\t: 1")
    assert name_cpu(AMD + "\n" + faster) == name_cpu(AMD)


def test_class_says_what_decides_the_noise() -> None:
    """Figures are looked up by it, so its form is a promise."""
    facts = {
        "system": "Linux",
        "architecture": "x86_64",
        "cpu": "amd-epyc-7b13",
        "cpu_count": "2",
        "schedstat": "yes",
    }
    assert classify(facts) == "linux-x86_64-2cpu-amd-epyc-7b13"
    assert classify({**facts, "schedstat": "no"}) == "linux-x86_64-2cpu-amd-epyc-7b13-noschedstat"


def _lay_out(root: Path, schedstat: str | None) -> None:
    thread = root / f"proc/self/task/{threading.get_native_id()}"
    thread.mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(AMD)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    if schedstat is not None:
        (thread / "schedstat").write_text(schedstat)


@pytest.mark.parametrize(("schedstat", "is_there"), [("812 35 4\n", True), ("0 0 0\n", False), (None, False)])
def test_run_queue_time_is_there_when_the_kernel_counts(
    tmp_path: Path, schedstat: str | None, is_there: bool
) -> None:
    """A kernel that prints zeros would make every wait look like none."""
    _lay_out(tmp_path, schedstat)
    assert has_schedstat(tmp_path) is is_there


def test_container_with_a_quota_is_the_smaller_machine(tmp_path: Path) -> None:
    """Two processors of a host with 64 are as noisy as two, whatever the host has."""
    _lay_out(tmp_path, "812 35 4\n")
    facts = describe_machine(tmp_path)
    assert (facts["cpu_count"], facts["cpu"], facts["schedstat"]) == ("1", "amd-epyc-7b13", "yes")
    assert "-1cpu-amd-epyc-7b13" in facts["class"]


def test_nothing_names_this_machine() -> None:
    """A verdict is published; host names do not belong into it."""
    assert machine_class() == describe_machine()["class"]
    assert re.fullmatch(r"[a-z0-9_-]+", machine_class())
    told = " ".join(describe_machine().values()).split()
    assert platform.node() not in told
