"""Rows in every form: what exactly is sent."""

from __future__ import annotations

import struct

import msgspec
import numpy as np

from benchmarks.drive.forms import Row, carries, write_body
from registry.signature import Column

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
