"""The machine's script, its unit and its page say the same, and name what is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from timberline.inference.config import ServiceConfig, environment_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "vm" / "timberline"
UNIT = (ROOT / "deploy" / "vm" / "timberline.service").read_text("utf-8")
PAGE = (ROOT / "docs" / "how-to" / "machine.md").read_text("utf-8")


def list_verbs() -> list[str]:
    """The verbs of the script, by what it answers to none."""
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    return re.findall(r"(?:timberline|\|) ([a-z]+)\b", done.stderr.replace("[BRANCH|TAG]", "").strip())


def test_every_verb_is_on_the_page() -> None:
    """A verb that nobody is told of is not there."""
    verbs = list_verbs()
    assert {"update", "build", "release", "swap", "rollback", "start", "stop", "status"} == set(verbs)
    typed = set(re.findall(r"^deploy/vm/timberline ([a-z]+)", PAGE, re.MULTILINE))
    assert typed == set(verbs)


def test_the_unit_calls_verbs_of_the_script_where_it_lies() -> None:
    """A unit that calls what is not there fails at boot, when nobody looks."""
    calls = re.findall(r"^Exec(\w+)=/srv/timberline/source/(\S+) (\w+)$", UNIT, re.MULTILINE)
    script = str(SCRIPT.relative_to(ROOT))
    assert calls == [("Start", script, "start"), ("Reload", script, "swap"), ("Stop", script, "stop")]
    assert "Environment=TIMBERLINE_HOME=/srv/timberline\n" in UNIT
    assert SCRIPT.stat().st_mode & 0o111


def test_settings_of_the_page_and_the_script_are_the_services() -> None:
    """One that is unknown ends the service's start."""
    known = {environment_name(key) for key in ServiceConfig.__struct_fields__}
    named = set(re.findall(r"TIMBERLINE_SERVE_\w+", PAGE + SCRIPT.read_text("utf-8")))
    assert "TIMBERLINE_SERVE_REUSE_PORT" in named
    assert named <= known
