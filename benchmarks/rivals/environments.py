"""Virtual environments of the rivals: made from their own lock files, never mixed with ours."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import BenchmarkError
from registry.ground.logs import log_event

_logger = logging.getLogger("benchmarks")
LOCKS = Path(__file__).resolve().parents[2] / "requirements" / "rivals"
# Written last, so that an environment without it, or of another lock file, is made again.
_STAMP = "installed.sha256"


def list_rivals() -> list[str]:
    """The rivals that need an environment: each has a lock file."""
    return sorted(path.stem for path in LOCKS.glob("*.txt"))


def find_python(environments: Path, rival: str) -> Path | None:
    """The interpreter of a rival's environment, or None where there is none of this lock file."""
    folder = environments / rival
    stamp = folder / _STAMP
    is_current = stamp.is_file() and stamp.read_text("ascii") == _digest(rival)
    return (folder / "bin" / "python").absolute() if is_current else None


def make_environment(environments: Path, rival: str) -> Path:
    """Install a rival from its lock file, unless it is there; its interpreter.

    Raises:
        BenchmarkError: it could not be installed; told with the installer's last words.
    """
    if python := find_python(environments, rival):
        return python
    folder = environments / rival
    log_event(_logger, "installing a rival", rival=rival, folder=str(folder))
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], rival)
    lock = LOCKS / f"{rival}.txt"
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    install += ["--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    _run(install, rival)
    (folder / _STAMP).write_text(_digest(rival), "ascii")
    return (folder / "bin" / "python").absolute()


def _digest(rival: str) -> str:
    return hashlib.sha256((LOCKS / f"{rival}.txt").read_bytes()).hexdigest()


def _run(command: list[str], rival: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"cannot be installed: {done.stderr.strip()[-500:]}", where=rival)
