"""The pictures of the docs show what their sources say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.diagrams import (
    FOLDER,
    list_parts,
    list_shown,
    list_sources,
    list_written,
    make_mark,
    render,
)

SOURCES = list_sources()
# As wide as a column of text on GitHub, at 96 pixels to the 72 points of Graphviz.
MOST_WIDTH_PT = 760
MOST_BYTES = 20_000


def test_every_source_has_its_picture_and_every_picture_its_source() -> None:
    """A picture without a source cannot be corrected."""
    assert {path.stem for path in SOURCES} == {"data", "release", "release-pipeline", "service", "trust"}
    assert {path.stem for path in FOLDER.glob("*.svg")} == {path.stem for path in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_is_rendered_from_the_source_as_it_is(source: Path) -> None:
    """A diagram that was edited and not rendered shows readers the old state."""
    picture = source.with_suffix(".svg").read_text("utf-8")
    assert picture.splitlines()[0] == make_mark(source), "run `make diagrams` and commit the SVG"
    written = list_written(source.read_text("utf-8"))
    assert written
    assert written <= list_shown(picture)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_is_small_and_readable_on_any_background(source: Path) -> None:
    """Readers use dark themes and phones; a picture without a background has black text on black there."""
    picture = source.with_suffix(".svg").read_text("utf-8")
    assert 'fill="white"' in picture[: picture.index("<title>") + 400]
    width = float(picture.partition('width="')[2].partition("pt")[0])
    assert width <= MOST_WIDTH_PT
    assert len(picture.encode()) <= MOST_BYTES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_rendering_again_shows_the_same(source: Path) -> None:
    """The mark alone could be written by hand; positions may differ between versions, content may not."""
    if shutil.which("dot") is None:
        message = "there is no Graphviz here: install Debian's package `graphviz`"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    kept = source.with_suffix(".svg").read_text("utf-8")
    fresh = render(source)
    assert list_parts(fresh) == list_parts(kept)
    assert list_shown(fresh) == list_shown(kept)
