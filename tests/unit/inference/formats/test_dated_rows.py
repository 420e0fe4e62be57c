"""Dates and timestamps in every form of a request: the same whole numbers, and refusals that say why."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.pet_model import AS_SENT, CLASSES, COLUMNS, ROWS
from timberline.inference.errors import MalformedBodyError, RowError, UnsupportedMediaError
from timberline.inference.formats.codec import RowDecoder
from timberline.inference.formats.csv import TableReader
from timberline.inference.formats.infer_request import read_request
from timberline.inference.formats.tensors import TensorReader
from timberline.inference.session import Feed
from timberline.registry.moments import FIRST_DAY, LAST_DAY
from timberline.registry.signature import NULL_TEXT, Column, build_signature

DAY = Column(name="day", datatype="INT64", moment="date")
AT = Column(name="at", datatype="INT64", moment="timestamp", is_nullable=True)
BOTH = (DAY, AT)
READER = TensorReader(build_signature(BOTH, CLASSES), 10)


def read_tensors(*tensors: dict[str, Any], blobs: bytes = b"") -> Feed:
    """The rows of a request of the Open Inference Protocol."""
    text = msgspec.json.encode({"inputs": tensors})
    return READER.read(read_request(text + blobs, len(text)))


def tensor(name: str, datatype: str, *data: Any) -> dict[str, Any]:
    """One input, a value a row."""
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": list(data)}


@pytest.mark.parametrize("form", ["objects", "arrays", "lines", "large"])
def test_json_gives_the_rows_as_the_graph_takes_them(form: str) -> None:
    """A row means the same however its request is laid out."""
    decoder = RowDecoder(COLUMNS, 100)
    named = [dict(zip([c.name for c in COLUMNS], row, strict=True)) for row in AS_SENT]
    if form == "lines":
        parts = list(decoder.decode_lines("\n".join(map(json.dumps, named)).encode()))
    elif form == "large":
        parts = list(decoder.decode_large(json.dumps({"instances": AS_SENT}).encode()).slices)
    else:
        sent: Any = named if form == "objects" else AS_SENT
        parts = [decoder.decode(json.dumps({"instances": sent}).encode()).rows]
    assert [tuple(row) for part in parts for row in part] == list(ROWS)


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("x", 'found the string "x", which is not a date such as 2013-05-01'),
        ("2013-02-30", 'found the string "2013-02-30", which names a day that does not exist'),
        (1.5, "found the number 1.5, which is not a whole number of days since 1970-01-01"),
        (True, "found true"),
        (None, "found null"),
        ("9" * 101, f'found the string "{"9" * 77}...", which has more than 100 characters'),
    ],
)
def test_a_refusal_names_the_column_what_was_expected_and_what_was_found(day: Any, message: str) -> None:
    """Most clients of a date begin with one that is written their own way."""
    with pytest.raises(RowError) as caught:
        RowDecoder(BOTH, 10).decode(json.dumps({"instances": [{"day": 0}, {"day": day}]}).encode())
    expected = f'row 1, "day": expected a date such as 2013-05-01 or days since 1970-01-01, {message}'
    assert str(caught.value) == expected


def test_seconds_that_no_timestamp_has_are_refused() -> None:
    """Milliseconds in their place, or more than a double can be multiplied by."""
    for at in (1_367_411_400_000, 1e305, -1e305, 10**400):
        with pytest.raises(RowError, match='"at": expected a timestamp'):
            RowDecoder(BOTH, 10).decode(json.dumps({"day": 0, "at": at}).encode())


def test_a_tensor_of_a_column_holds_what_json_may() -> None:
    """Text, days and seconds; NULL is null, or in a blob NaN and U+0000."""
    expected = [[15826.0, 1_367_411_400_500_000.0], [-1.0, np.nan]]
    days = [tensor("day", "INT64", 15826, -1), tensor("day", "BYTES", "2013-05-01", "1969-12-31")]
    times = [tensor("at", "FP64", 1367411400.5, None), tensor("at", "BYTES", "2013-05-01T12:30:00.5Z", None)]
    for day in days:
        for at in times:
            np.testing.assert_array_equal(read_tensors(day, at).numeric, expected)
    texts = [text.encode() for text in ("2013-05-01T12:30:00.5", NULL_TEXT)]
    blobs = {
        "FP64": np.array([1367411400.5, np.nan]).astype("<f8").tobytes(),
        "BYTES": b"".join(len(text).to_bytes(4, "little") + text for text in texts),
    }
    for datatype, blob in blobs.items():
        head = {
            "name": "at",
            "datatype": datatype,
            "shape": [2],
            "parameters": {"binary_data_size": len(blob)},
        }
        np.testing.assert_array_equal(read_tensors(days[0], head, blobs=blob).numeric, expected)


def test_the_graphs_own_tensor_holds_whole_numbers_of_the_graph() -> None:
    """Who sends it has them from the test rows, and they are checked as such."""

    def read(*values: float) -> Feed:
        whole = {"name": "numeric", "datatype": "FP64", "shape": [1, 2], "data": list(values)}
        return read_tensors(whole)

    np.testing.assert_array_equal(read(15826, 1e15).numeric, [[15826, 1e15]])
    for day in (0.5, FIRST_DAY - 1, LAST_DAY + 1):
        with pytest.raises(RowError, match='row 0, "day": expected'):
            read(day, 1e15)
    with pytest.raises(RowError, match='row 0, "at": expected an integer'):
        read(0, 0.5)


def test_a_tensor_that_is_no_moment_is_refused() -> None:
    """The row, or the datatype, is named."""
    with pytest.raises(RowError, match=r'row 1, "day": expected a date .* found the string "x"'):
        read_tensors(tensor("day", "BYTES", "2013-05-01", "x"))
    null = len(NULL_TEXT).to_bytes(4, "little") + NULL_TEXT.encode()
    head = {"name": "day", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(null)}}
    with pytest.raises(RowError, match=r'row 0, "day": expected a date .* found null'):
        read_tensors(head, blobs=null)
    with pytest.raises(MalformedBodyError, match="the datatype is BOOL, expected BYTES or a number"):
        read_tensors(tensor("day", "BOOL", True))


def test_float32_takes_days_and_no_timestamps() -> None:
    """Seconds since 1970 have ten digits, of which a float32 keeps seven."""
    rows = np.array([[15826.0], [-1.0]], dtype="<f4")
    feed = TableReader((DAY,), 10).read_floats(rows.tobytes())
    np.testing.assert_array_equal(feed.numeric, rows)
    with pytest.raises(UnsupportedMediaError, match=r'"at": .* This column holds timestamps'):
        TableReader(BOTH, 10).read_floats(b"\0" * 8)
