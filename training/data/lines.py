"""How a UTF-8 CSV file falls into lines, quoted cells and records, read in blocks of a few megabytes.

DuckDB reads the table. This module finds the options that it needs, and what it would read wrongly in
silence: a line end inside a quoted cell (its parallel reader takes it for the end of a row wherever
it begins inside of one), line ends of several kinds, and a quote that is never closed, which takes
the rest of the file into one cell. The rules are DuckDB's: a quote opens a cell at its beginning only
(blanks before it are passed over), two of them stand for one inside, and behind the closing one only
blanks may follow.

A line ends with LF, CR LF or CR, inside a cell too: these are the lines that an editor numbers.

What only some files have (skipped lines, comments, backslashes before quotes) is taken out beforehand, by
`plain_lines`; all else here does not know of it.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from timberline.training.errors import DatasetError

# DuckDB's max_line_size: it rejects a longer row, and so no longer cell need be held here.
_MAX_CELL_BYTES = 2_000_000
_TOO_LONG = f"a cell may have {_MAX_CELL_BYTES:,} bytes"
_BLOCK_BYTES = 1 << 22
# A text may have a line that reads as a row by chance: so many of its lines, and numbers or (where no
# column is a number) delimiters in them, are no chance.
_ROW_LINES, _ROW_NUMBERS, _ROW_DELIMITERS = 2, 5, 100
_ROW_SHARE = 0.9
_NUMBER = re.compile(rb"\s*[+-]?(\d[\d_.,]*|[.,]\d+)([eE][+-]?\d+)?\s*")
_QUOTE, _LF, _CR = b'"', b"\n", b"\r"
_BACKSLASH = b"\\"
# A cell up to its closing quote, where a backslash takes the next byte as it is; and such a byte.
_ESCAPED_TEXT, _ESCAPED = re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL), re.compile(rb"\\(.)", re.DOTALL)
_LINE_END, _NO_LINE_END = re.compile(rb"[\r\n]"), re.compile(rb"[^\r\n]")
_SHOWN_BYTES = 40

Cell = tuple[int, int]  # positions of its two quotes


@dataclass(frozen=True)
class Layout:
    """``new_line`` None: of several kinds. ``is_multiline``: a quoted cell has a line end, or may have."""

    new_line: str | None
    is_multiline: bool


@dataclass(frozen=True)
class RowShape:
    """What a line must be to read as a row: so many cells, and a number where ``is_number``."""

    delimiter: str
    is_number: tuple[bool, ...]
    null_text: frozenset[bytes] = frozenset()

    def fits(self, line: bytes) -> bool:
        """Whether ``line``, which has no quotes, reads as a row."""
        cells = line.split(self.delimiter.encode())
        return len(cells) == len(self.is_number) and all(
            not is_number or cell in self.null_text or _NUMBER.fullmatch(cell)
            for cell, is_number in zip(cells, self.is_number, strict=True)
        )


@dataclass(frozen=True)
class Marks:
    """What a file may have beside rows; ``is_backslash``: it escapes quotes with one."""

    delimiter: bytes
    skip_lines: int
    comment: bytes
    is_backslash: bool

    def __bool__(self) -> bool:
        return bool(self.skip_lines or self.comment or self.is_backslash)


@dataclass(frozen=True)
class LineSpan:
    """The lines of a record: the first one (the header's is 1), and how many it covers."""

    line: int
    lines: int


@dataclass(frozen=True)
class _Block:
    """Bytes that begin and end between two records (or in a cell without quotes, where a line is too long).

    ``cells``: those with a line end between their quotes. ``is_regular``: no quote stands inside a
    cell without quotes, or behind a closing one.
    """

    data: bytes
    offset: int
    cells: tuple[Cell, ...]
    is_regular: bool


class _OpenQuoteError(Exception):
    """At ``position`` of the file a cell opens that is never closed, or cannot be meant, which is ``why``."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(position, why)
        self.position = position
        self.why = why


def plain_lines(chunks: Iterable[bytes], marks: Marks) -> Iterator[bytes]:
    """The file as one that has rows only: skipped lines and comments are empty, quotes in cells are doubled.

    Every line keeps its number.
    """
    is_open = False
    for number, line in enumerate(_split_lines(chunks)):
        is_comment = bool(marks.comment) and not is_open and line.startswith(marks.comment)
        if number < marks.skip_lines or is_comment:
            yield line[len(line.rstrip(b"\r\n")) :]
        elif is_open or _QUOTE in line:
            plain, is_open = _double_quotes(line, marks, is_open=is_open)
            yield plain
        else:
            yield line


def survey_lines(path: Path, shape: RowShape, *, where: str, block_bytes: int = _BLOCK_BYTES) -> Layout:
    """Find out how ``path`` must be read; ``block_bytes`` of it are looked at at once.

    Raises:
        DatasetError: a quote is never closed, or the cell that it opens holds rows of the table.
    """
    if _is_plain(path):
        return Layout("\n", is_multiline=False)
    found: set[str] = set()
    is_multiline = False
    try:
        with path.open("rb") as file:
            for block in _read_blocks(file, shape.delimiter.encode(), block_bytes):
                found.update(_kinds_of_line_ends(block))
                is_multiline |= bool(block.cells) or not block.is_regular
                _refuse_rows(block, shape)
    except _OpenQuoteError as error:
        raise _explain_open_quote(path, error, where) from None
    return Layout(next(iter(found), "\n") if len(found) < 2 else None, is_multiline)


def write_with_lf(path: Path, target: Path, delimiter: str) -> None:
    """Copy ``path`` with LF behind every record; line ends inside of quoted cells stay as they are."""
    with path.open("rb") as file, target.open("wb") as copy:
        for block in _read_blocks(file, delimiter.encode()):
            at = 0
            for start, end in block.cells:
                copy.write(_with_lf(block.data[at:start]))
                copy.write(block.data[start:end])
                at = end
            copy.write(_with_lf(block.data[at:]))


def locate_records(path: Path, delimiter: str, positions: Sequence[int]) -> list[LineSpan]:
    """The lines of the records that begin at the byte ``positions``, or behind the line ends there.

    The positions count from 0 and ascend; there is a record behind each.
    """
    spans: list[LineSpan] = []
    line = 1
    with path.open("rb") as file:
        for block in _read_blocks(file, delimiter.encode()):
            at = 0
            for position in positions[len(spans) :]:
                found = _NO_LINE_END.search(block.data, max(position - block.offset, at))
                if found is None:
                    break
                line += count_line_ends(block.data[at : found.start()])
                at = found.start()
                spans.append(LineSpan(line, 1 + _count_inner_line_ends(block, at)))
            line += count_line_ends(block.data[at:])
    return spans


def count_line_ends(data: bytes) -> int:
    """CR LF counts once."""
    found = data.count(_LF)
    return found + data.count(_CR) - data.count(b"\r\n") if _CR in data else found


def split_record(data: bytes, delimiter: str) -> list[bytes] | None:
    """The cells of the first record of ``data``, without its quotes; None if it does not end in it.

    At the end of a file, append a line end.
    """
    separator = delimiter.encode()
    cells: list[bytes] = []
    at = 0
    while True:
        start = at
        while data[start : start + 1] == b" " and not data.startswith(separator, start):
            start += 1
        if data[start : start + 1] == _QUOTE:
            end = _find_close(data, start)
            if end is None:
                return None
            cell, at = data[start + 1 : end].replace(b'""', _QUOTE), end + 1
        else:
            cell = b""
        ends = [
            found
            for found in (data.find(separator, at), data.find(_LF, at), data.find(_CR, at))
            if found >= 0
        ]
        if not ends:
            return None
        end = min(ends)
        # Text behind a closing quote is an error in the file; the names then show it.
        behind = data[at:end]
        cells.append(cell + (behind.strip(b" ") if at > start else behind))
        if not data.startswith(separator, end):
            return cells
        at = end + len(separator)


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines with their ends; what is longer than a cell may be comes in pieces."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).splitlines(keepends=True) or [b""]
        yield from lines
        if rest.endswith(_LF) or len(rest) > _MAX_CELL_BYTES:  # LF may follow a CR
            yield rest
            rest = b""
    if rest:
        yield rest


def _double_quotes(line: bytes, marks: Marks, *, is_open: bool) -> tuple[bytes, bool]:
    """The line without backslashes, and whether a cell is open at its end; ``is_open``: at its beginning."""
    found: list[bytes] = []
    at = 0
    while True:
        if is_open:
            text, end = _read_cell(line, at, is_backslash=marks.is_backslash)
            found.append(text)
            if end is None:
                return b"".join(found), True
            at = end
            behind = len(line) - len(line[at:].lstrip(b" "))
            if behind < len(line) and not line.startswith((marks.delimiter, _LF, _CR), behind):
                rest = line[at:]
                # The row is one to reject. Two quotes are no quote where a backslash escapes them, and to
                # DuckDB a quote further on would open a cell again.
                return b"".join(found) + (
                    rest.replace(_QUOTE, _BACKSLASH) if marks.is_backslash else rest
                ), False
        start = line.find(_QUOTE, at)
        while start >= 0 and not _opens_cell(line, start, marks.delimiter):
            start = line.find(_QUOTE, start + 1)
        if start < 0:
            return b"".join(found) + line[at:], False
        found.append(line[at : start + 1])
        at, is_open = start + 1, True


def _read_cell(line: bytes, at: int, *, is_backslash: bool) -> tuple[bytes, int | None]:
    """What is left in the line of the cell that is open at ``at``, and where it ends if it does."""
    if not is_backslash:
        close = _find_close(line, at - 1)
        end = None if close is None else close + 1
        return line[at:end], end
    text = _ESCAPED_TEXT.match(line, at)
    assert text is not None  # it takes nothing, too
    plain = _ESCAPED.sub(lambda found: b'""' if found[1] == _QUOTE else found[1], text.group())
    close = text.end()
    if not line.startswith(_QUOTE, close):
        return plain + line[close:], None
    return plain + _QUOTE, close + 1


def _is_plain(path: Path) -> bool:
    """Whether there is neither a quote nor a CR in the file: a seventh of the time of looking closer."""
    block = bytearray(_BLOCK_BYTES // 4)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            if block.find(_QUOTE, 0, size) >= 0 or block.find(_CR, 0, size) >= 0:
                return False
    return True


def _read_blocks(file: BinaryIO, separator: bytes, block_bytes: int = _BLOCK_BYTES) -> Iterator[_Block]:
    rest, offset = b"", 0
    while True:
        read = file.read(block_bytes)
        while read.endswith((_CR, _QUOTE)) and (
            more := file.read(1)
        ):  # never between CR and LF, or two quotes
            read += more
        data = rest + read
        if not data:
            return
        cells, is_regular, open_at = _find_cells(data, separator)
        if not read:
            if open_at is not None:
                raise _OpenQuoteError(offset + open_at, _TOO_LONG)
            yield _Block(data, offset, cells, is_regular)
            return
        cut = _last_record_end(data, cells, len(data) if open_at is None else open_at)
        if len(data) - cut > _MAX_CELL_BYTES:
            if open_at is not None and len(data) - open_at > _MAX_CELL_BYTES:
                raise _OpenQuoteError(offset + open_at, _TOO_LONG)
            cut = len(data) if open_at is None else open_at
        if cut:
            kept = tuple(cell for cell in cells if cell[1] < cut)
            yield _Block(data[:cut], offset, kept, is_regular)
        rest, offset = data[cut:], offset + cut


def _last_record_end(data: bytes, cells: tuple[Cell, ...], end: int) -> int:
    """Behind the last line end before ``end`` that is in no cell; 0 if there is none."""
    before = end
    for cell in (*reversed(cells), None):
        found = max(data.rfind(_LF, 0, before), data.rfind(_CR, 0, before))
        if cell is None or found > cell[1]:
            return found + 1
        if found > cell[0]:
            before = cell[0]
    return 0


def _find_cells(data: bytes, separator: bytes) -> tuple[tuple[Cell, ...], bool, int | None]:
    """The cells with a line end in them, whether all quotes are regular, and where an open cell begins."""
    if _QUOTE not in data:
        return (), True, None
    if len(separator) == 1 and (found := _find_regular_cells(data, separator)) is not None:
        return found[0], True, found[1]
    return _find_any_cells(data, separator)


def _find_regular_cells(data: bytes, separator: bytes) -> tuple[tuple[Cell, ...], int | None] | None:
    """As `_find_cells`, fast; None if a quote is misplaced."""
    # Late: it costs a tenth of a second, which most files do not need.
    import numpy as np  # noqa: PLC0415

    array = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(array == _QUOTE[0])
    opening, closing = quotes[0::2], quotes[1::2]
    # Two quotes side by side inside a cell close it and open it again.
    is_again = np.zeros(len(opening), bool)
    is_again[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    is_border = np.zeros(256, bool)
    is_border[[separator[0], _LF[0], _CR[0]]] = True
    opens = is_again | is_border[array[opening - 1]]
    opens[0] |= opening[0] == 0
    is_reopened = np.append(is_again[1:], False)[: len(closing)]
    behind = closing + 1
    closes = is_reopened | is_border[array[np.minimum(behind, len(array) - 1)]] | (behind == len(array))
    if not (opens.all() and closes.all()):
        return None
    begins, ends = opening[~is_again], closing[~is_reopened]
    open_at = int(begins[-1]) if len(begins) > len(ends) else None
    line_ends = np.flatnonzero((array == _LF[0]) | (array == _CR[0]))
    inside = np.searchsorted(quotes, line_ends)
    # Indexes of the opening quotes before the line ends inside a cell, then of these cells.
    inside = np.unique(inside[inside % 2 == 1] // 2)
    numbers = np.unique(np.cumsum(~is_again)[inside] - 1)
    numbers = numbers[numbers < len(ends)]
    return tuple(zip(begins[numbers].tolist(), ends[numbers].tolist(), strict=True)), open_at


def _find_any_cells(data: bytes, separator: bytes) -> tuple[tuple[Cell, ...], bool, int | None]:
    """As `_find_cells`, quote by quote."""
    cells: list[Cell] = []
    is_regular = True
    at = data.find(_QUOTE)
    while at >= 0:
        if not _opens_cell(data, at, separator):
            is_regular = False
            at = data.find(_QUOTE, at + 1)
            continue
        end = _find_close(data, at)
        if end is None:
            return tuple(cells), is_regular, at
        if _LINE_END.search(data, at, end):
            cells.append((at, end))
        behind = end + 1
        while data[behind : behind + 1] == b" " and not data.startswith(separator, behind):
            behind += 1
        if not data.startswith((separator, _LF, _CR), behind) and behind < len(data):
            # DuckDB rejects the row, and takes the next line for the next row.
            is_regular = False
            found = _LINE_END.search(data, behind)
            behind = found.start() if found else len(data)
        at = data.find(_QUOTE, behind)
    return tuple(cells), is_regular, None


def _opens_cell(data: bytes, at: int, separator: bytes) -> bool:
    while not data.endswith((separator, _LF, _CR), 0, at) and data[at - 1 : at] == b" ":
        at -= 1
    return at == 0 or data.endswith((separator, _LF, _CR), 0, at)


def _find_close(data: bytes, start: int) -> int | None:
    """The quote that closes the cell which the quote at ``start`` opens."""
    at = data.find(_QUOTE, start + 1)
    while at >= 0 and data[at + 1 : at + 2] == _QUOTE:
        at = data.find(_QUOTE, at + 2)
    return at if at >= 0 else None


def _count_inner_line_ends(block: _Block, start: int) -> int:
    """Line ends inside of the cells of the record that begins at ``start`` of ``block``."""
    found = 0
    end = _find_line_end(block.data, start)
    for cell in block.cells[bisect.bisect_left(block.cells, (start, 0)) :]:
        if cell[0] > end:
            break
        found += count_line_ends(block.data[cell[0] : cell[1]])
        end = _find_line_end(block.data, cell[1])
    return found


def _find_line_end(data: bytes, start: int) -> int:
    found = _LINE_END.search(data, start)
    return found.start() if found else len(data)


def _kinds_of_line_ends(block: _Block) -> Iterator[str]:
    """The kinds behind records; those inside a cell do not matter to DuckDB."""
    data = block.data
    returns = data.count(_CR)
    if not returns:
        if _LF in data:
            yield "\n"
        return
    pairs, feeds = data.count(b"\r\n"), data.count(_LF)
    for start, end in block.cells:
        returns -= data.count(_CR, start, end)
        pairs -= data.count(b"\r\n", start, end)
        feeds -= data.count(_LF, start, end)
    if pairs:
        yield "\r\n"
    if returns > pairs:
        yield "\r"
    if feeds > pairs:
        yield "\n"


def _with_lf(data: bytes) -> bytes:
    return data.replace(b"\r\n", _LF).replace(_CR, _LF)


def _refuse_rows(block: _Block, shape: RowShape) -> None:
    for start, end in block.cells:
        if _holds_rows(block.data[start:end], shape):
            raise _OpenQuoteError(block.offset + start, "its lines read as rows of the table")


def _holds_rows(text: bytes, shape: RowShape) -> bool:
    """Whether nearly all whole lines in a cell read as rows: the quote before it is one too many."""
    whole = [line for line in text.splitlines()[1:-1] if line]
    numbers, delimiters = sum(shape.is_number), len(shape.is_number) - 1
    needed = -(-_ROW_NUMBERS // numbers) if numbers else -(-_ROW_DELIMITERS // max(delimiters, 1))
    if not delimiters or len(whole) < max(_ROW_LINES, needed):
        return False
    strange = 0
    for line in whole:
        strange += not shape.fits(line)
        if strange > (1 - _ROW_SHARE) * len(whole):
            return False
    return True


def _explain_open_quote(path: Path, error: _OpenQuoteError, where: str) -> DatasetError:
    """Which line opens it, and how far it reaches; slow, and only on the way to an error."""
    line, lines, is_closed, ends_line = 1, 0, False, False
    with path.open("rb") as file:
        while (left := error.position - file.tell()) > 0:
            line += count_line_ends(file.read(min(left, _BLOCK_BYTES)))
        begin = file.read(_SHOWN_BYTES).splitlines()[0].decode("utf-8", "replace")
        file.seek(error.position + 1)
        while not is_closed and (data := file.read(_BLOCK_BYTES)):
            while data.endswith((_CR, _QUOTE)) and (more := file.read(1)):
                data += more
            end = _find_close(_QUOTE + data, 0)
            is_closed = end is not None
            lines += count_line_ends(data[:end])
            ends_line = data.endswith((_LF, _CR))
    lines += is_closed or not ends_line
    taken = f"it takes in {lines:,} line{'s' * (lines != 1)}"
    return DatasetError(
        f"line {line}: the quote that opens the cell {begin!r} is "
        + (
            f"closed in line {line + lines - 1} only, and {error.why}; {taken}"
            if is_closed
            else f"never closed; {taken}, up to the end of the file"
        ),
        where=where,
        hint='Close it, or remove it; inside a quoted cell "" stands for one quote.',
    )
