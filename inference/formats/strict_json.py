"""JSON bodies to raw rows: the slow, complete way, which can name what is wrong.

Only bodies that the fast way (`inference/formats/codec.py`) is not sure of come here. What is accepted:

- an object of named values, or ``{"instances": [...]}`` of such objects or of arrays in column order,
  beside which ``"parameters": {"probabilities": false}`` asks for short answers, and ``"signature_name"``
  may say what TensorFlow Serving's clients say there;
- a name may be left out if its column has a default or may be null, but not every name of a row;
- other columns of the training table (`SourceTable.unread`) may be named beside, whatever they hold;
- numbers are finite; an INT64 column takes what has no fraction, up to ±(2^53 - 1), beyond which a
  JSON number is not exact; booleans, numbers and strings do not stand for each other;
- null only where the column may be null; no name twice in an object; no U+0000 in a string.

Values outside the range seen in training are accepted: that is drift, not an error.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from timberline.inference.errors import BatchTooLargeError, MalformedBodyError, RowError
from timberline.inference.formats.outline import Slice, find_lines, locate
from timberline.inference.session import Row
from timberline.registry.signature import Column, SourceTable

LARGEST_INTEGER = 2.0**53 - 1
_INSTANCES = "instances"
_PARAMETERS = "parameters"
_PROBABILITIES = "probabilities"
# Names that an unknown one is compared with, some 10 µs each on the event loop.
_MOST_COMPARED = 200
_SPACE = re.compile(r"[ \t\n\r]*")
_SIGNATURE = "signature_name"
# TensorFlow Serving's name for the signature that a model has if it has one; ours have one.
SIGNATURE: Final = "serving_default"
# Of a version that says nothing of its table: all of its columns are read, and an empty field is NULL.
NO_TABLE: Final = SourceTable()
_EXPECTED = {"FP64": "a number", "INT64": "an integer", "BOOL": "true or false", "BYTES": "a string"}


class _Pairs(list[tuple[str, Any]]):
    """An object as pairs, with names that are given twice."""


class _Token(str):
    """NaN, Infinity or -Infinity: many programs write them, but they are no JSON."""

    __slots__ = ()


class Layout(NamedTuple):
    """What a row may name: the columns that are read, in order, and the table that they come from."""

    by_name: dict[str, Column]
    table: SourceTable

    @classmethod
    def of(cls, columns: Sequence[Column], table: SourceTable) -> Layout:
        """The layout of a signature's columns; a column of theirs is never unread."""
        return cls({column.name: column for column in columns}, table)

    def is_known(self, name: str) -> bool:
        """Whether it is the name of a column, read or not."""
        return name in self.by_name or name in self.table.unread


class RowBatch(msgspec.Struct, frozen=True, gc=False):
    """The rows of one request, in order, and how they are to be answered."""

    rows: Sequence[Row]
    is_single: bool  # with one answer and not with a list
    is_short: bool = False  # without probabilities


def read_exactly(
    body: bytes, columns: Sequence[Column], max_rows: int, table: SourceTable = NO_TABLE
) -> RowBatch:
    """The rows in ``body``, every value checked and every default filled in.

    Raises:
        MalformedBodyError, RowError, BatchTooLargeError: as `RowDecoder.decode`.
    """
    tree = _parse(body)
    if not isinstance(tree, _Pairs):
        raise MalformedBodyError(
            f"the body is {describe_value(tree)}, "
            'expected an object of named values or {"instances": [...]}'
        )
    layout = Layout.of(columns, table)
    instances = [value for name, value in tree if name == _INSTANCES]
    if not instances or (layout.is_known(_INSTANCES) and not isinstance(instances[0], list)):
        return RowBatch([_read_object(tree, layout, None)], True)
    rows = _read_instances(instances, layout, max_rows)
    return RowBatch(rows, False, _read_parameters(tree))


def _parse(body: bytes) -> Any:
    if not body.strip():
        raise MalformedBodyError("the body is empty", hint="Send one object of named values.")
    return _parse_part(body, 0, len(body))


def _parse_part(
    body: bytes, start: int, end: int, before: bytes = b"", behind: bytes = b"", row: int | None = None
) -> Any:
    """The value of ``body[start:end]`` between two texts; errors name their offset in the body.

    ``row`` is for a line of JSON lines.
    """
    what = "the body" if row is None else "the line"
    part = b"%b%b%b" % (before, body[start:end], behind)
    try:
        text = part.decode("utf-8")
    except UnicodeDecodeError as error:
        at = start + error.start - len(before)
        raise MalformedBodyError(
            f"{what} is not UTF-8: {error.reason} at byte {at}", where=name_cell(row)
        ) from None
    try:
        return load_json(text)
    except json.JSONDecodeError as error:
        line, column = locate(body, start + len(text[: error.pos].encode()) - len(before))
        raise MalformedBodyError(
            f"{what} is not JSON: {error.msg} at line {line} column {column}", where=name_cell(row)
        ) from None
    except RecursionError:
        raise MalformedBodyError(
            f"{what} is nested too deeply; a row's values are not nested", where=name_cell(row)
        ) from None


def load_json(text: str) -> Any:
    """A tree of JSON: objects are pairs, NaN and the infinities are no numbers. Raises as `json.loads`."""
    return json.loads(text, object_pairs_hook=_Pairs, parse_constant=_Token, parse_int=_parse_integer)


def _parse_integer(text: str) -> int | float:
    # Python refuses to read integers of more than 4,300 digits; no column holds one of 309.
    return int(text) if len(text) < 309 else math.copysign(math.inf, -1 if text[0] == "-" else 1)


def _read_parameters(tree: _Pairs) -> bool:
    """Whether the answers shall be short, by what stands beside ``instances``."""
    beside: dict[str, Any] = {}
    for name, value in tree:
        if name == _INSTANCES:
            continue
        if name not in {_PARAMETERS, _SIGNATURE}:
            raise MalformedBodyError(f'unknown name {quote(name)} beside "{_INSTANCES}"')
        if name in beside:
            raise MalformedBodyError(f'"{name}" is given twice')
        beside[name] = value
    signature = beside.get(_SIGNATURE)
    if signature is not None and (isinstance(signature, list) or signature not in {SIGNATURE, ""}):
        raise MalformedBodyError(f'"{_SIGNATURE}" is {describe_value(signature)}, expected "{SIGNATURE}"')
    given = beside.get(_PARAMETERS)
    if given is None:
        return False
    if not isinstance(given, _Pairs):
        raise MalformedBodyError(f'"{_PARAMETERS}" is {describe_value(given)}, expected an object')
    for name, value in given:
        if name != _PROBABILITIES:
            raise MalformedBodyError(
                f'unknown name {quote(name)} in "{_PARAMETERS}"', hint=f"There is: {_PROBABILITIES}."
            )
        if not isinstance(value, bool):
            raise MalformedBodyError(f'"{name}" is {describe_value(value)}, expected true or false')
    if len(given) > 1:
        raise MalformedBodyError(f'"{_PROBABILITIES}" is given twice')
    return bool(given) and not given[0][1]


def _read_instances(instances: list[Any], layout: Layout, max_rows: int) -> list[tuple[Any, ...]]:
    if len(instances) > 1:
        raise MalformedBodyError(f'"{_INSTANCES}" is given twice')
    rows = instances[0]
    if not isinstance(rows, list) or isinstance(rows, _Pairs):
        raise MalformedBodyError(f'"{_INSTANCES}" is {describe_value(rows)}, expected an array of rows')
    if not rows:
        raise MalformedBodyError(f'"{_INSTANCES}" is empty, expected at least one row')
    if len(rows) > max_rows:
        raise refuse_batch(len(rows), max_rows)
    return [_read_row(row, index, type(rows[0]), layout) for index, row in enumerate(rows)]


def refuse_batch(count: int | None, max_rows: int) -> BatchTooLargeError:
    """The error for a request of more rows than are taken at once; ``count`` is None if it is not known."""
    found = f"more than {max_rows:,}" if count is None else f"{count:,}"
    return BatchTooLargeError(
        f"{found} rows in one request, at most {max_rows:,} are taken", hint="Send them in parts."
    )


class SlicedBatch(NamedTuple):
    """The rows of one large request, some at a time, and how they are to be answered."""

    slices: Iterable[Sequence[Row]]
    is_single: bool
    is_short: bool


def find_instances(body: bytes, longest: int) -> int | None:
    """Where the array of rows begins in an object: behind its bracket; None if it has none.

    It is looked for within the ``longest`` bytes that may stand around it, as ``"parameters"`` may
    come first and names may be written with escapes.
    """
    text = body[:longest].decode("utf-8", "ignore")
    read_name = json.JSONDecoder(strict=False)
    place = _skip_space(text, 0)
    if text[place : place + 1] != "{":
        return None
    try:
        while text[place] in "{,":
            name, place = read_name.raw_decode(text, _skip_space(text, place + 1))
            place = _skip_space(text, place)
            value = _skip_space(text, place + 1)
            if name == _INSTANCES and text[place : place + 1] == ":" and text[value : value + 1] == "[":
                return len(text[: value + 1].encode())
            _, place = read_name.raw_decode(text, value)
            place = _skip_space(text, place)
    except (ValueError, IndexError, RecursionError):
        pass
    return None


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None
    return found.end()


def read_frame(body: bytes, begin: int, end: int) -> bool:
    """Whether the answers shall be short, by what stands around the rows ``body[begin:end]``.

    Raises:
        MalformedBodyError: what is around them is no JSON, or not what may be there.
    """
    # Something must stand in for the rows, and their place in the body is where the second part's
    # errors are counted from.
    text = b"%b0%b" % (body[:begin], body[end:])
    try:
        tree = _parse(text)
    except MalformedBodyError:
        _parse_part(body, 0, begin, behind=b"0]}")  # finds what is wrong in front of the rows
        _parse_part(body, end, len(body), before=b'{"":[0')
        raise
    if not isinstance(tree, _Pairs):
        raise MalformedBodyError(f"the body is {describe_value(tree)}, expected an object")
    if sum(name == _INSTANCES for name, _ in tree) > 1:
        raise MalformedBodyError(f'"{_INSTANCES}" is given twice')
    return _read_parameters(tree)


def read_slice(
    body: bytes, part: Slice, layout: Layout, first: int, *, is_positional: bool, is_closed: bool
) -> list[Row]:
    """The rows ``body[part.start:part.end]`` of an array, as `read_exactly` reads them.

    Args:
        body: the whole body.
        part: some of its rows.
        layout: of a row.
        first: number of the first of these rows.
        is_positional: whether the array's first row is an array.
        is_closed: whether the array ends; if not, the last slice is no JSON, whatever it holds.

    Raises:
        MalformedBodyError, RowError: as `read_exactly`.
    """
    before = b"[0," if first else b"["
    rows = _parse_part(body, part.start, part.end, before, b"]" if is_closed else b"")[len(before) // 2 :]
    kind = list if is_positional else _Pairs
    return [_read_row(row, first + index, kind, layout) for index, row in enumerate(rows)]


def read_lines(body: bytes, part: Slice, layout: Layout, first: int, *, is_positional: bool) -> list[Row]:
    """The rows on the lines of ``body[part.start:part.end]``, each line by itself.

    Args:
        body: the whole body.
        part: some of its lines.
        layout: of a row.
        first: number of the first of these rows.
        is_positional: whether the first row of all is an array.

    Raises:
        MalformedBodyError, RowError: as `read_exactly`.
    """
    lines = enumerate(find_lines(body, part.start, part.end), first)
    rows = [_parse_part(body, line.start(), line.end(), row=index) for index, line in lines]
    kind = list if is_positional else _Pairs
    return [_read_row(row, index, kind, layout) for index, row in enumerate(rows, first)]


def _read_row(row: Any, index: int, kind: type, layout: Layout) -> tuple[Any, ...]:
    if not isinstance(row, list):
        raise RowError(
            f"{describe_value(row)}, expected an object of named values or an array in column order",
            where=f"row {index}",
        )
    if type(row) is not kind:
        raise RowError("objects and arrays are mixed; send one or the other", where=f"row {index}")
    if isinstance(row, _Pairs):
        return _read_object(row, layout, index)
    if len(row) != len(layout.by_name):
        raise RowError(
            f"{len(row)} values, expected {len(layout.by_name)} in column order",
            where=f"row {index}",
            hint="To leave some out, send an object of named values.",
        )
    return tuple(
        read_value(value, column, index, layout.table.null_text)
        for value, column in zip(row, layout.by_name.values(), strict=True)
    )


def _read_object(pairs: _Pairs, layout: Layout, index: int | None) -> tuple[Any, ...]:
    given: dict[str, Any] = {}
    for name, value in pairs:
        if not layout.is_known(name):
            raise refuse_unknown(name, layout.by_name, index)
        if name in given:
            raise RowError("is given twice", where=name_cell(index, name))
        given[name] = value
    if layout.by_name.keys().isdisjoint(given):
        what = "no column that the model reads is named" if given else "no column is named"
        raise RowError(what, where=name_cell(index), hint=f"Columns: {_some(layout.by_name)}.")
    return tuple(_take(given, column, index, layout) for column in layout.by_name.values())


def _take(given: dict[str, Any], column: Column, index: int | None, layout: Layout) -> Any:
    if column.name in given:
        return read_value(given[column.name], column, index, layout.table.null_text)
    return fill_default(column, index)


def fill_default(column: Column, index: int | None) -> Any:
    """The value of ``column`` in row ``index`` (None for the only row) where none is given.

    Raises:
        RowError: the column has no default and may not be null.
    """
    if not column.may_be_absent:
        raise RowError("is missing", where=name_cell(index, column.name), hint="It has no default.")
    return column.default


def read_value(value: Any, column: Column, index: int | None, null_text: Collection[str] = ()) -> Any:
    """``value`` as one of ``column`` in row ``index`` (None for the only row).

    Args:
        value: of `load_json`.
        column: decides what is taken.
        index: of the row.
        null_text: texts that mean NULL in CSV, where JSON has null.

    Raises:
        RowError: the column does not take it.
    """
    if value is None:
        if column.is_nullable:
            return None
        _refuse(value, column, index)
    if column.datatype != "BYTES" and isinstance(value, str) and value in null_text:
        hint = "The training table writes NULL so; in JSON it is null." if column.is_nullable else ""
        _refuse(value, column, index, hint)
    if column.datatype == "BYTES":
        return read_text(value, column, index)
    if column.datatype == "BOOL":
        return value if isinstance(value, bool) else _refuse(value, column, index)
    return read_number(value, column, index)


def read_number(value: Any, column: Column, index: int | None) -> float:
    """``value`` as a number of an FP64 or INT64 column of row ``index`` (None for the only row).

    Raises:
        RowError: it is none, or not one that the column takes.
    """
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        _refuse(value, column, index)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    where = name_cell(index, column.name)
    if not math.isfinite(number):
        raise RowError("the number is out of range, expected a finite one", where=where)
    if column.datatype == "INT64":
        if not number.is_integer():
            raise RowError(f"expected an integer, found {value!r:.80}", where=where)
        if abs(number) > LARGEST_INTEGER:
            raise RowError("the integer is not exact, expected at most ±(2^53 - 1)", where=where)
    return number


def read_text(value: Any, column: Column, index: int | None) -> str:
    """``value`` as a string of row ``index`` (None for the only row).

    Raises:
        RowError: it is none, or holds what no string may hold.
    """
    if not isinstance(value, str) or isinstance(value, _Token):
        _refuse(value, column, index)
    if "\x00" in value:
        raise RowError("the string holds U+0000", where=name_cell(index, column.name))
    try:
        value.encode()  # a hundred times as fast as looking at each character
    except UnicodeEncodeError:
        where = name_cell(index, column.name)
        raise RowError("the string holds half of a surrogate pair", where=where) from None
    return str(value)


def _refuse(value: Any, column: Column, index: int | None, hint: str = "") -> NoReturn:
    raise RowError(
        f"expected {_EXPECTED[column.datatype]}, found {describe_value(value)}",
        where=name_cell(index, column.name),
        hint=hint,
    )


def refuse_unknown(name: str, by_name: dict[str, Column], index: int | None) -> RowError:
    """The error for an unknown column name, with the nearest known one."""
    folded = {known.casefold(): known for known in itertools.islice(by_name, _MOST_COMPARED)}
    near = difflib.get_close_matches(name.casefold()[:200], folded, n=1, cutoff=0.6)
    hint = f"Did you mean {quote(folded[near[0]])}?" if near else f"Columns: {_some(by_name)}."
    return RowError(f"unknown name {quote(name)}", where=name_cell(index), hint=hint)


def name_cell(index: int | None, name: str | None = None) -> str:
    """A row and column for a message: ``row 3, "height"``; the only row of a request has no number."""
    row = "" if index is None else f"row {index}"
    column = "" if name is None else quote(name)
    return ", ".join(part for part in (row, column) if part)


def _some(by_name: dict[str, Column]) -> str:
    names = list(by_name)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def describe_value(value: Any) -> str:
    """A value of `load_json` in words, cut if it is long."""
    if isinstance(value, _Token):
        return str(value)
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, _Pairs):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value!r:.80}"


def quote(text: str) -> str:
    """``text`` as JSON, cut if it is long: a message never echoes a whole payload."""
    shown = json.dumps(text[:77] + "..." if len(text) > 80 else text)
    return shown if len(shown) <= 120 else shown[:117] + "..."
