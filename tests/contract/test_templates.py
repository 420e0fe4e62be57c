"""Templates of issues and pull requests: GitHub shows none that breaks its schema, and says so to nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.pips import ROOT

GITHUB = ROOT / ".github"
FORMS = ("bug.yml", "feature.yml")
CHECK = Path(sys.executable).with_name("check-jsonschema")


@pytest.mark.parametrize(
    ("name", "schema"), [*((form, "issue-forms") for form in FORMS), ("config.yml", "issue-config")]
)
def test_forms_keep_githubs_schema(name: str, schema: str) -> None:
    """With the copies that check-jsonschema carries."""
    command: list[str | Path] = [
        CHECK,
        "--builtin-schema",
        f"vendor.github-{schema}",
        GITHUB / "ISSUE_TEMPLATE" / name,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bug_comes_with_what_doctor_says() -> None:
    """The first question to every report is which versions on which machine."""
    fields = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))["body"]
    (doctor,) = [field for field in fields if field.get("id") == "doctor"]
    assert "`timberline doctor`" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


def test_a_vulnerability_is_led_away_from_public_issues() -> None:
    """What stands in an issue is public before anybody has read it."""
    assert "SECURITY.md" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8")


def test_the_pull_request_template_names_what_is_there() -> None:
    """A target or file that was renamed makes a checklist that nobody can follow."""
    text = (GITHUB / "pull_request_template.md").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", text))
    assert named
    assert named <= targets
    assert [name for name in re.findall(r"\b[A-Z]+\.md\b", text) if not (ROOT / name).is_file()] == []
