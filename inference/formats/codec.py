"""JSON bodies to raw rows, labels and probabilities to JSON bodies: the fast way.

A body is decoded straight into structs made from the signature, all in C: types, ranges, required
and unknown names. What this way refuses, or cannot be sure of, is read again by
`inference.formats.strict_json`, which is slow, complete and says exactly what is wrong; the two agree on
every body.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from timberline.inference.errors import MalformedBodyError, RowError
from timberline.inference.formats.csv import TableReader
from timberline.inference.formats.outline import (
    Limits,
    LongElementError,
    Outline,
    Slice,
    TooManyElementsError,
    count_keys,
    cut_array,
    cut_lines,
)
from timberline.inference.formats.strict_json import (
    SIGNATURE,
    RowBatch,
    SlicedBatch,
    find_instances,
    read_exactly,
    read_frame,
    read_lines,
    read_slice,
)
from timberline.inference.formats.validate import (
    LARGEST_INTEGER,
    NO_TABLE,
    Layout,
    name_cell,
    refuse_batch,
    to_moment,
)
from timberline.inference.session import Outputs, Row
from timberline.registry.signature import UNKNOWN_CODE, ClassLabel, Column, Moment, SourceTable

# A number with a fraction of zero is an integer: JavaScript and pandas write 3.0 for 3.
_Integer = Annotated[float, msgspec.Meta(multiple_of=1.0, ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]
_TYPES: dict[str, Any] = {"FP64": float, "INT64": _Integer, "BOOL": bool, "BYTES": str}


class _Date(int):
    """Days since 1970-01-01; a class of its own, so that the decoder has `_read_moment` make it."""

    moment: ClassVar[Moment] = "date"


class _Timestamp(int):
    """Microseconds since 1970-01-01."""

    moment: ClassVar[Moment] = "timestamp"


_MOMENTS: dict[Moment, Any] = {"date": _Date, "timestamp": _Timestamp}


def _read_moment(kind: type[_Date | _Timestamp], value: Any) -> _Date | _Timestamp:
    return kind(to_moment(value, kind.moment))


# TensorFlow Serving's clients name the signature first.
_INSTANCES = re.compile(
    rb'\s*\{\s*(?:"signature_name"\s*:\s*"(?:%b)?"\s*,\s*)?"instances"\s*:\s*\[\s*([\[{])'
    % SIGNATURE.encode()
)

# Probabilities that are turned into Python numbers at a time; a millisecond's work.
_STEP_VALUES = 4096
# 64 KiB hold hardly more that are written out; left out, values cost no byte of a body and eight here.
_MOST_SHORT_VALUES = 16 * 1024
# Of a struct that has columns which are not read. 64 KiB are 20,000 rows of nothing, each of them a struct.
_MOST_FIELDS = 256
# What the decoder raises; the last of what is nested without end, in a column that is not read.
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PROBABILITY_BYTES = 16  # no float32 has more, with nine digits


class _ManyRows(Exception):  # noqa: N818 - no error
    """A short body has more rows than the event loop reads."""


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What may stand beside ``instances``."""

    probabilities: bool | UnsetType = UNSET


class RowDecoder:
    """Reads bodies of ``POST /predict`` for one signature.

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
        self.tables = TableReader(columns, max_rows, limits, table)  # reads the bodies that are not JSON
        self._columns = tuple(columns)
        self._layout = Layout.of(columns, table)
        self._max_rows = max_rows
        self._width = len(columns)
        self._most_short_rows = max(1, _MOST_SHORT_VALUES // self._width)
        self._has_text = any(column.datatype == "BYTES" for column in columns)
        self._defaults = tuple(column.default for column in columns)
        names = [column.name for column in columns]
        # An array of this name is rows; only the strict reader can distinguish it from a column's value.
        unread = [name for name in table.unread if name not in names and name != "instances"]
        positional, complete = _define_positional(self._columns), _define_complete(self._columns)
        self._decode_complete = msgspec.json.Decoder(complete, dec_hook=_read_moment).decode
        self._arrays = _RowDecoders.of(positional)
        # Two, so that clients that send what is read, and no more, pay nothing for the others.
        self._objects = [_RowDecoders.of(_define_named(self._columns, []))]
        if unread and self._width + len(unread) <= _MOST_FIELDS:
            self._objects.append(_RowDecoders.of(_define_named(self._columns, unread)))

    def decode(self, body: bytes) -> RowBatch:
        """The rows in ``body``, every value checked and every default filled in.

        Raises:
            MalformedBodyError: not JSON, or neither an object of named values nor ``instances``.
            RowError: a row does not fit the columns; says which row and which column.
            BatchTooLargeError: there are more than ``max_rows`` rows.
        """
        return self._decode(body, self._max_rows)

    def decode_short(self, body: bytes) -> RowBatch | None:
        """As `decode`, of a short body; None if its rows are many for their bytes.

        Then most of their values are defaults, and the rows much larger than the body.
        """
        try:
            return self._decode(body, self._most_short_rows)
        except _ManyRows:
            return None

    def _decode(self, body: bytes, most_rows: int) -> RowBatch:
        if self._has_text and b"\\u0000" in body:  # may stand for NULL_TEXT, which no value may be
            return read_exactly(body, self._columns, self._max_rows, self._layout.table)
        colons = body.count(b":")
        if colons == self._width:  # as many keys as columns: most rows name them all
            try:
                return RowBatch((_astuple(self._decode_complete(body)),), True)
            except _NOT_DECODED:
                pass  # or as many by chance
        batch = _INSTANCES.match(body)
        is_positional = batch is not None and batch[1] == b"["
        objects = self._objects
        if batch is None and colons > self._width:
            objects = objects[-1:]  # of two, the one that takes more names
        for decoders in (self._arrays,) if is_positional else objects:
            try:
                if batch is None:
                    found = self._decode_row(body, decoders)
                else:
                    found = self._decode_batch(body, most_rows, decoders, is_positional)
            except _NOT_DECODED:
                continue
            if found is not None:
                return found
        return read_exactly(body, self._columns, self._max_rows, self._layout.table)

    def _decode_row(self, body: bytes, decoders: _RowDecoders) -> RowBatch | None:
        """The only row, or None when only the strict reader can tell whether it is right."""
        rows = self._take_rows([decoders.row(body)], body, 0, False)
        return None if rows is None else RowBatch(rows, True)

    def _decode_batch(
        self, body: bytes, most_rows: int, decoders: _RowDecoders, is_positional: bool
    ) -> RowBatch | None:
        """The rows of ``instances``, or None when only the strict reader can tell whether they are right."""
        found = decoders.batch(body)
        if len(found.instances) > self._max_rows:
            raise refuse_batch(len(found.instances), self._max_rows)
        if len(found.instances) > most_rows:
            raise _ManyRows
        keys, is_short = _count_parameters(found)
        rows = self._take_rows(found.instances, body, keys, is_positional)
        return None if rows is None else RowBatch(rows, False, is_short)

    def _take_rows(
        self, found: Sequence[Any], text: bytes, keys: int, is_positional: bool
    ) -> Sequence[Row] | None:
        """The rows decoded from ``text``, which holds ``keys`` more names; None if one may be wrong."""
        rows = [_astuple(row) for row in found]
        if is_positional:
            return rows if _has_keys(text, keys) else None
        left_out_each = [row.count(UNSET) for row in rows]
        keys += sum(map(len, rows)) - sum(left_out_each)
        width = self._width
        if rows and len(rows[0]) > width:  # behind those that are read stand those that are not
            rows = [row[:width] for row in rows]
            left_out_each = [row.count(UNSET) for row in rows]
        if width in left_out_each or not _has_keys(text, keys):
            return None
        return [self._fill(row) if n else row for row, n in zip(rows, left_out_each, strict=True)]

    def decode_large(self, body: bytes) -> SlicedBatch:
        """As `decode`, some rows at a time, so that a long body needs little memory.

        What stands around the rows, and how many they are, is judged at once; the rows are decoded as
        the slices are asked for, which raises what is wrong with them. Of several faults in a body it
        may be another one than `decode` finds.

        Raises:
            MalformedBodyError, BatchTooLargeError: as `decode`.
            RowError: as `decode`; and a row is longer than `Limits` allow.
        """
        longest = self._limits.longest
        named = _INSTANCES.match(body, 0, longest)
        begin = named.start(1) if named else None
        if begin is None and len(body) > longest:
            begin = find_instances(body, longest)
            if begin is None:
                raise self._refuse_long(None)
        if begin is None:
            batch = self.decode(body)
            return SlicedBatch([batch.rows], batch.is_single, batch.is_short)
        try:
            outline = cut_array(body, begin, self._max_rows, self._limits)
        except TooManyElementsError:
            raise refuse_batch(None, self._max_rows) from None
        except LongElementError as error:
            raise self._refuse_long(error.index) from None
        if begin + len(body) - outline.end > longest:
            raise self._refuse_long(None)
        is_short = read_frame(body, begin, outline.end) if outline.is_closed else False
        return SlicedBatch(self._read_slices(body, outline), False, is_short)

    def _read_slices(self, body: bytes, outline: Outline) -> Iterator[Sequence[Row]]:
        first = outline.slices[0]
        start = body[first.start : first.end].lstrip()[:1]
        if not start and outline.end == first.end:
            read_exactly(body, self._columns, self._max_rows)  # says that there are no rows
        is_positional = start == b"["
        index = 0
        for part in outline.slices:
            rows = None
            if outline.is_closed:
                text = b"[%b]" % body[part.start : part.end]
                rows = self._decode_slice(text, part, "slice", is_positional)
            if rows is None:
                rows = read_slice(
                    body,
                    part,
                    self._layout,
                    index,
                    is_positional=is_positional,
                    is_closed=outline.is_closed or part is not outline.slices[-1],
                )
            yield rows
            index += part.size

    def _decode_slice(
        self, text: bytes, part: Slice, form: Literal["slice", "lines"], is_positional: bool
    ) -> Sequence[Row] | None:
        """The rows of a slice in one of its forms; None when only the strict reader can tell."""
        if self._has_text and b"\\u0000" in text:
            return None
        for decoders in (self._arrays,) if is_positional else self._objects:
            try:
                found = decoders.slice(text) if form == "slice" else decoders.lines(text)
            except _NOT_DECODED:
                continue
            rows = self._take_rows(found, text, 0, is_positional) if len(found) == part.size else None
            if rows is not None:
                return rows
        return None

    def decode_lines(self, body: bytes) -> Iterator[Sequence[Row]]:
        """The rows of JSON lines, some at a time, each as ``instances`` may hold it.

        Blank lines do not count. How many others there are is judged before the first is decoded.

        Raises:
            MalformedBodyError: there is no line, or one is not one JSON value.
            RowError, BatchTooLargeError: as `decode_large`.
        """
        try:
            parts = cut_lines(body, self._max_rows, self._limits)
        except TooManyElementsError:
            raise refuse_batch(None, self._max_rows) from None
        except LongElementError as error:
            raise self._refuse_long(error.index) from None
        if not parts:
            raise MalformedBodyError("the body is empty", hint="Send a row on each line.")
        return self._read_lines(body, parts)

    def _read_lines(self, body: bytes, parts: Sequence[Slice]) -> Iterator[Sequence[Row]]:
        is_positional = body[parts[0].start : parts[0].end].lstrip()[:1] == b"["
        index = 0
        for part in parts:
            # As many values as lines, none of which shares a line with another, are one in each.
            text = body[part.start : part.end]
            rows = self._decode_slice(text, part, "lines", is_positional)
            yield rows or read_lines(body, part, self._layout, index, is_positional=is_positional)
            index += part.size

    def _refuse_long(self, index: int | None) -> RowError:
        longest = f"{self._limits.longest:,} bytes"
        if index is None:
            return RowError(f'more than {longest} outside of the rows of "instances", the most that are read')
        return RowError(f"has more than {longest}, the most that are read of one", where=name_cell(index))

    def _fill(self, row: tuple[Any, ...]) -> Row:
        pairs = zip(row, self._defaults, strict=True)
        return tuple([default if value is UNSET else value for value, default in pairs])


class AnswerEncoder:
    """Writes the answers of ``POST /predict`` for one version.

    Everything but the probabilities is the same for every row of a class, so it is laid out once;
    a probability takes the nine digits that bring its float32 back exactly.

    Args:
        model, version: named in answers that are one JSON object.
        classes: in the order of the probabilities.
        warned: features that are text, in the order of their codes, if answers shall say which of them have
            an unknown value; none if not.
    """

    def __init__(
        self, model: str, version: int, classes: Sequence[ClassLabel], warned: Sequence[str] = ()
    ) -> None:
        tail = b'"model":%b,"version":%d}' % (msgspec.json.encode(model), version)
        self._rows = tuple(_row_template(label, classes) for label in classes)
        self._singles = tuple(row[:-1] + b"," + tail.replace(b"%", b"%%") for row in self._rows)
        self._short_rows = tuple(_write_short(label) for label in classes)
        self._short_singles = tuple(row[:-1] + b"," + tail for row in self._short_rows)
        self._batch_tail = b"]," + tail
        self._csv_short_rows = tuple(_join_csv(label.value, label.label) for label in classes)
        numbers = b",%.9g" * len(classes)
        self._csv_rows = tuple(row.replace(b"%", b"%%") + numbers for row in self._csv_short_rows)
        self._warnings = [f"{name}: unknown category" for name in warned]
        last = ["warnings"] if warned else []
        self._csv_short_names = _join_csv("prediction", "label", *last)
        names = [f"probability_{label.value}" for label in classes]
        self._csv_names = _join_csv("prediction", "label", *names, *last)
        # Of a row with probabilities, however it is written; the four bytes of a template's "%.9g" are more
        # than what stands between two rows.
        longest = max(map(len, (*self._rows, *self._csv_rows)))
        self._row_bytes = longest + _PROBABILITY_BYTES * len(classes)
        if warned:
            codes = [UNKNOWN_CODE] * len(warned)
            self._row_bytes += max(len(self._add_warnings(b"", codes)), len(self._add_field(b"", codes)))
        self._step_rows = max(1, _STEP_VALUES // len(classes))

    def encode_row(self, label: int, probabilities: tuple[float, ...]) -> bytes:
        """One answer with model and version."""
        return self._singles[label] % probabilities

    def encode_label(self, label: int) -> bytes:
        """One short answer, without probabilities, with model and version."""
        return self._short_singles[label]

    def warn(self, answer: bytes, codes: Sequence[int] | None) -> bytes:
        """``answer``, a JSON object, with what is unknown in its row, if answers shall say so."""
        if codes is None or not self._warnings or UNKNOWN_CODE not in codes:
            return answer
        return self._add_warnings(answer, codes)

    def encode_labels(self, outputs: Outputs) -> bytes:
        """The short answers in order, then model and version."""
        answers = self._join(self._short_rows, outputs, b",", is_short=True)
        return b'{"predictions":[%b%b' % (answers, self._batch_tail)

    @staticmethod
    def encode_floats(outputs: Outputs) -> bytes:
        """The bare probabilities: float32, little-endian, row by row in the order of the classes."""
        return outputs.probabilities.astype("<f4", copy=False).tobytes()

    def encode_rows(self, outputs: Outputs) -> bytes:
        """The answers in order, then model and version."""
        return b'{"predictions":[%b%b' % (self._join(self._rows, outputs, b","), self._batch_tail)

    def encode_lines(self, outputs: Outputs, *, is_short: bool) -> bytes:
        """JSON lines: the answer of each row, without model and version."""
        rows = self._short_rows if is_short else self._rows
        return self._join(rows, outputs, b"\n", is_short=is_short) + b"\n"

    def encode_csv(self, outputs: Outputs, *, is_short: bool, has_header: bool) -> bytes:
        """CSV: a line for each row with class, label and the probability of each class; then the warnings.

        Without a line of names unless one is asked for: batch jobs join the lines to those they sent.
        """
        rows = self._csv_short_rows if is_short else self._csv_rows
        names = self._csv_short_names if is_short else self._csv_names
        head = names + b"\n" if has_header else b""
        return b"%b%b\n" % (head, self._join(rows, outputs, b"\n", is_short=is_short, is_csv=True))

    def _join(
        self,
        templates: Sequence[bytes],
        outputs: Outputs,
        between: bytes,
        *,
        is_short: bool = False,
        is_csv: bool = False,
    ) -> bytes:
        """The template of each row's class, with its probabilities unless the answers are short."""
        write: _Write = _choose_texts if is_short else _fill_templates
        if self._warnings:
            write = partial(self._write_warned, write, self._add_field if is_csv else self.warn)
        step = self._step_rows
        if len(outputs.labels) <= step:
            return between.join(write(templates, outputs))
        starts = range(0, len(outputs.labels), step)
        slices = (outputs.cut(start, start + step) for start in starts)
        return between.join([between.join(write(templates, part)) for part in slices])

    @staticmethod
    def _write_warned(
        write: _Write,
        add: Callable[[bytes, Sequence[int]], bytes],
        templates: Sequence[bytes],
        outputs: Outputs,
    ) -> list[bytes]:
        assert outputs.categories is not None, "answers warn of what the graph tells"
        return list(map(add, write(templates, outputs), outputs.categories.tolist()))

    def _add_warnings(self, answer: bytes, codes: Sequence[int]) -> bytes:
        return b'%b,"warnings":%b}' % (answer[:-1], msgspec.json.encode(self._find_warnings(codes)))

    def _add_field(self, answer: bytes, codes: Sequence[int]) -> bytes:
        text = "; ".join(self._find_warnings(codes))
        return b"%b,%b" % (answer, _join_csv(text) if text else b"")

    def _find_warnings(self, codes: Sequence[int]) -> list[str]:
        return [text for text, code in zip(self._warnings, codes, strict=True) if code == UNKNOWN_CODE]

    def count_bytes(self, rows: int) -> int:
        """At least as many bytes as the answers to ``rows`` rows have, with probabilities."""
        return rows * self._row_bytes


_astuple: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple


# Columns need not be Python names, nor are required ones first.
_define_row = partial(msgspec.defstruct, forbid_unknown_fields=True, gc=False)


class _RowDecoders(NamedTuple):
    """Decoders of one kind of row: alone, in ``instances``, as a slice of an array, and on lines."""

    row: Callable[[bytes], Any]
    batch: Callable[[bytes], Any]
    slice: Callable[[bytes], list[Any]]
    lines: Callable[[bytes], list[Any]]

    @classmethod
    def of(cls, row: type[msgspec.Struct]) -> _RowDecoders:
        """The decoders of rows that are this struct."""
        return cls(
            msgspec.json.Decoder(row, dec_hook=_read_moment).decode,
            msgspec.json.Decoder(_batch_struct(row), dec_hook=_read_moment).decode,
            msgspec.json.Decoder(list[row], dec_hook=_read_moment).decode,  # type: ignore[valid-type]
            msgspec.json.Decoder(row, dec_hook=_read_moment).decode_lines,
        )


def _define_named(columns: Sequence[Column], unread: Sequence[str]) -> type[msgspec.Struct]:
    """A row as an object of named values, of which those that are ``unread`` may be anything."""
    fields: list[Any] = []
    for index, column in enumerate(columns):
        kind = _find_type(column)
        if column.may_be_absent:
            fields.append((f"c{index}", kind | UnsetType, UNSET))
        else:
            fields.append((f"c{index}", kind))
    fields += [(f"u{index}", Any, UNSET) for index in range(len(unread))]
    names = _rename(columns) | {f"u{index}": name for index, name in enumerate(unread)}
    return _define_row("NamedRow", fields, rename=names, kw_only=True)


def _define_positional(columns: Sequence[Column]) -> type[msgspec.Struct]:
    """A row as an array in column order."""
    return _define_row("PositionalRow", _all_fields(columns), array_like=True)


def _define_complete(columns: Sequence[Column]) -> type[msgspec.Struct]:
    """A row as an object with every name that is read, and no other."""
    return _define_row("CompleteRow", _all_fields(columns), rename=_rename(columns))


def _all_fields(columns: Sequence[Column]) -> list[tuple[str, Any]]:
    return [(f"c{index}", _find_type(column)) for index, column in enumerate(columns)]


def _find_type(column: Column) -> Any:
    kind = _TYPES[column.datatype] if column.moment is None else _MOMENTS[column.moment]
    return kind | None if column.is_nullable else kind


def _rename(columns: Sequence[Column]) -> dict[str, str]:
    return {f"c{index}": column.name for index, column in enumerate(columns)}


def _batch_struct(row: type[msgspec.Struct]) -> type[msgspec.Struct]:
    fields: list[Any] = [
        ("instances", list[row]),  # type: ignore[valid-type]
        ("parameters", Parameters | None | UnsetType, UNSET),
        ("signature_name", Literal[SIGNATURE, ""] | None | UnsetType, UNSET),
    ]
    return msgspec.defstruct("Instances", fields, forbid_unknown_fields=True)


def _count_parameters(batch: Any) -> tuple[int, bool]:
    """How many names a batch's body holds beside the rows', and whether it asks for short answers."""
    count = 1 + (batch.signature_name is not UNSET)
    given: Parameters | UnsetType | None = batch.parameters
    if given is UNSET:
        return count, False
    if given is None or given.probabilities is UNSET:
        return count + 1, False
    return count + 2, not given.probabilities


def _has_keys(body: bytes, count: int) -> bool:
    """Whether a valid ``body`` holds this many keys in all, so that none was given twice.

    Every key has a colon behind it, so as many colons as distinct names means as many keys; only
    colons within strings call for the closer look.
    """
    return body.count(b":") == count or count_keys(body) == count


_Write = Callable[[Sequence[bytes], Outputs], list[bytes]]
_Add = Callable[[bytes, Sequence[int]], bytes]


def _fill_templates(templates: Sequence[bytes], outputs: Outputs) -> list[bytes]:
    rows = zip(outputs.labels.tolist(), outputs.probabilities.tolist(), strict=True)
    return [templates[label] % tuple(row) for label, row in rows]


def _choose_texts(texts: Sequence[bytes], outputs: Outputs) -> list[bytes]:
    return [texts[label] for label in outputs.labels.tolist()]


def _join_csv(*fields: str) -> bytes:
    """A line of CSV without its end; what holds a comma, a quote or a line end is quoted (RFC 4180)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(fields)  # what it ends lines with is what it quotes
    return text.getvalue()[:-2].encode()


def _write_short(winner: ClassLabel) -> bytes:
    names = (msgspec.json.encode(winner.value), msgspec.json.encode(winner.label))
    return b'{"prediction":%b,"label":%b}' % names


def _row_template(winner: ClassLabel, classes: Sequence[ClassLabel]) -> bytes:
    def quoted(text: str) -> bytes:
        return msgspec.json.encode(text).replace(b"%", b"%%")

    probabilities = b",".join(quoted(label.value) + b":%.9g" for label in classes)
    return _write_short(winner)[:-1].replace(b"%", b"%%") + b',"probabilities":{%b}}' % probabilities
