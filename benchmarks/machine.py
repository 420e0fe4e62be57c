"""The class of machine that something was measured on: what decides how noisy it is, and no more.

Figures of one class may be kept and compared, those of two may not. Nothing here names one machine:
two runners of the same kind have the same class.
"""

from __future__ import annotations

import platform
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from timberline.registry.runtime.cpus import count_cpus

_ROOT = Path("/")
UNKNOWN_CPU = "unknown"

# The vendor ids of cpuid, as people call them; any other one is slugged as it stands.
_VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
# What stands beside every model: the clock ("@ 2.20GHz"), trade marks, the count of cores of the whole chip.
_NOISE = re.compile(r"@.*$|\((?:r|tm|c)\)|\b\w+-core\b|\bprocessor\b|\bcpu\b", re.IGNORECASE)


def machine_class(root: Path = _ROOT) -> str:
    """A short name of the kind of machine, such as ``linux-x86_64-2cpu-amd-epyc-7b13``.

    System, architecture, usable processors (not those of the host), processor model. A machine
    without run-queue times ends in ``-noschedstat``, for its spreads are those of other quantities.
    Stable over reboots and kernel updates. ASCII: lower-case letters, digits, ``-`` and ``_``.

    Args:
        root: where ``/proc`` and ``/sys`` are looked for.
    """
    return describe_machine(root)["class"]


def describe_machine(root: Path = _ROOT) -> dict[str, str]:
    """The class and what it is made of, and the Python version, as a verdict keeps them."""
    facts = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": name_cpu(_read(root / "proc/cpuinfo")),
        "cpu_count": str(count_cpus(root)),
        "schedstat": "yes" if has_schedstat(root) else "no",
    }
    return {"class": classify(facts), **facts, "python": platform.python_version()}


def classify(facts: Mapping[str, str]) -> str:
    """The class of a machine with these facts; see `describe_machine` for their names."""
    parts = [facts["system"], facts["architecture"], facts["cpu_count"] + "cpu", facts["cpu"]]
    if facts["schedstat"] != "yes":
        parts.append("noschedstat")
    return "-".join(_slug(part) for part in parts)


def name_cpu(cpuinfo: str) -> str:
    """The processor's model as a slug: ``amd-epyc-7b13``, ``intel-xeon-e5-2650-v3``, ``arm-41-d0c``.

    A name without a number ("AMD EPYC", as hypervisors report it) is completed by the family and
    model numbers, for it stands for several generations. arm64 has no names but the codes of
    implementer and part; a chip with two kinds of cores is named by both.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``; see proc_cpuinfo(5).

    Returns:
        `UNKNOWN_CPU` for a text with neither name nor codes.
    """
    names = sorted({_name_core(_fields(block)) for block in cpuinfo.split("\n\n")} - {""})
    return "-".join(names) or UNKNOWN_CPU


def has_schedstat(root: Path = _ROOT) -> bool:
    """Whether the kernel reports how long a thread waited for a processor.

    A kernel built without scheduler information has no such file, or one of zeros; see the
    kernel's documentation of scheduler statistics, "/proc/<pid>/schedstat".
    """
    numbers = _read(root / f"proc/self/task/{threading.get_native_id()}/schedstat").split()
    return any(number != "0" for number in numbers)


def _name_core(fields: Mapping[str, str]) -> str:
    if "CPU part" in fields:
        codes = (fields.get("CPU implementer", ""), fields["CPU part"])
        return _slug("-".join(("arm", *(code.removeprefix("0x") for code in codes))))
    name = _slug(_NOISE.sub(" ", fields.get("model name", "")))
    if not name:
        return ""
    vendor = _slug(_VENDORS.get(fields.get("vendor_id", ""), fields.get("vendor_id", "")))
    if vendor and not name.startswith(vendor):
        name = f"{vendor}-{name}"
    if not re.search(r"\d", name):
        name = "-".join((name, fields.get("cpu family", ""), fields.get("model", ""))).rstrip("-")
    return name


def _fields(block: str) -> dict[str, str]:
    """The "name : value" lines of one processor."""
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def _read(path: Path) -> str:
    """The file's text; empty where there is none, for these files are one kernel's."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
