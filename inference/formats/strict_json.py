"""JSON bodies to raw rows: the slow, complete way, which can name what is wrong.

Only bodies that the fast way (`inference/formats/codec.py`) is not sure of come here. What is accepted:

- an object of named values, or ``{"instances": [...]}`` of such objects or of arrays in column order,
  beside which ``"parameters": {"probabilities": false}`` asks for short answers, and ``"signature_name"``
  may say what TensorFlow Serving's clients say there;
- a name may be left out if its column has a default or may be null, but not every name of a row;
- other columns of the training table (`SourceTable.unread`) may be named beside, whatever they hold;
- no name twice in an object; values as `inference/formats/validate.py` has it.

Values outside the range seen in training are accepted: that is drift, not an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from timberline.inference.errors import MalformedBodyError, RowError
from timberline.inference.formats.outline import Slice, find_lines, locate
from timberline.inference.formats.validate import (
    NO_TABLE,
    Layout,
    Pairs,
    Token,
    describe_value,
    fill_default,
    list_columns,
    name_cell,
    quote,
    read_value,
    refuse_batch,
    refuse_unknown,
)
from timberline.inference.session import Row
from timberline.registry.signature import Column, SourceTable

_INSTANCES = "instances"
_PARAMETERS = "parameters"
_PROBABILITIES = "probabilities"
_SPACE = re.compile(r"[ \t\n\r]*")
_SIGNATURE = "signature_name"
# TensorFlow Serving's name for the signature that a model has if it has one; ours have one.
SIGNATURE: Final = "serving_default"


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
    if not isinstance(tree, Pairs):
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
    return json.loads(text, object_pairs_hook=Pairs, parse_constant=Token, parse_int=_parse_integer)


def _parse_integer(text: str) -> int | float:
    # Python refuses to read integers of more than 4,300 digits; no column holds one of 309.
    return int(text) if len(text) < 309 else math.copysign(math.inf, -1 if text[0] == "-" else 1)


def _read_parameters(tree: Pairs) -> bool:
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
    if not isinstance(given, Pairs):
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
    if not isinstance(rows, list) or isinstance(rows, Pairs):
        raise MalformedBodyError(f'"{_INSTANCES}" is {describe_value(rows)}, expected an array of rows')
    if not rows:
        raise MalformedBodyError(f'"{_INSTANCES}" is empty, expected at least one row')
    if len(rows) > max_rows:
        raise refuse_batch(len(rows), max_rows)
    return [_read_row(row, index, type(rows[0]), layout) for index, row in enumerate(rows)]


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
    offset = _skip_space(text, 0)
    if text[offset : offset + 1] != "{":
        return None
    try:
        while text[offset] in "{,":
            name, offset = read_name.raw_decode(text, _skip_space(text, offset + 1))
            offset = _skip_space(text, offset)
            value = _skip_space(text, offset + 1)
            if name == _INSTANCES and text[offset : offset + 1] == ":" and text[value : value + 1] == "[":
                return len(text[: value + 1].encode())
            _, offset = read_name.raw_decode(text, value)
            offset = _skip_space(text, offset)
    except (ValueError, IndexError, RecursionError):
        pass
    return None


def _skip_space(text: str, offset: int) -> int:
    found = _SPACE.match(text, offset)
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
    if not isinstance(tree, Pairs):
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
    kind = list if is_positional else Pairs
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
    kind = list if is_positional else Pairs
    return [_read_row(row, index, kind, layout) for index, row in enumerate(rows, first)]


def _read_row(row: Any, index: int, kind: type, layout: Layout) -> tuple[Any, ...]:
    if not isinstance(row, list):
        raise RowError(
            f"{describe_value(row)}, expected an object of named values or an array in column order",
            where=f"row {index}",
        )
    if type(row) is not kind:
        raise RowError("objects and arrays are mixed; send one or the other", where=f"row {index}")
    if isinstance(row, Pairs):
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


def _read_object(pairs: Pairs, layout: Layout, index: int | None) -> tuple[Any, ...]:
    given: dict[str, Any] = {}
    for name, value in pairs:
        if not layout.is_known(name):
            raise refuse_unknown(name, layout.by_name, index)
        if name in given:
            raise RowError("is given twice", where=name_cell(index, name))
        given[name] = value
    if layout.by_name.keys().isdisjoint(given):
        what = "no column that the model reads is named" if given else "no column is named"
        raise RowError(what, where=name_cell(index), hint=f"Columns: {list_columns(layout.by_name)}.")
    return tuple(_take(given, column, index, layout) for column in layout.by_name.values())


def _take(given: dict[str, Any], column: Column, index: int | None, layout: Layout) -> Any:
    if column.name in given:
        return read_value(given[column.name], column, index, layout.table.null_text)
    return fill_default(column, index)
