"""How a file is written is found from its bytes, whichever program wrote it."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from tests.support.found_tables import find, lines, write
from timberline.training.errors import DatasetError

TABLE = lines("colour,height,answer", "rød,{i}.5,{c}")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "||"])
def test_the_delimiter_is_the_one_that_cuts_all_lines_alike(tmp_path: Path, delimiter: str) -> None:
    """A comma in a text must not beat the tab that parts the cells."""
    text = lines(delimiter.join(("a", "b", "c")), delimiter.join(("{i}", '"one, two; three"', "{c}")))
    form = find(write(tmp_path, text), tmp_path / "scratch")
    assert (form.etl.delimiter, form.names) == (delimiter, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("codec", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16"),
        ("latin-1", "latin-1"),
        ("cp1252", "windows-1252"),
    ],
)
def test_the_encoding_is_found_from_the_whole_file(tmp_path: Path, codec: str, found: str) -> None:
    """Excel writes Windows-1252 and UTF-16; the byte that tells may be in the last line."""
    last = "„ø“,1.5,no\n" if codec != "latin-1" else "ø,1.5,no\n"
    form = find(write(tmp_path, TABLE.replace("ø", "o") + last, encoding=codec), tmp_path / "scratch")
    assert form.etl.encoding == found
    assert form.path.read_text("utf-8-sig").endswith(last)


def test_a_text_in_no_encoding_is_refused(tmp_path: Path) -> None:
    """A byte that no encoding has would be a wrong letter in a category for ever."""
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE.replace("ø", "o").encode() + b"\x81\x8d,1,no\n")
    with pytest.raises(DatasetError, match="no encoding that is known"):
        find(path, tmp_path / "scratch")


def test_lines_before_the_table_are_skipped_and_comments_are_named(tmp_path: Path) -> None:
    """Exports of instruments begin with who measured what, and go on with remarks between the rows."""
    text = "Station 7\nmeasured by hand\n" + TABLE.replace("\nrød,5.5", "\n# recalibrated\nrød,5.5")
    form = find(write(tmp_path, text), tmp_path / "scratch")
    assert (form.etl.skip_lines, form.etl.comment) == (2, "#")
    assert form.names == ("colour", "height", "answer")


def test_a_header_that_begins_with_a_hash_is_no_comment(tmp_path: Path) -> None:
    """``#id`` is how some tools mark their header; passing it over would lose the names."""
    form = find(write(tmp_path, lines("#id,answer", "{i},{c}")), tmp_path / "scratch")
    assert (form.etl.comment, form.names) == ("", ("#id", "answer"))


def test_numbers_in_the_first_line_mean_that_there_is_no_header(tmp_path: Path) -> None:
    """The first row would otherwise become the names, and be missing from the table."""
    form = find(write(tmp_path, TABLE.partition("\n")[2]), tmp_path / "scratch")
    assert not form.etl.header
    assert form.names == ("column_1", "column_2", "column_3")
    assert any("no header" in remark for remark in form.remarks)


def test_years_as_names_are_a_header(tmp_path: Path) -> None:
    """Some names are numbers; one name that is a word above numbers says what the line is."""
    form = find(write(tmp_path, lines("place,size,2019,2020,answer", "x,{i},{i},{i},{c}")), tmp_path / "s")
    assert form.etl.header
    assert form.names == ("place", "size", "2019", "2020", "answer")


def test_an_orange_table_keeps_its_names_and_loses_its_three_lines(tmp_path: Path) -> None:
    """Types and roles in lines of their own would otherwise be two rows of nonsense."""
    text = "age\tsex\tsurvived\nc\tmale female\td\n\t\tclass\n" + "".join(
        f"{i}\tmale\tyes\n" for i in range(9)
    )
    form = find(write(tmp_path, text, name="table.tab"), tmp_path / "scratch")
    assert (form.etl.header, form.etl.skip_lines) == (False, 3)
    assert form.names == ("age", "sex", "survived")


def test_a_backslash_before_a_quote_is_an_escape(tmp_path: Path) -> None:
    """Databases write so; with doubled quotes in mind the cell would end in its middle."""
    text = lines("remark,answer", '"a \\"small\\", old one {i}",{c}')
    assert find(write(tmp_path, text), tmp_path / "scratch").etl.escape == "\\"


def test_a_packed_file_is_looked_into(tmp_path: Path) -> None:
    """Fetch keeps such a file as it is, so that its digest stays that of its publisher."""
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    assert find(path, tmp_path / "scratch").names == ("colour", "height", "answer")


def test_what_is_no_table_is_refused_by_its_kind(tmp_path: Path) -> None:
    """The first file that people try is often the workbook itself."""
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    for path, words in (
        (tmp_path / "book.xlsx", "Excel workbook"),
        (write(tmp_path, "", name="empty.csv"), "is empty"),
        (write(tmp_path, "<!doctype html><html>", name="page.csv"), "a web page"),
        (write(tmp_path, "a\n1\n2\n", name="one.csv"), "no delimiter"),
        (write(tmp_path, "a,b\n", name="header.csv"), "no rows below"),
    ):
        with pytest.raises(DatasetError, match=words):
            find(path, tmp_path / "scratch")
