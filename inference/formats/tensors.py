"""Tensors of the Open Inference Protocol to rows of raw values, and outputs to tensors. Pure.

What a model takes is sent either as the graph's own tensors (``numeric``, ``text``) or as one tensor
for each raw column, named like the column, of shape [rows] or [rows, 1]; columns with a default may then
be left out. Numbers may come as any numeric datatype that holds them exactly. Beside them, other
columns of the training table may be sent, whatever they hold.

The graph's own tensor holds dates in days and timestamps in microseconds, as the graph takes them; a tensor
of one such column holds what JSON may: ISO 8601 text, or a number of days or seconds.

Elements come as JSON or as a blob. NULL is null in JSON; in a blob it is NaN, and a string that is
U+0000 alone. First the elements are checked against the tensor's datatype and shape, then against the
model's columns (`inference/formats/validate.py`).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.inference.errors import MalformedBodyError, RowError
from timberline.inference.formats.infer_request import InferRequest, RequestedInput
from timberline.inference.formats.outline import Limits, LongElementError, TooManyElementsError, cut_array
from timberline.inference.formats.strict_json import load_json
from timberline.inference.formats.validate import (
    LARGEST_INTEGER,
    MatrixRules,
    describe_value,
    fill_absent,
    name_cell,
    read_value,
    refuse_batch,
)
from timberline.inference.session import Feed, Outputs, describe_categories
from timberline.registry.signature import (
    LABEL_OUTPUT,
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    UNKNOWN_CODE,
    Column,
    Signature,
)

TEXT = "BYTES"
BOOLEAN = "BOOL"
_LARGEST_FP32 = float(np.finfo(np.float32).max)
# By datatype: the numpy type of a blob's elements, and the least and greatest value JSON may give.
# Beyond ±(2^53 - 1) a JSON number is not exact.
NUMBERS: Mapping[str, tuple[str, float, float]] = {
    BOOLEAN: ("|u1", 0, 1),
    "UINT8": ("|u1", 0, 2**8 - 1),
    "UINT16": ("<u2", 0, 2**16 - 1),
    "UINT32": ("<u4", 0, 2**32 - 1),
    "UINT64": ("<u8", 0, LARGEST_INTEGER),
    "INT8": ("|i1", -(2**7), 2**7 - 1),
    "INT16": ("<i2", -(2**15), 2**15 - 1),
    "INT32": ("<i4", -(2**31), 2**31 - 1),
    "INT64": ("<i8", -LARGEST_INTEGER, LARGEST_INTEGER),
    "FP16": ("<f2", -math.inf, math.inf),
    "FP32": ("<f4", -_LARGEST_FP32, _LARGEST_FP32),
    "FP64": ("<f8", -math.inf, math.inf),
}
_MAY_BE_INEXACT = frozenset({"INT64", "UINT64"})
_NESTED = re.compile(rb"\[\s*\[")
_LENGTH_BYTES = 4  # in front of every string of a blob, little-endian
# Probabilities that are turned into Python numbers at a time; a millisecond's work.
_STEP_VALUES = 4096
_MOST_VALUE_BYTES = 16  # a float32 with nine digits, and its comma

Elements = npt.NDArray[Any]  # (rows, columns): float64, or object holding str


def count_elements(datatype: str, blob: memoryview, most: int) -> int:
    """How many elements a blob holds, of strings up to ``most``; one that is cut short counts too."""
    if datatype != TEXT:
        return len(blob) // np.dtype(NUMBERS[datatype][0]).itemsize
    count = offset = 0
    while offset < len(blob) and count < most:
        offset += _LENGTH_BYTES + int.from_bytes(blob[offset : offset + _LENGTH_BYTES], "little")
        count += 1
    return count


def refuse_input(what: str, name: str, *, hint: str = "") -> MalformedBodyError:
    """The error for an input tensor that cannot be taken as it stands."""
    return MalformedBodyError(what, where=f'input "{name[:80]}"', hint=hint)


def is_integer(datatype: str) -> bool:
    """Whether the datatype is one of the integers'."""
    return "INT" in datatype


def _build_decoder(datatype: str, *, takes_null: bool, depth: int) -> msgspec.json.Decoder[list[Any]]:
    """Of a list of elements (depth 1), or of a list of rows of them (depth 2)."""
    kind: Any = {TEXT: str, BOOLEAN: bool}.get(datatype, float)
    if kind is float:
        _, lowest, highest = NUMBERS[datatype]
        if is_integer(datatype):
            # A number with a fraction of zero is an integer: JavaScript and pandas write 3.0 for 3.
            kind = Annotated[float, msgspec.Meta(multiple_of=1.0, ge=lowest, le=highest)]
        elif not math.isinf(highest):
            kind = Annotated[float, msgspec.Meta(ge=lowest, le=highest)]
    kind = kind | None if takes_null else kind
    return msgspec.json.Decoder(list[kind] if depth == 1 else list[list[kind]])


# By datatype, whether null may stand in it, and depth.
_DECODERS = {
    (name, takes_null, depth): _build_decoder(name, takes_null=takes_null, depth=depth)
    for name in (*NUMBERS, TEXT)
    for takes_null in (False, True)
    for depth in (1, 2)
}


class ElementReader:
    """Reads the elements of one input tensor, whose datatype and shape suit the columns.

    Args:
        tensor: as it was sent.
        columns: what the elements of a row belong to.
        limits: of what is decoded at a time.
    """

    def __init__(self, tensor: RequestedInput, columns: Sequence[Column], limits: Limits) -> None:
        self._tensor = tensor
        self._datatype = tensor.datatype
        self._columns = columns
        self._width = len(columns)
        self._shape = (tensor.shape[0], len(columns))
        self._size = math.prod(self._shape)
        self._limits = limits

    def read(self, blob: memoryview | None) -> Elements:
        """The elements of ``blob``, or of the tensor's JSON if that is None.

        Returns:
            (rows, columns), float64 with NaN for NULL or str with ``NULL_TEXT`` for it; it may share
            memory with ``blob``.

        Raises:
            MalformedBodyError: there are more or fewer elements than the shape says.
            RowError: an element is not of the datatype; says which row and column.
        """
        if blob is None:
            return self._read_json()
        return self._read_strings(blob) if self._datatype == TEXT else self._read_numbers(blob)

    def _refuse(self, what: str, *, hint: str = "") -> MalformedBodyError:
        return refuse_input(what, self._tensor.name, hint=hint)

    def _refuse_element(self, what: str, index: int) -> RowError:
        row, column = divmod(index, self._width)
        return RowError(what, where=name_cell(row, self._columns[column].name))

    # Blobs

    def _read_numbers(self, blob: memoryview) -> npt.NDArray[np.float64]:
        dtype = np.dtype(NUMBERS[self._datatype][0])
        size = self._size * dtype.itemsize
        if len(blob) != size:
            shape = f"shape {self._tensor.shape} of {self._datatype}"
            raise self._refuse(f"has {len(blob)} bytes, {shape} takes {size}")
        values = np.frombuffer(blob, dtype)
        if self._datatype in _MAY_BE_INEXACT and not _are_exact(values):
            is_inexact = (values > LARGEST_INTEGER) | (values < -LARGEST_INTEGER)
            what = "the integer is not exact, expected at most ±(2^53 - 1)"
            raise self._refuse_element(what, int(np.argmax(is_inexact)))
        with np.errstate(invalid="ignore"):  # a signalling NaN is NULL as well as a quiet one
            numbers = values.astype(np.float64, copy=False).reshape(self._shape)
        return np.require(numbers, requirements="A")  # a blob begins wherever the JSON happens to end

    def _read_strings(self, blob: memoryview) -> npt.NDArray[np.object_]:
        texts: list[str] = []
        end = 0
        longest = self._limits.longest
        for index in range(self._size):
            start = end + _LENGTH_BYTES
            end = start + int.from_bytes(blob[end:start], "little")
            if start > len(blob) or end > len(blob):
                raise self._refuse(f"its bytes end within element {index}")
            if end - start > longest:
                what = f"the string has more than {longest:,} bytes, the most that are read"
                raise self._refuse_element(what, index)
            try:
                texts.append(str(blob[start:end], "utf-8"))
            except UnicodeDecodeError as error:
                what = f"the string is not UTF-8: {error.reason} at byte {error.start}"
                raise self._refuse_element(what, index) from None
        if end != len(blob):
            raise self._refuse(f"has {len(blob) - end} bytes behind its last element")
        return np.array(texts, dtype=np.object_).reshape(self._shape)

    # JSON

    def _read_json(self) -> Elements:
        if self._datatype == "FP16":
            raise self._refuse("FP16 is not read from JSON", hint="Send FP32, or a blob.")
        data = self._tensor.data
        text = memoryview(data) if len(data) > self._limits.block else bytes(data)
        if bytes(text[:1]) != b"[":
            beginning = bytes(text[:40]).decode("utf-8", "replace")
            raise self._refuse(f"the data is {beginning}, expected an array")
        is_nested = len(self._tensor.shape) == 2 and _NESTED.match(text) is not None
        if isinstance(text, memoryview):
            found = self._read_slices(text, is_nested)
        else:
            found = self._as_array(self._read_part(text, 0, None, is_nested))
        if len(found) != self._size:
            raise self._refuse(f"has {len(found)} values, shape {self._tensor.shape} takes {self._size}")
        return found.reshape(self._shape)

    def _read_slices(self, text: memoryview, is_nested: bool) -> Elements:
        """The elements of a long array, decoded slice by slice into one that was made for them."""
        try:
            outline = cut_array(text, 1, self._shape[0] if is_nested else self._size, self._limits)
        except TooManyElementsError:
            raise self._refuse(f"has more values than shape {self._tensor.shape} takes") from None
        except LongElementError as error:
            what = f"element {error.index} of its data has more than {self._limits.longest:,} bytes"
            raise self._refuse(f"{what}, the most that are read") from None
        found = np.empty(self._size, dtype=np.object_ if self._datatype == TEXT else np.float64)
        first = end = 0
        for part in outline.slices:
            inner = b"[%b]" % bytes(text[part.start : part.end])
            values = self._read_part(inner, first, part.size, is_nested)
            assert end + len(values) <= self._size, "cut_array counts as json does"
            found[end : end + len(values)] = self._as_array(values)
            end += len(values)
            first += part.size
        return found[:end]

    def _as_array(self, values: Sequence[Any]) -> Elements:
        if self._datatype == TEXT:
            texts = [NULL_TEXT if value is None else str(value) for value in values]
            return np.array(texts, dtype=np.object_)
        return np.array(values, dtype=np.float64)  # None → NaN

    def _read_part(self, text: bytes, first: int, size: int | None, is_nested: bool) -> Sequence[Any]:
        """The elements in ``text``, row by row.

        Args:
            text: a JSON array of some of them, or, if nested, of some rows.
            first: number of the first element, or row, of ``text`` in the tensor.
            size: how many elements, or rows, there must be; None for any number.
            is_nested: whether they are rows.

        Raises:
            MalformedBodyError, RowError: as `read`.
        """
        values = self._decode(text, first, size, is_nested)
        return self._read_exactly(text, first, is_nested) if values is None else values

    def _decode(self, text: bytes, first: int, size: int | None, is_nested: bool) -> list[Any] | None:
        """As `_read_part`, the fast way; None where only `_read_exactly` can find what is wrong."""
        width = self._width
        takes_null = any(column.is_nullable for column in self._columns)
        try:
            values = _DECODERS[self._datatype, takes_null, 2 if is_nested else 1].decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if size is not None and len(values) != size:
            return None
        if is_nested:
            if set(map(len, values)) != {width}:
                return None
            values = [value for row in values for value in row]
            first *= width
        if self._datatype == TEXT and b"\\u0000" in text:  # may stand for NULL_TEXT, which no value may be
            return None
        if not takes_null:
            return values
        strict = [index for index, column in enumerate(self._columns) if not column.is_nullable]
        return None if any(None in values[(index - first) % width :: width] for index in strict) else values

    def _read_exactly(self, text: bytes, first: int, is_nested: bool) -> list[Any]:
        """As `_read_part`, one by one: finds what is wrong and where."""
        width = self._width
        # Behind others a comma stands in front of these, and something must follow it.
        values = self._parse(b"[0,%b" % text[1:])[1:] if first else self._parse(text)
        if is_nested:
            for index, row in enumerate(values, first):
                if not isinstance(row, list) or len(row) != width:
                    what = f"{len(row)} values" if isinstance(row, list) else describe_value(row)
                    raise self._refuse(f"row {index} has {what}, expected {width} values")
            values = [value for row in values for value in row]
            first *= width
        kind = "INT64" if is_integer(self._datatype) else "FP64"
        kind = self._datatype if self._datatype in {TEXT, BOOLEAN} else kind
        typed = [msgspec.structs.replace(column, datatype=kind, moment=None) for column in self._columns]
        found = []
        for index, value in enumerate(values, first):
            row, column = divmod(index, width)
            found.append(self._check_range(read_value(value, typed[column], row), index))
        return found

    def _parse(self, text: bytes) -> Any:
        try:
            return load_json(text.decode())
        except UnicodeDecodeError as error:
            raise self._refuse(f"the data is not UTF-8: {error.reason}") from None
        except RecursionError:
            raise self._refuse("the data is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise self._refuse(f"the data is not JSON: {error.msg}") from None

    def _check_range(self, value: Any, index: int) -> Any:
        """``value``, if it is no number or one that the datatype holds."""
        if isinstance(value, float):
            _, lowest, highest = NUMBERS[self._datatype]
            if not lowest <= value <= highest:
                raise self._refuse_element(f"the number is out of the range of {self._datatype}", index)
        return value


def _are_exact(values: Elements) -> bool:
    return bool(values.max() <= LARGEST_INTEGER and values.min() >= -LARGEST_INTEGER)


class TensorReader:
    """Reads the input tensors of one signature.

    Args:
        signature: columns and the graph's tensors.
        max_rows: more rows than this are refused.
        limits: of what is decoded at a time; without, those of as many columns.
        unread: names of the training table's other columns.
    """

    def __init__(
        self,
        signature: Signature,
        max_rows: int,
        limits: Limits | None = None,
        unread: Collection[str] = (),
    ) -> None:
        self._columns = signature.columns
        self._limits = limits or Limits.of_columns(len(signature.columns))
        self._rules = MatrixRules(signature.columns)
        self._max_rows = max_rows
        of_tensors = {NUMERIC_INPUT: self._rules.numeric, TEXT_INPUT: self._rules.text}
        self._tensors = {spec.name: of_tensors[spec.name] for spec in signature.inputs}
        self._datatypes = {spec.name: spec.datatype for spec in signature.inputs}
        self._singles = {column.name: (column,) for column in signature.columns}
        # Columns that are called like a tensor: such an input may be meant either way.
        self._twofold = self._tensors.keys() & self._singles.keys()
        self._unread = frozenset(unread) - self._tensors.keys() - self._singles.keys()

    def read(self, request: InferRequest) -> Feed:
        """The rows in ``request``, every value checked and every default filled in.

        Returns:
            What the graph takes; it may share memory with the request's body.

        Raises:
            MalformedBodyError: a tensor is unknown, missing, given twice, of a datatype or shape that
                does not fit, or has not as many values as its shape says.
            RowError: a value does not fit its column; says which row and which column.
            BatchTooLargeError: there are more than ``max_rows`` rows.
        """
        inputs = request.inputs
        table = self._find_table(inputs)
        row_count = self._check_shapes(inputs, table)
        found: dict[str, Elements] = {}
        for tensor, blob in zip(inputs, request.blobs, strict=True):
            columns = table.get(tensor.name)
            if columns:
                reader = ElementReader(tensor, columns, self._limits)
                found[tensor.name] = reader.read(blob)  # (rows, its columns)
        if table is self._tensors:
            feed = Feed(found.get(NUMERIC_INPUT), found.get(TEXT_INPUT))
        else:

            def read_column(column: Column) -> Any:
                values = found.get(column.name)
                if values is None:
                    return fill_absent(column, 0)
                return values[:, 0] if column.moment is None else _read_moments(values[:, 0].tolist(), column)

            feed = self._rules.join_columns(row_count, read_column)
        if feed.numeric is not None:
            self._rules.check_numeric(feed.numeric)
        if feed.text is not None:
            self._rules.check_text(feed.text)
        return feed

    def describe_raw(self, body: bytes) -> InferRequest:
        """The request that a body stands for which is the graph's only tensor and nothing else.

        Raises:
            MalformedBodyError: the graph has two tensors.
        """
        if len(self._tensors) != 1:
            raise MalformedBodyError(
                f"the model takes {len(self._tensors)} tensors, which one body without JSON cannot be",
                hint="Send the JSON in front, and its length in Inference-Header-Content-Length.",
            )
        ((name, columns),) = self._tensors.items()
        blob = memoryview(body)
        count = count_elements(self._datatypes[name], blob, (self._max_rows + 1) * len(columns))
        shape = [count // len(columns), len(columns)]
        tensor = RequestedInput(name=name, shape=shape, datatype=self._datatypes[name])
        return InferRequest(inputs=[tensor], blobs=[blob], outputs=None, is_binary=True, id=None)

    def _find_table(self, inputs: Sequence[RequestedInput]) -> Mapping[str, tuple[Column, ...]]:
        """The columns behind each name: of the graph's tensors, or of single columns."""
        names = []
        seen: set[str] = set()
        for name in [tensor.name for tensor in inputs]:
            if name in seen:
                raise refuse_input("is given twice", name)
            seen.add(name)
            if name in self._tensors or name in self._singles:
                names.append(name)
            elif name not in self._unread:
                raise refuse_input("the model has no such input", name, hint=self._list_names())
        if not names:
            raise refuse_input("the model does not read it", inputs[0].name, hint=self._list_names())
        # Names that are one or the other decide, wherever they stand; without any, the shapes do.
        certain: str | None = names[0]
        if certain in self._twofold:
            certain = next((name for name in names if name not in self._twofold), None)
        is_whole = (
            self._are_tensors([one for one in inputs if one.name in names])
            if certain is None
            else certain in self._tensors
        )
        table = self._tensors if is_whole else self._singles
        for name in names:
            if name not in table:
                raise refuse_input(
                    f'is sent beside "{certain}"', name, hint="Send the graph's tensors or single columns."
                )
        for name, columns in table.items():
            is_optional = table is self._singles and columns[0].may_be_absent
            if name not in seen and not is_optional:
                raise refuse_input("is missing", name, hint=self._list_names())
        return table

    def _are_tensors(self, inputs: Sequence[RequestedInput]) -> bool:
        """Whether inputs that may be the graph's tensors or columns of the same names are the tensors.

        They are if all tensors are there and each fits. Where both ways fit, both mean the same: a
        tensor that fits a column as well has only that one.
        """
        is_complete = len(inputs) == len(self._tensors)
        if is_complete and all(_fits(one, self._tensors[one.name], is_single=False) for one in inputs):
            return True
        return not all(_fits(one, self._singles[one.name], is_single=True) for one in inputs)

    def _list_names(self) -> str:
        tensors = ", ".join(f"{name} [-1, {len(columns)}]" for name, columns in self._tensors.items())
        names = ", ".join(column.name for column in self._columns[:8])
        more = len(self._columns) - 8
        return f"Inputs: {tensors}; or columns: {names}" + (f" and {more} more." if more > 0 else ".")

    def _check_shapes(self, inputs: Sequence[RequestedInput], table: Mapping[str, tuple[Column, ...]]) -> int:
        """Refuse what cannot be rows of these columns; the number of rows."""
        for tensor in inputs:
            if tensor.name in table:
                _check_tensor(tensor, table[tensor.name], is_single=table is self._singles)
            elif not tensor.shape:
                raise refuse_input("the shape is [], expected [rows] or [rows, 1]", tensor.name)
        first, row_count = inputs[0].name, inputs[0].shape[0]
        for tensor in inputs:
            if tensor.shape[0] != row_count:
                raise refuse_input(f'has {tensor.shape[0]} rows, "{first}" has {row_count}', tensor.name)
        if row_count == 0:
            raise refuse_input("has no rows, expected at least one", first)
        if row_count > self._max_rows:
            raise refuse_batch(row_count, self._max_rows)
        return row_count


def _read_moments(values: Sequence[Any], column: Column) -> list[float]:
    """One column's elements as the graph takes them; NULL is NaN.

    Raises:
        RowError: one is no moment; says in which row.
    """
    is_null = [value == NULL_TEXT if isinstance(value, str) else math.isnan(value) for value in values]
    pairs = enumerate(zip(values, is_null, strict=True))
    found = [read_value(None if null else value, column, row) for row, (value, null) in pairs]
    return [math.nan if moment is None else moment for moment in found]


class TensorWriter:
    """Writes the answers of one version.

    JSON numbers have the nine digits that bring a float32 back exactly; the values of a tensor are
    one flat list, row by row.

    Args:
        model, version: named in every answer.
        signature: the outputs.
        categories: features that are text; their codes are an output for those who ask for it by name.
        warns: whether answers say which of them have an unknown value in some row.
    """

    def __init__(
        self,
        model: str,
        version: int,
        signature: Signature,
        categories: Sequence[str] = (),
        *,
        warns: bool = False,
    ) -> None:
        self._head = b'{"model_name":%b,"model_version":"%d"' % (msgspec.json.encode(model), version)
        self._usual = [spec.name for spec in signature.outputs]
        coded = describe_categories(len(categories)) if categories else ()
        self._specs = {spec.name: spec for spec in (*signature.outputs, *coded)}
        self._warned = tuple(categories) if warns else ()

    def choose(self, request: InferRequest) -> Mapping[str, bool]:
        """The outputs asked for, in order, and whether each is wanted as a blob.

        Raises:
            MalformedBodyError: the model has no such output.
        """
        if request.outputs is None:
            return dict.fromkeys(self._usual, request.is_binary)
        for name in request.outputs:
            if name not in self._specs:
                raise MalformedBodyError(
                    "the model has no such output",
                    where=f'output "{name[:80]}"',
                    hint=f"Outputs: {', '.join(self._specs)}.",
                )
        return request.outputs

    def write(
        self, outputs: Outputs, wanted: Mapping[str, bool], request_id: str | None
    ) -> tuple[bytes, int | None]:
        """The body of an answer, and the length of its JSON part if blobs follow it."""
        parts: list[bytes] = []
        blobs: list[bytes] = []
        for name, is_binary in wanted.items():
            blob = _as_blob(outputs, name) if is_binary else None
            parts.append(self._write_tensor(outputs, name, blob))
            if blob is not None:
                blobs.append(blob)
        named = b"" if request_id is None else b',"id":' + msgspec.json.encode(request_id)
        text = self._head + named + self._warn(outputs) + b',"outputs":[' + b",".join(parts) + b"]}"
        if not blobs:
            return text, None
        return b"".join([text, *blobs]), len(text)

    def _warn(self, outputs: Outputs) -> bytes:
        """The parameter that names what is unknown; of one text, as parameters have no lists."""
        if not self._warned or outputs.categories is None:
            return b""
        # (rows, features) → (features,)
        is_unknown = (outputs.categories == UNKNOWN_CODE).any(axis=0).tolist()
        names = [f"{name}: unknown category" for name in itertools.compress(self._warned, is_unknown)]
        return b',"parameters":{"warnings":%b}' % msgspec.json.encode("; ".join(names)) if names else b""

    def count_bytes(self, rows: int, wanted: Mapping[str, bool]) -> int:
        """At least as many bytes as these outputs of ``rows`` rows have."""
        values: int = sum(abs(math.prod(self._specs[name].shape)) for name in wanted)
        return rows * values * _MOST_VALUE_BYTES

    def _write_tensor(self, outputs: Outputs, name: str, blob: bytes | None) -> bytes:
        spec = self._specs[name]
        shape = (len(outputs.labels), *spec.shape[1:])
        head = b'{"name":"%b","datatype":"%b","shape":%b' % (
            name.encode(),
            spec.datatype.encode(),
            msgspec.json.encode(shape),
        )
        if blob is not None:
            return head + b',"parameters":{"binary_data_size":%d}}' % len(blob)
        return head + b',"data":[' + _write_values(outputs, name) + b"]}"


def _as_blob(outputs: Outputs, name: str) -> bytes:
    if name == PROBABILITIES_OUTPUT:
        return outputs.probabilities.astype("<f4", copy=False).tobytes()
    return _find_integers(outputs, name).astype("<i8", copy=False).tobytes()


def _write_values(outputs: Outputs, name: str) -> bytes:
    if name == PROBABILITIES_OUTPUT:
        flat = outputs.probabilities.ravel()
        if len(flat) <= _STEP_VALUES:
            return _write_floats(flat.tolist())
        slices = (flat[start : start + _STEP_VALUES].tolist() for start in range(0, len(flat), _STEP_VALUES))
        return b",".join([_write_floats(values) for values in slices])
    return msgspec.json.encode(_find_integers(outputs, name).ravel().tolist())[1:-1]


def _find_integers(outputs: Outputs, name: str) -> npt.NDArray[np.int64]:
    if name == LABEL_OUTPUT:
        return outputs.labels
    assert outputs.categories is not None
    return outputs.categories


def _write_floats(values: Sequence[float]) -> bytes:
    return b",".join([b"%.9g"] * len(values)) % tuple(values)


def _fits(tensor: RequestedInput, columns: Sequence[Column], *, is_single: bool) -> bool:
    try:
        _check_tensor(tensor, columns, is_single=is_single)
    except MalformedBodyError:
        return False
    return True


def _check_tensor(tensor: RequestedInput, columns: Sequence[Column], *, is_single: bool) -> None:
    """Refuse a datatype or a shape that these columns do not take."""
    datatype, shape = tensor.datatype, tensor.shape
    if datatype not in NUMBERS and datatype != TEXT:
        known = ", ".join([*NUMBERS, TEXT])
        raise refuse_input(f"{datatype[:80]!r} is no datatype", tensor.name, hint=f"Known: {known}.")
    wanted: str = columns[0].datatype if is_single or columns[0].datatype == TEXT else "FP64"
    is_bool = all(column.datatype == BOOLEAN for column in columns)
    is_text = wanted == TEXT
    if is_single and columns[0].moment is not None:
        wanted, is_text = "BYTES or a number", datatype == TEXT
    if (datatype == TEXT) != is_text or (datatype == BOOLEAN and not is_bool):
        raise refuse_input(f"the datatype is {datatype}, expected {wanted}", tensor.name)
    if not (len(shape) == 2 and shape[1] == len(columns)) and not (is_single and len(shape) == 1):
        expected = "[rows] or [rows, 1]" if is_single else f"[rows, {len(columns)}]"
        raise refuse_input(f"the shape is {str(shape)[:80]}, expected {expected}", tensor.name)
