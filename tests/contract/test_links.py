"""Every link of every page leads to a file, and to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, list_anchors, list_links, list_pages

PAGES = list_pages()


def find_fault(page: Path, link: str) -> str | None:
    """Why a link of ``page`` leads nowhere."""
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.is_relative_to(ROOT):
        return f"{link} leaves the repository"
    if not target.exists():
        return f"{link}: no such file"
    if anchor and target.suffix == ".md" and anchor not in list_anchors(target.read_text("utf-8")):
        return f"{link}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A page that was moved or a heading that was renamed leaves a reader at a dead end."""
    links = [link for link in list_links(page.read_text("utf-8")) if not re.match(r"[a-z]+:", link)]
    assert [fault for link in links if (fault := find_fault(page, link))] == []
