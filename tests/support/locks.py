"""Lock files read by a real pip, against a folder of empty wheels that stands for a later index.

Of every pin there are two wheels: the pinned version, and a later one that asks for the same. What a
pinned package asks for is read from the environment of the tests; of rivals and foreign clients, which
are not installed there, from recorded_requirements.json. ``python -m tests.support.locks`` writes that
file anew, with the index at hand; `make lock` of one of them needs it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from tests.support.pips import ROOT, find_pip, list_pips

REQUIREMENTS = ROOT / "requirements"
RECORD = Path(__file__).with_name("recorded_requirements.json")
PYTHONS = ("3.11", "3.12", "3.13")
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(\[[^\]]+\])?==([^ \\]+)(?: ; ([^\\\n]+?))? \\$", re.MULTILINE)


@dataclass(frozen=True)
class Pin:
    """One entry of a lock file; ``extras`` with their brackets, ``marker`` without its semicolon."""

    name: str
    extras: str
    version: str
    marker: str

    @property
    def is_for_here(self) -> bool:
        """Whether this Python on this machine installs it."""
        return not self.marker or Marker(self.marker).evaluate()

    def is_for(self, python: str) -> bool:
        """Whether another Python, as in 3.12, installs it on this machine."""
        here = {"python_version": python, "python_full_version": f"{python}.0"}
        return not self.marker or Marker(self.marker).evaluate(here)

    @property
    def later(self) -> str:
        """A version after the pinned one, within any range that allows the pinned one."""
        base, _, post = self.version.partition(".post")
        return f"{base}.post{int(post or 0) + 1}"


def list_locks() -> list[Path]:
    """Every lock file: of the roles, of the rivals and of foreign clients."""
    return sorted(REQUIREMENTS.rglob("*.txt"))


def parse_lock(text: str) -> list[Pin]:
    """The pins of a lock file, without their hashes."""
    return [
        Pin(name, extras or "", version, marker or "") for name, extras, version, marker in _PIN.findall(text)
    ]


def read_requirements(lock: Path, pins: Iterable[Pin]) -> dict[Pin, list[str]]:
    """What each pinned package that is for here asks for, as in its wheel's ``Requires-Dist``.

    Raises:
        AssertionError: the environment, or the record of the others, is of another lock file.
    """
    recorded = json.loads(RECORD.read_text("utf-8")) if lock.parent != REQUIREMENTS else None
    found = {}
    for pin in pins:
        if recorded is not None:
            key = f"{pin.name}=={pin.version}"
            assert key in recorded, f"{key} is not in {RECORD.name}: run python -m tests.support.locks"
            found[pin] = recorded[key]
        else:
            installed = importlib.metadata.distribution(pin.name)
            assert installed.version == pin.version, f"{pin.name}: the environment is of another lock file"
            found[pin] = installed.requires or []
    return found


def write_index(folder: Path, requirements: Mapping[Pin, Iterable[str]]) -> dict[Pin, str]:
    """A package index of empty wheels, one of each pin's version and a later one; digests of the former."""
    digests = {}
    for pin, lines in requirements.items():
        page = folder / pin.name
        page.mkdir(parents=True, exist_ok=True)
        wheels = [_write_wheel(page, pin, version, lines) for version in (pin.version, pin.later)]
        links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>\n' for wheel in wheels)
        (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>", "utf-8")
        digests[pin] = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    return digests


def _write_wheel(folder: Path, pin: Pin, version: str, requirements: Iterable[str]) -> Path:
    name = re.sub(r"[-.]+", "_", pin.name)
    info = f"{name}-{version}.dist-info"
    lines = [f"Requires-Dist: {line}" for line in requirements]
    extras = sorted(set(re.findall(r"extra\s*==\s*['\"]([^'\"]+)", "\n".join(lines))))
    head = ["Metadata-Version: 2.1", f"Name: {pin.name}", f"Version: {version}"]
    metadata = [*head, *(f"Provides-Extra: {extra}" for extra in extras), *lines]
    path = folder / f"{name}-{version}-py3-none-any.whl"
    files = {
        "METADATA": "\n".join(metadata) + "\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            # Without a date of its own it has that of this moment, and written again another digest.
            wheel.writestr(zipfile.ZipInfo(f"{info}/{file}"), text)
    return path


def write_lock(path: Path, digests: Mapping[Pin, str]) -> None:
    """The same lock file with the digests of the empty wheels."""
    lines = [
        f"{pin.name}{pin.extras}=={pin.version} --hash=sha256:{digest}" for pin, digest in digests.items()
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def resolve(version: str, lock: Path, index: Path) -> subprocess.CompletedProcess[str]:
    """Let pip ``version`` say what it would install from ``lock`` into an empty environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PYTHONPATH": str(find_pip(version)), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--index-url", index.as_uri()]
    command += ["--require-hashes", "-r", str(lock)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main() -> None:
    """Write `RECORD` anew: what rivals' and foreign clients' pinned packages ask for, on every Python."""
    record: dict[str, list[str]] = {}
    for lock in (path for path in list_locks() if path.parent != REQUIREMENTS):
        for python in PYTHONS:
            for item in _report(lock, python):
                metadata = item["metadata"]
                key = f"{re.sub(r'[-_.]+', '-', metadata['name']).lower()}=={metadata['version']}"
                record[key] = metadata.get("requires_dist", [])
    plain = [line for lines in record.values() for line in lines if _is_wanted(line, set())]
    asked = re.findall(r"^[\w.-]+\s*\[([^\]]+)\]", "\n".join(plain), flags=re.MULTILINE)
    extras = {extra.strip() for named in asked for extra in named.split(",")}
    kept = {
        key: [line for line in lines if _is_wanted(line, extras)] for key, lines in sorted(record.items())
    }
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def _report(lock: Path, python: str) -> list[dict[str, Any]]:
    """What pip would install of a lock file on another Python; pip takes markers for its own."""
    entries = re.split(r"^(?=\S)", lock.read_text("utf-8"), flags=re.MULTILINE)
    wanted = [entry for entry in entries if any(pin.is_for(python) for pin in parse_lock(entry))]
    with tempfile.TemporaryDirectory() as folder:
        report, plain = Path(folder) / "report.json", Path(folder) / "lock.txt"
        plain.write_text(re.sub(r" ; [^\\\n]+", " ", "".join(wanted)), "utf-8")
        # The newest pip reads an index's metadata and leaves the wheels where they are.
        environment = os.environ | {"PYTHONPATH": str(find_pip(list_pips()[-1]))}
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--python-version", python, "--no-deps", "--require-hashes"]
        # The clients' tests run on 3.11; a lock file of theirs may hold what another Python refuses.
        command += ["--ignore-requires-python"]
        subprocess.run([*command, "-r", str(plain), "--report", str(report)], env=environment, check=True)
        installed: list[dict[str, Any]] = json.loads(report.read_bytes())["install"]
    return installed


def _is_wanted(requirement: str, extras: set[str]) -> bool:
    """Whether a requirement is of no extra, or of one that some package asks for."""
    named = re.findall(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
    return not named or bool(extras.intersection(named))


if __name__ == "__main__":
    main()
