"""What schemathesis is told where JSON Schema has no words for it (``SCHEMATHESIS_HOOKS``).

Of CSV, JSON lines and float32 rows a schema says that they are text or bytes, and of a tensor that its
data are an array: not what a line is, or how many values a shape takes. Bodies of these are made here
from rows of the tiny models; ``TIMBERLINE_TINY`` names the one that is served. Everything else that
fits the document is sent as it is drawn, and must be answered.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.support.tiny_model import MIXED_COLUMNS, MIXED_ROWS, NUMERIC_COLUMNS, NUMERIC_ROWS

MODEL = os.environ["TIMBERLINE_TINY"]
COLUMNS = NUMERIC_COLUMNS if MODEL == "tiny" else MIXED_COLUMNS
MAX_ROWS = 20
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "FP64": st.floats(-(2.0**96), 2.0**96, width=32),
    "INT64": st.integers(-(2**24), 2**24),  # which float32 holds too
    "BOOL": st.booleans(),
    "BYTES": st.text(
        st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1
    ),
}
values = st.tuples(
    *(_VALUES[c.datatype] | st.none() if c.is_nullable else _VALUES[c.datatype] for c in COLUMNS)
)
rows = st.lists(values, min_size=1, max_size=MAX_ROWS)


def write_csv(table: Sequence[Sequence[Any]]) -> bytes:
    """The rows as CSV, every string quoted."""

    def write(value: Any) -> str:
        quoted = f'"{value.replace(chr(34), chr(34) * 2)}"' if isinstance(value, str) else ""
        return "" if value is None else quoted or json.dumps(value)

    return "\n".join(",".join(map(write, row)) for row in table).encode()


def write_lines(table: Sequence[Sequence[Any]]) -> bytes:
    """The rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def write_floats(table: Sequence[Sequence[Any]]) -> bytes:
    """The rows as float32, NULL being NaN."""
    flat = [float("nan") if value is None else float(value) for row in table for value in row]
    return struct.pack(f"<{len(flat)}f", *flat)


def write_tensors(table: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows as a tensor a column."""
    return [
        {"name": column.name, "datatype": column.datatype, "shape": [len(table)], "data": list(cells)}
        for column, cells in zip(COLUMNS, zip(*table, strict=True), strict=True)
    ]


schemathesis.openapi.media_type("text/csv", rows.map(write_csv))
schemathesis.openapi.media_type("application/jsonlines", rows.map(write_lines))
if COLUMNS is NUMERIC_COLUMNS:
    schemathesis.openapi.media_type("application/octet-stream", rows.map(write_floats))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], **kwargs: Any) -> None:
    """Give tensors that fit the document those values and names that fit each other too."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_valid or not case.path.endswith("/infer") or not isinstance(case.body, dict):
        return
    body: dict[str, Any] = dict(case.body)
    hints = [tensor["parameters"] for tensor in body["inputs"] if "parameters" in tensor]
    tensors = write_tensors(NUMERIC_ROWS if MODEL == "tiny" else MIXED_ROWS)
    if hints:
        tensors = [{**tensor, "parameters": hints[0]} for tensor in tensors]
    body["inputs"] = tensors
    if body.get("outputs"):
        pairs = zip(("label", "probabilities"), body["outputs"], strict=False)
        body["outputs"] = [{**output, "name": name} for name, output in pairs]
    for name, value in (("model_name", MODEL), ("model_version", "1")):
        if body.get(name):
            body[name] = value
    case.body = body
