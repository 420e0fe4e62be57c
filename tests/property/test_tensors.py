"""One table gives the same rows in every form of the protocol, and nothing but a refusal comes of noise."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.tiny_model import CLASSES, MIXED_COLUMNS, NUMERIC_COLUMNS
from timberline.inference.errors import RequestError
from timberline.inference.formats.infer_request import InferRequest, read_header_length, read_request
from timberline.inference.formats.outline import Limits
from timberline.inference.formats.tensors import TensorReader, TensorWriter
from timberline.inference.session import Feed, Outputs
from timberline.registry.signature import Column, build_signature

MAX_ROWS = 4
READER = TensorReader(build_signature(MIXED_COLUMNS, CLASSES), MAX_ROWS)
# Everything is long here: the frame around the data, and each tensor.
LARGE = Limits(longest=1 << 20)
LIMITS = Limits(longest=10_000, block=7)
LONG_READER = TensorReader(build_signature(MIXED_COLUMNS, CLASSES), MAX_ROWS, LIMITS)
WRITER = TensorWriter("tiny", 1, build_signature(MIXED_COLUMNS, CLASSES))
TEXT_COLUMNS = [column for column in MIXED_COLUMNS if column.datatype == "BYTES"]

texts = st.text(st.characters(codec="utf-8"), max_size=4)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, -0.0, 40.0, 2.0**53, 2.0**53 - 1, 0.5, 1e300]),
)
# Values that a column takes more often than not, so that whole tables are taken too.
likely: dict[str, st.SearchStrategy[Any]] = {
    "FP64": numbers,
    "INT64": st.integers(-(2**54), 2**54).map(float),
    "BOOL": st.sampled_from([0.0, 1.0]),
    "BYTES": texts,
}


@st.composite
def tables(draw: st.DrawFn) -> list[list[float | str | None]]:
    """Up to four rows in column order; now and then a value that its column does not take."""
    rows = draw(st.integers(1, MAX_ROWS))
    wild = draw(st.booleans())

    def cell(column: Column) -> float | str | None:
        if draw(st.integers(0, 5 if column.is_nullable or wild else 0)) == 5:
            return None
        kind = "FP64" if wild and column.datatype != "BYTES" else column.datatype
        value: float | str = draw(likely[kind])
        return value

    return [[cell(column) for column in MIXED_COLUMNS] for _ in range(rows)]


def pick(table: Sequence[Sequence[Any]], columns: Sequence[Column]) -> list[list[Any]]:
    """These columns of a table, row by row."""
    indexes = [MIXED_COLUMNS.index(column) for column in columns]
    return [[row[index] for index in indexes] for row in table]


def as_json(
    table: Sequence[Sequence[Any]], nested: bool, limits: Limits = LARGE, indent: int | None = None
) -> InferRequest:
    """The graph's tensors in JSON."""
    inputs = []
    for name, datatype, columns in (("numeric", "FP64", NUMERIC_COLUMNS), ("text", "BYTES", TEXT_COLUMNS)):
        rows = pick(table, columns)
        data = rows if nested else [value for row in rows for value in row]
        shape = [len(table), len(columns)]
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": data})
    body = json.dumps({"inputs": inputs}, indent=indent).encode()
    return read_request(body, len(body), limits)


def as_columns(table: Sequence[Sequence[Any]], limits: Limits = LARGE) -> InferRequest:
    """One tensor a column, in JSON."""
    inputs = [
        {
            "name": column.name,
            "datatype": "BYTES" if column.datatype == "BYTES" else "FP64",
            "shape": [len(table)],
            "data": [row[index] for row in table],
        }
        for index, column in enumerate(MIXED_COLUMNS)
    ]
    body = json.dumps({"inputs": inputs}).encode()
    return read_request(body, len(body), limits)


def as_blobs(table: Sequence[Sequence[Any]]) -> InferRequest:
    """The graph's tensors as blobs."""
    matrix = np.array(pick(table, NUMERIC_COLUMNS), dtype="<f8")
    values = [v for row in pick(table, TEXT_COLUMNS) for v in row]
    strings = [b"\x00" if value is None else value.encode() for value in values]
    blobs = (matrix.tobytes(), b"".join(struct.pack("<I", len(s)) + s for s in strings))
    tensors = (("numeric", "FP64", NUMERIC_COLUMNS), ("text", "BYTES", TEXT_COLUMNS))
    inputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": [len(table), len(columns)],
            "parameters": {"binary_data_size": len(blob)},
        }
        for (name, datatype, columns), blob in zip(tensors, blobs, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return read_request(head + b"".join(blobs), len(head))


def read(request: InferRequest, reader: TensorReader = READER) -> tuple[list[Any], list[Any]] | None:
    """Numbers (as text, so that NaN equals NaN) and strings; None if they are refused."""
    try:
        feed: Feed = reader.read(request)
    except RequestError:
        return None
    assert feed.numeric is not None
    assert feed.text is not None
    assert feed.numeric.dtype == np.float64
    assert feed.numeric.flags.aligned
    return [repr(value) for value in feed.numeric.ravel().tolist()], feed.text.ravel().tolist()


def is_ambiguous(table: Sequence[Sequence[Any]]) -> bool:
    """Whether a string is U+0000 alone: in a blob that is NULL, in JSON it is a string like others."""
    return any(value == "\x00" for row in table for value in row)


@given(tables())
@settings(max_examples=300, deadline=None)
def test_every_form_of_a_table_gives_the_same_rows(table: list[list[float | str | None]]) -> None:
    """A caller may change the form of its requests at any time; the answer may not change with it."""
    found = read(as_json(table, nested=False))
    assert read(as_json(table, nested=True)) == found
    assert read(as_columns(table)) == found
    if not is_ambiguous(table):
        assert read(as_blobs(table)) == found


@given(tables(), st.sampled_from([None, 0, 3]))
@settings(max_examples=300, deadline=None)
def test_a_long_request_gives_the_same_rows(
    table: list[list[float | str | None]], indent: int | None
) -> None:
    """Where its data is cut must not show in the answer."""
    found = read(as_json(table, nested=False))
    for is_nested in (False, True):
        assert read(as_json(table, is_nested, LIMITS, indent), LONG_READER) == found
    assert read(as_columns(table, LIMITS), LONG_READER) == found


@pytest.mark.parametrize(
    "data",
    [
        b"[1,2,3,]",
        b"[1,2,3,4,5]",
        b"[1,2,3]",
        b"[[1],[2],[3],[4]]",
        b"[[1],[2],3,[4]]",
        b"[1,2,3 4]",
        b"[1,,2,3]",
        b'[1,"2",3,4]',
        b"[1,[2],3,4]",
        b"[1,2,3,4}",
        b"[1,2,3,4",
        b"[       ]",
        b"[1,2,3,4]]",
        b"[1,2.5,3,4]",
        b'[1,2,3,4],"data":[1,2,3,4]',
        b'[1,2,3,4],"d\\u0061ta":[1,2,3,4]',
    ],
)
def test_wrong_data_is_refused_long_or_short(data: bytes) -> None:
    """What a cut leaves out of sight must not be taken for an answer's rows."""
    body = b'{"inputs":[{"name":"rings","datatype":"INT64","shape":[4],"data":' + data + b"}]}"
    reader = TensorReader(build_signature(NUMERIC_COLUMNS, CLASSES), MAX_ROWS)
    long_reader = TensorReader(build_signature(NUMERIC_COLUMNS, CLASSES), MAX_ROWS, LIMITS)
    for one, limits in ((reader, LARGE), (long_reader, LIMITS)):
        with pytest.raises(RequestError):
            one.read(read_request(body, len(body), limits))


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=12))
@settings(max_examples=200, deadline=None)
def test_probabilities_survive_the_wire_exactly(values: list[float]) -> None:
    """Nine digits bring every float32 back."""
    rows = len(values) // 3
    probabilities = np.array(values[: rows * 3], dtype=np.float32).reshape(rows, 3)
    outputs = Outputs(probabilities.argmax(axis=1), probabilities)
    body, _ = WRITER.write(outputs, {"probabilities": False, "label": False}, None)
    found = np.array(json.loads(body)["outputs"][0]["data"], dtype=np.float32)
    np.testing.assert_array_equal(found, probabilities.ravel())


tokens = st.sampled_from(
    [
        "inputs",
        "outputs",
        "name",
        "shape",
        "datatype",
        "data",
        "parameters",
        "id",
        "numeric",
        "text",
        "rings",
        "soil",
        "label",
        "binary_data",
        "binary_data_size",
        "binary_data_output",
        "FP64",
        "BYTES",
        "INT64",
        "BOOL",
    ]
)
trees: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), tokens, st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(tokens, inner, max_size=4)),
    max_leaves=12,
)
tensor_like = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["numeric", "text", "rings", "soil", "slope"]),
        "shape": st.lists(st.integers(-1, 5), max_size=3),
        "datatype": st.sampled_from(["FP64", "FP32", "FP16", "INT64", "UINT8", "BOOL", "BYTES", "x"]),
    },
    optional={
        "data": st.one_of(trees, st.lists(st.one_of(numbers, texts, st.none(), st.booleans()), max_size=20)),
        "parameters": st.dictionaries(
            tokens, st.one_of(st.integers(-2, 40), st.booleans(), tokens), max_size=2
        ),
    },
)
requests = st.one_of(
    trees,
    st.fixed_dictionaries(
        {"inputs": st.lists(tensor_like, max_size=3)}, optional={"outputs": trees, "id": trees}
    ),
)


@given(requests, st.binary(max_size=48), st.one_of(st.none(), st.integers(0, 80)), st.binary(max_size=4))
@example({"inputs": []}, b"", None, b"")
@settings(max_examples=1000, deadline=None)
def test_noise_is_refused_and_nothing_else(request: Any, rest: bytes, cut: int | None, header: bytes) -> None:
    """An error of another kind would be a 500: a hole, or at least somebody's night."""
    text = json.dumps(request).encode()
    for body, length in (
        (text + rest, b"%d" % len(text)),
        (text + rest, header),
        ((text + rest)[:cut], None),
    ):
        try:
            json_length = read_header_length(length, len(body))
            asked = read_request(body, json_length)
            READER.read(asked)
            WRITER.choose(asked)
            is_taken = True
        except RequestError:
            is_taken = False
        try:
            LONG_READER.read(read_request(body, read_header_length(length, len(body)), LIMITS))
            assert is_taken
        except RequestError:
            assert not is_taken
