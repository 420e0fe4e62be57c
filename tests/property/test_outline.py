"""Where an array is cut is where its elements end, whatever is in them and however it is looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from timberline.inference.formats.outline import (
    Limits,
    LongElementError,
    TooManyElementsError,
    cut_array,
    locate,
)

LARGE = 10_000
awkward = st.sampled_from(["\\", '"', '\\"', "\\\\", "},{", "],[", "[", "{", ",", "ü", "\n", "😀"])
strings = st.lists(awkward, max_size=5).map("".join)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.integers(-5, 500), strings),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(strings, inner, max_size=4)),
    max_leaves=12,
)
lists = st.lists(values, min_size=1, max_size=8)
layouts = st.tuples(st.booleans(), st.sampled_from([None, 0, 2]))


def write(elements: list[Any], layout: tuple[bool, int | None]) -> bytes:
    """As JSON, in ASCII or not, on one line or many."""
    is_ascii, indent = layout
    return json.dumps(elements, ensure_ascii=is_ascii, indent=indent).encode()


@settings(max_examples=400, deadline=None)
@given(elements=lists, layout=layouts, block=st.integers(1, 40), tail=st.binary(max_size=9))
@example(elements=["\\" * 9], layout=(True, None), block=1, tail=b'"')
@example(elements=['\\"', "],["], layout=(True, None), block=3, tail=b"")
def test_slices_are_the_elements(
    elements: list[Any], layout: tuple[bool, int | None], block: int, tail: bytes
) -> None:
    """A cut within an element would make two rows of one, or none."""
    text = b"ab" + write(elements, layout)
    outline = cut_array(text + tail, 3, LARGE, Limits(LARGE, block))
    assert outline.is_closed
    assert outline.end == len(text) - 1
    parts = [json.loads(b"[%b]" % text[part.start : part.end]) for part in outline.slices]
    assert [len(part) for part in parts] == [part.size for part in outline.slices]
    assert [element for part in parts for element in part] == elements


@settings(max_examples=200, deadline=None)
@given(elements=lists, layout=layouts, block=st.integers(1, 40), most=st.integers(1, 8))
def test_as_many_elements_as_allowed_and_no_more(
    elements: list[Any], layout: tuple[bool, int | None], block: int, most: int
) -> None:
    """The bound is the one that the error names, at whichever block it is reached."""
    text = write(elements, layout)
    if len(elements) > most:
        with pytest.raises(TooManyElementsError):
            cut_array(text, 1, most, Limits(LARGE, block))
    else:
        outline = cut_array(text, 1, most, Limits(LARGE, block))
        assert sum(part.size for part in outline.slices) == len(elements)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6), block=st.integers(1, 40))
@example(lengths=[1, 18], block=23)  # the longest that may be, behind a comma of the same block
def test_a_long_element_is_found_and_numbered(lengths: list[int], block: int) -> None:
    """One element is decoded in one piece: its length bounds how much that makes."""
    text = b"[" + b",".join(b'"' + b"," * length + b'"' for length in lengths) + b"]"
    too_long = [index for index, length in enumerate(lengths) if length + 2 > 20]
    if too_long:
        with pytest.raises(LongElementError) as caught:
            cut_array(text, 1, LARGE, Limits(20, block))
        assert caught.value.index == too_long[0]
    else:
        assert cut_array(text, 1, LARGE, Limits(20, block)).is_closed


@given(text=st.text(st.sampled_from("aü😀\n\r,"), max_size=30), block=st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_what_never_ends_is_not_closed(text: str, block: int) -> None:
    """Half a body must not be taken for a whole one."""
    body = ("[" + text).encode()
    outline = cut_array(body, 1, LARGE, Limits(LARGE, block))
    assert not outline.is_closed
    assert outline.end == len(body)


@given(text=st.text(st.sampled_from("aü😀\n\r,"), max_size=30), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_place_is_named_as_json_names_it(text: str, data: st.DataObject) -> None:
    """An error in the ten-thousandth row is looked for in the file that was sent."""
    index = data.draw(st.integers(0, len(text)))
    found = locate(text.encode(), len(text[:index].encode()))
    error = json.JSONDecodeError("", text, index)
    assert found == (error.lineno, error.colno)
