"""What `make images-test`, `deploy-test` and `cluster-test` say of themselves: nothing is left out unsaid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import proofs

CONFTEST = """
from pathlib import Path
from tests.support import proofs

proofs.FOLDERS = {Path(__file__).parent: "images-test"}
proofs.TOOLS = {"sh": "dash", "no-such-tool": "no-package", "helm": ""}
pytest_plugins = ["tests.support.proofs"]
"""
TESTS = """
import pytest

pytestmark = pytest.mark.real("sh")


def test_that_runs_for_real() -> None:
    assert True


@pytest.mark.offline("helm")
def test_that_asks_a_tool_of_the_makers() -> None:
    assert True


@pytest.mark.offline("no-such-tool")
def test_whose_tool_is_not_there() -> None:
    assert True
"""


def run(folder: Path, *words: str, tests: str = TESTS, skip: str = "") -> tuple[int, list[str]]:
    """Exit code and lines of pytest over one file of proofs."""
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    (folder / "test_proofs.py").write_text(tests, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n", "utf-8")
    paths = os.pathsep.join([str(proofs.ROOT), str(proofs.ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist", *words, str(folder)],
        cwd=folder,
        env={**os.environ, "SKIP": skip, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two"])
def test_a_missing_tool_fails_and_is_counted(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """A check that nobody could run would look like one that passed."""
    code, lines = run(tmp_path, *workers)
    assert code == 1
    assert any("apt-get install no-package, or SKIP the tool" in line for line in lines)
    assert lines[-1] == "images-test: 1 failed, checks 1 run for real, 1 validated offline, 0 skipped"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two"])
def test_a_tool_that_skip_names_is_done_without_and_told(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Whoever has no such tool gets the other checks, and the last line tells what is missing."""
    code, lines = run(tmp_path, *workers, skip="no-such-tool, helm")
    assert code == 0
    assert lines[-1] == (
        "images-test: checks 1 run for real, 0 validated offline, 2 skipped (helm, no-such-tool)"
    )


def test_skip_of_what_is_no_tool_is_wrong_use(tmp_path: Path) -> None:
    """A misspelt name would skip nothing, or be taken for a tool that is there."""
    code, lines = run(tmp_path, skip="hel")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "SKIP: hel is none of helm, no-such-tool, sh" in "\n".join(lines)


def test_a_test_that_does_not_tell_its_kind_is_refused(tmp_path: Path) -> None:
    """It would be in none of the counts."""
    code, lines = run(tmp_path, tests="def test_of_no_kind() -> None:\n    assert True\n")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "test_of_no_kind is marked neither real nor offline" in "\n".join(lines)


def test_each_folder_of_proofs_has_a_target_and_is_left_to_it() -> None:
    """`make test` collects none of them: it would need an engine."""
    makefile = (proofs.ROOT / "Makefile").read_text("utf-8")
    left = re.search(
        r"^norecursedirs = (.*)$", (proofs.ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert left is not None
    for folder, target in proofs.FOLDERS.items():
        place = folder.relative_to(proofs.ROOT).as_posix()
        assert f'"{place}"' in left[1]
        assert re.search(rf"^{target}: setup .*\n\t.*pytest.* {place}$", makefile, re.MULTILINE)
