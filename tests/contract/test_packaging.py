"""Lock files, extras and images say the same thing."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import registry
from registry.ground.quiet import NO_TELEMETRY
from tests.support.locks import parse_lock
from tests.support.roles import declared

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "requirements").glob("*.txt"))}

INSTALLERS = [
    *(ROOT / name for name in ("Makefile", ".ci/run", "Dockerfile.serve", "Dockerfile.train")),
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()),
    *(ROOT / name for name in ("benchmarks/rivals/environments.py", "tests/support/roles.py")),
]


def locked(role: str) -> set[tuple[str, str]]:
    """Names and versions of what a role's lock file pins."""
    return {(pin.name, pin.version) for pin in parse_lock(LOCKS[role])}


def test_there_is_a_lock_file_for_every_role() -> None:
    """An extra without a lock file cannot be installed twice alike."""
    assert set(LOCKS) == {"serve", "tools", "train", "bench", "dev"}


@pytest.mark.parametrize("role", sorted(LOCKS))
def test_lock_files_hold_every_direct_dependency_with_hashes(role: str) -> None:
    """A stale lock file would install something else than pyproject.toml asks for."""
    assert declared(role) <= {name for name, _ in locked(role)}
    entries = re.split(r"\n(?=[a-z0-9])", LOCKS[role].strip())
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("role", sorted(LOCKS))
def test_lock_files_name_no_index_host(role: str) -> None:
    """Which index is asked is the user's own configuration."""
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", LOCKS[role]) == []


def test_the_serve_environment_has_nothing_of_training() -> None:
    """What faces the outside world carries no training stack."""
    heavy = {"tensorflow", "keras", "duckdb", "pyarrow", "onnx", "tf2onnx", "kaggle", "sqlglot", "locust"}
    assert {name for name, _ in locked("serve")} & heavy == set()


def test_roles_agree_on_versions() -> None:
    """Gate and service must run the library versions that the development tests ran."""
    assert locked("serve")
    assert locked("tools") <= locked("train")
    assert locked("serve") | locked("train") | locked("bench") <= locked("dev")


def test_setup_installs_the_lock_file_with_the_pip_that_python_brings(tmp_path: Path) -> None:
    """A newer pip would hide from us what ends the first command of everybody else."""
    recipe = ["make", "--no-print-directory", "-n", "setup", f"VENV={tmp_path}/venv", "PYTHON=python3"]
    # Not with what the make that runs the tests was given.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    said = subprocess.run(
        recipe, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    commands = [line for line in said.splitlines() if "-c 'import sys" not in line]
    assert commands == [
        f"python3 -m venv {tmp_path}/venv",
        f"{tmp_path}/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes "
        "-r requirements/dev.txt",
        f"touch {tmp_path}/venv/.installed",
    ]


@pytest.mark.parametrize("path", INSTALLERS, ids=lambda path: path.name)
def test_nothing_that_installs_brings_a_pip_of_its_own(path: Path) -> None:
    """The same of CI, of the images, and of every environment that the project makes: nothing is upgraded,
    and what is installed is a lock file."""
    text = path.read_text("utf-8")
    assert (
        re.findall(r"--upgrade|\s-U\s|ensurepip|get-pip|virtualenv|\buv (?:venv|pip (?:install|sync))", text)
        == []
    )
    for arguments in re.findall(r"pip(?: --python \S+)? install((?:\\\n|[^\n])*)", text):
        assert "--require-hashes" in arguments, arguments


def test_the_package_and_the_project_have_one_version() -> None:
    """The version stands in receipts; two of them would make a stale result look current."""
    assert PROJECT["version"] == registry.__version__


@pytest.mark.parametrize("name", ["Dockerfile.serve", "Dockerfile.train"])
def test_an_image_forbids_usage_reports(name: str) -> None:
    """For whatever else is run in it: our own code forbids them by itself."""
    (environment,) = re.findall(
        r"^ENV ((?:\\\n|[^\n])*)$", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE
    )
    assert {f"{variable}={value}" for variable, value in NO_TELEMETRY.items()} <= set(environment.split())
