"""How a CSV file is written: encoding, delimiter, escape, lines before the table, comments, header.

Found from its bytes and its first lines; that the whole table reads so is found out when
`training.init.columns` reads it. What a single column holds is none of this module's business.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from timberline.training.config import EtlSection
from timberline.training.data.source_files import open_plain, recode
from timberline.training.errors import DatasetError

Encoding = Literal["utf-8", "utf-16", "latin-1", "windows-1252"]

_DELIMITERS = (",", ";", "\t", "|", "||", "::", "~", "^", ":", " ")
_COMMENTS = ("#", "%")
_LOOKED_AT = 1 << 20
# Records that decide; more say the same.
_RECORDS = 500
# Lines of explanation before a table; a table that begins later is none that somebody exports.
_MOST_SKIPPED = 50
_LEAST_SHARE = 0.9
_NUMBER = re.compile(r"\s*[+-]?(\d[\d.,' _]*|[.,]\d+)([eE][+-]?\d+)?\s*%?\s*")
_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?\s*")
_NO_VALUE = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "."})
# Orange writes the types of its columns and their roles into lines of their own below the names.
_ORANGE_TYPE = re.compile(r"(c|d|s|t|continuous|discrete|string|time|\S+( \S+)+)")
_ORANGE_ROLE = re.compile(r"(class|meta|ignore|c|m|i|[\w.-]+=\S+)?")
_ORANGE_LINES = 3

_COMMA_SEPARATED = EtlSection()


@dataclass(frozen=True)
class Form:
    """How to read the table: ``etl`` has what [etl] says of it; ``names`` are its columns in order.

    ``path`` is the file or a plain copy of it, in UTF-8; CSV unless ``is_parquet``. ``remarks`` say what is
    unsure.
    """

    path: Path
    is_parquet: bool
    etl: EtlSection = _COMMA_SEPARATED
    names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    """One way to read the lines: so many cells (``width``) in so large a ``share`` of the records."""

    delimiter: str
    escape: Literal['"', "\\"]
    width: int
    share: float
    records: list[list[str]]
    first: int  # the record that the table begins with
    lines: int  # lines before it


def find_form(file: Path, scratch: Path) -> Form:
    """Look at ``file``; what has to be written anew, plain and in UTF-8, goes into ``scratch``.

    Raises:
        DatasetError: it is no table: empty, of another kind, in no encoding that is known, or its lines
            have no common number of cells.
    """
    name = file.name
    plain = open_plain(file, name, scratch)
    if plain.is_parquet:
        return Form(plain.path, is_parquet=True)
    encoding, codec = _find_encoding(plain.path, name)
    path = plain.path
    if codec != "utf-8":
        path = scratch / "utf-8"
        with plain.path.open("rb") as source, path.open("wb") as copy:
            chunks = iter(lambda: source.read(_LOOKED_AT), b"")
            copy.writelines(recode(chunks, codec, name))
    lines = _read_lines(path)
    comment = _find_comment(lines)
    layout = _find_layout(lines, comment, name)
    etl = EtlSection(
        encoding=encoding,
        delimiter=layout.delimiter,
        escape=layout.escape,
        comment=comment,
        skip_lines=layout.lines,
    )
    return _with_header(Form(path, False, etl), layout)


def _find_encoding(path: Path, name: str) -> tuple[Encoding, str]:
    """The encoding by its name in [etl] and by Python's; the whole file is looked at."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", "utf-16"
    zeros = head[0::2].count(0), head[1::2].count(0)
    # In UTF-16 every other byte of a Latin letter, digit or delimiter is zero.
    if max(zeros) > len(head) / 4 and min(zeros) < len(head) / 40:
        return "utf-16", "utf-16-le" if zeros[1] >= zeros[0] else "utf-16-be"
    candidates: tuple[tuple[Encoding, str], ...] = (
        ("utf-8", "utf-8"),
        ("windows-1252", "cp1252"),
        ("latin-1", "latin-1"),
    )
    found = next(pair for pair in candidates if _is_text(path, pair[1]))
    if found[0] == "windows-1252" and not _has_windows_characters(path):
        found = candidates[2]
    if found[0] == "latin-1" and _has_windows_characters(path):
        raise DatasetError(
            "is text in no encoding that is known: not UTF-8, and bytes that Windows-1252 does not have",
            where=name,
            hint="Save it as UTF-8.",
        )
    return found


def _is_text(path: Path, codec: str) -> bool:
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_LOOKED_AT):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _has_windows_characters(path: Path) -> bool:
    """Whether there are bytes that are control characters in Latin-1."""
    with path.open("rb") as file:
        return any(re.search(rb"[\x80-\x9f]", chunk) for chunk in iter(lambda: file.read(_LOOKED_AT), b""))


def _read_lines(path: Path) -> list[str]:
    """The first lines with their ends; the last of them whole."""
    with path.open("rb") as file:
        data = file.read(_LOOKED_AT)
        data += file.readline()
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    # As an editor counts: CR LF, LF or CR; not the separators that str.splitlines knows beside them.
    return re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z", text)


def _find_comment(lines: Sequence[str]) -> str:
    """The character that lines of comment begin with: those that are cut otherwise than the table's."""
    for mark in _COMMENTS:
        marked = [line for line in lines if line.startswith(mark)]
        others = [line for line in lines if not line.startswith(mark) and line.strip()]
        if not marked or len(marked) > len(others):
            continue
        delimiter = max(_DELIMITERS[:4], key=lambda cut: min((line.count(cut) for line in others), default=0))
        usual = Counter(line.count(delimiter) for line in others).most_common(1)[0][0]
        if all(line.count(delimiter) != usual for line in marked):
            return mark
    return ""


def _find_layout(lines: Sequence[str], comment: str, name: str) -> _Layout:
    kept = [("\n" if comment and line.startswith(comment) else line) for line in lines]
    found = [
        layout
        for delimiter in _DELIMITERS
        for escape in ('"', "\\")
        if (layout := _try_layout(kept, delimiter, escape)) is not None
    ]
    if not found:
        raise DatasetError(
            "has no delimiter that cuts its lines into equally many cells, two at least",
            where=name,
            hint="A table needs a column to predict and one to predict it from; tried: "
            + " ".join(repr(mark) for mark in _DELIMITERS),
        )
    # A backslash that is no escape, at the end of a cell, would join it with the next one.
    return max(found, key=lambda layout: (round(layout.share, 2), layout.escape == "\\", _rank(layout)))


def _rank(layout: _Layout) -> tuple[bool, bool, int]:
    """Two characters are no chance; then comma, semicolon, tab or bar; then the one that makes more cells."""
    return len(layout.delimiter) > 1, layout.delimiter in _DELIMITERS[:4], layout.width


def _try_layout(lines: Sequence[str], delimiter: str, escape: Literal['"', "\\"]) -> _Layout | None:
    if escape == "\\" and not any('\\"' in line for line in lines):
        return None
    records, starts = _cut(lines, delimiter, escape)
    widths = Counter(len(record) for record in records if record)
    if not widths:
        return None
    # A header over a table may be shorter or longer than its rows; the rows are the many.
    width, _ = max(widths.items(), key=lambda item: (item[1], item[0]))
    first = next(number for number, record in enumerate(records) if len(record) == width)
    behind = [record for record in records[first:] if record]
    share = sum(len(record) == width for record in behind) / len(behind)
    if width < 2 or share < _LEAST_SHARE or starts[first] > _MOST_SKIPPED:
        return None
    before = [line for line in lines[: starts[first]] if line.strip()]
    # Blank lines and comments before the table are passed over anyway.
    return _Layout(delimiter, escape, width, share, records, first, starts[first] if before else 0)


def _cut(
    lines: Sequence[str], delimiter: str, escape: Literal['"', "\\"]
) -> tuple[list[list[str]], list[int]]:
    """The records, and the number of lines before each."""
    single = delimiter if len(delimiter) == 1 else "\x1f"
    taken: list[int] = []

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(0)
            yield line if single == delimiter else line.replace(delimiter, single)

    is_doubled = escape == '"'
    reader = csv.reader(
        feed(),
        delimiter=single,
        doublequote=is_doubled,
        escapechar=None if is_doubled else escape,
        skipinitialspace=delimiter == " ",
    )
    records, starts = [], []
    before = 0
    try:
        for record in itertools.islice(reader, _RECORDS):
            records.append(_or_blank(record))
            starts.append(before)
            before = len(taken)
    except csv.Error:  # a cell beyond 128 kB: a quote that is never closed in this layout
        return [], []
    return records, starts


def _or_blank(record: list[str]) -> list[str]:
    """A blank line as no cell at all."""
    return [] if not any(cell.strip() for cell in record) and len(record) == 1 else record


def _with_header(form: Form, layout: _Layout) -> Form:
    """Whether the first record names the columns, and how they are called."""
    records = [record for record in layout.records[layout.first :] if len(record) == layout.width]
    first, rest = records[0], records[1:]
    if not rest:
        raise DatasetError(
            "has one line and no rows below it", where=form.path.name, hint="Is it the whole file?"
        )
    if _is_orange(records):
        etl = msgspec.structs.replace(
            form.etl, header=False, skip_lines=form.etl.skip_lines + _ORANGE_LINES, comment=""
        )
        remark = "lines 2 and 3 tell Orange the types and roles: skipped with the names, which stand here"
        return Form(form.path, False, etl, tuple(first), (remark,))
    if _is_header(first, rest):
        return Form(form.path, False, form.etl, tuple(first))
    names = tuple(f"column_{number}" for number in range(1, layout.width + 1))
    etl = msgspec.structs.replace(form.etl, header=False)
    remark = "the first line reads like a row, so the file has no header: give the columns names of your own"
    return Form(form.path, False, etl, names, (remark,))


def _is_orange(records: Sequence[Sequence[str]]) -> bool:
    if len(records) <= _ORANGE_LINES:
        return False
    types, roles = records[1], records[2]
    return (
        all(_ORANGE_TYPE.fullmatch(cell) for cell in types)
        and all(_ORANGE_ROLE.fullmatch(cell) for cell in roles)
        and "class" in roles
    )


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Numbers or dates below a word are a name above a column; numbers below a number are rows."""
    named = alike = 0
    for position, cell in enumerate(first):
        values = [record[position] for record in rest if record[position].strip().casefold() not in _NO_VALUE]
        if not values or not all(map(_is_typed, values)):
            continue
        if _is_typed(cell):
            alike += 1
        elif cell.strip().casefold() not in _NO_VALUE:
            named += 1
    if named or alike:
        return 3 * named >= alike
    # Text throughout: names are told apart, and are no values.
    return len(set(first)) == len(first) and not any(
        cell in {record[position] for record in rest} for position, cell in enumerate(first)
    )


def _is_typed(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell) or _DATE.fullmatch(cell))
