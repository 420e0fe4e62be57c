"""The README names nothing that is not there, and stays short."""

from __future__ import annotations

import re

from tests.support.markdown import ROOT

README = (ROOT / "README.md").read_text("utf-8")
MAX_BYTES = 8192


def test_the_readme_stays_short() -> None:
    """A newcomer is to know in a minute what this is; the rest is in docs, by purpose."""
    assert len(README.encode()) <= MAX_BYTES


def test_every_target_named_in_a_page_is_in_the_makefile() -> None:
    """A command that a reader types must be there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        name
        for page in pages
        for name in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert named - targets - {"itself"} == set()
    assert {"setup", "fetch", "etl", "train", "evaluate", "export", "gate", "promote", "rollback"} <= targets
    assert {"release", "serve", "bench", "test", "help"} <= targets
