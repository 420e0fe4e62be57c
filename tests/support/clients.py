"""Foreign clients, each in an environment of its own under ``var/clients``, made when it is first needed.

What is newest when ``make lock`` runs is what they are tested with; a client of ours would agree with
our service about every mistake.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.service import DEADLINE_S, ROOT
from timberline.benchmarks.dev.competitors.environments import make_environment

LOCKS = ROOT / "requirements" / "clients"
ENVIRONMENTS = ROOT / "var" / "clients"
CHILDREN = ROOT / "tests" / "clients"


def find_client_python(name: str) -> Path:
    """The interpreter of the client ``name``, installed from ``requirements/clients/<name>.txt``."""
    return make_environment(ENVIRONMENTS, name, LOCKS)


def ask_as(name: str, script: str, **order: Any) -> Any:
    """What a script of ``tests/clients`` saw, run by the client ``name``'s interpreter with ``order``."""
    command = [str(find_client_python(name)), str(CHILDREN / script), json.dumps(order)]
    # Outside of the checkout: nothing of ours can be imported by mistake.
    child = subprocess.run(
        command, cwd=ENVIRONMENTS, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def find_node_programs(name: str) -> Path:
    """The folder of the programs that ``requirements/clients/<name>/package-lock.json`` pins."""
    source, folder = LOCKS / name, ENVIRONMENTS / name
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "installed.sha256"
    if not (stamp.is_file() and stamp.read_text("ascii") == digest):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(source / file, folder)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        stamp.write_text(digest, "ascii")
    return folder / "node_modules" / ".bin"


def run(command: list[str], folder: Path) -> str:
    """The standard output of a program that must end well, run in ``folder``."""
    environment = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
