"""What of deploy/vm is checked without running it: the unit by systemd's own tool, shell by shellcheck."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.clients import find_client_python
from tests.support.engine import ROOT

UNIT = ROOT / "deploy" / "vm" / "timberline.service"
SCRIPTS = (ROOT / "deploy" / "vm" / "timberline", ROOT / "deploy" / "ci" / "steps", ROOT / "deploy" / "stage")
# As the tool counts, of 10; without its sandbox a unit has more than 9.
MOST_EXPOSURE = 1.0


def analyze(unit: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze, which needs no systemd that runs."""
    return subprocess.run(
        ["systemd-analyze", *words, unit], capture_output=True, text=True, check=False, timeout=120
    )


def list_faults(folder: Path, text: str) -> list[str]:
    """What ``verify`` has against a unit; its commands are taken to be there, its socket unit not."""
    unit = folder / "timberline.service"
    unit.write_text(re.sub(r"/srv/timberline/source/deploy/vm/timberline", "/bin/true", text), "utf-8")
    done = analyze(unit, "verify", "--man=no")
    return [line for line in (done.stdout + done.stderr).splitlines() if "docker.service" not in line]


@pytest.mark.offline("systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    """systemd ignores what it does not know, and says so in a log that nobody reads."""
    assert list_faults(tmp_path, UNIT.read_text("utf-8")) == []


@pytest.mark.offline("systemd-analyze")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("RemainAfterExit=yes", "RemainAfterExits=yes"),
        ("Type=oneshot", "Type=once"),
        ("ProtectSystem=strict", "ProtectSystem=hard"),
        ("ExecStart=/srv", "ExecStart=srv"),
        ("TimeoutSec=300", "TimeoutSec=soon"),
    ],
)
def test_a_fault_planted_in_the_unit_is_found(before: str, after: str, tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    text = UNIT.read_text("utf-8")
    assert before in text
    assert list_faults(tmp_path, text.replace(before, after)) != []


def read_exposure(unit: Path) -> float:
    """The figure of ``security``."""
    done = analyze(unit, "security", "--offline=true", "--no-pager")
    return float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)[0])


@pytest.mark.offline("systemd-analyze")
def test_the_unit_may_do_little(tmp_path: Path) -> None:
    """It talks to one socket and writes one folder."""
    assert read_exposure(UNIT) <= MOST_EXPOSURE
    bare = tmp_path / "timberline.service"
    sandbox = r"^(Protect|Private|Restrict|System|Cap|NoNew|Lock|Memory|IP|Proc)\w+=.*\n"
    bare.write_text(re.sub(sandbox, "", UNIT.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
    assert read_exposure(bare) > MOST_EXPOSURE


def shellcheck(path: Path) -> subprocess.CompletedProcess[str]:
    """Exit code 0 if it finds nothing."""
    program = find_client_python("act").parent / "shellcheck"
    return subprocess.run([program, path], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.offline("act")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing_but_what_is_planted(path: Path, tmp_path: Path) -> None:
    """A word that is not quoted works until a folder has a blank in its name."""
    done = shellcheck(path)
    assert done.returncode == 0, done.stdout
    planted = tmp_path / path.name
    planted.write_text(path.read_text("utf-8") + "\nrm -r $1/x\nif [ $# == 1 ]; then exit; fi\n", "utf-8")
    done = shellcheck(planted)
    assert "SC2086" in done.stdout
    assert "SC3014" in done.stdout
