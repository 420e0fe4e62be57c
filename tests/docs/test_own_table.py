"""The how-to for a table of one's own, done as it stands there."""

from __future__ import annotations

from pathlib import Path

from tests.support.markdown import ROOT
from tests.support.walkthrough import Walkthrough
from timberline.registry.aliases import read_history
from timberline.registry.store import open_store

PAGE = ROOT / "docs" / "how-to" / "own-table.md"


def test_the_page_leads_from_a_file_to_production(tmp_path: Path) -> None:
    """It is the first page that somebody with a file reads; its folder is as `init` leaves it."""
    with Walkthrough(tmp_path) as reader:
        reader.follow(PAGE)
    moves = [
        (move.action, move.version)
        for move in read_history(open_store(reader.folder / "var" / "registry"), "pets", "production")
    ]
    assert moves == [("promote", 1)]
