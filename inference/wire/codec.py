"""JSON bodies to raw rows, labels and probabilities to JSON bodies: the fast way.

A body is decoded straight into structs made from the signature, all in C: types, ranges, required
and unknown names. What this way refuses, or cannot be sure of, is read again by `inference/wire/exact.py`,
which is slow, complete and says exactly what is wrong; the two agree on every body.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from inference.errors import MalformedBodyError
from inference.session import Outputs, Row
from inference.wire.exact import LARGEST_INTEGER, SIGNATURE, RowBatch, place, read_exactly, refuse_batch
from inference.wire.tables import TableReader
from registry.signature import ClassLabel, Column

# A number with a fraction of zero is an integer: JavaScript and pandas write 3.0 for 3.
_Integer = Annotated[float, msgspec.Meta(multiple_of=1.0, ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]
_TYPES: dict[str, Any] = {"FP64": float, "INT64": _Integer, "BOOL": bool, "BYTES": str}
# A line from its first character on that is no space.
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_INSTANCES = re.compile(rb'\s*\{\s*"instances"\s*:\s*\[\s*([\[{])')
# Every string of a JSON text, with the colon behind it if it is a key.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"\s*(:?)')


# Finds where a value ends, and makes nothing of it.
_decode_nothing = msgspec.json.Decoder(msgspec.Raw).decode


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What may stand beside ``instances``."""

    probabilities: bool | UnsetType = UNSET


class RowDecoder:
    """Reads bodies of ``POST /predict`` for one signature.

    Args:
        columns: the raw columns in order.
        max_rows: more rows than this are refused.
    """

    def __init__(self, columns: Sequence[Column], max_rows: int) -> None:
        self.tables = TableReader(columns, max_rows)  # reads the bodies that are not JSON
        self._columns = tuple(columns)
        self._max_rows = max_rows
        self._width = len(columns)
        self._has_text = any(column.datatype == "BYTES" for column in columns)
        self._defaults = tuple(column.default for column in columns)
        named, positional, complete = _row_structs(self._columns)
        self._decode_row = msgspec.json.Decoder(named).decode
        self._decode_complete = msgspec.json.Decoder(complete).decode
        self._decode_objects: Callable[[bytes], Any] = msgspec.json.Decoder(_batch_struct(named)).decode
        self._decode_arrays: Callable[[bytes], Any] = msgspec.json.Decoder(_batch_struct(positional)).decode

    def decode(self, body: bytes) -> RowBatch:
        """The rows in ``body``, every value checked and every default filled in.

        Raises:
            MalformedBodyError: not JSON, or neither an object of named values nor ``instances``.
            RowError: a row does not fit the columns; says which row and which column.
            BatchTooLargeError: there are more than ``max_rows`` rows.
        """
        try:
            batch = self._decode_fast(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            batch = None
        if batch is None:
            return read_exactly(body, self._columns, self._max_rows)
        return batch

    def decode_lines(self, body: bytes) -> RowBatch:
        """As `decode`, of a row a line, each as ``instances`` may hold it; blank lines do not count.

        Raises:
            MalformedBodyError, RowError, BatchTooLargeError: as `decode`; a line is not one JSON value.
        """
        found = itertools.islice(_LINE.finditer(body), self._max_rows + 1)
        lines = [line[0] for line in found]
        if not lines:
            raise MalformedBodyError("the body is empty", hint="Send a row on each line.")
        if len(lines) > self._max_rows:
            raise refuse_batch(sum(1 for _ in _LINE.finditer(body)), self._max_rows)
        # Each must be whole in itself: "{}, {}" and a value broken over lines would fit into the array too.
        for index, line in enumerate(lines):
            try:
                _decode_nothing(line)
            except (msgspec.DecodeError, RecursionError) as error:
                raise MalformedBodyError(f"the line is not JSON: {error}", where=place(index)) from None
        return self.decode(b'{"instances":[' + b",".join(lines) + b"]}")

    def _decode_fast(self, body: bytes) -> RowBatch | None:
        """The rows, or None when only the exact way can tell whether they are right."""
        if self._has_text and b"\\u0000" in body:  # may stand for NULL_TEXT, which no value may be
            return None
        if body.count(b":") == self._width:  # as many keys as columns: most rows name them all
            try:
                return RowBatch((_astuple(self._decode_complete(body)),), True)
            except msgspec.ValidationError:
                pass  # or as many by chance
        batch = _INSTANCES.match(body)
        if batch is None:
            row = _astuple(self._decode_row(body))
            left_out = row.count(UNSET)
            if left_out == self._width or not _has_keys(body, self._width - left_out):
                return None
            return RowBatch([self._fill(row) if left_out else row], True)
        is_positional = batch[1] == b"["
        found = self._decode_arrays(body) if is_positional else self._decode_objects(body)
        rows = [_astuple(row) for row in found.instances]
        keys, is_short = _count_parameters(found)
        left_out_each = [0 if is_positional else row.count(UNSET) for row in rows]
        if not is_positional:
            keys += self._width * len(rows) - sum(left_out_each)
        if len(rows) > self._max_rows:
            raise refuse_batch(len(rows), self._max_rows)
        if self._width in left_out_each or not _has_keys(body, keys):
            return None
        filled = [self._fill(row) if n else row for row, n in zip(rows, left_out_each, strict=True)]
        return RowBatch(filled, False, is_short)

    def _fill(self, row: tuple[Any, ...]) -> Row:
        pairs = zip(row, self._defaults, strict=True)
        return tuple([default if value is UNSET else value for value, default in pairs])


class AnswerEncoder:
    """Writes the answers of ``POST /predict`` for one version.

    Everything but the probabilities is the same for every row of a class, so it is laid out once;
    a probability takes the nine digits that bring its float32 back exactly.
    """

    def __init__(self, model: str, version: int, classes: Sequence[ClassLabel]) -> None:
        tail = b'"model":%b,"version":%d}' % (msgspec.json.encode(model), version)
        self._rows = tuple(_row_template(label, classes) for label in classes)
        self._singles = tuple(row[:-1] + b"," + tail.replace(b"%", b"%%") for row in self._rows)
        self._short_rows = tuple(_write_short(label) for label in classes)
        self._short_singles = tuple(row[:-1] + b"," + tail for row in self._short_rows)
        self._batch_tail = b"]," + tail
        self._csv_short_rows = tuple(_join_csv(label.value, label.label) for label in classes)
        numbers = b",%.9g" * len(classes)
        self._csv_rows = tuple(row.replace(b"%", b"%%") + numbers for row in self._csv_short_rows)
        self._csv_short_names = _join_csv("prediction", "label")
        names = [f"probability_{label.value}" for label in classes]
        self._csv_names = _join_csv("prediction", "label", *names)

    def encode_row(self, label: int, probabilities: tuple[float, ...]) -> bytes:
        """One answer with model and version."""
        return self._singles[label] % probabilities

    def encode_label(self, label: int) -> bytes:
        """One short answer, without probabilities, with model and version."""
        return self._short_singles[label]

    def encode_labels(self, outputs: Outputs) -> bytes:
        """The short answers in order, then model and version."""
        rows = self._short_rows
        answers = [rows[label] for label in outputs.labels.tolist()]
        return b'{"predictions":[' + b",".join(answers) + self._batch_tail

    @staticmethod
    def encode_floats(outputs: Outputs) -> bytes:
        """The bare probabilities: float32, little-endian, row by row in the order of the classes."""
        return outputs.probabilities.astype("<f4", copy=False).tobytes()

    def encode_rows(self, outputs: Outputs) -> bytes:
        """The answers in order, then model and version."""
        return b'{"predictions":[' + b",".join(_write_answers(self._rows, outputs)) + self._batch_tail

    def encode_lines(self, outputs: Outputs, *, is_short: bool) -> bytes:
        """JSON lines: the answer of each row, without model and version."""
        rows = self._short_rows
        answers = (
            [rows[label] for label in outputs.labels.tolist()]
            if is_short
            else _write_answers(self._rows, outputs)
        )
        return b"\n".join(answers) + b"\n"

    def encode_csv(self, outputs: Outputs, *, is_short: bool, has_header: bool) -> bytes:
        """CSV: class, label and then the probability of each class, a line a row.

        Without a line of names unless one is asked for: batch jobs join the lines to those they sent.
        """
        rows = self._csv_short_rows
        answers = (
            [rows[label] for label in outputs.labels.tolist()]
            if is_short
            else _write_answers(self._csv_rows, outputs)
        )
        names = [self._csv_short_names if is_short else self._csv_names] if has_header else []
        return b"\n".join([*names, *answers]) + b"\n"


_astuple: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple


def _row_structs(columns: Sequence[Column]) -> tuple[type[msgspec.Struct], ...]:
    """A row as an object of named values, as an array in column order, and as an object with every name."""
    named: list[Any] = []
    positional: list[Any] = []
    for index, column in enumerate(columns):
        kind = _TYPES[column.datatype]
        kind = kind | None if column.is_nullable else kind
        positional.append((f"c{index}", kind))
        if column.default is not None or column.is_nullable:
            named.append((f"c{index}", kind | UnsetType, UNSET))
        else:
            named.append((f"c{index}", kind))
    names = {f"c{index}": column.name for index, column in enumerate(columns)}
    # Columns need not be Python names, nor are required ones first.
    define = partial(msgspec.defstruct, forbid_unknown_fields=True, gc=False)
    return (
        define("NamedRow", named, rename=names, kw_only=True),
        define("PositionalRow", positional, array_like=True),
        define("CompleteRow", positional, rename=names),
    )


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
    return body.count(b":") == count or _STRINGS.findall(body).count(b":") == count


def _write_answers(templates: Sequence[bytes], outputs: Outputs) -> list[bytes]:
    """The template of each row's class with the row's probabilities in it."""
    rows = zip(outputs.labels.tolist(), outputs.probabilities.tolist(), strict=True)
    return [templates[label] % tuple(row) for label, row in rows]


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
