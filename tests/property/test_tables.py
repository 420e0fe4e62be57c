"""CSV and float32 bodies: both ways of reading CSV agree, tables survive the wire, anything is answered."""

from __future__ import annotations

import csv
import io
import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.tiny_model import MIXED_COLUMNS, NUMERIC_COLUMNS
from timberline.inference.errors import RequestError
from timberline.inference.formats.csv import TableReader
from timberline.inference.formats.outline import Limits
from timberline.inference.session import Feed
from timberline.registry.signature import NULL_TEXT, Column, SourceTable

MAX_ROWS = 3
# Numbers only, which the short way is for, beside columns that are not read.
PLAIN_COLUMNS = tuple(column for column in NUMERIC_COLUMNS if column.datatype != "BOOL")
TABLES: dict[tuple[Column, ...], SourceTable] = {
    NUMERIC_COLUMNS: SourceTable(),
    MIXED_COLUMNS: SourceTable(null_text=("", "NA", "clay"), delimiter=";"),
    PLAIN_COLUMNS: SourceTable(unread={"is_wet": "input", "note": "target"}),
}
READERS: dict[tuple[Column, ...], TableReader] = {
    columns: TableReader(columns, MAX_ROWS, table=table) for columns, table in TABLES.items()
}
# Text that is nearly a table.
tokens = st.sampled_from(
    [
        *(
            "1",
            "0",
            "-2.50",
            "+1",
            ".5",
            "5.",
            "1e2",
            "1e999",
            "01",
            "1_0",
            "nan",
            "inf",
            "٣",
            "9007199254740992",
        ),
        *("", " ", " 1 ", "true", "FALSE", "clay", '"a,""b"', '"', "'", "\x00", "[", "]", "null", "\ufeff"),
        *("height", "rings", "is_wet", "slope", "soil", "note", "Rings", "NA", "1_000", "yes", "a;b", "\t1"),
    ]
)
lines = st.lists(tokens, min_size=1, max_size=6).map(",".join)
tables = st.one_of(
    st.lists(lines, max_size=5).map("\n".join),
    st.lists(lines, max_size=5).map("\r\n".join),
    st.lists(lines, max_size=5).map("\r".join),
    st.text(max_size=20),
)
plain = st.sampled_from(["1", "0", "-0", "2.0", "1e0", "40"])
plain_lines = st.lists(plain, min_size=4, max_size=4).map(",".join)
plain_tables = st.lists(plain_lines, min_size=1, max_size=4).map("\n".join)


def describe(read: Any) -> object:
    """The tensors as lists, or kind and message of the error."""
    try:
        feed: Feed = read()
    except RequestError as error:
        return type(error).__name__, str(error)
    numbers = None if feed.numeric is None else np.nan_to_num(feed.numeric, nan=-77.0).tolist()
    return numbers, None if feed.text is None else feed.text.tolist()


@settings(max_examples=300, deadline=None)
@given(
    columns=st.sampled_from(list(READERS)),
    body=st.one_of(tables, plain_tables, plain_tables.map("rings,height,slope,is_wet\n{}\n\n".format)),
    has_header=st.sampled_from([None, None, True, False]),
)
@example(columns=NUMERIC_COLUMNS, body="0,1,0,\r2,0,1,0,1", has_header=None)
@example(columns=NUMERIC_COLUMNS, body="0,1,0,1],[0,1,0,1", has_header=None)
@example(columns=NUMERIC_COLUMNS, body="rings\n1", has_header=None)
@example(columns=NUMERIC_COLUMNS, body="0,1,1.0,1\n0,1,1,1", has_header=None)
@example(columns=NUMERIC_COLUMNS, body="0,1,1,1\r\n0,1,-0,1", has_header=None)
@example(columns=NUMERIC_COLUMNS, body="is_wet,height,rings,slope\n1e0,1,1,1", has_header=None)
@example(columns=NUMERIC_COLUMNS, body="rings,rings\n1,1", has_header=None)
@example(columns=PLAIN_COLUMNS, body="is_wet,rings,height,slope\n7,1,2,3\n8,4,5,6", has_header=None)
@example(columns=PLAIN_COLUMNS, body="is_wet,rings,is_wet\n7,1,2", has_header=None)
@example(columns=PLAIN_COLUMNS, body="is_wet\n7", has_header=None)
@example(columns=PLAIN_COLUMNS, body="rings,is_wet\n7,1e999", has_header=None)
@example(columns=MIXED_COLUMNS, body="rings;soil\n7;clay", has_header=None)
def test_both_ways_of_reading_csv_agree(
    columns: tuple[Column, ...], body: str, has_header: bool | None
) -> None:
    """The short way is an optimisation; where it reads anything else, it is a hole."""
    reader, sent = READERS[columns], body.encode()
    assert describe(lambda: reader.read_csv(sent, has_header)) == describe(
        lambda: reader._read_exactly(sent, has_header)
    )


@settings(max_examples=300, deadline=None)
@given(
    columns=st.sampled_from(list(READERS)),
    body=st.one_of(tables, plain_tables, plain_tables.map("rings,height,slope,is_wet\n{}\n\n".format)),
    has_header=st.sampled_from([None, None, True, False]),
    block=st.integers(1, 30),
)
@example(columns=NUMERIC_COLUMNS, body="0,1,0,1\r\n0,1,0,1\r\n", has_header=None, block=7)
@example(columns=NUMERIC_COLUMNS, body="0,1,0,1\n\n\n0,1,0,1\n\n", has_header=None, block=1)
def test_a_long_table_is_read_as_a_short_one(
    columns: tuple[Column, ...], body: str, has_header: bool | None, block: int
) -> None:
    """Where a body is cut must not show."""
    reader, sent = TableReader(columns, MAX_ROWS, Limits(1000, block), TABLES[columns]), body.encode()
    found = describe(lambda: reader.read_csv(sent, has_header))
    expected = describe(lambda: READERS[columns].read_csv(sent, has_header))
    if "BatchTooLargeError" in str(expected):  # how many there are too many is only counted in a short one
        found, expected = (
            re.sub(r"(more than )?\d+ rows(?= in one)", "", str(it)) for it in (found, expected)
        )
    assert found == expected


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=40), columns=st.sampled_from(list(READERS)))
@example(body=b"\0\0\0\0\0\0\x80\x3f\0\0\x81\x7f", columns=PLAIN_COLUMNS)
def test_any_bytes_are_rows_or_an_error_that_says_why(body: bytes, columns: tuple[Column, ...]) -> None:
    """What a stranger sends must end in an answer, never in a traceback."""
    reader = READERS[columns]
    for read in (partial(reader.read_csv, body, None), partial(reader.read_floats, body)):
        try:
            feed = read()
        except RequestError:
            continue
        assert 0 < feed.row_count <= MAX_ROWS
        assert feed.numeric is not None
        assert not np.isinf(feed.numeric).any()


# Not U+FEFF, which in front of everything is a mark, nor a bare carriage return, which ends a line.
values: dict[str, st.SearchStrategy[Any]] = {
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "INT64": st.integers(-(2**53) + 1, 2**53 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(exclude_characters="\x00\ufeff\r", codec="utf-8"), min_size=1, max_size=6),
}


@settings(max_examples=100, deadline=None)
@given(data=st.data(), columns=st.sampled_from(list(READERS)), has_header=st.booleans())
def test_a_table_arrives_as_it_was_written(
    data: st.DataObject, columns: tuple[Column, ...], has_header: bool
) -> None:
    """Written by another program's rules: quotes, line ends in fields, any order under a header."""
    shuffled = list(data.draw(st.permutations(columns))) if has_header else list(columns)
    texts = values["BYTES"].filter(lambda text: text not in TABLES[columns].null_text)
    kinds = {**values, "BYTES": texts}
    row = {c.name: st.none() | kinds[c.datatype] if c.is_nullable else kinds[c.datatype] for c in columns}
    rows = data.draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=MAX_ROWS))
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])))
    if has_header:
        writer.writerow([column.name for column in shuffled])
    writer.writerows([[row[column.name] for column in shuffled] for row in rows])
    feed = READERS[columns].read_csv(file.getvalue().encode(), has_header)
    for index, sent in enumerate(rows):
        numbers = [sent[c.name] for c in columns if c.datatype != "BYTES"]
        assert feed.numeric is not None
        assert feed.numeric[index].tolist() == pytest.approx(
            [math.nan if value is None else float(value) for value in numbers], rel=0, abs=0, nan_ok=True
        )
        if feed.text is not None:
            cells = [sent[c.name] for c in columns if c.datatype == "BYTES"]
            assert feed.text[index].tolist() == [NULL_TEXT if value is None else value for value in cells]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False, width=32),
            st.integers(-(2**24), 2**24),
            st.integers(0, 1),
            st.floats(allow_infinity=False, width=32),
        ),
        min_size=1,
        max_size=MAX_ROWS,
    )
)
def test_float32_rows_arrive_as_they_were_written(rows: list[tuple[float, ...]]) -> None:
    """The matrix that the graph sees is the one that was sent, value by value."""
    sent = np.array(rows, dtype="<f4")
    feed = READERS[NUMERIC_COLUMNS].read_floats(sent.tobytes())
    assert feed.text is None
    np.testing.assert_array_equal(feed.numeric, sent.astype(np.float64))
