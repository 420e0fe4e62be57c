"""The elements of one input tensor, from JSON or from a blob, as rows of numbers or strings.

What is judged here is whether the elements are what the tensor's datatype and shape say; whether
they fit the model's columns is for `inference/formats/validate.py`. NULL is null in JSON; as a blob it is
NaN, and a string that is U+0000 alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.inference.errors import MalformedBodyError, RowError
from timberline.inference.formats.infer_request import RequestedInput
from timberline.inference.formats.outline import Limits, LongElementError, TooManyElementsError, cut_array
from timberline.inference.formats.strict_json import LARGEST_INTEGER, place, read_text
from timberline.registry.signature import NULL_TEXT, Column

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

Elements = npt.NDArray[Any]  # (rows, columns): float64, or object holding str


def read_elements(
    tensor: RequestedInput, blob: memoryview | None, columns: Sequence[Column], limits: Limits
) -> Elements:
    """The tensor's elements; datatype and shape have been found to suit the columns.

    Args:
        tensor: as it was sent.
        blob: its elements, if they are not JSON.
        columns: what the elements of a row belong to.
        limits: of what is decoded at a time.

    Returns:
        (rows, columns), float64 with NaN for NULL or str with ``NULL_TEXT`` for it; it may share
        memory with ``blob``.

    Raises:
        MalformedBodyError: there are more or fewer elements than the shape says.
        RowError: an element is not of the datatype; says which row and column.
    """
    shape = (tensor.shape[0], len(columns))
    if blob is None:
        return _read_json(tensor, shape, columns, limits)
    if tensor.datatype == TEXT:
        return _read_strings(tensor, blob, shape, columns, limits)
    return _read_numbers(tensor, blob, shape, columns)


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


# Blobs


def _read_numbers(
    tensor: RequestedInput, blob: memoryview, shape: tuple[int, int], columns: Sequence[Column]
) -> npt.NDArray[np.float64]:
    dtype = np.dtype(NUMBERS[tensor.datatype][0])
    size = math.prod(shape) * dtype.itemsize
    if len(blob) != size:
        raise refuse_input(
            f"has {len(blob)} bytes, shape {tensor.shape} of {tensor.datatype} takes {size}", tensor.name
        )
    values = np.frombuffer(blob, dtype).reshape(shape)
    if tensor.datatype in _MAY_BE_INEXACT:
        _check_exact(values, columns)
    with np.errstate(invalid="ignore"):  # a signalling NaN is NULL as well as a quiet one
        numbers = values.astype(np.float64, copy=False)
    return np.require(numbers, requirements="A")  # a blob begins wherever the JSON happens to end


def _check_exact(values: Elements, columns: Sequence[Column]) -> None:
    if values.max() <= LARGEST_INTEGER and values.min() >= -LARGEST_INTEGER:
        return
    is_inexact = (values > LARGEST_INTEGER) | (values < -LARGEST_INTEGER)
    row, column = divmod(int(np.argmax(is_inexact)), len(columns))
    raise RowError(
        "the integer is not exact, expected at most ±(2^53 - 1)", where=place(row, columns[column].name)
    )


def _read_strings(
    tensor: RequestedInput,
    blob: memoryview,
    shape: tuple[int, int],
    columns: Sequence[Column],
    limits: Limits,
) -> npt.NDArray[np.object_]:
    texts: list[str] = []
    end = 0
    for index in range(math.prod(shape)):
        start = end + _LENGTH_BYTES
        end = start + int.from_bytes(blob[end:start], "little")
        if start > len(blob) or end > len(blob):
            raise refuse_input(f"its bytes end within element {index}", tensor.name)
        row, column = divmod(index, len(columns))
        if end - start > limits.longest:
            raise RowError(
                f"the string has more than {limits.longest:,} bytes, the most that are read",
                where=place(row, columns[column].name),
            )
        try:
            texts.append(str(blob[start:end], "utf-8"))
        except UnicodeDecodeError as error:
            raise RowError(
                f"the string is not UTF-8: {error.reason} at byte {error.start}",
                where=place(row, columns[column].name),
            ) from None
    if end != len(blob):
        raise refuse_input(f"has {len(blob) - end} bytes behind its last element", tensor.name)
    return np.array(texts, dtype=np.object_).reshape(shape)


# JSON, the fast way


def _find_type(datatype: str) -> Any:
    if datatype in {TEXT, BOOLEAN}:
        return str if datatype == TEXT else bool
    _, lowest, highest = NUMBERS[datatype]
    if math.isinf(highest):
        return float
    if is_integer(datatype):
        # A number with a fraction of zero is an integer: JavaScript and pandas write 3.0 for 3.
        return Annotated[float, msgspec.Meta(multiple_of=1.0, ge=lowest, le=highest)]
    return Annotated[float, msgspec.Meta(ge=lowest, le=highest)]


def is_integer(datatype: str) -> bool:
    """Whether the datatype is one of the integers'."""
    return "INT" in datatype


def _build_decoder(datatype: str, *, takes_null: bool, depth: int) -> msgspec.json.Decoder[list[Any]]:
    """Of a list of elements (depth 1), or of a list of rows of them (depth 2)."""
    kind = _find_type(datatype)
    kind = kind | None if takes_null else kind
    return msgspec.json.Decoder(list[kind] if depth == 1 else list[list[kind]])  # type: ignore[valid-type]


# By datatype, whether null may stand in it, and depth.
_DECODERS = {
    (name, takes_null, depth): _build_decoder(name, takes_null=takes_null, depth=depth)
    for name in (*NUMBERS, TEXT)
    for takes_null in (False, True)
    for depth in (1, 2)
}


def _read_json(
    tensor: RequestedInput, shape: tuple[int, int], columns: Sequence[Column], limits: Limits
) -> Elements:
    if tensor.datatype == "FP16":
        raise refuse_input("FP16 is not read from JSON", tensor.name, hint="Send FP32, or a blob.")
    if memoryview(tensor.data).nbytes > limits.block:
        return _read_slices(tensor, shape, columns, limits)
    text = bytes(tensor.data)
    is_nested = text[1:].lstrip()[:1] == b"["
    values = None
    if not is_nested or len(tensor.shape) == 2:
        values = _decode(tensor, text, columns, 0, shape[0] if is_nested else math.prod(shape), is_nested)
    if values is None:
        values = _read_json_exactly(tensor, text, shape, columns)
    return _as_array(tensor.datatype, values).reshape(shape)


def _as_array(datatype: str, values: Sequence[Any]) -> Elements:
    if datatype == TEXT:
        return np.array([NULL_TEXT if value is None else str(value) for value in values], dtype=np.object_)
    return np.array(values, dtype=np.float64)  # None → NaN


def _decode(
    tensor: RequestedInput, text: bytes, columns: Sequence[Column], first: int, size: int, is_nested: bool
) -> list[Any] | None:
    """The elements in ``text``, row by row; None where only the exact way can tell whether they are right.

    Args:
        tensor: whose elements they are.
        text: a JSON array of some of them, or, if nested, of some rows.
        columns: what the elements of a row belong to.
        first: number of the first element, or row, of ``text`` in the tensor.
        size: how many elements, or rows, there must be.
        is_nested: whether they are rows.
    """
    width = len(columns)
    takes_null = any(column.is_nullable for column in columns)
    try:
        values = _DECODERS[tensor.datatype, takes_null, 2 if is_nested else 1].decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(values) != size:
        return None
    if is_nested:
        if set(map(len, values)) != {width}:
            return None
        values = [value for row in values for value in row]
        first *= width
    if tensor.datatype == TEXT and b"\\u0000" in text:  # may stand for NULL_TEXT, which no value may be
        return None
    strict = [index for index, column in enumerate(columns) if takes_null and not column.is_nullable]
    return None if any(None in values[(index - first) % width :: width] for index in strict) else values


# Long JSON, some elements at a time


def _read_slices(
    tensor: RequestedInput, shape: tuple[int, int], columns: Sequence[Column], limits: Limits
) -> Elements:
    """The elements of a long array, decoded slice by slice into one that was made for them."""
    text = memoryview(tensor.data)
    is_nested = len(tensor.shape) == 2 and _NESTED.match(text) is not None
    expected = math.prod(shape)
    try:
        outline = cut_array(text, 1, shape[0] if is_nested else expected, limits)
    except TooManyElementsError:
        raise refuse_input(f"has more values than shape {tensor.shape} takes", tensor.name) from None
    except LongElementError as error:
        what = f"element {error.index} of its data has more than {limits.longest:,} bytes"
        raise refuse_input(f"{what}, the most that are read", tensor.name) from None
    found = np.empty(expected, dtype=np.object_ if tensor.datatype == TEXT else np.float64)
    first = end = 0
    for part in outline.slices:
        inner = bytes(text[part.start : part.end])
        values = _decode(tensor, b"[%b]" % inner, columns, first, part.size, is_nested)
        if values is None:
            values = _read_slice_exactly(tensor, inner, columns, first, is_nested)
        assert end + len(values) <= expected, "cut_array counts as json does"
        found[end : end + len(values)] = _as_array(tensor.datatype, values)
        end += len(values)
        first += part.size
    if end != expected:
        raise refuse_input(f"has {end} values, shape {tensor.shape} takes {expected}", tensor.name)
    return found.reshape(shape)


def _read_slice_exactly(
    tensor: RequestedInput, text: bytes, columns: Sequence[Column], first: int, is_nested: bool
) -> list[float | str | None]:
    """As `_read_json_exactly`, of some elements or rows, of which ``first`` is the first."""
    width = len(columns)
    # Behind others a comma stands in front of them, and something must follow it.
    values = _parse(tensor, b"[0,%b]" % text)[1:] if first else _parse(tensor, b"[%b]" % text)
    if is_nested:
        for index, row in enumerate(values, first):
            if not isinstance(row, list) or len(row) != width:
                what = f"{len(row)} values" if isinstance(row, list) else _describe(row)
                raise refuse_input(f"row {index} has {what}, expected {width} values", tensor.name)
        values = [value for row in values for value in row]
        first *= width
    places = (divmod(index, width) for index in range(first, first + len(values)))
    return [
        _read_value(tensor.datatype, value, columns[column], row)
        for value, (row, column) in zip(values, places, strict=True)
    ]


# JSON, the exact way


def _read_json_exactly(
    tensor: RequestedInput, text: bytes, shape: tuple[int, int], columns: Sequence[Column]
) -> list[float | str | None]:
    """As `_decode`, one by one: finds what is wrong and where."""
    found: list[float | str | None] = []
    for index, value in enumerate(_flatten(tensor, _parse(tensor, text), shape)):
        row, column = divmod(index, shape[1])
        found.append(_read_value(tensor.datatype, value, columns[column], row))
    return found


def _parse(tensor: RequestedInput, text: bytes) -> Any:
    try:
        return json.loads(text.decode(), parse_int=_parse_integer)
    except UnicodeDecodeError as error:
        raise refuse_input(f"the data is not UTF-8: {error.reason}", tensor.name) from None
    except RecursionError:
        raise refuse_input("the data is nested too deeply", tensor.name) from None
    except json.JSONDecodeError as error:
        raise refuse_input(f"the data is not JSON: {error.msg}", tensor.name) from None


def _parse_integer(text: str) -> int | float:
    # Python refuses to read integers of more than 4,300 digits; no datatype holds one of 309.
    return int(text) if len(text) < 309 else math.inf


def _flatten(tensor: RequestedInput, tree: Any, shape: tuple[int, int]) -> list[Any]:
    row_count, width = shape
    if not isinstance(tree, list):
        raise refuse_input(f"the data is {_describe(tree)}, expected an array", tensor.name)
    values: list[Any] = tree
    if len(tensor.shape) == 2 and tree and all(isinstance(row, list) for row in tree):
        for index, row in enumerate(tree):
            if len(row) != width:
                raise refuse_input(f"row {index} has {len(row)} values, expected {width}", tensor.name)
        values = [value for row in tree for value in row]
    if len(values) != row_count * width:
        raise refuse_input(
            f"has {len(values)} values, shape {tensor.shape} takes {row_count * width}", tensor.name
        )
    return values


def _read_value(datatype: str, value: Any, column: Column, row: int) -> float | str | None:
    if value is None and column.is_nullable:
        return None
    if datatype == TEXT:
        return read_text(value, column, row)
    if datatype == BOOLEAN:
        return value if isinstance(value, bool) else _refuse_value("true or false", value, column, row)
    expected = "an integer" if is_integer(datatype) else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse_value(expected, value, column, row)
    _, lowest, highest = NUMBERS[datatype]
    if not lowest <= value <= highest or math.isinf(value):
        raise RowError(f"the number is out of the range of {datatype}", where=place(row, column.name))
    number = float(value)
    if is_integer(datatype) and not number.is_integer():
        _refuse_value(expected, value, column, row)
    return number


def _refuse_value(expected: str, value: Any, column: Column, row: int) -> NoReturn:
    raise RowError(f"expected {expected}, found {_describe(value)}", where=place(row, column.name))


def _describe(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    kind = {str: "the string ", int: "the number ", float: "the number "}.get(type(value), "")
    return kind + json.dumps(value)[:80]
