"""The screenshots of the docs are there, and small enough for a README.

Whether they show today's pages only a look tells: `make pictures` takes them again.
"""

from __future__ import annotations

import pytest
from PIL import Image

from tests.support.pictures import FOLDER, MOST_BYTES, NAMES, WIDTH


def test_there_are_no_other_pictures() -> None:
    """A picture that no script takes stays as it was for ever."""
    assert {path.name for path in FOLDER.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_a_small_png(name: str) -> None:
    """The README shows both; who opens it on a phone loads them."""
    path = FOLDER / name
    assert path.stat().st_size <= MOST_BYTES
    with Image.open(path) as picture:
        picture.load()  # all of it: half a file has a good head
        assert picture.format == "PNG"
        assert picture.width == WIDTH
        assert WIDTH // 2 < picture.height < 2 * WIDTH
        assert len(picture.convert("RGB").getcolors(256) or ()) > 8  # not a blank page
