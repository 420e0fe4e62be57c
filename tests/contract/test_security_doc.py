"""SECURITY.md says which test shows each defence: all of them are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from timberline.inference.config import ServiceConfig

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")


def list_tests() -> list[str]:
    """The tests that are named; a bare name lies beside the one before it."""
    found: list[str] = []
    for name in re.findall(r"`((?:tests/[\w./]+)|(?:test_\w+\.py))`", TEXT):
        folder = found[-1].rpartition("/")[0] if "/" not in name else ""
        found.append(f"{folder}/{name}".lstrip("/"))
    return found


@pytest.mark.parametrize("name", list_tests())
def test_every_named_test_is_there(name: str) -> None:
    """A defence whose test was renamed or removed is a claim that nobody checks."""
    assert (ROOT / name).exists()


def test_every_defence_names_a_test() -> None:
    """A line without one says what we believe and not what is shown."""
    (section,) = re.findall(r"^## What is defended\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[1:]
    assert len(rows) > 10
    assert [row for row in rows if not re.search("`test", row.rpartition(" | ")[2])] == []


def test_every_setting_that_it_names_is_one_of_the_service() -> None:
    """Advice to set what is not there leaves a reader unprotected."""
    named = set(re.findall(r"`--([\w-]+)`", TEXT))
    assert {"tokens-file", "metrics-port", "cors-origin"} <= named
    assert {name.replace("-", "_") for name in named} <= set(ServiceConfig.__struct_fields__)
