"""The training table's own files, however they are written: the service reads what training reads.

`test_csv_agreement` is about the usual ones; here are dates, words, groups of digits, escapes, comments,
files without a header and lines in front.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.csv_tables import REFUSED, make_config, read_in_service, read_in_training
from tests.support.tables import read_files
from timberline.inference.errors import RequestError
from timberline.inference.formats.csv import TableReader
from timberline.registry.signature import NULL_TEXT, Column, SourceTable
from timberline.training.config import ModelConfig, input_columns, source_table

_EXAMPLES = 10
_dates = st.dates().map(str) | st.datetimes().map(str)
_odd_dates = st.lists(
    st.sampled_from(["2013", "05", "1", "31", "-", "/", ".", "T", " ", "10:30", ":00", "Z", "+02:00", "x"]),
    min_size=1,
    max_size=8,
).map("".join)
MOMENTS = [
    'type = "date"',
    'type = "timestamp"',
    'type = "date", format = "%d.%m.%Y"',
    'type = "date", format = "%Y%m%d"',
    'type = "timestamp", format = "%m/%d/%y %I:%M %p"',
    'type = "timestamp", format = "%d %b %Y %H:%M:%S %z"',
]


def agree(config: ModelConfig, found: list[str]) -> None:
    """Each text is the same value, NULL or refusal on both sides."""
    expected = read_in_training(config, found) if found else []
    read = [read_in_service(config, text) for text in found]
    assert dict(enumerate(zip(found, read, strict=True))) == dict(
        enumerate(zip(found, expected, strict=True))
    )


@pytest.mark.parametrize("column", MOMENTS)
def test_the_service_reads_a_date_as_training_does(column: str) -> None:
    """A day that is read one off, or a zone that is passed over, is a row of another day."""
    config = make_config(column, ["", "NA"])

    @settings(max_examples=_EXAMPLES, deadline=None)
    @given(found=st.lists(_dates | _odd_dates, min_size=1, max_size=8))
    @example(["2013-05-01", " 2013-05-01", "2013-05-01T00:00", "2013-05-01T10:30Z", "2013-02-30", "NA", ""])
    @example(["2013-05-01 10:30:15.25+02:00", "2013-05-01T10:30 Europe/Berlin", "0001-01-01", "2300-01-01"])
    @example(
        ["01.05.2013", "1.5.2013", "31.12.13", "20130501", "05/01/13 10:30 PM", "1 May 2013 10:30:00 +02"]
    )
    def hold(found: list[str]) -> None:
        agree(config, found)

    hold()


@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize(
    ("delimiter", "decimal", "thousands"),
    [(",", ".", ","), (";", ",", "."), (";", ".", "'"), ("|", ",", " "), (";", ".", "_")],
)
def test_the_service_reads_grouped_digits_as_training_does(
    kind: str, delimiter: str, decimal: str, thousands: str
) -> None:
    """A thousand that is read as one is a row far outside of the table."""
    config = make_config(f'type = "{kind}"', [""], delimiter, decimal, f'thousands = "{thousands}"')
    pieces = st.sampled_from(["1", "12", "123", "000", "4567", thousands, decimal, "-", "e2", " ", "+", "x"])

    @settings(max_examples=_EXAMPLES, deadline=None)
    @given(found=st.lists(st.lists(pieces, min_size=1, max_size=4).map("".join), min_size=1, max_size=8))
    @example(
        [f"1{thousands}234", f"12{thousands}34", f"1{thousands}234{decimal}5", f"-1{thousands}234", "1234"]
    )
    @example(
        [f"1{thousands}234{thousands}567", f"1234{thousands}567", f"{thousands}123", f"1{thousands}", "1_0"]
    )
    @example([f" 1{thousands}234 ", f"1{thousands}234e2", f"1{decimal}234{thousands}567", f"1{decimal}5"])
    def hold(found: list[str]) -> None:
        # DuckDB's decimals take a point behind the exponent, which nobody writes.
        agree(config, [text for text in found if f"e2{decimal}" not in text])

    hold()


@pytest.mark.parametrize("words", [("Ja", "Nein"), ("1", "2"), ("yes", "no")])
def test_the_service_reads_words_for_true_and_false_as_training_does(words: tuple[str, str]) -> None:
    """A no that is taken for a yes is the opposite row."""
    more = f'true_text = ["{words[0]}"]\nfalse_text = ["{words[1]}", "-"]'
    config = make_config('type = "boolean"', ["", "NA"], more=more)
    cases = [
        *words,
        "-",
        "ja",
        "JA",
        "yes",
        "Yes",
        "no",
        "true",
        "1",
        "0",
        "2",
        "",
        "NA",
        "Ja ",
        " Nein",
        "x",
    ]
    agree(config, cases)


ROWS = [
    ("plain", "1", "yes"),
    ('a "quoted" one', "2", "no"),
    ("two\nlines", "3", "yes"),
    ("back\\slash", "4", "no"),
    ("# no comment", "5", "yes"),
    ("a; b, c", "6", "no"),
    ("NA", "7", "yes"),
]


def write_table(config: ModelConfig, *, in_front: str = "", comment: str = "") -> bytes:
    """`ROWS` as such a table has them, every text in quotes."""
    etl = config.etl
    quote = '\\"' if etl.escape == "\\" else '""'
    lines = [etl.delimiter.join(("line", "value", "answer"))] if etl.header else []
    for text, value, answer in ROWS:
        escaped = text.replace("\\", "\\\\") if etl.escape == "\\" else text
        escaped = escaped.replace('"', quote)
        lines += [comment] if comment else []
        lines.append(etl.delimiter.join((f'"{escaped}"', value, answer)))
    return (in_front + "\n".join(lines) + "\n").encode()


FORMS: list[tuple[str, str, str, str]] = [
    (",", "", "", ""),
    (",", r'escape = "\\"', "", ""),
    (";", 'comment = "#"', "", '# half a "quote; and more'),
    (",", 'comment = "%"', "", "%"),
    (";", "header = false", "", ""),
    (",", "header = false", "", ""),
    (",", "skip_lines = 2", 'made by "something\n\n', ""),
    (";", "skip_lines = 1", "made; by, something\n", ""),
    (
        "\t",
        "header = false\nskip_lines = 3",
        "line\tvalue\tanswer\nstring\tcontinuous\tdiscrete\n\t\tclass\n",
        "",
    ),
    ("||", "header = false\nskip_lines = 1\ncomment = '#'", "made by something\n", "# a comment"),
    (",", 'header = false\nskip_lines = 1\nescape = "\\\\"\ncomment = "#"', "only\n", "#"),
]


@pytest.mark.parametrize(("delimiter", "more", "in_front", "comment"), FORMS)
def test_a_whole_file_of_the_table_is_read_as_training_reads_it(
    tmp_path: Path, delimiter: str, more: str, in_front: str, comment: str
) -> None:
    """A batch job sends the file that was trained from, or a part of it, and must not write it anew."""
    config = make_config('type = "integer"', ["NA"], delimiter, more=more)
    body = write_table(config, in_front=in_front, comment=comment)
    path = tmp_path / "table.csv"
    path.write_bytes(body)
    expected = [value for _, value, _ in read_files(config, [path], tmp_path / "scratch")[0]]
    assert expected == [int(value) for _, value, _ in ROWS]
    reader = TableReader(input_columns(config), 100, table=source_table(config))

    def read(text: bytes, has_header: bool | None = None) -> list[Any]:
        feed = reader.read_csv(text, has_header)
        assert feed.numeric is not None
        found: list[Any] = feed.numeric[:, 0].tolist()
        return found

    assert read(body) == expected
    assert read(body[len(in_front.encode()) :]) == expected
    if not config.etl.header:
        assert read(body, False) == expected
        rows = [line for line in body.splitlines(keepends=True) if not line.startswith(b"#")]
        assert read(b"".join(rows[-3:])) == expected[-3:]
    # And what any client may send all the same.
    assert read(b"value\n7\n8\n") == [7, 8]
    assert read(b"value,answer\n7,yes\n8,no\n") == [7, 8]
    assert read(b"7\n8\n", False) == [7, 8]


def test_texts_come_out_of_quotes_and_escapes_as_in_training(tmp_path: Path) -> None:
    """A text is a category by every one of its letters."""
    for escape in ('escape = "\\\\"', ""):
        config = make_config('type = "string"', ["NA"], more=escape)
        body = write_table(config).replace(b",1,", b',"1\\\\n",' if escape else b',"1\\n",')
        path = tmp_path / "table.csv"
        path.write_bytes(body)
        rows, _ = read_files(config, [path], tmp_path / "scratch")
        feed = TableReader(input_columns(config), 100, table=source_table(config)).read_csv(body, None)
        assert feed.text is not None
        assert feed.text[:, 0].tolist() == [NULL_TEXT if value is None else value for _, value, _ in rows]


def test_lines_in_front_are_passed_over_only_where_they_can_be_nothing_else() -> None:
    """A row that is taken for a line of the preamble is a row without an answer."""
    columns = (Column(name="a", datatype="FP64"), Column(name="b", datatype="FP64"))
    table = SourceTable(header=False, columns=("a", "b"), skip_lines=1)
    reader = TableReader(columns, 10, table=table)

    def count(body: bytes) -> int:
        return reader.read_csv(body, None).row_count

    assert count(b"1,2\n3,4\n") == 2
    assert count(b"made by hand\n1,2\n3,4\n") == 2
    assert count(b"b,a\n1,2\n3,4\n") == 2
    with pytest.raises(RequestError, match='row 0, "b": expected a number'):
        count(b"1,x\n3,4\n")


def test_a_refused_date_says_what_was_expected_and_why() -> None:
    """Whoever reads the error has the file and not the model's folder."""
    config = make_config('type = "date", format = "%d.%m.%Y"')
    reader = TableReader(input_columns(config), 10, table=source_table(config))
    with pytest.raises(RequestError) as caught:
        reader.read_csv(b"value\n01.05.2013\n2013-05-01\n", None)
    assert str(caught.value) == (
        'row 1, "value": expected a date, found "2013-05-01", which is not a date of the format %d.%m.%Y'
    )
    assert read_in_service(config, "31.02.2013") == REFUSED
