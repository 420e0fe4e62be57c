"""Other pips than the one of this environment: the oldest that users bring, and the newest.

`tests/support/pips.txt` pins them. They come through this environment's own pip, so that the user's
index, proxy and certificates hold, once, and are kept under var/pips. ``TIMBERLINE_TEST_PIP`` names
the only one to try, as in ``TIMBERLINE_TEST_PIP=23.2.1 make test``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("pips.txt")
KEPT = ROOT / "var" / "pips"
VARIABLE = "TIMBERLINE_TEST_PIP"
# Before any test points pip at a folder of its own.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
# The pip of each Python's first release; older ones do not start there (3.12 has no `imp`).
_FIRST = {(3, 11): "22.3", (3, 12): "23.2.1", (3, 13): "24.2"}


def list_pips() -> list[str]:
    """The pinned versions that run on this Python, oldest first; or the one that the variable names."""
    pinned = re.findall(r"^pip==(\S+)", PINS.read_text("utf-8"), flags=re.MULTILINE)
    usable = pinned[pinned.index(_FIRST[sys.version_info[:2]]) :]
    named = os.environ.get(VARIABLE)
    if named and named not in usable:
        raise pytest.UsageError(f"{VARIABLE}: found {named!r}, expected one of {', '.join(usable)}")
    return [named] if named else usable


def list_oldest_and_newest() -> list[str]:
    """The two ends of `list_pips`."""
    pips = list_pips()
    return list(dict.fromkeys([pips[0], pips[-1]]))


def find_pip(version: str) -> Path:
    """The folder to put on PYTHONPATH, so that ``python -m pip`` is pip ``version``."""
    folder = KEPT / version
    if not folder.is_dir():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT, prefix=".partial-") as name:
            wheel = _download(version, Path(name))
            unpacked = Path(name) / "unpacked"
            zipfile.ZipFile(wheel).extractall(unpacked)
            if not folder.is_dir():
                unpacked.rename(folder)
    return folder


def use_pip(monkeypatch: pytest.MonkeyPatch, version: str, links: str) -> None:
    """Have ``python -m pip`` be pip ``version``, which looks for packages at ``links`` and nowhere else."""
    monkeypatch.setenv("PYTHONPATH", str(find_pip(version)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


def _download(version: str, folder: Path) -> Path:
    pin = next(line for line in PINS.read_text("utf-8").splitlines() if line.startswith(f"pip=={version} "))
    requirement = folder / "requirement.txt"
    requirement.write_text(pin + "\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--require-hashes", "-r", str(requirement), "--dest", str(folder)]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(
            f"pip {version} could not be downloaded; these tests need the package index once, and keep what "
            f"they got in {KEPT}: {done.stderr.strip()[-400:]}",
            pytrace=False,
        )
    return next(folder.glob("pip-*.whl"))
