"""Tensors of the Open Inference Protocol to rows of raw values, and outputs to tensors. Pure.

What a model takes is sent either as the graph's own tensors (``numeric``, ``text``) or as one tensor
a raw column, called like the column, of shape [rows] or [rows, 1]; columns with a default may then
be left out. Numbers may come as any numeric datatype that holds them exactly. Beside them, other
columns of the training table may be sent, whatever they hold.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from timberline.inference.errors import MalformedBodyError
from timberline.inference.formats.infer_request import InferRequest, RequestedInput
from timberline.inference.formats.outline import Limits
from timberline.inference.formats.strict_json import refuse_batch
from timberline.inference.formats.tensor_data import (
    BOOLEAN,
    NUMBERS,
    TEXT,
    Elements,
    count_elements,
    read_elements,
    refuse_input,
)
from timberline.inference.formats.validate import MatrixRules
from timberline.inference.session import Feed, Outputs
from timberline.registry.signature import (
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    Column,
    Signature,
)

# Probabilities that are turned into Python numbers at a time; a millisecond's work.
_STEP_VALUES = 4096
_MOST_VALUE_BYTES = 16  # a float32 with nine digits, and its comma


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
                found[tensor.name] = read_elements(tensor, blob, columns, self._limits)  # (rows, its columns)
        if table is self._tensors:
            feed = Feed(found.get(NUMERIC_INPUT), found.get(TEXT_INPUT))
        else:
            feed = self._join_columns(found, row_count)
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

    def _join_columns(self, found: Mapping[str, Elements], row_count: int) -> Feed:
        numeric = np.empty((row_count, len(self._rules.numeric)), dtype=np.float64)
        for index, column in enumerate(self._rules.numeric):
            if column.name in found:
                numeric[:, index] = found[column.name][:, 0]
            else:
                numeric[:, index] = math.nan if column.default is None else column.default
        text = np.empty((row_count, len(self._rules.text)), dtype=np.object_)
        for index, column in enumerate(self._rules.text):
            if column.name in found:
                text[:, index] = found[column.name][:, 0]
            else:
                text[:, index] = NULL_TEXT if column.default is None else column.default
        return Feed(
            numeric if NUMERIC_INPUT in self._tensors else None, text if TEXT_INPUT in self._tensors else None
        )


class TensorWriter:
    """Writes the answers of one version.

    JSON numbers have the nine digits that bring a float32 back exactly; the values of a tensor are
    one flat list, row by row.

    Args:
        model, version: named in every answer.
        signature: the outputs.
    """

    def __init__(self, model: str, version: int, signature: Signature) -> None:
        self._head = b'{"model_name":%b,"model_version":"%d"' % (msgspec.json.encode(model), version)
        self._specs = {spec.name: spec for spec in signature.outputs}

    def choose(self, request: InferRequest) -> Mapping[str, bool]:
        """The outputs asked for, in order, and whether each is wanted as a blob.

        Raises:
            MalformedBodyError: the model has no such output.
        """
        if request.outputs is None:
            return dict.fromkeys(self._specs, request.is_binary)
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
        text = self._head + named + b',"outputs":[' + b",".join(parts) + b"]}"
        if not blobs:
            return text, None
        return b"".join([text, *blobs]), len(text)

    def count_bytes(self, rows: int, wanted: Mapping[str, bool]) -> int:
        """At least as many bytes as these outputs of ``rows`` rows have."""
        values = sum(abs(math.prod(self._specs[name].shape)) for name in wanted)
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
    return outputs.labels.astype("<i8", copy=False).tobytes()


def _write_values(outputs: Outputs, name: str) -> bytes:
    if name == PROBABILITIES_OUTPUT:
        flat = outputs.probabilities.ravel()
        if len(flat) <= _STEP_VALUES:
            return _write_floats(flat.tolist())
        slices = (flat[start : start + _STEP_VALUES].tolist() for start in range(0, len(flat), _STEP_VALUES))
        return b",".join([_write_floats(values) for values in slices])
    return msgspec.json.encode(outputs.labels.tolist())[1:-1]


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
    wanted = columns[0].datatype if is_single or columns[0].datatype == TEXT else "FP64"
    is_bool = all(column.datatype == BOOLEAN for column in columns)
    if (datatype == TEXT) != (wanted == TEXT) or (datatype == BOOLEAN and not is_bool):
        raise refuse_input(f"the datatype is {datatype}, expected {wanted}", tensor.name)
    if not (len(shape) == 2 and shape[1] == len(columns)) and not (is_single and len(shape) == 1):
        expected = "[rows] or [rows, 1]" if is_single else f"[rows, {len(columns)}]"
        raise refuse_input(f"the shape is {str(shape)[:80]}, expected {expected}", tensor.name)
