"""This project's sdist and wheel, built from a copy: a checkout's own build folder may hold old modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from tests.support.pips import ROOT

_BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


def copy_sources(folder: Path) -> Path:
    """What a build reads of the checkout, links as links, in ``folder``."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (
        "src",
        *(link.name for link in (ROOT / "src" / "timberline").iterdir() if link.is_symlink()),
    ):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=left_out)
    return folder


def build(kind: Literal["sdist", "wheel"], source: Path, folder: Path) -> Path:
    """Build the tree ``source`` into ``folder`` with this environment's setuptools."""
    command = [sys.executable, "-c", _BUILD.format(kind), str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def install_project(python: Path, scratch: Path) -> None:
    """Install the wheel, and nothing else, into the environment of ``python``."""
    (scratch / "sources").mkdir()
    wheel = build("wheel", copy_sources(scratch / "sources"), scratch)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", str(wheel)], check=True)
