"""Folders that the variables of make name: whatever stands in their names, a command gets them whole."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tables import SmallTable, rows

ROOT = Path(__file__).resolve().parents[2]
TARGETS = sorted(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
OPTIONS = {"--data": "DATA", "--registry": "REGISTRY", "--models": "MODELS"}
ODD = [
    "a b",
    "it's",
    'say "b"',
    "#1",
    "a;b & c",
    "(a|b)",
    "back\\slash",
    "`date`",
    "$HOME",
    "-x",
    "ü 木",
    "a,b",
]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user does, not with what the make that runs the tests was given."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=120
    )


def list_calls(target: str, folders: dict[str, str]) -> list[dict[str, str]]:
    """Of each command that the target would run: the values of the options that name folders."""
    given = [f"{name}={value.replace('$', '$$')}" for name, value in folders.items()]  # as make asks for it
    done = make("-n", target, *given)
    assert done.returncode == 0, done.stderr
    calls = []
    for line in done.stdout.splitlines():
        if " -m " in line and any(option in line for option in OPTIONS):
            words = shlex.split(line)
            calls.append({OPTIONS[word]: words[at + 1] for at, word in enumerate(words) if word in OPTIONS})
    return calls


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_passes_its_folders_on_whole(target: str) -> None:
    """A blank once cut DATA in two, and the rest was an argument that no command knows."""
    recipe = (ROOT / "Makefile").read_text("utf-8").partition(f"\n{target}:")[2].partition("\n\n")[0]
    own = {name for name, word in (("DATA", "PLACE"), ("REGISTRY", "STORE")) if f"$({word})" in recipe}
    own |= {"DATA", "MODELS"} if "$(STAGE)" in recipe else set()
    assert not re.search(r"\$\((DATA|REGISTRY|MODELS)\)", recipe) or target == "help"
    for odd in ODD:
        folders = {name: f"{odd}/{name} {odd}" for name in OPTIONS.values()}
        calls = list_calls(target, folders)
        assert own <= {name for call in calls for name in call}
        assert all(folders[name] == value for call in calls for name, value in call.items())


def test_help_shows_the_folders_as_they_are() -> None:
    """It ran what stood in their names as a part of its own command."""
    for odd in ODD:
        done = make("help", f"DATA={odd.replace('$', '$$')}")
        assert done.returncode == 0, done.stderr
        assert f" DATA={odd} " in done.stdout


def test_a_table_is_prepared_in_folders_with_blanks_and_quotes(tmp_path: Path) -> None:
    """The whole way once: shell, make, shell, Python and DuckDB."""
    table = SmallTable(tmp_path / "it's a 'b' #1 \"c\"", rows(60))
    (tmp_path / ".installed").touch()
    folders = [f"MODELS={table.models}", f"DATA={table.data}"]
    done = make("etl", "MODEL=small", *folders, f"VENV={tmp_path}", f"PY={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert sum(table.profile().rows.values()) == 60


def test_an_environment_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    """Half a package looks installed to pip; one that was finished once is only brought up to date."""
    (tmp_path / "half").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / ".installed").touch()
    os.utime(tmp_path / "whole" / ".installed", (0, 0))  # older than the lock file
    for name, is_cleared in (("half", True), ("whole", False)):
        done = make("-n", "setup", f"VENV={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if " -m venv " in line]
        assert ("--clear" in line.split()) == is_cleared


def test_coverage_is_of_the_tests_that_guard_the_project() -> None:
    """A figure of other tests, or of them run otherwise, would say nothing about `make test`."""
    found = [re.findall(r"-m pytest([^;\n]*)", make("-n", target).stdout) for target in ("test", "coverage")]
    assert found[0] == found[1] != []
