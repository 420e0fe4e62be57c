"""CSV and float32 bodies to raw rows: whole columns at a time, without a Python object for a row.

CSV (RFC 4180, UTF-8): a line for each row, fields in column order. A first line of which more than half
are names of columns is a header, unless the content type says ``header=absent``; under a header the
order is free, columns that may be left out may be left out, and other columns of the training table
may be there, whatever they hold. Fields are read as training reads them, by the rules of DuckDB's reader and
casts: some texts are NULL, and where a column may not be null its default. Blank lines do not count.

A body may also be the training table's own file, or lines of it: then it has that table's delimiter, decimal
and thousands separators, words for true and false, escape character, comments and lines in front; and
where such a file has no header, the columns of a line are all of the table's. If the table's delimiter is
the comma, every body is taken for its own; else one by whose delimiter more names are found in the header,
or as many fields as the table has columns.

float32: little-endian, row by row in column order; NaN is NULL, and a date the days since 1970-01-01.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.inference.errors import MalformedBodyError, RowError, UnsupportedMediaError
from timberline.inference.formats.outline import BLOCK_BYTES, Limits
from timberline.inference.formats.validate import (
    NO_TABLE,
    Layout,
    MatrixRules,
    fill_absent,
    fill_default,
    name_cell,
    quote,
    read_text,
    refuse_batch,
    refuse_unknown,
    to_moment,
)
from timberline.inference.session import Feed
from timberline.registry.signature import NULL_TEXT, Column, Moment, SourceTable

_DIGITS = "[0-9]+(?:_[0-9]+)*"
_SPACE = r"[ \t\n\v\f\r]*"
_NUMBER = re.compile(
    rf"{_SPACE}[+-]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?{_SPACE}"
)
_NAN = re.compile(rf"{_SPACE}[+-]?nan(?:\([a-z0-9_]*\))?{_SPACE}", re.ASCII | re.IGNORECASE)
# What numbers are made of. Among what only holds these, ``float`` takes what `_NUMBER` does; it alone
# would also take ``nan``, ``infinity`` and the digits of every script.
_NUMBER_CHARACTERS = b"0123456789+-.eE_ \t\n\v\f\r"
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "0"), 0.0),
}
_SWAP = str.maketrans(",.", ".,")
_BLANKS = " \t\n\v\f\r"
# No number has it.
_NO_DIGIT = "'"

Fields = Sequence[str]


def lacks_float32(column: Column) -> bool:
    """Whether float32 cannot hold the column's values: text, and timestamps, which would move by minutes."""
    return column.datatype == "BYTES" or column.moment == "timestamp"


class FieldReader:
    """Reads fields of tables that are written like one.

    Args:
        table: what is NULL, true and false in it, and how its numbers are written.
        is_own: whether the fields are of that table; others may have points in numbers and the usual words
            for true and false as well, and group no digits.
    """

    def __init__(self, table: SourceTable, *, is_own: bool) -> None:
        self._nulls = table.null_text
        self._to_number: Callable[[str], str] | None = None
        if is_own and table.thousands:
            self._to_number = _NumberWriter(table).write
        elif table.decimal == ",":
            self._to_number = _swap_commas if is_own else _allow_commas
        words = {**dict.fromkeys(table.true_text, 1.0), **dict.fromkeys(table.false_text, 0.0)}
        self._takes_usual = not (is_own and words)
        self._words = {**_BOOLEANS, **words} if self._takes_usual else words
        # Only these can be taken for numbers.
        characters = _NUMBER_CHARACTERS + f"{table.decimal}{table.thousands if is_own else ''}".encode()
        self.number_nulls = tuple(t for t in self._nulls if not t.encode().translate(None, characters))

    def read_numbers(self, fields: Fields, column: Column, first: int) -> Sequence[float | None]:
        """One column's values as numbers, ``first`` being the number of the first row; NULL is NaN.

        Raises:
            RowError: a field is no value of the column's; says which row.
        """
        if column.datatype == "BOOL":
            numbers = list(map(self._words.get, fields))
            if None not in numbers and not any(text in fields for text in self._nulls):
                return numbers
        elif column.moment is None and not any(text in fields for text in self.number_nulls):
            written = fields if self._to_number is None else list(map(self._to_number, fields))
            joined = "".join(written)
            if joined.isascii() and not joined.encode().translate(None, _NUMBER_CHARACTERS):
                try:
                    return list(map(float, written))
                except ValueError:
                    pass  # what is wrong is found below
        nulls = self._nulls
        return [
            _fill_null(column, row, math.nan) if field in nulls else self._read_number(field, column, row)
            for row, field in enumerate(fields, first)
        ]

    def read_texts(self, fields: Fields, column: Column, first: int) -> npt.NDArray[np.object_]:
        """One column's values as strings; NULL is ``NULL_TEXT``. Raises as `read_numbers`."""
        texts: Sequence[Any] = fields
        nulls = self._nulls
        if NULL_TEXT in "".join(fields) or any(text in fields for text in nulls):
            texts = [
                _fill_null(column, row, NULL_TEXT) if field in nulls else read_text(field, column, row)
                for row, field in enumerate(fields, first)
            ]
        return np.array(texts, dtype=object)

    def _read_number(self, field: str, column: Column, row: int) -> float:
        if column.moment is not None:
            return _read_moment(field, column, column.moment, row)
        if column.datatype == "BOOL":
            number = self._words.get(field)
            if number is None and self._takes_usual:
                number = _BOOLEANS.get(field.lower())
            if number is None:
                raise RowError(
                    f"expected {self._name_words()}, found {quote(field)}", where=name_cell(row, column.name)
                )
            return number
        written = field if self._to_number is None else self._to_number(field)
        if _NUMBER.fullmatch(written):
            return float(written)
        if column.datatype == "FP64" and column.is_nullable and _NAN.fullmatch(written):
            return math.nan
        raise RowError(f"expected a number, found {quote(field)}", where=name_cell(row, column.name))

    def _name_words(self) -> str:
        return "true or false" if self._takes_usual else f"one of {', '.join(map(quote, self._words))[:200]}"


class _NumberWriter:
    """Writes numbers of a table that groups digits by three without what is between the groups."""

    def __init__(self, table: SourceTable) -> None:
        mark = re.escape(table.thousands)
        self._grouped = re.compile(rf"([+-]?[0-9]{{1,3}})((?:{mark}[0-9]{{3}})+)(?![0-9])([^{mark}]*)")
        self._mark = table.thousands
        self._has_commas = table.decimal == ","

    def write(self, field: str) -> str:
        """The number with a point; a mark that does not stand behind three digits makes it invalid."""
        field = field.strip(_BLANKS)
        if self._mark in field:
            found = self._grouped.fullmatch(field)
            if found is None:
                return _NO_DIGIT
            field = f"{found[1]}{found[2].replace(self._mark, '')}{found[3]}"
        return _swap_commas(field) if self._has_commas else field


def _read_moment(field: str, column: Column, moment: Moment, row: int) -> int:
    try:
        return to_moment(field, moment, column.time_format)
    except ValueError as error:
        raise RowError(
            f"expected a {moment}, found {quote(field)}, which {error}", where=name_cell(row, column.name)
        ) from None


def _fill_null(column: Column, row: int, null: float | str) -> Any:
    """The value where NULL is given: NULL as in training if the column may be null, else its default."""
    return null if column.is_nullable else fill_default(column, row)


def _swap_commas(field: str) -> str:
    """Swap commas and points; a number with a point becomes invalid."""
    return field.translate(_SWAP)


def _allow_commas(field: str) -> str:
    """As `_swap_commas`, but a number without a comma may have a point."""
    return field.translate(_SWAP) if "," in field else field


_FLOAT_BYTES = 4
# What numbers are made of and what is between them; a body of nothing else is read the short way.
_PLAIN_CHARACTERS = b"0123456789+-.eE,\n"
_DIGITS_ALONE = b"0123456789,\n"
_PLAIN_MARKS = frozenset(_PLAIN_CHARACTERS.decode())
# ASCII's unit separator.
_STAND_IN = "\x1f"
# A field in quotes, before which DuckDB passes over one blank, or the rest of one from an earlier line.
_QUOTED = re.compile(r' ?("(?:[^"]|"")*"?) *')
_QUOTED_REST = re.compile(r'((?:[^"]|"")*"?) *')
# The same with a backslash before a quote or another backslash.
_ESCAPED = re.compile(r' ?("(?:[^"\\]|\\.|"")*"?) *', re.DOTALL)
_ESCAPED_REST = re.compile(r'((?:[^"\\]|\\.|"")*"?) *', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN_BOOLEANS = frozenset({b"0", b"1"})
_decode_rows = msgspec.json.Decoder(list[list[float]]).decode
# So many fields are turned into values at a time; a millisecond's work.
_STEP_FIELDS = 8192


class TableReader:
    """Reads CSV and float32 bodies for one signature.

    Args:
        columns: the raw columns in order.
        max_rows: more rows than this are refused.
        limits: of what is decoded at a time; without, those of as many columns.
        table: what the model was trained from.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        max_rows: int,
        limits: Limits | None = None,
        table: SourceTable = NO_TABLE,
    ) -> None:
        self._limits = limits or Limits.of_columns(len(columns) + len(table.unread))
        self._layout = Layout.of(columns, table)
        self._by_name = self._layout.by_name
        self._rules = MatrixRules(columns)
        self._inexact = next(iter([*self._rules.text, *filter(lacks_float32, columns)]), None)
        self._own_fields = FieldReader(table, is_own=True)
        self._fields = self._own_fields if table.delimiter == "," else FieldReader(table, is_own=False)
        self._booleans = tuple(column.name for column in columns if column.datatype == "BOOL")
        self._may_be_plain = not (
            self._rules.text
            or any(self._fields.number_nulls)
            or any(column.moment for column in columns)
            or (self._booleans and table.true_text)
            or table.skip_lines
            or (table.delimiter == "," and (table.thousands or table.comment in _PLAIN_MARKS))
        )
        self._max_rows = max_rows

    def count_floats(self, body: bytes) -> int:
        """How many whole rows a float32 body of this length has."""
        return len(body) // (len(self._by_name) * _FLOAT_BYTES)

    def read_floats(self, body: bytes) -> Feed:
        """The rows of a float32 body.

        Raises:
            UnsupportedMediaError: a column holds text.
            MalformedBodyError: no rows, or the last is not whole.
            BatchTooLargeError, RowError: too many rows, or a value that its column does not take.
        """
        if self._inexact is not None:
            raise UnsupportedMediaError(
                "float32 rows hold numbers only",
                where=quote(self._inexact.name),
                hint=f"This column holds {'text' if self._rules.text else 'timestamps'}; "
                "send application/json or text/csv.",
            )
        width = len(self._by_name) * _FLOAT_BYTES
        count, rest = divmod(len(body), width)
        if rest or not count:
            raise MalformedBodyError(
                f"the body has {len(body):,} bytes, expected {width} for each row: "
                f"{len(self._by_name)} columns of float32"
            )
        if count > self._max_rows:
            raise refuse_batch(count, self._max_rows)
        with np.errstate(invalid="ignore"):  # a signalling NaN is NULL as well as a quiet one
            numeric = (
                np.frombuffer(body, dtype="<f4").astype(np.float64).reshape(count, -1)
            )  # (rows, columns)
        self._rules.check_numeric(numeric)
        return Feed(numeric, None)

    def read_csv(self, body: bytes, has_header: bool | None) -> Feed:
        """The rows of a CSV body.

        ``has_header`` is what the content type declares, None if nothing. Of several faults, the one of the
        first row is named.

        Raises:
            MalformedBodyError: not UTF-8, not CSV, or no rows.
            BatchTooLargeError: there are more than ``max_rows`` rows.
            RowError: a row does not fit the columns, or is too long; says which row and which column.
        """
        return self._read_plain(body, has_header) or self._read_exactly(body, has_header)

    def _read_plain(self, body: bytes, has_header: bool | None) -> Feed | None:
        """The rows of a body that holds numbers only; None for any other body.

        Rows of JSON numbers are rows of JSON but for the brackets, and its decoder reads them three
        times as fast as fields are split and turned into numbers one by one.
        """
        if not self._may_be_plain:
            return None
        end = body.find(b"\n", 0, self._limits.longest)
        first = body[: max(end, 0)].removesuffix(b"\r").decode("utf-8", "replace").split(",")
        is_headed = self._is_header(first, has_header)
        names = self._name_fields(first, is_headed)
        if len(set(names)) < len(names) or not self._by_name.keys() <= set(names):
            return None
        if len(names) > len(self._by_name) and not all(map(self._layout.is_known, names)):
            return None
        booleans = [names.index(name) for name in self._booleans]
        blocks: list[npt.NDArray[np.float64]] = []
        count = 0
        for block in self._cut_lines(body, end + 1 if is_headed else 0):
            numeric = _read_plain_block(block, len(names), booleans)
            if numeric is None:
                return None
            count += len(numeric)
            if count > self._max_rows:
                raise refuse_batch(count if len(body) <= self._limits.block else None, self._max_rows)
            blocks.append(numeric)
        if not blocks:
            return None
        numeric = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]  # (rows, columns)
        if names != list(self._by_name):
            numeric = np.ascontiguousarray(numeric[:, [names.index(name) for name in self._by_name]])
        self._rules.check_numeric(numeric)
        return Feed(numeric, None)

    def _cut_lines(self, body: bytes, start: int) -> Iterator[bytes]:
        """Some whole lines at a time, without the last one's end; a line that is too long is cut."""
        length = len(body)
        while start < length:
            end = length
            if length - start > self._limits.block:
                end = body.rfind(b"\n", start, start + self._limits.block)
                if end < 0:
                    end = body.find(b"\n", start, start + self._limits.longest)
                if end < 0:
                    end = min(start + self._limits.longest, length)
            block = body[start:end]
            yield block.rstrip(b"\r\n") if end == length else block
            start = end + 1

    def _is_header(self, line: Fields, has_header: bool | None) -> bool:
        if has_header is not None:
            return has_header
        # One that has a wrong name among others is a header too, and the name is what is wrong with it.
        return sum(map(self._layout.is_known, line)) * 2 > len(line)

    def _name_fields(self, first: Fields, is_headed: bool) -> Fields:
        """The names of the fields of each line, by the first line."""
        if is_headed:
            return first
        columns = self._layout.table.columns
        return (
            columns
            if columns and len(_cut_empty(first, len(columns))) == len(columns)
            else list(self._by_name)
        )

    def _find_form(self, body: bytes, has_header: bool | None) -> tuple[str, int]:
        """The delimiter, and how many bytes stand in front of the first line of the table.

        Lines in front are those that the training table has there, and only if nothing else can be: where
        the header stands behind them, or where none of them can be a row.
        """
        table, longest = self._layout.table, self._limits.longest
        if table.delimiter == "," and not table.skip_lines:
            return ",", 0
        text = body[:longest].removeprefix(codecs.BOM_UTF8)
        first = self._find_delimiter(text, has_header)
        lines = body[: table.skip_lines * longest].splitlines(keepends=True)[: table.skip_lines]
        begin = sum(map(len, lines))
        if not lines or begin >= len(body):
            return first, 0
        behind = body[begin : begin + longest]
        if table.header:
            delimiter = self._find_delimiter(behind, has_header)
            is_behind = self._is_named(behind, delimiter) and not self._is_named(text, first)
        else:
            delimiter, width = table.delimiter, len(table.columns)
            is_odd = self._is_named(text, delimiter) or len(self._cut(text, delimiter)) != width
            is_behind = is_odd and not any(map(self._is_row, lines)) and self._is_row(behind)
        return (delimiter, begin) if is_behind else (first, 0)

    def _find_delimiter(self, text: bytes, has_header: bool | None) -> str:
        """The delimiter, comma or the training table's, that finds more names or all columns."""
        table = self._layout.table
        if table.delimiter == ",":
            return ","
        if not table.header and len(self._cut(text, table.delimiter)) == len(table.columns) > 1:
            return table.delimiter
        if has_header is False:
            return ","
        # Of two that make as many, the first.
        return max(",", table.delimiter, key=lambda delimiter: self._count_names(text, delimiter))

    def _cut(self, text: bytes, delimiter: str) -> list[str]:
        """The fields of the first line, as far as it is there."""
        try:
            return next(self._split(text, delimiter, is_strict=False), [])
        except MalformedBodyError:
            return []

    def _count_names(self, line: bytes, delimiter: str) -> int:
        return sum(map(self._layout.is_known, self._cut(line, delimiter)))

    def _is_named(self, line: bytes, delimiter: str) -> bool:
        return self._is_header(self._cut(line, delimiter), None)

    def _is_row(self, text: bytes) -> bool:
        """Whether the first line is a row of the training table, which has no header."""
        fields = self._cut(text, self._layout.table.delimiter)
        columns = self._layout.table.columns
        try:
            (row,) = _check_lines([fields], len(columns), False, 0)
            self._read_rows(columns, [row], 0, self._own_fields)
        except RowError:
            return False
        return True

    def _read_exactly(self, body: bytes, has_header: bool | None) -> Feed:
        delimiter, begin = self._find_form(body, has_header)
        reader = self._fields if delimiter == "," else self._own_fields
        lines = self._split(body[begin:] if begin else body, delimiter)
        first = next(lines, None)
        if first is None:
            raise MalformedBodyError("the body is empty", hint="Send a line of values for each row.")
        is_headed = self._is_header(first, has_header)
        names = self._name_fields(first, is_headed)
        if is_headed:
            _check_names(names, self._layout)
        else:
            lines = itertools.chain([first], lines)
        step = max(1, _STEP_FIELDS // len(names))
        feeds: list[Feed] = []
        count = 0
        while rows := list(itertools.islice(_check_lines(lines, len(names), is_headed, count), step)):
            if count + len(rows) > self._max_rows:
                if len(body) > self._limits.block:
                    raise refuse_batch(None, self._max_rows)
                raise refuse_batch(count + len(rows) + sum(1 for _ in lines), self._max_rows)
            feeds.append(self._read_rows(names, rows, count, reader))
            count += len(rows)
        if not feeds:
            raise MalformedBodyError("the body has no rows, only a header")
        feed = Feed.join(feeds)
        if feed.numeric is not None:
            self._rules.check_numeric(feed.numeric)
        return feed

    def _read_rows(self, names: Fields, rows: Sequence[Fields], first: int, reader: FieldReader) -> Feed:
        """Rows that have a field for each of ``names``, ``first`` being the number of the first."""
        given: dict[str, Fields] = dict(zip(names, zip(*rows, strict=True), strict=True))

        def read(column: Column) -> Any:
            fields = given.get(column.name)
            if fields is None:
                return fill_absent(column, first)
            if column.datatype == "BYTES":
                return reader.read_texts(fields, column, first)
            return reader.read_numbers(fields, column, first)

        return self._rules.join_columns(len(rows), read)

    def _split(self, body: bytes, delimiter: str, *, is_strict: bool = True) -> Iterator[list[str]]:
        """Yield the fields of each line that is not blank."""
        # Spreadsheets write the mark. The file shares the body's memory.
        file = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
        table = self._layout.table if delimiter == self._layout.table.delimiter else NO_TABLE
        source = _Lines(file, self._limits.longest, delimiter, table)
        reader = csv.reader(source, delimiter=source.separator, strict=is_strict)
        blank_count = 0
        try:
            for line in reader:
                source.held = 0
                if line:
                    yield source.restore(line)
                    continue
                blank_count += 1
                if blank_count > self._max_rows:
                    raise MalformedBodyError(f"the body has more than {self._max_rows:,} blank lines")
        except UnicodeDecodeError as error:
            where = _find_wrong_byte(body)
            raise MalformedBodyError(f"the body is not UTF-8: {error.reason} at byte {where}") from None
        except csv.Error as error:
            raise MalformedBodyError(f"the body is not CSV: {error} in line {reader.line_num}") from None


class _Lines:
    """Lines of a file for `csv.reader`; ``held`` counts the characters of the row so far.

    That reader takes one character between fields: for a longer delimiter another stands in, ``separator``.
    Of ``table`` are comments, which become blank lines, and the character that escapes in quotes, in whose
    place comes what that reader takes.
    """

    def __init__(self, file: io.TextIOWrapper, longest: int, delimiter: str, table: SourceTable) -> None:
        self.held = 0
        self._comment = table.comment
        self._escapes = table.escape == "\\"
        self.separator = delimiter if len(delimiter) == 1 else _STAND_IN
        self._delimiter = delimiter
        self._file = file
        self._longest = longest

    def restore(self, fields: list[str]) -> list[str]:
        """The fields, with the delimiters in them that were in quotes."""
        if self.separator == self._delimiter:
            return fields
        return [field.replace(self.separator, self._delimiter) for field in fields]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._longest + 1)
        if not line:
            raise StopIteration
        self.held += len(line)
        if self.held > self._longest:
            raise MalformedBodyError(
                f"a row has more than {self._longest:,} characters, the most that are read of one",
                hint="A quotation mark that is not closed makes one row of all that follows.",
            )
        is_inside = self.held > len(line)
        if self._comment and not is_inside and line.startswith(self._comment):
            return "\n"
        if self.separator != self._delimiter:
            if self.separator in line:
                raise MalformedBodyError(f"the body holds {self.separator!r}, which no field may")
            line = line.replace(self._delimiter, self.separator)
        if '" ' in line or ' "' in line or (self._escapes and "\\" in line):
            return self._strip_quoted(line, is_inside=is_inside)
        return line

    def _strip_quoted(self, line: str, *, is_inside: bool) -> str:
        """The line without blanks around the quotes of its fields, which training passes over, and without
        escapes in them.

        ``is_inside``: it begins within a field that began in an earlier line.
        """
        parts: list[str] = []
        at = 0
        while at < len(line):
            quoted, rest = (_ESCAPED, _ESCAPED_REST) if self._escapes else (_QUOTED, _QUOTED_REST)
            field = (rest if is_inside else quoted).match(line, at)
            is_inside = False
            if field is not None:
                at = field.end()
                is_whole = line[at : at + 1] in {self.separator, "\r", "\n", ""}
                text = field[1] if is_whole else line[field.start(1) : at]
                parts.append(_ESCAPE.sub(_double_quote, text) if self._escapes else text)
            end = line.find(self.separator, at)
            end = len(line) if end < 0 else end + 1
            parts.append(line[at:end])
            at = end
        return "".join(parts)


def _double_quote(escaped: re.Match[str]) -> str:
    return '""' if escaped[1] == '"' else escaped[1]


def _cut_empty(line: Fields, width: int) -> Fields:
    """The line without empty fields behind so many others: they are none."""
    return line[:width] if len(line) > width and not any(line[width:]) else line


def _find_wrong_byte(body: bytes) -> int:
    """Offset of the first byte that is not UTF-8."""
    decode = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), BLOCK_BYTES):
        waiting = len(decode.getstate()[0])
        try:
            decode.decode(body[start : start + BLOCK_BYTES], start + BLOCK_BYTES >= len(body))
        except UnicodeDecodeError as error:
            return start - waiting + error.start
    return len(body)


def _read_plain_block(block: bytes, width: int, booleans: Sequence[int]) -> npt.NDArray[np.float64] | None:
    """Lines of bare numbers as (rows, ``width``), in columns ``booleans`` 0 and 1; None for anything else."""
    block = block.replace(b"\r\n", b"\n")
    if block.translate(None, _PLAIN_CHARACTERS):
        return None
    try:
        rows = _decode_rows(b"[[%b]]" % block.replace(b"\n", b"],["))
    except msgspec.DecodeError:
        return None
    if set(map(len, rows)) != {width}:
        return None
    numeric = np.array(rows)  # (rows, columns)
    if booleans and not _are_booleans(block, numeric, booleans):
        return None
    return numeric


def _are_booleans(block: bytes, numeric: npt.NDArray[np.float64], columns: Sequence[int]) -> bool:
    """Whether every field of ``columns`` is 0 or 1 as it is written: 1.0 is a number and no boolean."""
    if not block.translate(None, _DIGITS_ALONE):
        return bool((numeric[:, columns] <= 1).all())
    texts = block.replace(b"\n", b",").split(b",")
    return all(_PLAIN_BOOLEANS.issuperset(texts[at :: numeric.shape[1]]) for at in columns)


def _check_names(names: Sequence[str], layout: Layout) -> None:
    seen: set[str] = set()
    for name in names:
        if not layout.is_known(name):
            error = refuse_unknown(name, layout.by_name, None)
            raise RowError(error.what, where="header", hint=error.hint)
        if name in seen and name:  # columns without a name, where a table has some, are not read
            raise RowError("is given twice", where=f"header, {quote(name)}")
        seen.add(name)
    if seen.isdisjoint(layout.by_name):
        raise RowError("names no column that the model reads", where="header")


def _check_lines(lines: Iterable[Fields], width: int, is_headed: bool, first: int) -> Iterator[Fields]:
    """Yield the lines, the first being row ``first``; refuse one that is no row."""
    for row, line in enumerate(lines, first):
        fields = _cut_empty(line, width)
        if len(fields) != width:
            expected = "as the header names" if is_headed else "in column order"
            raise RowError(f"{len(fields)} values, expected {width} {expected}", where=name_cell(row))
        if not any(fields):
            raise RowError("every field is empty, expected a value", where=name_cell(row))
        yield fields
