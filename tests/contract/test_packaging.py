"""Lock files, extras and images say the same thing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import registry

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "requirements").glob("*.txt"))}


def locked(role: str) -> set[str]:
    """Names of the packages that a role's lock file pins."""
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", LOCKS[role], flags=re.MULTILINE))


def direct(role: str) -> set[str]:
    """Names of the packages that a role's extra asks for."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][role]]
    return {re.split(r"[<>=\[; ]", line)[0] for line in wanted} - {"timberline"}


def test_there_is_a_lock_file_for_every_role() -> None:
    """An extra without a lock file cannot be installed twice alike."""
    assert set(LOCKS) == {"serve", "train", "bench", "dev"}


@pytest.mark.parametrize("role", sorted(LOCKS))
def test_lock_files_hold_every_direct_dependency_with_hashes(role: str) -> None:
    """A stale lock file would install something else than pyproject.toml asks for."""
    assert direct(role) <= locked(role)
    entries = re.split(r"\n(?=[a-z0-9])", LOCKS[role].strip())
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("role", sorted(LOCKS))
def test_lock_files_name_no_index_host(role: str) -> None:
    """Which index is asked is the user's own configuration."""
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", LOCKS[role]) == []


def test_the_serve_environment_has_nothing_of_training() -> None:
    """What faces the outside world carries no training stack."""
    heavy = {"tensorflow", "keras", "duckdb", "pyarrow", "onnx", "tf2onnx", "kaggle", "sqlglot", "locust"}
    assert locked("serve") & heavy == set()


def test_roles_agree_on_versions() -> None:
    """Gate and service must run the library versions that the development tests ran."""
    everything = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ \\]+)", LOCKS["dev"], flags=re.MULTILINE))
    for role in ("serve", "train", "bench"):
        pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ \\]+)", LOCKS[role], flags=re.MULTILINE)
        assert [(name, version) for name, version in pins if f"{name}=={version}" not in LOCKS["dev"]] == []
    assert everything["onnxruntime"]


def test_the_package_and_the_project_have_one_version() -> None:
    """The version stands in receipts; two of them would make a stale result look current."""
    assert PROJECT["version"] == registry.__version__
