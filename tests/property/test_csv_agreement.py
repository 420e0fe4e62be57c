"""What training reads in a CSV file, the service reads in a CSV body: the same value, NULL, or a refusal.

Training is DuckDB's reader with the casts of `training.data.ingest` and the rules that are always checked;
the service has neither, and a difference would be a row that trains as one thing and is answered as another.
"""

from __future__ import annotations

import math
import re
import tempfile
from typing import Any, Literal

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.csv_tables import (
    REFUSED,
    is_comparable,
    make_config,
    read_in_service,
    read_in_training,
)
from timberline.inference.errors import RequestError
from timberline.inference.formats.csv import TableReader
from timberline.registry.signature import NULL_TEXT, Column, SourceTable

NULL_TEXTS = ([""], ["NA"], ["", "NA", "?"], ["-999", "0"])
COLUMNS = {
    "number": 'type = "number"',
    "integer": 'type = "integer"',
    "short_integer": 'type = "integer", range = [-1000, 1000]',
    "boolean": 'type = "boolean"',
    "string": 'type = "string"',
}
# What may stand for a number, or nearly: digits, signs, words, space and separators of all sorts.
_pieces = st.one_of(
    st.sampled_from(["0", "1", "25", "007", ".", "-", "+", "e", "E", "_", "e-3", "e2", "000", "3.0", "999"]),
    st.sampled_from([" ", "\t", "\v", "\f", ",", "'", "\xa0", "٣"]),
    st.sampled_from(["nan", "NaN", "inf", "Infinity", "(1)", "0x", "f"]),
)
_words = ["true", "false", "t", "f", "yes", "no", "y", "n", "1", "0", "on", "off", "01", "1.0", "-1", "2"]
_cased = st.sampled_from(_words).flatmap(
    lambda word: st.sampled_from([word, word.upper(), word.title(), f" {word}", f"{word} ", f"{word}\t"])
)
texts = st.one_of(
    st.lists(_pieces, min_size=1, max_size=4).map("".join),
    _cased,
    st.sampled_from(
        ["", "NA", "na", " NA", "?", "-999", "-999.0", "0", "1_000", "1e400", "-1e400", "1e-400"]
    ),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.integers(-(2**53) + 1, 2**53 - 1).map(str),
    # Not NUL, quotes, line ends or a byte order mark, whose reading is the file's and not the value's.
    st.text(st.characters(exclude_characters='\x00"\r\n\ufeff', codec="utf-8"), max_size=5),
)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("null_text", NULL_TEXTS, ids=repr)
def test_the_service_reads_a_field_as_training_does(kind: str, null_text: list[str]) -> None:
    """Value, NULL or refusal, for texts that no example would think of."""
    config = make_config(COLUMNS[kind], null_text)

    @settings(max_examples=10, deadline=None)
    @given(found=st.lists(texts, min_size=1, max_size=40))
    @example(found=["1_000", " 5", "5\t", "+5", "1e3", "1.", ".5", "3.0", "3.5", "nan", "-nan(1)", "inf"])
    @example(found=["YES", "no", "T", "f", "1", "0", "on", " true", "true ", "1.0", "01"])
    @example(found=["", "NA", "?", "na", "NA ", "-999", "-999.0", "0", "0.0"])
    def agree(found: list[str]) -> None:
        found = [text for text in found if is_comparable(kind, text)]
        expected = read_in_training(config, found) if found else []
        assert dict(
            enumerate(zip(found, (read_in_service(config, text) for text in found), strict=True))
        ) == (dict(enumerate(zip(found, expected, strict=True))))

    agree()


# DuckDB reads these quotes, with blanks between them, as a field that has a quote or a blank in it.
_ODD = re.compile(r'" +"')


@settings(max_examples=150, deadline=None)
@given(line=st.text('ab", ', max_size=10).filter(lambda line: "," in line and not _ODD.search(line)))
@example(line='a, "b, c" ,')
@example(line='"a" ,"b""c"  ,,""')
@example(line='a,  "b"')
@example(line='a, "b"c')
@example(line='a, "b')
@example(line='a"b", b"')
@example(line="a,b, ")
def test_a_line_falls_into_the_fields_that_it_has_in_training(line: str) -> None:
    """Blanks around quotes and empty fields behind the last column are in many files that people write."""
    columns = [Column(name=name, datatype="BYTES", is_nullable=True) for name in "ab"]
    body = f"a,b\n{line}\n".encode()
    with duckdb.connect(config={"threads": 1}) as connection, tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        options = "delim=',', quote='\"', escape='\"', header=true, auto_detect=false, nullstr=['']"
        source = f"read_csv('{file.name}', {options}, columns={{'a': 'VARCHAR', 'b': 'VARCHAR'}})"
        try:
            expected: Any = connection.execute(f"SELECT * FROM {source}").fetchall()
        except duckdb.Error:
            expected = REFUSED
    if expected == [(None, None)]:  # a row of nothing is refused here
        expected = REFUSED
    try:
        feed = TableReader(columns, 10).read_csv(body, True)
    except RequestError:
        assert expected == REFUSED
        return
    assert feed.text is not None
    found = [tuple(None if text == NULL_TEXT else text for text in row) for row in feed.text.tolist()]
    assert found == expected


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blanks_around_quotes_are_passed_over_where_a_field_has_lines(end: str) -> None:
    """Those within the quotes are the field's, on each of its lines."""
    columns = [Column(name=name, datatype="BYTES") for name in "ab"]
    body = f'a, "b"{end}"a ""{end}, "" b" , " c{end} "" "{end}" "" ", "{end}" {end}'
    feed = TableReader(columns, 10).read_csv(body.encode(), None)
    assert feed.text is not None
    assert feed.text.tolist() == [[f'a "{end}, " b', f' c{end} " '], [' " ', end]]


def test_columns_without_a_name_are_passed_over() -> None:
    """pandas writes its index under no name, and Excel empty columns behind the last."""
    table = SourceTable(unread={"": "ignored", "answer": "target"})
    reader = TableReader((Column(name="value", datatype="FP64"),), 10, table=table)
    feed = reader.read_csv(b",value,answer,,\n0,1.5,yes,,\n1,2.5,no,x,\n", None)
    assert feed.numeric is not None
    assert feed.numeric[:, 0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("delimiter", [";", "\t", "||"])
@pytest.mark.parametrize("has_header", [None, True])
def test_the_training_tables_own_lines_are_read_whatever_stands_between_fields(
    delimiter: str, has_header: Literal[True] | None
) -> None:
    """A batch job sends the file that was trained from; it must not have to be written anew."""
    table = SourceTable(delimiter=delimiter, unread={"answer": "target", "line": "key"})
    columns = (Column(name="value", datatype="FP64", is_nullable=True), Column(name="note", datatype="BYTES"))
    reader = TableReader(columns, 10, table=table)

    def read(text: str, said: bool | None) -> tuple[list[float], list[str]]:
        feed = reader.read_csv(text.encode(), said)
        assert feed.numeric is not None
        assert feed.text is not None
        return feed.numeric[:, 0].tolist(), feed.text[:, 0].tolist()

    lines = ["answer#value#note", 'yes#1_000#"a#b"', "no##|x", "#2.5#é", '#7#"c\r\n""#"']
    numbers, texts = read("\r\n".join(lines).replace("#", delimiter), has_header)
    assert numbers == pytest.approx([1000.0, math.nan, 2.5, 7.0], nan_ok=True)
    assert texts == [f"a{delimiter}b", "|x", "é", f'c\r\n"{delimiter}']
    # With commas as before, under a header or without one.
    assert read("note,value\na;b,7\nc,8\n", has_header) == ([7.0, 8.0], ["a;b", "c"])
    assert read("7,a\n8,c\n", None) == ([7.0, 8.0], ["a", "c"])


def test_a_character_that_stands_in_for_a_long_delimiter_is_refused() -> None:
    """It would end a field that it is part of."""
    reader = TableReader((Column(name="note", datatype="BYTES"),), 10, table=SourceTable(delimiter="||"))
    for body in ("note||note\na\x1fb", 'note||note\n"a\x1fb"||c'):
        with pytest.raises(RequestError):
            reader.read_csv(body.encode(), None)


@pytest.mark.parametrize("kind", ["number", "integer", "short_integer"])
def test_numbers_with_commas_for_points_are_read_as_in_training(kind: str) -> None:
    """1.234 in such a table is no number: what wrote it may have meant a thousand."""
    config = make_config(COLUMNS[kind], ["", "-9,9"], ";", ",")

    @settings(max_examples=10, deadline=None)
    @given(found=st.lists(texts.map(lambda text: text.replace(".", ",")) | texts, min_size=1, max_size=40))
    @example(found=["1,5", "1.5", "1_000,5", "1.000,5", "1,000.5", "1,", ",5", "1,5e3", " 1,5 ", "nan"])
    @example(found=["3,0", "-9,9", "-9,90", "1,5,5", "1e3", "+1,0", "7"])
    def agree(found: list[str]) -> None:
        found = [text for text in found if is_comparable(kind, text.replace(",", "."))]
        expected = read_in_training(config, found) if found else []
        assert [read_in_service(config, text) for text in found] == expected

    agree()


@pytest.mark.parametrize(
    ("text", "expected"), [("1.5", 1.5), ('"1,5"', 1.5), ('"1.000,5"', None), ('"1,000.5"', None)]
)
def test_a_body_with_commas_between_fields_may_have_points_in_any_case(
    text: str, expected: float | None
) -> None:
    """Clients that write CSV as everybody does need not know how the training table was written."""
    columns = (Column(name="value", datatype="FP64"), Column(name="count", datatype="INT64"))
    reader = TableReader(columns, 10, table=SourceTable(delimiter=";", decimal=","))
    body = f"value,count\n{text},7".encode()
    if expected is None:
        with pytest.raises(RequestError, match="expected a number"):
            reader.read_csv(body, None)
    else:
        feed = reader.read_csv(body, None)
        assert feed.numeric is not None
        assert feed.numeric.tolist() == [[expected, 7.0]]
