"""Rows in every form: what exactly is sent."""

from __future__ import annotations

import struct

import msgspec
import numpy as np

from timberline.benchmarks.measure.formats import Row, carries, write_body
from timberline.benchmarks.measure.records import Form
from timberline.registry.signature import Column

COLUMNS = (
    Column(name="height", datatype="FP64"),
    Column(name="is_wet", datatype="BOOL", is_nullable=True),
    Column(name="note", datatype="BYTES", is_nullable=True),
)
NUMBERS = COLUMNS[:2]
ROWS: tuple[Row, ...] = (
    {"height": 12.5, "is_wet": True, "note": 'a "b", c'},
    {"height": 3, "is_wet": None, "note": None},
)


def test_csv_is_quoted_and_has_names() -> None:
    """A comma in a text must not become two fields; NULL is an empty field."""
    body = write_body("csv", ROWS, COLUMNS)
    assert body.payload == b'height,is_wet,note\n12.5,true,"a ""b"", c"\n3,,\n'
    assert (body.rows, body.path) == (2, "/predict")
    assert body.headers["Content-Type"] == "text/csv; header=present"


def test_float32_is_answered_in_kind() -> None:
    """NULL is NaN; asking for JSON back would measure the JSON."""
    body = write_body("float32", ROWS, NUMBERS)
    np.testing.assert_array_equal(np.frombuffer(body.payload, "<f4"), [12.5, 1, 3, np.nan])
    assert body.headers["Accept"] == body.headers["Content-Type"] == "application/octet-stream"


def test_the_protocol_gets_the_graphs_tensors() -> None:
    """That is what its clients send: two tensors and not fifty."""
    tree = msgspec.json.decode(write_body("oip", ROWS, COLUMNS).payload)
    assert tree["inputs"] == [
        {"name": "numeric", "shape": [2, 2], "datatype": "FP64", "data": [12.5, 1.0, 3.0, None]},
        {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": ['a "b", c', None]},
    ]


def test_versions_of_other_columns_get_a_tensor_a_column() -> None:
    """The graph's tensor of one version is too narrow for the other's; by name nothing is missed."""
    tree = msgspec.json.decode(write_body("oip", ROWS, COLUMNS, is_shared=False).payload)
    assert [(one["name"], one["shape"]) for one in tree["inputs"]] == [
        ("height", [2, 1]),
        ("is_wet", [2, 1]),
        ("note", [2, 1]),
    ]


def test_blobs_lie_behind_the_json_in_its_order() -> None:
    """Offsets are not sent, so that order and sizes are all that a reader has."""
    body = write_body("oip_binary", ROWS, COLUMNS)
    length = int(body.headers["Inference-Header-Content-Length"])
    tree, blob = msgspec.json.decode(body.payload[:length]), body.payload[length:]
    sizes = [one["parameters"]["binary_data_size"] for one in tree["inputs"]]
    assert sum(sizes) == len(blob)
    np.testing.assert_array_equal(np.frombuffer(blob[: sizes[0]], "<f8"), [12.5, 1, 3, np.nan])
    assert blob[sizes[0] :] == struct.pack("<I8sI1s", 8, b'a "b", c', 1, b"\0")
    assert tree["parameters"] == {"binary_data_output": True}


def test_what_a_form_cannot_say_is_known() -> None:
    """Such a row would be answered as another one, and look like a wrong answer."""
    assert carries("float32", {"height": 16_777_216}, NUMBERS[:1])
    assert not carries("float32", {"height": 16_777_217}, NUMBERS[:1])
    assert not carries("float32", {"height": 1e300}, NUMBERS[:1])
    assert carries("csv", ROWS[1], COLUMNS)
    assert not carries("csv", {**ROWS[0], "note": ""}, COLUMNS)
    assert not carries("csv", dict.fromkeys(ROWS[0]), COLUMNS)
    assert all(carries(form, {**ROWS[0], "note": ""}, COLUMNS) for form in ("json", "oip", "oip_binary"))


def test_null_is_carried_where_a_form_can_say_it() -> None:
    """In float32 it is NaN; in CSV an empty field."""
    assert carries("float32", {"height": None, "is_wet": True}, NUMBERS)
    assert carries("csv", {**ROWS[0], "height": None}, COLUMNS)


def test_json_is_an_object_for_one_row_and_instances_for_more() -> None:
    """The two ways in which clients ask; the headers are those of JSON."""
    one, two = (write_body("json", ROWS[:count], COLUMNS) for count in (1, 2))
    assert msgspec.json.decode(one.payload) == ROWS[0]
    assert msgspec.json.decode(two.payload) == {"instances": list(ROWS)}
    for body, rows in ((one, 1), (two, 2)):
        assert (body.rows, body.form, body.path, body.answers) == (rows, "json", "/predict", {})
        assert body.headers == {"Content-Type": "application/json", "Accept": "application/json"}


def test_every_body_says_its_form_its_rows_and_its_headers() -> None:
    """The form decides how the reply is read, and the rows how many there must be."""
    octets = "application/octet-stream"
    json = "application/json"
    expected = {
        "csv": ("/predict", {"Content-Type": "text/csv; header=present", "Accept": json}),
        "float32": ("/predict", {"Content-Type": octets, "Accept": octets}),
        "oip": ("/v2/models/{model}/infer", {"Content-Type": json, "Accept": json}),
        "oip_binary": ("/v2/models/{model}/infer", {"Content-Type": octets, "Accept": "*/*"}),
    }
    forms: tuple[Form, ...] = ("csv", "float32", "oip", "oip_binary")
    for form in forms:
        body = write_body(form, ROWS, NUMBERS)
        length = body.headers.pop("Inference-Header-Content-Length", None)
        assert (body.path, body.headers) == expected[form]
        assert (body.form, body.rows) == (form, 2)
        assert (length is not None) == (form == "oip_binary")


def test_columns_of_one_kind_make_one_tensor() -> None:
    """A tensor of no column has no shape to send."""
    numbers = msgspec.json.decode(write_body("oip", ROWS, NUMBERS).payload)["inputs"]
    text = msgspec.json.decode(write_body("oip", ROWS, COLUMNS[2:]).payload)["inputs"]
    assert [one["name"] for one in numbers] == ["numeric"]
    assert [(one["name"], one["datatype"], one["data"]) for one in text] == [
        ("text", "BYTES", ['a "b", c', None])
    ]


def test_blobs_of_single_columns_keep_their_kind() -> None:
    """Versions of other columns get a blob a column, each of its own datatype and size."""
    body = write_body("oip_binary", ROWS, COLUMNS, is_shared=False)
    length = int(body.headers["Inference-Header-Content-Length"])
    inputs = msgspec.json.decode(body.payload[:length])["inputs"]
    assert [(one["name"], one["datatype"], one["shape"]) for one in inputs] == [
        ("height", "FP64", [2, 1]),
        ("is_wet", "FP64", [2, 1]),
        ("note", "BYTES", [2, 1]),
    ]
    assert [one["parameters"]["binary_data_size"] for one in inputs] == [16, 16, 4 + 8 + 4 + 1]
    np.testing.assert_array_equal(
        np.frombuffer(body.payload[length : length + 32], "<f8"), [12.5, 3, 1, np.nan]
    )
