"""Where the elements of a large JSON array, or of JSON lines, lie: found before one of them is decoded.

A decoder makes objects of what it reads, some forty times as much memory as ``[],[],[],…`` has
bytes, and holds the interpreter until it is done. So an array that may be long is first cut up here:
numpy looks at the brackets and commas of a block at a time, outside of strings, which makes no
object and leaves the interpreter to other threads. Whether the elements are JSON shows when the slices are
decoded; between wrong brackets or quotes the cuts are anywhere, and decoding fails.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# So much is looked at, and decoded, at a time: a millisecond's work.
BLOCK_BYTES = 64 * 1024
# An element is decoded in one piece, so that its length bounds what it grows to: this, or so much for
# each column where that is more.
_LONGEST_ELEMENT = 256 * 1024
_BYTES_PER_COLUMN = 1024

_OPENS, _CLOSES, _COMMA = 1, -1, 2
_MARKS = {b"[": _OPENS, b"{": _OPENS, b"]": _CLOSES, b"}": _CLOSES, b",": _COMMA}
# By byte, its kind as an int8, 0 for all others; `bytes.translate` is five times as fast as an index.
_ALL_KINDS = bytes(_MARKS.get(bytes([code]), 0) & 0xFF for code in range(256))
_BRACKETS = _ALL_KINDS.replace(bytes([_COMMA]), b"\0")
_QUOTE = ord('"')
_BACKSLASH = b"\\"
# What is not blank of a line.
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
# Every string of a JSON text, with the colon behind it if it is a key.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"\s*(:?)')
# The second and later bytes of a character in UTF-8.
_CONTINUATIONS = bytes(range(0x80, 0xC0))


class Limits(NamedTuple):
    """Bounds of an array's elements, and the size of the blocks in which it is scanned."""

    longest: int  # bytes of one element, and of all that stands around the array
    block: int = BLOCK_BYTES

    @classmethod
    def of_columns(cls, count: int) -> Limits:
        """The limits of a signature with ``count`` columns."""
        return cls(max(_LONGEST_ELEMENT, count * _BYTES_PER_COLUMN))


class Slice(NamedTuple):
    """Some elements of an array that stand side by side: ``text[start:end]``, with commas between."""

    start: int
    end: int
    size: int  # elements


class Outline(NamedTuple):
    """An array in slices."""

    slices: list[Slice]
    end: int  # offset of the closing bracket, or of the text's end if there is none
    is_closed: bool


class TooManyElementsError(ValueError):
    """The array has more elements than it may."""


class LongElementError(ValueError):
    """An element has more bytes than it may; ``index`` is its number."""

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(f"element {index}")


class Marks(NamedTuple):
    """The brackets and commas of one block that stand outside of strings, in order."""

    offsets: npt.NDArray[np.int64]  # in the whole text
    kinds: npt.NDArray[np.int8]  # 1 opens, -1 closes, 2 is a comma
    depths: npt.NDArray[np.int64]  # behind each, 0 being the depth where the search began
    end: int  # of the block


def find_marks(
    text: bytes | memoryview, start: int, block: int = BLOCK_BYTES, *, has_commas: bool = True
) -> Iterator[Marks]:
    """The brackets and commas of a JSON text from ``start`` on, which is outside of any string.

    Args:
        text: JSON, or what may be.
        start: offset of the first byte that is looked at.
        block: bytes that are looked at together.
        has_commas: whether commas are marks, too.
    """
    table = _ALL_KINDS if has_commas else _BRACKETS
    is_inside = False  # of a string
    depth = 0
    while start < len(text):
        part = bytes(text[start : start + block])
        if (len(part) - len(part.rstrip(_BACKSLASH))) % 2:  # what the last one escapes belongs to it
            part = bytes(text[start : start + block + 1])
        if _BACKSLASH in part:  # as long as before, without the quotes that end no string
            part = part.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        kinds = np.frombuffer(part.translate(table), dtype=np.int8)
        offsets = np.flatnonzero(kinds != 0)
        if is_inside or b'"' in part:
            are_inside = np.logical_xor.accumulate(np.frombuffer(part, dtype=np.uint8) == _QUOTE)
            offsets = offsets[are_inside[offsets] == is_inside]
            is_inside = bool(are_inside[-1]) != is_inside
        kinds = kinds[offsets]
        depths = np.cumsum(np.where(kinds == _COMMA, 0, kinds), dtype=np.int64) + depth
        if len(depths):
            depth = int(depths[-1])
        end = start + len(part)
        yield Marks(offsets + start, kinds, depths, end)
        start = end


def cut_array(text: bytes | memoryview, start: int, most: int, limits: Limits) -> Outline:
    """Cut the array whose elements begin at ``start``, behind its opening bracket, into slices.

    A slice is as many whole elements as end in a block, so it has at most ``block`` bytes more than
    the longest element. An array of nothing but space is one slice of one element, as is any last
    element that is not there; decoding finds out.

    Raises:
        TooManyElementsError: there are more than ``most``; nothing behind them is looked at.
        LongElementError: one is longer than allowed.
    """
    slices: list[Slice] = []
    count = 0
    begin = start  # of the slice
    for marks in find_marks(text, start, limits.block):
        closing = np.flatnonzero(marks.depths < 0)
        last = int(closing[0]) if len(closing) else len(marks.offsets)
        is_cut = (marks.kinds[:last] == _COMMA) & (marks.depths[:last] == 0)
        cuts = marks.offsets[:last][is_cut]
        end = int(marks.offsets[last]) if len(closing) else marks.end
        lengths = np.diff(cuts, prepend=begin, append=end)
        if lengths.max() > limits.longest:
            raise LongElementError(count + int(np.argmax(lengths > limits.longest)))
        if count + len(cuts) >= most:  # and one more behind the last comma
            raise TooManyElementsError
        if len(cuts):
            slices.append(Slice(begin, int(cuts[-1]), len(cuts)))
            begin = int(cuts[-1]) + 1
            count += len(cuts)
        if len(closing):
            return Outline([*slices, Slice(begin, end, 1)], end, True)
    return Outline([*slices, Slice(begin, len(text), 1)], len(text), False)


def cut_lines(text: bytes, most: int, limits: Limits) -> list[Slice]:
    """Cut lines into slices: as many whole lines as end in a block, or one that is longer.

    ``size`` of a slice is the number of lines that are not blank; slices without any are left out.

    Raises:
        TooManyElementsError: more than ``most`` are not blank; nothing behind them is looked at.
        LongElementError: one is longer than allowed.
    """
    slices: list[Slice] = []
    count = start = 0
    while start < len(text):
        end = _end_lines(text, start, limits)
        if end is None:
            raise LongElementError(count)
        size = sum(1 for _ in itertools.islice(find_lines(text, start, end), most - count + 1))
        count += size
        if count > most:
            raise TooManyElementsError
        if size:
            slices.append(Slice(start, end, size))
        start = end
    return slices


def find_lines(text: bytes, start: int, end: int) -> Iterator[re.Match[bytes]]:
    """The lines of ``text[start:end]`` that are not blank, without the space in front of them."""
    return _LINE.finditer(text, start, end)


def _end_lines(text: bytes, start: int, limits: Limits) -> int | None:
    """End of the last line within the block from ``start``, else of the first; None if that is too long."""
    if len(text) - start <= limits.block:
        return len(text)
    end = text.rfind(b"\n", start, start + limits.block)
    if end < 0:
        end = text.find(b"\n", start + limits.block, start + limits.longest)
    if end >= 0:
        return end + 1
    return len(text) if len(text) - start <= limits.longest else None


def count_keys(text: bytes) -> int:
    """How many keys a valid JSON text has in all objects; colons within strings are none."""
    return _STRINGS.findall(text).count(b":")


def locate(text: bytes, offset: int) -> tuple[int, int]:
    """Line and column of a byte of ``text``, both from 1 and the column in characters, as json says it."""
    line = text.count(b"\n", 0, offset) + 1
    begin = text.rfind(b"\n", 0, offset) + 1
    parts = (text[at : min(at + BLOCK_BYTES, offset)] for at in range(begin, offset, BLOCK_BYTES))
    return line, 1 + sum(len(part.translate(None, _CONTINUATIONS)) for part in parts)
