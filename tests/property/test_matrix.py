"""A matrix is judged as its values would be one by one."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from timberline.inference.errors import RequestError, RowError
from timberline.inference.formats.strict_json import read_exactly
from timberline.inference.formats.validate import MatrixRules
from timberline.registry.signature import Column

COLUMNS = (
    Column(name="a", datatype="FP64"),
    Column(name="b", datatype="INT64"),
    Column(name="c", datatype="INT64", is_nullable=True),
    Column(name="d", datatype="FP64", is_nullable=True),
)
# Every second column of another datatype: more runs than the cheap pass looks at.
ALTERNATING = COLUMNS[:2] * 3 + COLUMNS[2:] * 3
numbers = st.one_of(
    st.integers(-9, 9).map(float),
    st.floats(),
    st.sampled_from([2.0**53 - 1, 2.0**53, -(2.0**53) + 1, -(2.0**53), 0.5, math.nan, math.inf, -0.0]),
)


def write_row(row: list[float]) -> str:
    """A row as JSON; NaN is null, infinity a number that no float holds."""
    words = {math.inf: "1e999", -math.inf: "-1e999"}
    return "[" + ",".join("null" if math.isnan(v) else words.get(v, repr(v)) for v in row) + "]"


@settings(max_examples=200, deadline=None)
@given(data=st.data(), count=st.integers(1, 3), is_alternating=st.booleans())
def test_a_matrix_passes_where_its_rows_do(data: st.DataObject, count: int, is_alternating: bool) -> None:
    """A client that goes over to the binary way must not find other rules there."""
    width = len(ALTERNATING) if is_alternating else len(COLUMNS)
    kinds = ALTERNATING if is_alternating else COLUMNS
    columns = tuple(
        Column(name=f"c{i}", datatype=kind.datatype, is_nullable=kind.is_nullable)
        for i, kind in enumerate(kinds)
    )
    wild = data.draw(st.sampled_from([numbers, st.integers(-9, 9).map(float)]))
    rows = data.draw(st.lists(st.lists(wild, min_size=width, max_size=width), min_size=count, max_size=count))
    body = '{"instances":[' + ",".join(map(write_row, rows)) + "]}"
    expected = found = None
    try:
        read_exactly(body.encode(), columns, count)
    except RequestError as error:
        expected = error.where
    try:
        MatrixRules(columns).check_numeric(np.array(rows))
    except RowError as error:
        found = error.where
    assert found == expected
