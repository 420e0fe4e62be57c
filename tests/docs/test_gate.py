"""The how-to pages about the gate, followed command by command on a prepared registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.gate_pages import prepare_checkout, release_candidate
from tests.support.markdown import ROOT, list_blocks
from tests.support.walkthrough import Walkthrough

# One short restart decides: the versions of these pages have limits that any latency keeps.
ONE_RESTART = {"TIMBERLINE_DUET_LOOKS": "[1]", "TIMBERLINE_DUET_WINDOW_S": "0.5"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages find beside a checkout; made once, for it takes seconds."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare_checkout(folder)
    return folder


@pytest.mark.parametrize("name", ["read-a-verdict", "ci", "calibrate", "roll-back"])
def test_a_page_can_be_followed(name: str, prepared: Path, tmp_path: Path) -> None:
    """Whoever reads these pages has a refused release or a bad version: a command that fails is no help."""
    page = ROOT / "docs" / "how-to" / f"{name}.md"
    with Walkthrough(tmp_path, ONE_RESTART) as reader:
        shutil.copytree(prepared, reader.folder, dirs_exist_ok=True)
        if name == "roll-back":
            release_candidate(reader.folder)
        count = reader.follow(page)
    assert count == sum(block.language == "sh" for block in list_blocks(page.read_text("utf-8"))) > 3
