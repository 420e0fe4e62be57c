"""Messages of the exact way that the golden wire does not show."""

from __future__ import annotations

import pytest

from timberline.inference.errors import RequestError
from timberline.inference.formats.strict_json import RowBatch, read_exactly
from timberline.registry.signature import Column

COLUMNS = (Column(name="instances", datatype="FP64"), Column(name="text", datatype="BYTES", default="x"))


def test_a_column_called_instances_is_still_a_column() -> None:
    """The word is ours, the column is the user's; a value is never an array, so both can be told apart."""
    assert read_exactly(b'{"instances": 3}', COLUMNS, 9) == RowBatch([(3.0, "x")], True)
    assert read_exactly(b'{"instances": [{"instances": 3}]}', COLUMNS, 9) == RowBatch([(3.0, "x")], False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"n" * 100_000 + b'":1}',
        b'{"instances":"' + b"v" * 100_000 + b'"}',
        b'{"instances":' + b"9" * 4000 + b".5}",
        b'{"instances":1,"text":[' + b'"v",' * 50_000 + b'"v"]}',
        b'"' + b"\\u0001" * 10_000 + b'"',
        b'{"instances":[[1,"v"]],"' + b"n" * 100_000 + b'":1}',
        b'{"instances":[[1,"v"]],"parameters":{"' + b"n" * 100_000 + b'":1}}',
    ],
    ids=["name", "string", "number", "array", "escapes", "beside", "parameter"],
)
def test_a_message_never_echoes_a_whole_payload(body: bytes) -> None:
    """What a client sends may be secret, and a log line of a megabyte helps nobody."""
    with pytest.raises(RequestError) as caught:
        read_exactly(body, COLUMNS, 9)
    assert len(str(caught.value)) < 300
