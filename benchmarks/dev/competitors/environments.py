"""Virtual environments of foreign programs: made from their own lock files, never mixed with ours.

The competitors have theirs here, and the tests of foreign clients make theirs the same way.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

from timberline.benchmarks.errors import BenchmarkError
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("benchmarks")
LOCKS = Path(__file__).resolve().parents[3] / "requirements" / "rivals"
# Written last, so that an environment without it, or of another lock file, is made again.
_STAMP = "installed.sha256"


def list_competitors() -> list[str]:
    """The competitors that need an environment: each has a lock file."""
    return sorted(path.stem for path in LOCKS.glob("*.txt"))


def find_python(environments: Path, name: str, locks: Path = LOCKS) -> Path | None:
    """The interpreter of an environment, or None where there is none of this lock file."""
    folder = environments / name
    stamp = folder / _STAMP
    is_current = stamp.is_file() and stamp.read_text("ascii") == _digest(locks / f"{name}.txt")
    return (folder / "bin" / "python").absolute() if is_current else None


def make_environment(environments: Path, name: str, locks: Path = LOCKS) -> Path:
    """Install what ``name``'s lock file in ``locks`` pins, unless it is there; its interpreter.

    Raises:
        BenchmarkError: it could not be installed; the message has the end of the installer's log.
    """
    if python := find_python(environments, name, locks):
        return python
    folder, lock = environments / name, locks / f"{name}.txt"
    log_event(_logger, "installing an environment", name=name, folder=str(folder))
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    install += ["--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    _run(install, name)
    (folder / _STAMP).write_text(_digest(lock), "ascii")
    return (folder / "bin" / "python").absolute()


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchmarkError(
            f"cannot be installed: {done.stderr.decode('utf-8', 'replace').strip()[-500:]}", where=name
        )
