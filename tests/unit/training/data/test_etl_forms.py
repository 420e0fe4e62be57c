"""How a table is written: separators, words, lines that are no rows, backslashes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.support.tables import HEADER, SmallTable, rows
from timberline.training.errors import DatasetError

LINES = rows(60)
TEXT = "\n".join([HEADER, *LINES]) + "\n"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The rows of the small table, as a plain file of it is read."""
    found, refused = SmallTable(tmp_path_factory.mktemp("plain"), LINES).read()
    assert refused == []
    return found


def table_of(folder: Path, content: str | bytes, etl: str = "") -> SmallTable:
    """The small table as one file of this content."""
    table = SmallTable(folder, None, rest=f"[etl]\n{etl}")
    (folder / "table.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return table


def with_column(
    folder: Path, values: list[str], column: str, etl: str = "", decimal: str = "."
) -> SmallTable:
    """The small table with a column ``more``, and semicolons between the cells."""
    lines = [
        line.replace('"a, b"', "west").replace(",", ";").replace(".", decimal) for line in rows(len(values))
    ]
    return SmallTable(
        folder,
        [f"{line};{value}" for line, value in zip(lines, values, strict=True)],
        header=f"{HEADER.replace(',', ';')};more",
        columns=f"more = {{ {column} }}",
        rest=f'[etl]\ndelimiter = ";"\ndecimal = "{decimal}"\n{etl}',
    )


def last(found: list[tuple[Any, ...]]) -> list[Any]:
    """The values of the last column."""
    return [row[-1] for row in found]


@pytest.mark.parametrize(
    "column", ['type = "integer"', 'type = "number"', 'type = "integer", range = [0, 10000]']
)
@pytest.mark.parametrize(
    ("thousands", "decimal"), [(",", "."), (".", ","), (" ", "."), ("'", "."), ("_", ",")]
)
def test_digits_in_groups_of_three_are_read_when_they_are_set(
    tmp_path: Path, column: str, thousands: str, decimal: str
) -> None:
    """Spreadsheets write them; a number below a thousand has none."""
    numbers = [index * 123 for index in range(60)]
    values = [f"{number:,}".replace(",", thousands) for number in numbers]
    table = with_column(tmp_path, values, column, f'thousands = "{thousands}"', decimal)
    found, refused = table.read()
    assert refused == []
    assert last(found) == numbers
    assert [row[1] for row in found] == [index / 8 for index in range(60)]


@pytest.mark.parametrize(
    "value", ["1,23", "12,3456", "1,,234", ",123", "1,234.5,0", "1,234,", "1 234", "1,234x"]
)
def test_a_separator_elsewhere_is_refused(tmp_path: Path, value: str) -> None:
    """DuckDB leaves separators away wherever they stand, and would read a decimal comma as none."""
    _, refused = with_column(tmp_path, [value, *["1,234"] * 59], 'type = "number"', 'thousands = ","').read()
    assert refused == [("table.csv", 2, 1, "more", f'"{value}" is not of type number')]


@pytest.mark.parametrize(
    ("value", "number"),
    [("+1,234.5", 1234.5), ("-12,345", -12345), ("1,234e2", 123400), ("2.5", 2.5), ("1,234.", 1234)],
)
def test_signs_fractions_and_exponents_go_with_groups(tmp_path: Path, value: str, number: float) -> None:
    """They are numbers as without them."""
    found, _ = with_column(tmp_path, [value, *["1"] * 59], 'type = "number"', 'thousands = ","').read()
    assert last(found)[0] == number


@pytest.mark.parametrize(
    ("values", "decimal", "hint"),
    [
        (["1,234", "12,345", "7"], ".", r'thousands = ","\. '),
        (["1.234,5", "12,5", "7"], ".", r'thousands = "\." and decimal = ","\. '),
        (["1 234.5", "12.5"], ".", r'thousands = " "\. '),
        (["1.234.567", "12"], ",", r'thousands = "\."\. '),
    ],
)
def test_groups_of_digits_are_named_as_such(
    tmp_path: Path, values: list[str], decimal: str, hint: str
) -> None:
    """1,234 in a file with points for decimals is more than a thousand, and no decimal comma."""
    table = with_column(tmp_path, values * 30, 'type = "number"', decimal=decimal)
    with pytest.raises(DatasetError, match=rf"Digits are in groups of three: set \[etl\] {hint}"):
        table.etl()


def test_words_of_a_boolean_are_named_and_read_when_they_are_set(tmp_path: Path) -> None:
    """Every language has its own, and DuckDB knows the English ones."""
    plain = with_column(tmp_path, ["ja", "nein", "JA"] * 20, 'type = "boolean"')
    with pytest.raises(DatasetError, match=r'true_text = \["Yes"\].* in \[etl\]; found "JA", "ja", "nein"'):
        plain.etl()
    found, refused = plain.read('etl.true_text=["ja", "JA", "true"]', 'etl.false_text=["nein", "false"]')
    assert refused == []
    assert last(found) == [True, False, True] * 20


def test_no_other_word_is_a_boolean_than_those_that_are_set(tmp_path: Path) -> None:
    """A misspelt word is an error with its line, and neither true nor false."""
    values = ["ja", "nein", "yes", "", "Ja", "?"]
    etl = 'true_text = ["ja", "true"]\nfalse_text = ["nein", "false"]\nnull_text = ["", "?"]'
    table = with_column(tmp_path, values * 10, 'type = "boolean", nullable = true', etl)
    found, refused = table.read()
    assert last(found) == [True, False, None, None] * 10
    assert refused[:2] == [
        ("table.csv", 4, 1, "more", '"yes" is not of type boolean'),
        ("table.csv", 6, 1, "more", '"Ja" is not of type boolean'),
    ]
    with pytest.raises(DatasetError, match=r'etl\.true_text nor etl\.false_text has "Ja", "yes"'):
        table.etl()


@pytest.mark.parametrize("etl", ["", 'comment = "#"'])
def test_a_file_without_a_header_is_named_and_read_by_the_declared_order(
    tmp_path: Path, expected: list[tuple[Any, ...]], etl: str
) -> None:
    """Many public tables have none; their columns are described beside them, in order."""
    table = table_of(tmp_path, TEXT.partition("\n")[2], etl)
    with pytest.raises(
        DatasetError, match=r"has no column .*If no line has the names, set \[etl\] header = false"
    ):
        table.read()
    assert table.read("etl.header=false") == (expected, [])


def test_a_file_without_a_header_has_as_many_cells_as_columns_are_declared(tmp_path: Path) -> None:
    """Otherwise a column would be read under the name of its neighbour."""
    table = table_of(tmp_path, "\n".join(f"{line},1" for line in LINES), "header = false")
    with pytest.raises(DatasetError, match=r"line 1 has 8 cells, and \[columns\] declares 7 columns"):
        table.read()


def test_a_header_that_is_there_is_not_read_as_a_row(tmp_path: Path) -> None:
    """A table of text would have it as one."""
    with pytest.raises(DatasetError, match=r"line 1 has the names of the columns, and etl\.header is false"):
        table_of(tmp_path, TEXT, "header = false").read()


def test_lines_before_the_header_are_named_and_skipped_when_it_is_set(
    tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    """Exports begin with a title; a quote in it opens no cell."""
    table = table_of(tmp_path, f'Heights of 5" and more\n\n"as of 2013\n{TEXT}')
    with pytest.raises(DatasetError, match=r"The names stand in line 4: set \[etl\] skip_lines = 3"):
        table.read()
    assert table.read("etl.skip_lines=3") == (expected, [])


def test_lines_below_the_header_are_skipped_where_the_columns_are_known_by_their_place(
    tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    """Orange's files have two more lines there, of types and roles."""
    header, _, body = TEXT.partition("\n")
    content = f"{header}\n{'d,' * 6}d\n{',' * 5},class\n{body}"
    assert table_of(tmp_path, content, "header = false\nskip_lines = 3").read() == (expected, [])


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_comments_are_no_rows(
    tmp_path: Path, expected: list[tuple[Any, ...]], line_end: str, is_packed: bool
) -> None:
    """Before the header, between rows and at the end; with quotes, and with what looks like a row."""
    header, *body = TEXT.splitlines()
    lines = ['#"', "# title", header, "#1,2,3,4,5,true,absent", *body[:9], '#"open', *body[9:], "# end"]
    content = line_end.join(lines).encode()
    table = table_of(tmp_path, gzip.compress(content, mtime=0) if is_packed else content, 'comment = "#"')
    assert table.read() == (expected, [])


def test_a_line_of_a_quoted_cell_is_no_comment(tmp_path: Path) -> None:
    """Text may have a line that begins so."""
    content = TEXT.replace('"a, b"', '"a\n#b"')
    found, refused = table_of(tmp_path, content, 'comment = "#"').read()
    assert refused == []
    assert {row[4] for row in found} == {"north", "south", "a\n#b"}


def test_rejected_rows_have_the_lines_of_the_file_whatever_is_passed_over(tmp_path: Path) -> None:
    """Who looks for one opens the file in an editor."""
    header, *body = TEXT.splitlines()
    body[3] = body[3].replace('"a, b"', '"a\n\nb"')
    body[5] = body[5].replace('"a, b"', '"a\n#"')
    body[9] = "tall" + body[9].removeprefix("9")
    lines = ["title", "# one", header, *body[:4], "# two", "", *body[4:]]
    _, refused = table_of(tmp_path, "\n".join(lines), 'comment = "#"\nskip_lines = 1').read()
    at = "\n".join(lines).split("\n").index(body[9]) + 1
    assert refused == [("table.csv", at, 1, "height", '"tall" is not of type integer')]


def test_a_file_of_nothing_but_lines_that_are_passed_over_is_told_so(tmp_path: Path) -> None:
    """It has no header that could lack a column."""
    with pytest.raises(DatasetError, match="has no line behind those that are passed over"):
        table_of(tmp_path, "# a\n# b\n", 'comment = "#"').read()


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (r'"a, b"', "a, b"),
        (r'"a \"b\""', 'a "b"'),
        (r'"a \\ b"', "a \\ b"),
        (r'"\""', '"'),
        (r'"a\\"', "a\\"),
        ('"a\\\nb"', "a\nb"),
        ('"a\n\\"b\\", c"', 'a\n"b", c'),
        (r"a\b", r"a\b"),
        ('""', ""),
    ],
)
def test_a_backslash_escapes_what_follows_it_in_quotes(tmp_path: Path, cell: str, text: str) -> None:
    """Databases write CSV so."""
    table = table_of(tmp_path, TEXT.replace('"a, b"', cell), 'escape = "\\\\"\nnull_text = ["NA"]')
    found, refused = table.read()
    assert refused == []
    assert [row[4] for row in found] == ["north", "south", text] * 20


def test_two_quotes_are_none_where_a_backslash_escapes_them(tmp_path: Path) -> None:
    """A cell that goes on behind its closing quote is an error, as in every file."""
    table = table_of(tmp_path, TEXT.replace('"a, b"', '"a""b"', 1), 'escape = "\\\\"')
    found, refused = table.read()
    assert len(found) == 59
    assert refused == [("table.csv", 4, 1, None, "text follows the closing quote of a cell")]


def test_several_files_pass_over_lines_each(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    """Parts of one table have a title and a header each, which may differ in their number of lines."""
    table = SmallTable(tmp_path, None, path="part*.csv", rest='[etl]\ncomment = "#"')
    (tmp_path / "part1.csv").write_text("\n".join(["# one", HEADER, *LINES[:20]]))
    (tmp_path / "part2.csv").write_text("\n".join(["# two", "# of three", HEADER, *LINES[20:40]]))
    (tmp_path / "part3.csv").write_text("\n".join([HEADER, *LINES[40:]]))
    assert table.read() == (expected, [])


def test_a_word_for_no_value_is_named_as_such(tmp_path: Path) -> None:
    """NA in a column of numbers is neither a typing mistake nor text."""
    table = with_column(tmp_path, ["1", "NA", "2.5"] * 20, 'type = "number", nullable = true')
    with pytest.raises(DatasetError, match=r'belongs to \[etl\] null_text = \["", "NA"\]'):
        table.etl()
    found, refused = table.read('etl.null_text=["", "NA"]')
    assert refused == []
    assert last(found) == [1, None, 2.5] * 20
