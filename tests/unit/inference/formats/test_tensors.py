"""Tensors to rows: what is taken, in which forms, and what exactly is said about what is not."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_model import CLASSES, MIXED_COLUMNS, MIXED_ROWS, NUMERIC_COLUMNS, NUMERIC_ROWS
from timberline.inference.errors import BatchTooLargeError, RequestError
from timberline.inference.formats.infer_request import InferRequest, read_header_length, read_request
from timberline.inference.formats.outline import Limits
from timberline.inference.formats.tensors import TensorReader, TensorWriter
from timberline.inference.session import Feed, Outputs
from timberline.registry.signature import NULL_TEXT, Column, build_signature

MAX_ROWS = 8
NUMERIC = TensorReader(build_signature(NUMERIC_COLUMNS, CLASSES), MAX_ROWS)
MIXED = TensorReader(build_signature(MIXED_COLUMNS, CLASSES), MAX_ROWS)
WRITER = TensorWriter("tiny", 7, build_signature(NUMERIC_COLUMNS, CLASSES))
ROWS: list[list[float | None]] = [[12.5, 40, 0, None], [30.0, 400, 1, 12.0], [0.0, 1, 1, -3.5]]
MATRIX = np.array(ROWS, dtype=np.float64)


def tensor(name: str, shape: Sequence[int], datatype: str, data: Any) -> dict[str, Any]:
    """An input of a request, in JSON."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def take_apart(request: object) -> InferRequest:
    """A request that is JSON alone."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return read_request(body, len(body))


def read(reader: TensorReader, *inputs: object) -> Feed:
    """The rows of JSON inputs."""
    return reader.read(take_apart({"inputs": inputs}))


def read_blobs(reader: TensorReader, *inputs: tuple[str, Sequence[int], str, bytes]) -> Feed:
    """The rows of inputs that are blobs."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": shape,
                    "datatype": datatype,
                    "parameters": {"binary_data_size": len(blob)},
                }
                for name, shape, datatype, blob in inputs
            ]
        }
    ).encode()
    return reader.read(read_request(head + b"".join(blob for *_, blob in inputs), len(head)))


def join_strings(*values: bytes) -> bytes:
    """Strings as the extension puts them into a blob."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def assert_numbers(feed: Feed, rows: Sequence[Sequence[float | None]]) -> None:
    """The numeric tensor is float64 and holds exactly ``rows``, None being NaN."""
    assert feed.numeric is not None
    assert feed.numeric.dtype == np.float64
    np.testing.assert_array_equal(feed.numeric, np.array(rows, dtype=np.float64))


@pytest.mark.parametrize("data", [ROWS, [value for row in ROWS for value in row]], ids=["nested", "flat"])
def test_data_may_be_nested_or_flat(data: object) -> None:
    """The protocol allows both, and row by row is the only order."""
    assert_numbers(read(NUMERIC, tensor("numeric", [3, 4], "FP64", data)), ROWS)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
def test_blobs_of_floats_become_float64(dtype: str) -> None:
    """What numpy and other clients have in memory is sent as it stands, and cast once."""
    datatype = {"<f8": "FP64", "<f4": "FP32", "<f2": "FP16"}[dtype]
    feed = read_blobs(NUMERIC, ("numeric", [3, 4], datatype, MATRIX.astype(dtype).tobytes()))
    assert_numbers(feed, ROWS)


@pytest.mark.parametrize(
    "datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
)
@pytest.mark.parametrize("is_blob", [True, False], ids=["blob", "JSON"])
def test_integers_are_taken_for_numbers(datatype: str, is_blob: bool) -> None:
    """A table of integers need not be cast by its sender; every integer datatype is read by its own width."""
    rows = [[1, 40, 0, 3], [0, 100, 1, 12]]
    if is_blob:
        dtype = datatype.lower()
        blob = np.array(rows, dtype=dtype).tobytes()
        feed = read_blobs(NUMERIC, ("numeric", [2, 4], datatype, blob))
    else:
        feed = read(NUMERIC, tensor("numeric", [2, 4], datatype, rows))
    assert_numbers(feed, rows)


def test_a_blob_is_not_copied_when_it_can_be_used_where_it_is() -> None:
    """A thousand rows of float64 need neither cast nor copy."""
    tensor_json = b'"name":"numeric","shape":[3,4],"datatype":"FP64","parameters":{"binary_data_size":96}'
    head = b'{"inputs":[{%b}]}' % tensor_json
    body = head.ljust(len(head) + -len(head) % 8) + MATRIX.tobytes()
    shared = 0
    for shift in range(8):  # where the body begins in memory is not ours to choose
        whole = b" " * shift + body
        request = read_request(whole, len(whole) - 96)
        feed = NUMERIC.read(request)
        assert_numbers(feed, ROWS)
        assert feed.numeric is not None
        assert feed.numeric.flags.aligned
        shared += not feed.numeric.flags.owndata
    assert shared == 1


def test_single_columns_are_put_in_order_and_defaults_filled_in() -> None:
    """Nobody who sends columns should need to know the order of the graph's matrix."""
    feed = read(
        NUMERIC, tensor("slope", [2], "FP32", [None, 1.5]), tensor("rings", [2, 1], "INT32", [[40], [7]])
    )
    assert_numbers(feed, [[0.0, 40, 0, None], [0.0, 7, 0, 1.5]])


def test_a_nullable_column_left_out_is_null() -> None:
    """As in /predict: left out and null are the same to a column that may be null."""
    feed = read(MIXED, tensor("soil", [1], "BYTES", ["clay"]), tensor("rings", [1], "INT64", [40]))
    assert_numbers(feed, [[0.0, 40, 0, None]])
    assert feed.text is not None
    assert feed.text.tolist() == [["clay", NULL_TEXT]]


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP32"])
def test_a_boolean_column_takes_booleans_and_zeros_and_ones(datatype: str) -> None:
    """numpy has bool, most tables have 0 and 1."""
    data = [True, False] if datatype == "BOOL" else [1, 0]
    dtype = {"BOOL": "?", "UINT8": "u1", "INT64": "<i8", "FP32": "<f4"}[datatype]
    rings = tensor("rings", [2], "INT64", [1, 1])
    from_json = read(NUMERIC, rings, tensor("is_wet", [2], datatype, data))
    assert_numbers(from_json, [[0, 1, 1, None], [0, 1, 0, None]])
    blob = np.array(data, dtype=dtype).tobytes()
    from_blob = read_blobs(
        NUMERIC, ("rings", [2], "INT64", np.ones(2, "<i8").tobytes()), ("is_wet", [2], datatype, blob)
    )
    assert_numbers(from_blob, [[0, 1, 1, None], [0, 1, 0, None]])


def test_strings_arrive_from_json_and_from_blobs_alike() -> None:
    """Text beyond ASCII has more bytes than characters, which is what lengths are counted in."""
    texts = [[row[0], row[-1]] for row in MIXED_ROWS]
    numbers = [row[1:-1] for row in MIXED_ROWS]
    from_json = read(MIXED, tensor("text", [3, 2], "BYTES", texts), tensor("numeric", [3, 4], "FP64", ROWS))
    flat = ["\x00" if value is None else str(value) for row in texts for value in row]
    from_blob = read_blobs(
        MIXED,
        ("text", [3, 2], "BYTES", join_strings(*[value.encode() for value in flat])),
        ("numeric", [3, 4], "FP64", np.array(numbers, dtype="<f8").tobytes()),
    )
    for feed in (from_json, from_blob):
        assert feed.text is not None
        assert feed.text.ravel().tolist() == [NULL_TEXT if value == "\x00" else value for value in flat]
        assert_numbers(feed, ROWS)


@pytest.mark.parametrize("shape", [[1, 4], [3, 4]])
def test_a_body_that_is_one_blob_has_as_many_rows_as_fit(shape: list[int]) -> None:
    """The raw form says nothing of its shape."""
    body = MATRIX[: shape[0]].tobytes()
    feed = NUMERIC.read(NUMERIC.describe_raw(body))
    assert_numbers(feed, ROWS[: shape[0]])


def test_a_body_that_is_one_blob_of_strings_is_read_too() -> None:
    """A model of text columns alone has one tensor as well."""
    columns = (Column(name="a", datatype="BYTES"), Column(name="b", datatype="BYTES"))
    reader = TensorReader(build_signature(columns, CLASSES), MAX_ROWS)
    feed = reader.read(reader.describe_raw(join_strings(b"x", b"", b"\xc3\xbc", b"y")))
    assert feed.text is not None
    assert feed.text.tolist() == [["x", ""], ["ü", "y"]]


def test_strings_of_a_blob_are_counted_no_further_than_rows_may_be() -> None:
    """Four million empty strings are a body of 16 MiB; each is looked at to find the next."""
    columns = (Column(name="a", datatype="BYTES"), Column(name="b", datatype="BYTES"))
    reader = TensorReader(build_signature(columns, CLASSES), MAX_ROWS)
    asked = reader.describe_raw(join_strings(*[b""] * 100_000))
    assert asked.inputs[0].shape == [MAX_ROWS + 1, 2]
    with pytest.raises(BatchTooLargeError):
        reader.read(asked)


def test_a_string_of_a_blob_is_no_longer_than_a_row_may_be() -> None:
    """One character beyond the Basic Multilingual Plane makes four bytes of each of the others."""
    columns = (Column(name="a", datatype="BYTES"),)
    reader = TensorReader(build_signature(columns, CLASSES), MAX_ROWS, Limits(longest=10))
    feed = reader.read(reader.describe_raw(join_strings(b"x" * 10)))
    assert feed.row_count == 1
    with pytest.raises(RequestError, match='row 1, "a": the string has more than 10 bytes'):
        reader.read(reader.describe_raw(join_strings(b"x", b"x" * 11)))


NUMERIC_INPUT = tensor("numeric", [1, 4], "FP64", [1, 40, 0, None])
RINGS = tensor("rings", [1], "INT64", [40])
REFUSED_JSON: list[tuple[str, list[object], str]] = [
    ("no inputs", [], '"inputs" is empty, expected at least one tensor'),
    (
        "unknown",
        [{**RINGS, "name": "x"}],
        'input "x": the model has no such input. Inputs: numeric [-1, 4]; or',
    ),
    ("twice", [RINGS, RINGS], 'input "rings": is given twice'),
    (
        "both ways",
        [NUMERIC_INPUT, RINGS],
        'input "rings": is sent beside "numeric". Send the graph\'s tensors',
    ),
    ("both ways, other order", [RINGS, NUMERIC_INPUT], 'input "numeric": is sent beside "rings"'),
    ("missing column", [tensor("height", [1], "FP64", [1])], 'input "rings": is missing. Inputs: numeric'),
    (
        "unknown datatype",
        [{**RINGS, "datatype": "int64"}],
        "input \"rings\": 'int64' is no datatype. Known: BOOL",
    ),
    ("half floats", [{**RINGS, "datatype": "FP16"}], 'input "rings": FP16 is not read from JSON. Send FP32'),
    (
        "string tensor",
        [{**RINGS, "datatype": "BYTES"}],
        'input "rings": the datatype is BYTES, expected INT64',
    ),
    ("bool tensor", [{**RINGS, "datatype": "BOOL"}], 'input "rings": the datatype is BOOL, expected INT64'),
    (
        "bool matrix",
        [{**NUMERIC_INPUT, "datatype": "BOOL"}],
        'input "numeric": the datatype is BOOL, expected FP64',
    ),
    (
        "wide column",
        [{**RINGS, "shape": [1, 2]}],
        'input "rings": the shape is [1, 2], expected [rows] or [rows, 1]',
    ),
    ("scalar", [{**RINGS, "shape": []}], 'input "rings": the shape is [], expected [rows] or [rows, 1]'),
    (
        "narrow",
        [{**NUMERIC_INPUT, "shape": [1, 3]}],
        'input "numeric": the shape is [1, 3], expected [rows, 4]',
    ),
    (
        "flat matrix",
        [{**NUMERIC_INPUT, "shape": [4]}],
        'input "numeric": the shape is [4], expected [rows, 4]',
    ),
    ("negative", [{**RINGS, "shape": [-1]}], "inputs[0].shape[0]: expected `int` >= 0"),
    ("empty", [{**RINGS, "shape": [0], "data": []}], 'input "rings": has no rows, expected at least one'),
    ("unequal", [RINGS, tensor("height", [2], "FP64", [1, 2])], 'input "height": has 2 rows, "rings" has 1'),
    ("too few", [{**RINGS, "shape": [2]}], 'input "rings": has 1 values, shape [2] takes 2'),
    ("too many", [{**RINGS, "data": [1, 2]}], 'input "rings": has 2 values, shape [1] takes 1'),
    ("nested column", [{**RINGS, "data": [[40]]}], 'row 0, "rings": expected an integer, found an array'),
    (
        "ragged",
        [tensor("numeric", [1, 4], "FP64", [[1, 2]])],
        'input "numeric": row 0 has 2 values, expected 4',
    ),
    (
        "three levels",
        [{**NUMERIC_INPUT, "data": [[[1, 40, 0, 1]]]}],
        'input "numeric": row 0 has 1 values, expected 4',
    ),
    (
        "half nested",
        [{**NUMERIC_INPUT, "data": [[1], 2, 3, 4]}],
        'input "numeric": row 0 has 1 values, expected 4 values',
    ),
    ("no array", [{**RINGS, "data": 40}], 'input "rings": the data is 40, expected an array'),
    ("null for data", [{**RINGS, "data": None}], 'input "rings": the data is null, expected an array'),
    ("string", [{**RINGS, "data": ["40"]}], 'row 0, "rings": expected an integer, found the string "40"'),
    ("boolean", [{**RINGS, "data": [True]}], 'row 0, "rings": expected an integer, found true'),
    ("object", [{**RINGS, "data": [{}]}], 'row 0, "rings": expected an integer, found an object'),
    ("null", [{**RINGS, "data": [None]}], 'row 0, "rings": expected an integer, found null'),
    (
        "null in a matrix",
        [{**NUMERIC_INPUT, "data": [1, None, 0, 1]}],
        'row 0, "rings": expected a number, found null',
    ),
    ("fraction", [{**RINGS, "data": [1.5]}], 'row 0, "rings": expected an integer, found 1.5'),
    (
        "fraction in a float",
        [{**RINGS, "datatype": "FP32", "data": [1.5]}],
        'row 0, "rings": expected an integer, found 1.5',
    ),
    (
        "beyond a byte",
        [{**RINGS, "datatype": "UINT8", "data": [256]}],
        'row 0, "rings": the number is out of the range of UINT8',
    ),
    (
        "below zero",
        [{**RINGS, "datatype": "UINT64", "data": [-1]}],
        'row 0, "rings": the number is out of the range of UINT64',
    ),
    (
        "beyond 2^53",
        [{**RINGS, "data": [2**53]}],
        'row 0, "rings": the integer is not exact, expected at most',
    ),
    (
        "beyond float32",
        [{**RINGS, "datatype": "FP32", "data": [1e39]}],
        'row 0, "rings": the number is out of the range of FP32',
    ),
    (
        "number for a boolean",
        [RINGS, tensor("is_wet", [1], "BOOL", [1])],
        'row 0, "is_wet": expected true or false, found the number 1',
    ),
    (
        "two for a boolean",
        [RINGS, tensor("is_wet", [1], "UINT8", [2])],
        'row 0, "is_wet": expected 0 or 1, found 2.0',
    ),
]


@pytest.mark.parametrize(
    ("inputs", "message"), [case[1:] for case in REFUSED_JSON], ids=[c[0] for c in REFUSED_JSON]
)
def test_what_does_not_fit_is_refused_by_name(inputs: list[object], message: str) -> None:
    """Whoever wrote the client has only this sentence to find the mistake with."""
    with pytest.raises(RequestError) as refused:
        read(NUMERIC, *inputs)
    assert str(refused.value).startswith(message)


# Bodies in which RINGS stands for an input, and FIELDS for all of one but its data and its brace.
REFUSED_BYTES: list[tuple[str, bytes, str]] = [
    ("empty", b" ", 'the body is empty. Send {"inputs": [...]}'),
    ("cut short", b'{"inputs":', "the body is not JSON: "),
    ("array", b"[]", "expected `object`, got `array`"),
    ("no inputs", b"{}", "object missing required field `inputs`"),
    ("unknown field", b'{"inputs":[],"output":[]}', "object contains unknown field `output`"),
    ("long name", b'{"%b":1}' % (b"x" * 9000), f"object contains unknown field `{'x' * 80}"),
    ("a name twice", b'{"inputs":[],"id":"a","inputs":[RINGS]}', "a name is given twice in one object"),
    ("data twice", b'{"inputs":[{"data":[1],"data":[2],FIELDS}]}', "a name is given twice in one object"),
    ("number for an id", b'{"inputs":[RINGS],"id":4}', "id: expected `str | null`, got `int`"),
    ("no data", b'{"inputs":[{FIELDS}]}', 'input "rings": has neither data nor binary_data_size'),
    ("NaN", b'{"inputs":[{"data":[NaN],FIELDS}]}', "the body is not JSON: JSON is malformed"),
    ("not UTF-8", b'{"inputs":[{"name":"\xff"}]}', "the body is not UTF-8"),
    ("deep", b'{"inputs":[{"data":' + b"[" * 100_000, "the body is nested too deeply"),
    (
        "number for a flag",
        b'{"inputs":[RINGS],"parameters":{"binary_data_output":1}}',
        "parameters: binary_data_output is 1, expected true or false",
    ),
    (
        "list for a flag",
        b'{"inputs":[RINGS],"parameters":{"binary_data_output":[]}}',
        "parameters: binary_data_output is [], expected true or false",
    ),
    (
        "number that is none for a size",
        b'{"inputs":[{FIELDS,"parameters":{"binary_data_size":1e999}}]}',
        'input "rings": binary_data_size cannot be read',
    ),
    (
        "parameter twice, one of them nested",
        b'{"inputs":[RINGS],"parameters":{"a":{"b":1},"a":{"b":1}}}',
        "a name is given twice",
    ),
    ("number for the model", b'{"inputs":[RINGS],"model_name":1}', "model_name: expected"),
    ("model twice", b'{"inputs":[RINGS],"model_name":"a","model_name":"a"}', "a name is given twice"),
    (
        "output twice",
        b'{"inputs":[RINGS],"outputs":[{"name":"label"},{"name":"label"}]}',
        'output "label": is asked for twice',
    ),
    (
        "classification",
        b'{"inputs":[RINGS],"outputs":[{"name":"label","parameters":{"classification":2}}]}',
        'output "label": the parameter "classification" is not supported here',
    ),
]


@pytest.mark.parametrize(
    ("body", "message"), [case[1:] for case in REFUSED_BYTES], ids=[case[0] for case in REFUSED_BYTES]
)
def test_a_body_that_is_no_request_is_refused(body: bytes, message: str) -> None:
    """Neither half a request nor a doubled one may be answered as if it were whole."""
    fields = b'"name":"rings","shape":[1],"datatype":"INT64"'
    body = body.replace(b"FIELDS", fields).replace(b"RINGS", b'{"data":[40],%b}' % fields)
    with pytest.raises(RequestError) as refused:
        take_apart(body)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "given",
    [
        {"content_type": "pd", "headers": {"x-a": "1:2", "b": [{"c": None}]}},  # MLServer's
        {"sequence_id": 7, "sequence_start": True, "priority": 1, "timeout": 500, "my_own": 0.5},  # Triton's
        {"triton_enable_empty_final_response": True, "schema": None, "list": [1, [2]]},
        {},
        None,
    ],
)
def test_parameters_of_any_shape_are_hints(given: object) -> None:
    """Every implementation puts its own there, at the request, the inputs and the outputs."""
    rings = {**tensor("rings", [1], "INT64", [40]), "parameters": given}
    wanted = [{"name": "label", "parameters": given}]
    asked = take_apart({"inputs": [rings], "outputs": wanted, "parameters": given})
    assert_numbers(NUMERIC.read(asked), [[0, 40, 0, None]])
    assert asked.outputs == {"label": False}


def test_a_body_may_name_its_model_and_version() -> None:
    """KServe's client always does; gRPC gateways write an empty version for none."""
    for version, expected in (("3", "3"), (3, "3"), ("", ""), (None, "")):
        asked = take_apart({"inputs": [RINGS], "model_name": "tiny", "model_version": version})
        assert (asked.model_name, asked.model_version) == ("tiny", expected)
    assert take_apart({"inputs": [RINGS]}).model_name == ""


# Columns that are called as requests and tensors are.
_NAMES = ("text", "numeric", "instances", "parameters", "label", "model", "inputs", "id")
_TEXTS = {"text", "model"}
NAMED = TensorReader(
    build_signature(
        tuple(Column(name=name, datatype="BYTES" if name in _TEXTS else "FP64") for name in _NAMES), CLASSES
    ),
    MAX_ROWS,
)


@pytest.mark.parametrize("first", _NAMES)
@pytest.mark.parametrize("shape", [[1], [1, 1]], ids=["flat", "column"])
def test_columns_called_like_tensors_are_columns_in_every_order(first: str, shape: list[int]) -> None:
    """What a request means must not depend on which of its inputs comes first."""
    names = [first, *(name for name in _NAMES if name != first)]
    inputs = [
        tensor(name, shape, "BYTES", [name]) if name in _TEXTS else tensor(name, shape, "FP64", [len(name)])
        for name in names
    ]
    feed = read(NAMED, *inputs)
    assert_numbers(feed, [[len(name) for name in _NAMES if name not in _TEXTS]])
    assert feed.text is not None
    assert feed.text.tolist() == [["text", "model"]]


@pytest.mark.parametrize("is_text_first", [True, False])
def test_tensors_called_like_columns_are_tensors_in_every_order(is_text_first: bool) -> None:
    """The same model's own tensors, as its metadata name them."""
    text = tensor("text", [1, 2], "BYTES", ["a", "b"])
    numeric = tensor("numeric", [1, 6], "FP64", [1, 2, 3, 4, 5, 6])
    feed = read(NAMED, *([text, numeric] if is_text_first else [numeric, text]))
    assert_numbers(feed, [[1, 2, 3, 4, 5, 6]])
    assert feed.text is not None
    assert feed.text.tolist() == [["a", "b"]]


def test_a_column_called_like_a_tensor_may_stand_alone() -> None:
    """The others may be left out, which tensors may not."""
    columns = (
        Column(name="numeric", datatype="INT64"),
        Column(name="b", datatype="FP64", default=2.0),
        Column(name="text", datatype="BYTES", is_nullable=True),
    )
    reader = TensorReader(build_signature(columns, CLASSES), MAX_ROWS)
    assert_numbers(read(reader, tensor("numeric", [2], "INT64", [1, 3])), [[1, 2], [3, 2]])
    with pytest.raises(RequestError, match='input "text": is missing'):
        read(reader, tensor("numeric", [1, 2], "FP64", [1, 3]))


def test_columns_of_each_others_names_are_told_apart_by_their_datatypes() -> None:
    """One column of each kind, called after the other kind's tensor: the shapes say nothing."""
    columns = (Column(name="text", datatype="FP64"), Column(name="numeric", datatype="BYTES"))
    reader = TensorReader(build_signature(columns, CLASSES), MAX_ROWS)
    as_columns = [tensor("numeric", [1, 1], "BYTES", ["a"]), tensor("text", [1, 1], "FP64", [1])]
    as_tensors = [tensor("numeric", [1, 1], "FP64", [1]), tensor("text", [1, 1], "BYTES", ["a"])]
    for inputs in (as_columns, as_columns[::-1], as_tensors, as_tensors[::-1]):
        feed = read(reader, *inputs)
        assert_numbers(feed, [[1]])
        assert feed.text is not None
        assert feed.text.tolist() == [["a"]]


def test_colons_in_strings_are_not_names() -> None:
    """Doubled names are found by counting colons; a time of day must not trip it."""
    request = take_apart(
        {
            "inputs": [tensor("text", [1, 2], "BYTES", ["12:30", 'a":"b'])],
            "id": "a:b",
            "parameters": {"x:y": "z:"},
            "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
        }
    )
    assert request.id == "a:b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((b"clay", b"a\xff"), 'row 0, "note": the string is not UTF-8: invalid start byte at byte 1'),
        ((b"clay", b"a\x00"), 'row 0, "note": the string holds U+0000'),
        ((b"\x00", b""), 'row 0, "soil": expected a string, found null'),
        ((b"clay",), 'input "text": its bytes end within element 1'),
        ((b"clay", b"", b""), 'input "text": has 4 bytes behind its last element'),
    ],
)
def test_a_blob_of_strings_is_checked_string_by_string(values: tuple[bytes, ...], message: str) -> None:
    """The graph's strings are UTF-8, and lengths inside of a blob are the client's word only."""
    with pytest.raises(RequestError) as refused:
        read_blobs(
            MIXED,
            ("text", [1, 2], "BYTES", join_strings(*values)),
            ("numeric", [1, 4], "FP64", MATRIX[:1].tobytes()),
        )
    assert str(refused.value) == message


@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
def test_integers_that_float64_cannot_hold_are_refused(datatype: str) -> None:
    """The graph's numbers are float64; 2^53 + 1 would silently become another number."""
    values = np.array([[1, 2, 1, 0], [2**53 + 1, 2, 1, 0]], dtype=datatype.lower())
    with pytest.raises(RequestError, match=r'row 1, "height": the integer is not exact'):
        read_blobs(NUMERIC, ("numeric", [2, 4], datatype, values.tobytes()))


def test_a_signalling_nan_is_null_like_any_other() -> None:
    """Casting one sets the processor's flag, which must be no warning in the log of every request."""
    values = np.array([[1, 2, 1, 0]], dtype="<f4")
    values.view("<u4")[0, 3] = 0x7F800001
    feed = read_blobs(NUMERIC, ("numeric", [1, 4], "FP32", values.tobytes()))
    assert_numbers(feed, [[1, 2, 1, None]])


@pytest.mark.parametrize(
    ("parameters", "rest", "message"),
    [
        ({"binary_data_size": 31}, b"0" * 31, 'input "numeric": has 31 bytes, shape [1, 4] of FP64 takes 32'),
        (
            {"binary_data_size": 32},
            b"0" * 31,
            "the inputs' binary_data_size add up to 32 bytes, 31",
        ),
        (
            {"binary_data_size": 32},
            b"0" * 33,
            "the inputs' binary_data_size add up to 32 bytes, 33",
        ),
        (
            {"binary_data_size": 2**70},
            b"0" * 32,
            "the inputs' binary_data_size add up to 118059",
        ),
        (
            {"binary_data_size": -1},
            b"",
            'input "numeric": binary_data_size is -1, expected',
        ),
        (
            {"binary_data_size": "32"},
            b"0" * 32,
            "input \"numeric\": binary_data_size is '32', expected a number",
        ),
        (
            {"binary_data_size": 32.0},
            b"0" * 32,
            'input "numeric": binary_data_size is 32.0, expected',
        ),
        ({"binary_data_size": True}, b"0", 'input "numeric": binary_data_size is True, expected'),
        ({"shared_memory_region": "x"}, b"", 'input "numeric": the parameter "shared_memory_region" is not'),
    ],
)
def test_a_blob_of_another_size_is_refused(parameters: dict[str, Any], rest: bytes, message: str) -> None:
    """Bytes that belong to no tensor, or to the next one, would be read as somebody's values."""
    head = json.dumps(
        {"inputs": [{"name": "numeric", "shape": [1, 4], "datatype": "FP64", "parameters": parameters}]}
    ).encode()
    with pytest.raises(RequestError) as refused:
        NUMERIC.read(read_request(head + rest, len(head)))
    assert str(refused.value).startswith(message)


def test_data_and_a_blob_for_one_tensor_are_refused() -> None:
    """There would be two answers to what its values are."""
    with pytest.raises(RequestError, match="has both data and binary_data_size"):
        read(NUMERIC, {**RINGS, "parameters": {"binary_data_size": 8}})


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+3", b" 3", b"3.0", b"0x3", b"abc", b"\xb2", b"9" * 20, b"9" * 5000, b"11"]
)
def test_a_header_that_is_no_length_is_refused(value: bytes) -> None:
    """Where the JSON ends decides what is read as what; overflowing lengths have been a hole elsewhere."""
    with pytest.raises(RequestError, match="header Inference-Header-Content-Length"):
        read_header_length(value, 10)


def test_a_body_of_two_tensors_cannot_go_without_json() -> None:
    """Where the first would end is not known."""
    with pytest.raises(RequestError, match="the model takes 2 tensors"):
        MIXED.describe_raw(b"")


@pytest.mark.parametrize("size", [31, 33, 4])
def test_a_body_that_is_no_whole_rows_is_refused(size: int) -> None:
    """A cut-off upload must not be answered for the rows that happened to arrive."""
    with pytest.raises(RequestError, match='input "numeric": has '):
        NUMERIC.read(NUMERIC.describe_raw(b"0" * size))


def test_more_rows_than_allowed_are_refused_before_they_are_read() -> None:
    """The shape alone is enough to turn a request down."""
    with pytest.raises(BatchTooLargeError, match="9 rows in one request, at most 8"):
        read(NUMERIC, tensor("rings", [9], "INT64", "never looked at"))


OUTPUTS = Outputs(np.array([1, 0]), np.array([[0.1, 0.7, 0.2], [1, 0, 1e-30]], dtype=np.float32))


def test_answers_bring_float32_back_exactly() -> None:
    """Nine digits are enough for every float32, and a client that compares must find no difference."""
    request = take_apart({"inputs": [RINGS], "id": 'a"b'})
    body, json_length = WRITER.write(OUTPUTS, WRITER.choose(request), request.id)
    assert json_length is None
    answer = json.loads(body)
    assert {key: answer[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "tiny",
        "model_version": "7",
        "id": 'a"b',
    }
    probabilities, label = answer["outputs"]
    assert (probabilities["name"], probabilities["datatype"], probabilities["shape"]) == (
        "probabilities",
        "FP32",
        [2, 3],
    )
    np.testing.assert_array_equal(
        np.array(probabilities["data"], dtype=np.float32), OUTPUTS.probabilities.ravel()
    )
    assert label == {"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]}


def test_outputs_come_in_the_order_asked_for_and_their_blobs_too() -> None:
    """A client finds a blob by adding up the sizes in front of it."""
    request = take_apart(
        {
            "inputs": [RINGS],
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "label"}, {"name": "probabilities"}],
        }
    )
    body, json_length = WRITER.write(OUTPUTS, WRITER.choose(request), None)
    answer = json.loads(body[:json_length])
    assert "id" not in answer
    assert [(o["name"], o["parameters"]["binary_data_size"], "data" in o) for o in answer["outputs"]] == [
        ("label", 16, False),
        ("probabilities", 24, False),
    ]
    assert body[json_length:] == OUTPUTS.labels.tobytes() + OUTPUTS.probabilities.tobytes()


def test_an_outputs_own_word_goes_before_the_requests() -> None:
    """The extension says so, and tritonclient relies on it."""
    request = take_apart(
        {
            "inputs": [RINGS],
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "label"}],
        }
    )
    assert WRITER.choose(request) == {"probabilities": False, "label": True}


@pytest.mark.parametrize("outputs", [None, []])
def test_no_outputs_named_means_all(outputs: object) -> None:
    """Both ways of not naming any are in use."""
    assert list(WRITER.choose(take_apart({"inputs": [RINGS], "outputs": outputs}))) == [
        "probabilities",
        "label",
    ]


def test_an_unknown_output_is_refused() -> None:
    """An answer without the tensor that was asked for would fail later and elsewhere."""
    request = take_apart({"inputs": [RINGS], "outputs": [{"name": "score"}]})
    with pytest.raises(RequestError, match='output "score": the model has no such output'):
        WRITER.choose(request)


def test_the_tiny_rows_are_the_ones_of_the_model() -> None:
    """The rows here are written as numbers; they must stay those that golden answers exist for."""
    assert [[float(v) if v is not None else None for v in row] for row in NUMERIC_ROWS] == ROWS


@pytest.mark.parametrize("parameters", [{"hint": {"data": [1, 2]}}, {"data": [1], "hint": {"data": []}}])
def test_parameters_of_a_long_body_may_hold_arrays_called_data(parameters: object) -> None:
    """What MLServer's clients put there is of any shape, and is no input's data."""
    sent = {"parameters": parameters, "inputs": [tensor("numeric", [3, 4], "FP64", ROWS)]}
    body = json.dumps(sent).encode()
    for limits in (Limits(10_000, 16), Limits(10_000, 10_000)):
        feed = NUMERIC.read(read_request(body, len(body), limits))
        assert_numbers(feed, ROWS)


def test_data_under_another_spelling_is_refused_in_a_long_body() -> None:
    """It would be read as the number of an array that is some other input's."""
    body = json.dumps({"inputs": [tensor("a", [1], "FP64", [0]), tensor("b", [1], "FP64", [0.5])]}).encode()
    body = body.replace(b'"data"', b'"d\\u0061ta"', 1)
    with pytest.raises(RequestError, match="written with escapes"):
        read_request(body, len(body), Limits(10_000, 16))
