"""The hooks before a commit: they find what they are for, in the project's environment and without a network.

They run in a repository of their own, made of this checkout's files, as hooks may change files. mypy is left
out: it takes a minute there, and `make test` runs the same command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.pips import ROOT

CONFIG = ROOT / ".pre-commit-config.yaml"
PRE_COMMIT = [sys.executable, "-m", "pre_commit"]
HOOKS = yaml.safe_load(CONFIG.read_text("utf-8"))["repos"][0]["hooks"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """This checkout's files in an index of their own, with the environment of these tests as .venv."""
    copy = tmp_path / "copy"
    git = ["git", f"--git-dir={copy}/.git", "-c", "core.excludesFile="]
    for command in (
        ["git", "init", "--quiet", str(copy)],
        [*git, f"--work-tree={ROOT}", "add", "--all"],
        [*git, f"--work-tree={copy}", "checkout-index", "--all"],
    ):
        subprocess.run(command, cwd=ROOT, check=True, env=environment(tmp_path), capture_output=True)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


def environment(folder: Path) -> dict[str, str]:
    """No repository but the one in the working folder, no hook skipped but mypy, and no way out."""
    dead = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    own = {"PRE_COMMIT_HOME": str(folder / "home"), "SKIP": "mypy"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PRE_COMMIT"))}
    return kept | dead | own


def run_hooks(repository: Path, *arguments: str) -> tuple[int, dict[str, str]]:
    """Exit code, and what each hook came to, by its id."""
    done = subprocess.run(
        [*PRE_COMMIT, "run", "--color=never", "--verbose", *arguments],
        cwd=repository,
        env=environment(repository.parent),
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = re.findall(r"\.(Passed|Failed|Skipped)\n- hook id: ([\w-]+)$", done.stdout, re.MULTILINE)
    print(done.stdout, done.stderr)  # shown if the test fails
    return done.returncode, {name: outcome for outcome, name in outcomes}


def test_the_configuration_is_one() -> None:
    """A misspelt key stops every commit of everybody."""
    done = subprocess.run(
        [*PRE_COMMIT, "validate-config", str(CONFIG)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_hook_is_the_projects_own() -> None:
    """A hook of another repository is fetched at the first commit, and its version is not the lock file's."""
    (repo,) = yaml.safe_load(CONFIG.read_text("utf-8"))["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in HOOKS} == {"unsupported", "pygrep"}  # neither installs anything
    modules = [
        found[1] for hook in HOOKS if (found := re.match(r"\.venv/bin/python -m (\w+)", hook["entry"]))
    ]
    assert modules == ["ruff", "ruff", "mypy"]


def test_the_files_of_this_checkout_pass(repository: Path) -> None:
    """What is here must not stop the commit of somebody who has changed something else."""
    code, outcomes = run_hooks(repository, "--all-files")
    expected = {hook["id"]: "Skipped" if hook["id"] == "mypy" else "Passed" for hook in HOOKS}
    assert (code, outcomes) == (0, expected)
    assert [path.name for path in (repository.parent / "home").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("hook", "name", "content"),
    [
        ("ruff-check", "registry/new.py", b"import os\n"),
        ("ruff-format", "registry/new.py", b"ANSWER   =   42\n"),
        ("merge-markers", "docs/new.md", b"<" * 7 + b" HEAD\n"),
        ("large-files", "docs/new.bin", b"\0" * (512 * 1024 + 1)),
    ],
)
def test_a_hook_finds_what_it_is_for(repository: Path, hook: str, name: str, content: bytes) -> None:
    """A hook that cannot fail is a promise that nobody keeps."""
    (repository / name).write_bytes(content)
    subprocess.run(["git", "add", name], cwd=repository, check=True, env=environment(repository.parent))
    code, outcomes = run_hooks(repository, "--files", name)
    assert (code, [found for found, outcome in outcomes.items() if outcome == "Failed"]) == (1, [hook])
