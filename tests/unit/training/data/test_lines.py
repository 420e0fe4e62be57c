"""Lines, quoted cells and records: what DuckDB is told about a file, and what is refused before it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberline.training.data.lines import (
    Layout,
    LineSpan,
    RowShape,
    count_line_ends,
    locate_records,
    split_record,
    survey_lines,
    write_with_lf,
)
from timberline.training.errors import DatasetError

# A text, a number and a class.
SHAPE = RowShape(",", (False, True, False))


def survey(folder: Path, data: bytes, shape: RowShape = SHAPE) -> Layout:
    """What is found out about a file with these bytes."""
    path = folder / "t.csv"
    path.write_bytes(data)
    return survey_lines(path, shape, where="t.csv")


@pytest.mark.parametrize(
    ("data", "new_line", "is_multiline"),
    [
        (b"a,b\n1,2\n", "\n", False),
        (b"a,b\r\n1,2\r\n", "\r\n", False),
        (b"a,b\r1,2\r", "\r", False),
        (b"a,b", "\n", False),
        (b"a,b\n1,2\r\n", None, False),
        (b"a,b\n1,2\r3,4\n", None, False),
        (b'a,b\r\n"x\ny",2\r\n', "\r\n", True),
        (b'a,b\n"x\r\ny",2\n', "\n", True),
        (b'a,b\n"x\ry",2\n', "\n", True),
        (b'a,b\r\n"x ""y"" z",2\r\n', "\r\n", False),
        (b'a,b\r\n"x ""\n"" z",2\n', None, True),
        (b'a,b\n"x" ,2\n', "\n", False),
        (b'a,b\n5" pipe,2\n', "\n", True),  # may open a cell for another reader; one thread reads it
    ],
)
def test_line_ends_inside_of_cells_say_nothing_about_the_file(
    tmp_path: Path, data: bytes, new_line: str | None, is_multiline: bool
) -> None:
    """Excel writes LF inside of cells and CR LF behind rows; DuckDB must be told of the latter alone."""
    assert survey(tmp_path, data) == Layout(new_line, is_multiline)


def test_a_quote_that_is_never_closed_is_refused_with_the_lines_it_takes_in(tmp_path: Path) -> None:
    """DuckDB calls the rest of the file one bad line, and a tolerance of 1 % lets it pass."""
    lines = [b"x,1,a\n"] * 2000
    lines[200] = b'"x,1,a\n'
    with pytest.raises(
        DatasetError, match=r"t\.csv: line 202: .*'\"x,1,a' is never closed.* 1,800 lines"
    ) as caught:
        survey(tmp_path, b"s,n,c\n" + b"".join(lines))
    assert '"" stands for one quote' in str(caught.value)


@pytest.mark.parametrize("behind", [b'x",1,a\n', b'"x,1,a\n'])
def test_a_cell_that_holds_rows_is_refused(tmp_path: Path, behind: bytes) -> None:
    """Two unclosed quotes make a cell of all rows between them, which any reader of CSV takes for a text."""
    lines = [b"x,1,a\n"] * 2000
    lines[200], lines[1900] = b'"x,1,a\n', behind
    with pytest.raises(
        DatasetError, match=r"line 202: .*closed in line 1902 only.*read as rows.* 1,701 lines"
    ):
        survey(tmp_path, b"s,n,c\n" + b"".join(lines))


def test_a_cell_that_holds_rows_of_a_table_without_numbers_is_refused(tmp_path: Path) -> None:
    """There the number of delimiters in a line is all that there is to see."""
    shape = RowShape(",", (False,) * 5)
    with pytest.raises(DatasetError, match="read as rows"):
        survey(tmp_path, b'a,b,c,d,e\n"' + b"q,w,e,r,t\n" * 40 + b'",w,e,r,t\n', shape)


@pytest.mark.parametrize(
    "text",
    [
        b"Dear all,\nit was, in short, good.\nThe rest, as they say, is history.\nYours, A, B\n" * 5,
        b"1,2,3\n4,5,6,7\n" * 20,
        b"one, 5\ntwo, 6\nthree, 7\n" * 9,
        b"\n" * 3000,
        b"no delimiter\n" * 3000,
    ],
)
def test_a_long_text_in_a_cell_is_read(tmp_path: Path, text: bytes) -> None:
    """Reviews and letters have many lines, and some of those have as many commas as a row."""
    assert survey(tmp_path, b's,n,c\n"' + text + b'",1,a\n') == Layout("\n", is_multiline=True)


def test_a_cell_longer_than_a_block_is_followed_to_its_end(tmp_path: Path) -> None:
    """What is said about it is where it ends, however far that is."""
    text = b"words, and words\n" * 400_000
    with pytest.raises(
        DatasetError, match=r"line 2: .*closed in line 400002 only, and a cell may have 2,000,000"
    ):
        survey(tmp_path, b's,n,c\n"' + text + b'",1,a\n')
    with pytest.raises(DatasetError, match=r"line 2: .*never closed; it takes in 400,000 lines"):
        survey(tmp_path, b's,n,c\n"' + text)


def test_lines_are_evened_outside_of_cells_only(tmp_path: Path) -> None:
    """A value must keep the line ends that it has; a last column must not get a CR."""
    source, target = tmp_path / "t.csv", tmp_path / "even.csv"
    source.write_bytes(b'a,b\r\n"x\r\ny","\r"\n1,2\r"p\rq",3\r\n\r\nlast,4')
    write_with_lf(source, target, ",")
    assert target.read_bytes() == b'a,b\n"x\r\ny","\r"\n1,2\n"p\rq",3\n\nlast,4'


def test_records_are_located_by_the_lines_of_the_file(tmp_path: Path) -> None:
    """A reader of the message opens the file in an editor, which numbers lines and not rows."""
    path = tmp_path / "t.csv"
    path.write_bytes(b's,n\n"a\nb",1\n\n\nc,2\r\n"d\r\ne","\r"\nf,3')
    # The positions of the first two records behind the header are those of blank lines or their own.
    positions = [4, 12, 18, 29]
    assert locate_records(path, ",", positions) == [
        LineSpan(2, 2),
        LineSpan(6, 1),
        LineSpan(7, 3),
        LineSpan(10, 1),
    ]


def test_cr_lf_is_one_line_end() -> None:
    """Lines are counted as an editor counts them."""
    assert count_line_ends(b"a\r\nb\nc\rd") == 3


@pytest.mark.parametrize(
    ("data", "delimiter", "cells"),
    [
        (b"a,b\n", ",", [b"a", b"b"]),
        (b'"a,""b""",c\r\n', ",", [b'a,"b"', b"c"]),
        (b'"a\nb",c\n', ",", [b"a\nb", b"c"]),
        (b'"a" , "b"\n', ",", [b"a", b"b"]),
        (b" a ,b\n", ",", [b" a ", b"b"]),
        (b"a||b|c||\n", "||", [b"a", b"b|c", b""]),
        (b",\n", ",", [b"", b""]),
        (b"a b\n", " ", [b"a", b"b"]),
        (b'a,"b\n', ",", None),
        (b"a,b", ",", None),
    ],
)
def test_a_header_is_split_as_duckdb_splits_rows(
    data: bytes, delimiter: str, cells: list[bytes] | None
) -> None:
    """A name that is read in another way than the values under it belongs to another column."""
    assert split_record(data, delimiter) == cells
