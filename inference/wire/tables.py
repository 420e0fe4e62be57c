"""CSV and float32 bodies to raw rows: whole columns at a time, without a Python object for a row.

CSV (RFC 4180, UTF-8): a line for each row, fields in column order. A first line whose fields are all
names of columns is a header, unless the content type says ``header=absent``; under a header the
order is free and columns that may be left out may be left out. What a field may be:

- numbers as JSON writes them, or with a plus sign, or without a digit on one side of the point, with
  spaces around them or not; no NaN, no infinity; ``true``, ``false``, ``1``, ``0`` in a BOOL column;
- an empty field is a value left out: the column's default, else NULL if the column may be null.
  So the training's tables are read too, and an empty string cannot be written;
- blank lines do not count.

float32: little-endian, row by row in column order; NaN is NULL.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from inference.errors import MalformedBodyError, RowError, UnsupportedMediaError
from inference.session import Feed
from inference.wire.exact import fill_default, place, quote, read_text, refuse_batch, refuse_unknown
from inference.wire.matrix import MatrixRules
from inference.wire.outline import BLOCK_BYTES, Limits
from registry.signature import NULL_TEXT, Column

_FLOAT_BYTES = 4
_NUMBER = re.compile(r" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *")
# What numbers are made of. Among what only holds these, ``float`` takes what `_NUMBER` does; it alone
# would also take ``1_000``, ``nan``, ``infinity`` and the digits of every script.
_NUMBER_CHARACTERS = b"0123456789+-.eE "
# As above, with what is between numbers; a body that holds nothing else is read the short way.
_PLAIN_CHARACTERS = b"0123456789+-.eE,\n"
_decode_rows = msgspec.json.Decoder(list[list[float]]).decode
_BOOLEANS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}

# So many fields are turned into values at a time; a millisecond's work.
_STEP_FIELDS = 8192

Fields = Sequence[str]


class TableReader:
    """Reads CSV and float32 bodies for one signature.

    Args:
        columns: the raw columns in order.
        max_rows: more rows than this are refused.
        limits: of what is decoded at a time; without, those of as many columns.
    """

    def __init__(self, columns: Sequence[Column], max_rows: int, limits: Limits | None = None) -> None:
        self._limits = limits or Limits.of_columns(len(columns))
        self._by_name = {column.name: column for column in columns}
        self._rules = MatrixRules(columns)
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
        if self._rules.text:
            raise UnsupportedMediaError(
                "float32 rows hold numbers only",
                where=quote(self._rules.text[0].name),
                hint="This column holds text; send application/json or text/csv.",
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
        numeric = np.frombuffer(body, dtype="<f4").astype(np.float64).reshape(count, -1)  # (rows, columns)
        self._rules.check_numeric(numeric)
        return Feed(numeric, None)

    def read_csv(self, body: bytes, has_header: bool | None) -> Feed:
        """The rows of a CSV body; ``has_header`` is what is said of its first line, None for nothing.

        Of several faults in it, the one of the first row is named.

        Raises:
            MalformedBodyError: not UTF-8, not CSV, or no rows.
            BatchTooLargeError: there are more than ``max_rows`` rows.
            RowError: a row does not fit the columns, or is too long; says which row and which column.
        """
        return self._read_plain(body, has_header) or self._read_exactly(body, has_header)

    def _read_plain(self, body: bytes, has_header: bool | None) -> Feed | None:
        """The rows of a body of bare numbers; None if it is anything else, right or wrong.

        Rows of JSON numbers are rows of JSON but for the brackets, and its decoder reads them three
        times as fast as fields are split and turned into numbers one by one.
        """
        if self._rules.text:
            return None
        end = body.find(b"\n", 0, self._limits.longest)
        names = body[: max(end, 0)].removesuffix(b"\r").decode("utf-8", "replace").split(",")
        is_headed = self._is_header(names, has_header)
        if not is_headed:
            names = list(self._by_name)
        if sorted(names) != sorted(self._by_name):
            return None
        blocks: list[npt.NDArray[np.float64]] = []
        count = 0
        for block in self._cut_lines(body, end + 1 if is_headed else 0):
            numeric = _read_plain_block(block, len(names))
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
        return all(name in self._by_name for name in line) if has_header is None else has_header

    def _read_exactly(self, body: bytes, has_header: bool | None) -> Feed:
        lines = self._split(body)
        first = next(lines, None)
        if first is None:
            raise MalformedBodyError("the body is empty", hint="Send a line of values for each row.")
        is_headed = self._is_header(first, has_header)
        names = first if is_headed else list(self._by_name)
        if is_headed:
            _check_names(names, self._by_name)
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
            feeds.append(self._read_rows(names, rows, count))
            count += len(rows)
        if not feeds:
            raise MalformedBodyError("the body has no rows, only a header")
        feed = Feed.join(feeds)
        if feed.numeric is not None:
            self._rules.check_numeric(feed.numeric)
        return feed

    def _read_rows(self, names: Fields, rows: Sequence[Fields], first: int) -> Feed:
        """Rows that have a field for each of ``names``, ``first`` being the number of the first."""
        given: dict[str, Fields] = dict(zip(names, zip(*rows, strict=True), strict=True))
        empty: Fields = [""] * len(rows)
        numeric = text = None
        if self._rules.numeric:
            numeric = np.empty((len(rows), len(self._rules.numeric)))
            for index, column in enumerate(self._rules.numeric):
                numeric[:, index] = _read_numbers(given.get(column.name, empty), column, first)
        if self._rules.text:
            text = np.empty((len(rows), len(self._rules.text)), dtype=object)
            for index, column in enumerate(self._rules.text):
                text[:, index] = _read_texts(given.get(column.name, empty), column, first)
        return Feed(numeric, text)

    def _split(self, body: bytes) -> Iterator[list[str]]:
        """The lines that are not blank, as fields, one by one."""
        # Spreadsheets write the mark. The file shares the body's memory.
        file = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
        source = _Lines(file, self._limits.longest)
        reader = csv.reader(source, strict=True)
        blank_count = 0
        try:
            for line in reader:
                source.held = 0
                if line:
                    yield line
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
    """Lines of a file as the reader of CSV asks for them; ``held`` is what it has of the row so far."""

    def __init__(self, file: io.TextIOWrapper, longest: int) -> None:
        self.held = 0
        self._file = file
        self._longest = longest

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
        return line


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


def _read_plain_block(block: bytes, width: int) -> npt.NDArray[np.float64] | None:
    """Lines of bare numbers as (rows, ``width``); None if they are anything else."""
    block = block.replace(b"\r\n", b"\n")
    if block.translate(None, _PLAIN_CHARACTERS):
        return None
    try:
        rows = _decode_rows(b"[[%b]]" % block.replace(b"\n", b"],["))
    except msgspec.DecodeError:
        return None
    return np.array(rows) if set(map(len, rows)) == {width} else None


def _check_names(names: Sequence[str], by_name: dict[str, Column]) -> None:
    seen: set[str] = set()
    for name in names:
        if name not in by_name:
            error = refuse_unknown(name, by_name, None)
            raise RowError(error.what, where="header", hint=error.hint)
        if name in seen:
            raise RowError("is given twice", where=f"header, {quote(name)}")
        seen.add(name)


def _check_lines(lines: Iterable[Fields], width: int, is_headed: bool, first: int) -> Iterator[Fields]:
    """The same lines, ``first`` being the number of the first; refuses one that is no row."""
    for row, line in enumerate(lines, first):
        if len(line) != width:
            expected = "as the header names" if is_headed else "in column order"
            raise RowError(f"{len(line)} values, expected {width} {expected}", where=place(row))
        if not any(line):
            raise RowError("every field is empty, expected a value", where=place(row))
        yield line


def _read_numbers(fields: Fields, column: Column, first: int) -> Sequence[float] | npt.NDArray[np.float64]:
    """One column's values as numbers; NULL is NaN."""
    if "" not in fields:
        joined = "".join(fields)
        if joined.isascii() and not joined.encode().translate(None, _NUMBER_CHARACTERS):
            try:
                return list(map(float, fields))
            except ValueError:
                pass  # what is wrong is found below
    return [_read_number(field, column, row) for row, field in enumerate(fields, first)]


def _read_number(field: str, column: Column, row: int) -> float:
    if not field:
        value: Any = fill_default(column, row)
        return float("nan") if value is None else float(value)
    if column.datatype == "BOOL":
        number = _BOOLEANS.get(field.strip(" ").lower())
        if number is not None:
            return number
    if column.datatype == "BOOL" or not _NUMBER.fullmatch(field):
        expected = "true or false" if column.datatype == "BOOL" else "a number"
        raise RowError(f"expected {expected}, found {quote(field)}", where=place(row, column.name))
    return float(field)


def _read_texts(fields: Fields, column: Column, first: int) -> npt.NDArray[np.object_]:
    """One column's values as strings; NULL is ``NULL_TEXT``."""
    texts: Sequence[Any] = fields
    if "" in fields or NULL_TEXT in "".join(fields):
        texts = [_read_text(field, column, row) for row, field in enumerate(fields, first)]
    return np.array(texts, dtype=object)


def _read_text(field: str, column: Column, row: int) -> str:
    if field:
        return read_text(field, column, row)
    value = fill_default(column, row)
    return NULL_TEXT if value is None else str(value)
