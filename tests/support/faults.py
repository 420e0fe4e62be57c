"""Processes on a file system that lacks something or fails: with a shim, or a real overlay where allowed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIM = Path(__file__).with_name("faulty_disk.c")
# What may be called so that a program mounts in a namespace of its own: as root, and as anybody else.
_NAMESPACES = (["unshare", "-m"], ["unshare", "-rm"])


def compile_shim(folder: Path) -> Path:
    """The library of `faulty_disk.c`, made in ``folder``."""
    library = folder / "faulty_disk.so"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(command, check=True)
    return library


def describe_fault(
    shim: Path, call: str, number: int, part: str = "", *, does: bool = False
) -> dict[str, str]:
    """The variables for a process whose ``call``s of a path with ``part`` fail with error ``number``.

    Args:
        shim: of `compile_shim`.
        call: one that `faulty_disk.c` knows.
        number: of `errno`.
        part: "" is part of every path.
        does: whether the call is done all the same.
    """
    fault = {"FAULT_CALL": call, "FAULT_ERRNO": str(number), "FAULT_PATH": part}
    return {"LD_PRELOAD": str(shim), **fault} | ({"FAULT_DOES": "1"} if does else {})


def run_python(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` to its end in the project's folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def find_namespace(folder: Path) -> list[str] | None:
    """The command to put before one that is to mount overlays; None where this is not allowed."""
    lower, upper, work, merged = (folder / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    for command in _NAMESPACES:
        if shutil.which("unshare") is None:
            return None
        mount = [*command, "mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
        if not subprocess.run(mount, capture_output=True, check=False).returncode:
            return command
    return None


def run_on_lower_layer(folder: Path, shim: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` with ``OVERLAY=1`` where it may mount one, else with the shim.

    The shim then does to the old folders in ``lower`` what overlayfs does to those of a lower layer.
    """
    folder.mkdir()
    namespace = find_namespace(folder)
    fault = {} if namespace else describe_fault(shim, "rename", errno.EXDEV, "/lower/")
    return subprocess.run(
        [*(namespace or []), sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **fault, "OVERLAY": "1" if namespace else ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
