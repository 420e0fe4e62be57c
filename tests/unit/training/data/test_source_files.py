"""What a file is by its bytes: read as the table that it is, or refused as what it is."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.tables import HEADER, SmallTable, rows
from timberline.registry.errors import ConfigError
from timberline.training.errors import DatasetError

TEXT = "\n".join([HEADER, *rows(60)]) + "\n"
PLAIN = TEXT.encode()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The rows of the table as they are read from a plain file."""
    found, refused = SmallTable(tmp_path_factory.mktemp("plain"), rows(60)).read()
    assert (len(found), refused) == (60, [])
    return found


def table_of(folder: Path, content: bytes, name: str = "table.csv") -> SmallTable:
    """The small table's model folder with this file as its source."""
    (folder / name).write_bytes(content)
    return SmallTable(folder, path=name)


def zip_of(*names: str) -> bytes:
    """A zip archive with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "a,b\n1,2\n")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (PLAIN, "table"),
        (PLAIN, "table.csv.gz"),
        (PLAIN, "table.parquet"),
        (PLAIN.removesuffix(b"\n"), "table.csv"),
        (codecs.BOM_UTF8 + PLAIN, "table.csv"),
        (PLAIN.replace(b"\n", b"\r\n"), "table.csv"),
        (PLAIN.replace(b"\n", b"\r"), "table.csv"),
        (PLAIN.replace(b"\n", b"\r\r\n"), "table.csv"),
        (PLAIN.replace(b"\n", b"\r\n", 30), "table.csv"),
        (PLAIN.replace(b"\n", b"\n\n\n"), "table.csv"),
        (gzip.compress(PLAIN, mtime=0), "table.csv"),
        (gzip.compress(PLAIN, mtime=0), "TABLE.CSV.GZ"),
        (gzip.compress(PLAIN[:1000], mtime=0) + gzip.compress(PLAIN[1000:], mtime=0), "table.gz"),
        (gzip.compress(PLAIN.replace(b"\n", b"\r\n", 30), mtime=0), "table.gz"),
        (PLAIN, "t[1].csv"),
        (PLAIN, "t*?.csv"),
        (PLAIN, "it's.csv"),
    ],
)
def test_how_a_table_is_written_is_no_property_of_it(
    tmp_path: Path, expected: list[tuple[Any, ...]], content: bytes, name: str
) -> None:
    """Line ends, a byte order mark, packing and the name of the file say nothing about the rows."""
    # A pattern would find these, and not the file.
    for other in ("t1.csv", "tab.csv"):
        (tmp_path / other).write_bytes(PLAIN.replace(b"north", b"wrong"))
    assert table_of(tmp_path, content, name).read() == (expected, [])


@pytest.mark.parametrize("name", ["table.PARQUET", "table", "table.csv"])
def test_parquet_is_known_by_its_bytes(tmp_path: Path, expected: list[tuple[Any, ...]], name: str) -> None:
    """Another program's suffix is no reason to read a Parquet file as text."""
    (tmp_path / "table.csv").write_bytes(PLAIN)
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (FROM read_csv('{tmp_path}/table.csv')) TO '{tmp_path}/{name}' (FORMAT parquet)"
        )
    assert SmallTable(tmp_path, path=name).read() == (expected, [])


def test_a_folder_named_like_a_partition_changes_no_value(
    tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    """DuckDB would put the folder's value into every row."""
    (tmp_path / "place=wrong").mkdir()
    assert table_of(tmp_path, PLAIN, "place=wrong/table.csv").read() == (expected, [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_utf_16_is_named_and_read_when_it_is_set(tmp_path: Path, encoding: str, is_packed: bool) -> None:
    """What Excel calls Unicode Text, with a byte order mark and without."""
    text = TEXT.replace("north", "nörd €")
    content = text.encode(encoding)
    table = table_of(tmp_path, gzip.compress(content) if is_packed else content)
    with pytest.raises(DatasetError, match=r'table\.csv: is UTF-16 text.*\[etl\] encoding = "utf-16"'):
        table.read()
    found, refused = table.read('etl.encoding="utf-16"')
    assert refused == []
    assert [row[4] for row in found[:2]] == ["nörd €", "south"]


@pytest.mark.parametrize(("encoding", "place"), [("latin-1", "Zürich"), ("windows-1252", "Zürich – “x”")])
def test_an_8_bit_encoding_is_read_when_it_is_set(tmp_path: Path, encoding: str, place: str) -> None:
    """Most tables of Europe's offices."""
    table = table_of(tmp_path, TEXT.replace("north", place).encode(encoding))
    found, refused = table.read(f'etl.encoding="{encoding}"')
    assert refused == []
    assert found[0][4] == place


def test_latin_1_in_the_header_is_named_as_what_it_is(tmp_path: Path) -> None:
    """Not as a column that is missing: the file has it."""
    content = TEXT.replace("height", "höhe").encode("latin-1")
    with pytest.raises(
        DatasetError, match=r"table\.csv: line 1 is not UTF-8 text: byte 0xF6 in 'höhe'.*\[etl\] encoding"
    ):
        table_of(tmp_path, content).read()


def test_latin_1_in_the_body_is_named_with_its_line(tmp_path: Path) -> None:
    """The hint says which setting reads it."""
    lines = rows(60)
    lines[20] = lines[20].replace("a, b", "Zürich")
    content = "\n".join([HEADER, *lines]).encode("latin-1")
    with pytest.raises(DatasetError, match=r"table\.csv line 22, .*is not UTF-8 text\. Set \[etl\] encoding"):
        table_of(tmp_path, content).etl()


def test_windows_1252_is_not_read_as_latin_1(tmp_path: Path) -> None:
    """Python's Latin-1 makes control characters of the euro and of quotation marks, and says nothing."""
    lines = rows(60)
    lines[20] = lines[20].replace("a, b", "5 €")
    content = "\n".join([HEADER, *lines]).encode("windows-1252")
    with pytest.raises(DatasetError, match=r'line 22 holds the byte 0x80.*encoding = "windows-1252"'):
        table_of(tmp_path, content).read('etl.encoding="latin-1"')


@pytest.mark.parametrize(
    ("content", "setting", "message"),
    [
        (PLAIN, "utf-16", r"is not UTF-16 text.*encoding = \"utf-8\""),
        (codecs.BOM_UTF8 + PLAIN, "latin-1", r"is UTF-8 text.*encoding = \"utf-8\""),
        (TEXT.encode("utf-16"), "latin-1", r"is UTF-16 text.*encoding = \"utf-16\""),
        (TEXT.encode("utf-16")[:-1], "utf-16", r"line 61 is not utf-16 text"),
        (PLAIN.replace(b"south", b"\x81", 1), "windows-1252", r"line 3 is not windows-1252 text"),
        (TEXT.encode("utf-32"), "utf-16", r"is UTF-32 text"),
    ],
)
def test_an_encoding_that_is_not_the_files_is_refused(
    tmp_path: Path, content: bytes, setting: str, message: str
) -> None:
    """A setting of another file must not make other letters of this one's."""
    with pytest.raises(DatasetError, match=rf"table\.csv: {message}"):
        table_of(tmp_path, content).read(f'etl.encoding="{setting}"')


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"\n" + PLAIN, "line 1 is empty"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in", "is a web page"),
        (b'<?xml version="1.0"?>\n<table/>', "is XML"),
        (b'[{"height": 1}]', "is JSON"),
        (b'{"height": 1}\n{"height": 2}\n', "is JSON"),
        (zip_of("table.csv"), "is a zip archive"),
        (zip_of("[Content_Types].xml", "xl/workbook.xml"), r"is an Excel workbook \(\.xlsx\)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), r"is an old Excel workbook"),
        (b"BZh91AY&SY" + bytes(20), "is a bzip2 file"),
        (b"\xfd7zXZ\x00" + bytes(20), "is an xz file"),
        (b"SQLite format 3\x00" + bytes(100), "is an SQLite database"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF"),
        (bytes(5000), "line 1 holds control characters"),
        (b"\x01\x02\xff\xfe\x03\n", "line 1 holds control characters"),
        (b"x" * 3_000_000, "has no line end"),
        (b'"height,weight\n1,2\n', "line 1: the quote .* is never closed"),
        (b"PAR1\x15\x04PAR1", "cannot be read"),
        (gzip.compress(PLAIN, mtime=0)[:-12], r"cannot be unpacked \(gzip\)"),
        (b"PAR1,ORC,BZh\n1,2,3\n", "has no column 'height'; it has 'PAR1', 'ORC', 'BZh'"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    """'No column height' sends a user to model.toml, where nothing is wrong."""
    with pytest.raises(DatasetError, match=rf"table\.csv: {kind}"):
        table_of(tmp_path, content).read()


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "||"])
def test_another_delimiter_is_named_and_read_when_it_is_set(
    tmp_path: Path, expected: list[tuple[Any, ...]], delimiter: str
) -> None:
    """The hint can be copied."""
    shown = {"\t": r"\\t", "|": r"\|", "||": r"\|"}.get(delimiter, delimiter)
    content = TEXT.replace('"a, b"', "AB").replace(",", delimiter).replace("AB", '"a, b"').encode()
    table = table_of(tmp_path, content)
    with pytest.raises(DatasetError, match=rf'has no column \'height\'.*\[etl\] delimiter = "{shown}'):
        table.read()
    toml = {"\t": r"\t"}.get(delimiter, delimiter)
    assert table.read(f'etl.delimiter="{toml}"') == (expected, [])


@pytest.mark.parametrize("declared", ["integer", "number"])
def test_decimal_commas_are_named_and_read_when_they_are_set(tmp_path: Path, declared: str) -> None:
    """For whole numbers too, which some programs write as 3,0."""
    value = {"integer": "3,0", "number": "2,5"}[declared]
    lines = [line.replace('"a, b"', "west").replace(",", ";") + f";{value}" for line in rows(60)]
    lines = [line.replace(".", ",") for line in lines]
    table = SmallTable(
        tmp_path,
        lines,
        header=f"{HEADER.replace(',', ';')};more",
        columns=f'more = {{ type = "{declared}" }}',
        rest='[etl]\ndelimiter = ";"',
    )
    with pytest.raises(DatasetError, match=r'of 60 lines are refused.*\[etl\] decimal = ","'):
        table.etl()
    found, refused = table.read('etl.decimal=","')
    assert refused == []
    assert [(row[1], row[-1]) for row in found[:3]] == [
        (index / 8, {"integer": 3, "number": 2.5}[declared]) for index in range(3)
    ]


@pytest.mark.parametrize("delimiter", ["", "\\n", "a\\rb", '\\"', ',\\"', "12345", "€€"])
def test_a_delimiter_that_cannot_be_is_refused_by_the_configuration(tmp_path: Path, delimiter: str) -> None:
    """Before anything is read, with what may stand there."""
    with pytest.raises(
        ConfigError, match=r"`delimiter` is .*expected 1 to 4 bytes without a quote or line end"
    ):
        table_of(tmp_path, PLAIN).config(f'etl.delimiter="{delimiter}"')


@pytest.mark.parametrize("null_text", ["[]", '["a,b"]', "['\"']"])
def test_a_null_text_that_cannot_be_is_refused_by_the_configuration(tmp_path: Path, null_text: str) -> None:
    """DuckDB refuses these in the middle of a run, in words of its own."""
    with pytest.raises(ConfigError, match="`null_text` "):
        table_of(tmp_path, PLAIN).config(f"etl.null_text={null_text}")
