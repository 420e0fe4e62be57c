"""Names and reasons come from outside; nothing of them may become part of the page."""

from __future__ import annotations

import pytest

from timberline.benchmarks.report.markup import Markup, format_number, tag

ATTACK = '</title><script>alert("1")</script>&amp;'


def test_text_is_escaped_and_markup_is_kept() -> None:
    """A class may be called <script>; the report still has to show it, as text."""
    assert tag("p", ATTACK, tag("b", "x")) == (
        '<p>&lt;/title&gt;&lt;script&gt;alert("1")&lt;/script&gt;&amp;amp;<b>x</b></p>'
    )


def test_attributes_cannot_be_left() -> None:
    """A quotation mark in a name must not open an attribute of its own."""
    assert tag("a", title='" onclick="x') == '<a title="&quot; onclick=&quot;x"></a>'


def test_an_escaped_string_is_escaped_only_once() -> None:
    """Lists of rows go through several hands."""
    rows = [[tag("td", "<"), "<"], None]
    assert tag("tr", rows) == "<tr><td>&lt;</td>&lt;</tr>"
    assert isinstance(tag("tr", rows), Markup)


def test_attributes_may_be_absent_or_without_a_value() -> None:
    """Names that Python keeps for itself have to be writable too."""
    written = tag("meta", charset="utf-8", class_="a", data_head="b", hidden=True, id=None, open=False)
    assert written == '<meta charset="utf-8" class="a" data-head="b" hidden>'


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (12.0, "12"), (0.126, "0.13"), (-0.001, "0"), (100.0, "100")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    """Thousands of coordinates make the page; and a minus zero looks like a mistake."""
    assert format_number(value) == text
