"""The page of a gate in a real browser: on a screen, in the dark, on a phone and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import CONTRASTS, Browser
from tests.support.records import build_record
from timberline.benchmarks.report.page import write_page

DESKTOP, PHONE = (1280, 900), (320, 700)
# Of a mean's dot with its rim, pixels; it covers an interval that is narrower.
MEAN_RADIUS = 7.0
RECORDS: dict[str, dict[str, Any]] = {
    "BLOCK": {"restarts": 8, "pairs": 200, "slower": 0.1, "worse": 0.02, "releases": 13},
    "PASS": {"restarts": 4, "pairs": 200, "is_first": True},
    "INVALID": {"restarts": 1, "pairs": 5, "problem": "connection refused: " + "x" * 200},
}
# Texts of the plots that lie outside of the figure's card, where they are cut.
CUT = """[...document.querySelectorAll('figure svg text')].filter(text => {
  const box = text.getBoundingClientRect(), card = text.closest('figure').getBoundingClientRect();
  return box.width && (box.left < card.left || box.right > card.right || box.bottom > card.bottom);
}).map(text => text.textContent)"""


def open_report(browser: Browser, folder: Path, outcome: str) -> str:
    """Open the page of a record from a file, as somebody does who downloaded it."""
    path = folder / "report.html"
    path.write_bytes(write_page(build_record(**RECORDS[outcome])))
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path.as_uri())
    return path.as_uri()


@pytest.mark.parametrize("outcome", list(RECORDS))
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_fits_the_screen_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, outcome: str, size: tuple[int, int]
) -> None:
    """A report that scrolls sideways is not read on a phone; one that calls home leaks who is judged."""
    browser.resize(*size)
    address = open_report(browser, tmp_path, outcome)
    assert browser.complaints == []
    assert browser.requests == [address]
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate(CUT) == []
    assert browser.text(".stamp").endswith(outcome)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, tmp_path: Path, scheme: str) -> None:
    """4.5 to 1 is what WCAG 2.2 asks of text (AA, 1.4.3), also on the coloured cells."""
    browser.resize(*DESKTOP, scheme=scheme)
    open_report(browser, tmp_path, "BLOCK")
    assert {text: ratio for text, ratio in browser.evaluate(CONTRASTS).items() if ratio < 4.5} == {}


def test_plots_are_drawn_where_they_stand(browser: Browser, tmp_path: Path) -> None:
    """Percent and pixels come together only in a browser: dots must lie on their whiskers."""
    browser.resize(*DESKTOP)
    open_report(browser, tmp_path, "BLOCK")
    places = browser.evaluate(
        "[...document.querySelectorAll('#restarts .plot')].map(plot => {"
        "const dot = plot.querySelector('circle.mean').getBoundingClientRect();"
        "const whisker = plot.querySelector('line.whisker').getBoundingClientRect();"
        "return [dot.x + dot.width / 2 - whisker.x, dot.y - whisker.y, whisker.bottom - dot.bottom]; })"
    )
    assert len(places) == 7
    for aside, below_top, above_bottom in places:
        assert abs(aside) < 2
        assert below_top > -MEAN_RADIUS
        assert above_bottom > -MEAN_RADIUS
