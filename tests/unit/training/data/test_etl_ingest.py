"""Reading the source: names, types, refused lines, order, compression, Parquet."""

from __future__ import annotations

import gzip
from pathlib import Path

import duckdb
import pytest

from tests.support.tables import HEADER, SmallTable, rows
from timberline.registry.errors import ConfigError
from timberline.training.errors import DatasetError, TrainingError


def test_columns_are_matched_by_name_and_not_by_position(tmp_path: Path) -> None:
    """A file whose columns stand in another order must not swap values."""
    table = SmallTable(tmp_path, rows(60))
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT answer, blue, red, place, is_old, weight, height "
            f"FROM read_csv('{tmp_path}/table.csv')) TO '{tmp_path}/turned.csv'"
        )
    turned = SmallTable(tmp_path, path="turned.csv")
    table.etl()
    before = table.profile().fingerprint
    turned.etl()
    assert turned.profile().fingerprint == before


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    """A renamed column is the most common change of a source."""
    table = SmallTable(tmp_path, rows(10), header=HEADER.replace("height", "Height"))
    with pytest.raises(DatasetError, match=r"no column 'height'.*Is it 'Height'\?"):
        table.etl()


def test_a_column_not_declared_is_named_with_the_way_to_read_past_it(tmp_path: Path) -> None:
    """Nobody should train past a column without having looked at it."""
    table = SmallTable(tmp_path, [f"{line},1" for line in rows(10)], header=f"{HEADER},Id")
    with pytest.raises(DatasetError, match=r"column 'Id'.*Id = \{ type = .*role = \"ignored\"") as caught:
        table.etl()
    assert "table.csv" in str(caught.value)


def test_a_file_without_any_line_is_refused(tmp_path: Path) -> None:
    """An empty download must not become an empty model."""
    table = SmallTable(tmp_path, [])
    with pytest.raises(DatasetError, match="the source has no row"):
        table.etl()
    (tmp_path / "table.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"table\.csv"):
        table.etl()


def test_refused_lines_are_kept_with_file_line_column_and_reason(tmp_path: Path) -> None:
    """Whoever owns the source must be able to find the lines that are wrong."""
    lines = rows(100)
    lines[10] = 'tall,1,1,0,"north",true,present'
    lines[20] = "1,2"
    lines[30] = lines[30] + ",surplus"
    lines[40] = '1,2,1,0,"north",maybe,present'
    table = SmallTable(tmp_path, lines)
    summary = table.etl("etl.max_reject_fraction=0.05")
    assert summary["rejected_lines"] == 4
    assert sum(summary["rows"].values()) == 96
    found = table.query('file, line, "column", reason', "rejects")
    assert [row[:3] for row in found if row[1] != 22] == [
        ("table.csv", 12, "height"),
        ("table.csv", 32, None),
        ("table.csv", 42, "is_old"),
    ]
    assert found[0][3] == '"tall" is not of type integer'
    assert {line for _, line, *_ in found} == {12, 22, 32, 42}
    assert sorted(table.all_rows()) == list(range(96))


def test_too_many_refused_lines_stop_the_run_and_stay_to_be_read(tmp_path: Path) -> None:
    """A half-read table trains a model that looks right; an earlier result must survive."""
    table = SmallTable(tmp_path, rows(100))
    table.etl()
    before = table.digests()
    lines = rows(100)
    lines[10] = 'tall,1,1,0,"north",true,present'
    table = SmallTable(tmp_path, lines)
    with pytest.raises(DatasetError, match=r"1 of 100 lines .*table\.csv line 12, column 'height': \"tall\""):
        table.etl()
    assert table.digests() == before
    assert table.query("line", str(table.failed / "rejects.parquet")) == [(12,)]
    assert not list(table.prepared.parent.glob(".partial-*"))


def test_a_refused_row_weighs_as_many_lines_as_it_covers(tmp_path: Path) -> None:
    """A cell that took in a tenth of the file is a tenth of the file, whatever DuckDB counts."""
    lines = rows(200)
    text = "\n".join(f"word {number}" for number in range(30))
    lines[100] = f'tall,1,1,0,"{text}",true,present'
    lines[150] = f'7,1,1,0,"{text}"surplus,true,present'
    lines[160] = '"tall\n\nor wide",1,1,0,"north",true,present'
    table = SmallTable(tmp_path, lines)
    message = (
        r"63 of 260 lines .*line 102 to 131, column 'height': .*line 181 to 210: text follows.*220 to 222"
    )
    with pytest.raises(DatasetError, match=message):
        table.etl("etl.max_reject_fraction=0.2")
    summary = table.etl("etl.max_reject_fraction=0.25")
    assert summary["rejected_lines"] == table.report().rejected_lines == 63
    assert sum(summary["rows"].values()) == 197


@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_lines_are_those_of_the_file_where_cells_have_several(
    tmp_path: Path, begin: str, line_end: str
) -> None:
    """Whoever looks for line 205 opens the file in an editor; DuckDB counts rows."""
    lines = [line.replace("a, b", f"a,{line_end}{line_end}b") for line in rows(60)]
    lines[30:30] = ["", "", "x"]
    lines[51] = lines[51].replace("true", "maybe").replace("false", "maybe")
    text = begin + line_end.join([HEADER, *lines])
    (tmp_path / "table.csv").write_bytes(text.encode())
    numbered = text.splitlines()
    expected = [numbered.index("x") + 1, next(i for i, line in enumerate(numbered, 1) if "maybe" in line)]
    found, refused = SmallTable(tmp_path).read()
    assert len(found) == 59
    assert sorted({line for _, line, *_ in refused}) == expected


def test_an_unclosed_quote_is_never_tolerated(tmp_path: Path) -> None:
    """It hides rows, and how many is chance: no share of them is a share that somebody allowed."""
    lines = [line.replace('"a, b"', "west").replace('"', "") for line in rows(2000)]
    lines[1990] = lines[1990].replace(",true", ',"true').replace(",false", ',"false')
    table = SmallTable(tmp_path, lines)
    with pytest.raises(DatasetError, match=r"table\.csv: line 1992: .*never closed; it takes in 10 lines"):
        table.etl("etl.max_reject_fraction=1.0")
    assert not table.prepared.exists()


@pytest.mark.parametrize(("line_end", "inside"), [("\n", "\r\n"), ("\r\n", "\n"), ("\r\n", "\r\n")])
def test_line_ends_inside_of_cells_are_kept(tmp_path: Path, line_end: str, inside: str) -> None:
    """Any export of Excel's in which somebody pressed Alt and Enter."""
    lines = [line.replace("a, b", f"a,{inside}b") for line in rows(60)]
    (tmp_path / "table.csv").write_bytes(line_end.join([HEADER, *lines, ""]).encode())
    found, refused = SmallTable(tmp_path).read()
    assert refused == []
    assert [row[4] for row in found[:4]] == ["north", "south", f"a,{inside}b", "north"]
    assert {row[6] for row in found} == {"absent", "present"}


def test_a_late_line_end_of_another_kind_is_read(tmp_path: Path) -> None:
    """A line added with another editor must neither end the run nor leave a CR in the last column."""
    lines = rows(300_000)
    text = "\n".join([HEADER, *lines[:-5]]) + "\n" + "\r\n".join(lines[-5:])
    (tmp_path / "table.csv").write_bytes(text.encode())
    found, refused = SmallTable(tmp_path).read("etl.threads=4")
    assert (len(found), refused) == (300_000, [])
    assert {row[6] for row in found} == {"absent", "present"}
    assert [row[1] for row in found] == [index / 8 for index in range(300_000)]


def test_cells_of_many_lines_are_read_rightly_from_a_large_file(tmp_path: Path) -> None:
    """DuckDB's parallel reader begins anywhere and makes rows of cells that quote some: 693,103 of 1,200."""
    quoted = "7,1.5,1,0,north,true,present\n" * 100 + "so much for the table\n" * 20
    lines = [f'7,{index / 8},1,0,"{quoted * 8}",true,present' for index in range(1200)]
    table = SmallTable(tmp_path, lines)
    assert (tmp_path / "table.csv").stat().st_size > 20_000_000
    found, refused = table.read("etl.threads=4")
    assert refused == []
    assert found == [(7, index / 8, 1, 0, quoted * 8, True, "present") for index in range(1200)]


def test_a_line_end_in_a_name_is_not_that_of_the_file(tmp_path: Path) -> None:
    """DuckDB takes the first one that it finds for all of them, and then finds no row at all."""
    text = "\r\n".join(['"more\nless",' + HEADER, *(f"1,{line}" for line in rows(60))])
    (tmp_path / "table.csv").write_bytes(text.encode())
    table = SmallTable(tmp_path, columns='"more\\nless" = { type = "integer" }')
    found, refused = table.read()
    assert (len(found), refused) == (60, [])


def test_columns_without_a_name_are_read_past_when_they_are_declared(tmp_path: Path) -> None:
    """pandas writes its index under no name, and Excel empty columns behind the last."""
    lines = [f"{index},{line},," for index, line in enumerate(rows(60))]
    lines[30] = "1,2"
    table = SmallTable(tmp_path, lines, header=f",{HEADER},,")
    with pytest.raises(
        DatasetError, match=r'without a name, number 1, .*: "" = \{ type = "string", role = "ign'
    ):
        table.etl()
    table = SmallTable(tmp_path, columns='"" = { type = "string", role = "ignored" }')
    found, refused = table.read()
    assert [row[1] for row in found] == [index / 8 for index in range(60) if index != 30]
    assert refused == [("table.csv", 32, 1, "weight", "has 2 columns, expected 10")]


def test_a_column_without_a_name_can_only_be_read_past(tmp_path: Path) -> None:
    """Nothing could name it: features.sql, a client, a check."""
    table = SmallTable(tmp_path, columns='"" = { type = "string" }')
    with pytest.raises(ConfigError, match=r'column without a name.*role = "ignored"'):
        table.config()


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    """Two bad lines of the same number are two lines."""
    lines = rows(50)
    lines[10] = "tall" + lines[10]
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "table.csv").write_text("\n".join([HEADER, *lines]))
    table = SmallTable(tmp_path, path="*/table.csv")
    assert table.etl("etl.max_reject_fraction=0.5")["rejected_lines"] == 2
    found = table.query("file, line", "rejects")
    assert found == [(str(tmp_path / part / "table.csv"), 12) for part in ("a", "b")]


@pytest.mark.parametrize("value", ["1.5", "1e30", "nan"])
@pytest.mark.parametrize("declared", ["range = [0, 100]", "nullable = true"])
def test_an_integer_is_never_rounded(tmp_path: Path, value: str, declared: str) -> None:
    """DuckDB's own cast would turn 1.5 into 2 and say nothing."""
    lines = [f"{line},5" for line in rows(50)]
    lines[30] = lines[30].removesuffix("5") + value
    column = f'more = {{ type = "integer", {declared} }}'
    table = SmallTable(tmp_path, lines, columns=column, header=f"{HEADER},more")
    with pytest.raises(DatasetError, match=r"'more' is declared integer, but row 30|lines are refused"):
        table.etl()
    assert not table.prepared.exists()


def test_wide_integers_keep_every_digit(tmp_path: Path) -> None:
    """An identifier beyond 2**53 must not be rounded on its way through DOUBLE."""
    large = 2**63 - 1
    lines = [f"{line},{large - i}" for i, line in enumerate(rows(50))]
    column = 'more = { type = "integer", role = "key" }'
    table = SmallTable(tmp_path, lines, columns=column, header=f"{HEADER},more")
    table.etl()
    assert all(large - more == row for row, more in table.query("__row__, more"))


def test_a_value_outside_its_declared_range_is_counted_and_kept(tmp_path: Path) -> None:
    """A tolerated violation must neither be lost nor bent to fit."""
    lines = rows(100)
    lines[8] = '40000,1,1,0,"north",true,present'
    table = SmallTable(tmp_path, lines)
    table.etl("checks.max_violation_fraction=0.01")
    split = table.all_rows()[8]
    assert table.query("max(height)", split) == [(40000,)]


def test_nan_text_is_null(tmp_path: Path) -> None:
    """The served graph takes NaN for NULL, so training must as well."""
    lines = rows(100)
    lines[8] = '4,nan,1,0,"north",true,present'
    table = SmallTable(tmp_path, lines)
    table.etl()
    assert table.query("weight", table.all_rows()[8]).count((None,)) == 1


def test_null_text_and_delimiter_come_from_the_configuration(tmp_path: Path) -> None:
    """Sources write what is missing in their own way."""
    lines = [line.replace('"a, b"', "west").replace(",", ";") for line in rows(50)]
    lines[4] = "4;NA;1;0;north;true;present"
    table = SmallTable(tmp_path, lines, header=HEADER.replace(",", ";"))
    table.etl('etl.delimiter=";"', 'etl.null_text=["NA", "-"]')
    assert table.query("weight", table.all_rows()[4]).count((None,)) == 1


def test_rows_of_several_files_follow_each_other_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Row numbers, and with them the head split, depend on the order of the files."""
    files = tmp_path / "parts"
    files.mkdir()
    lines = rows(30_000)
    turned = [",".join([line.rpartition(",")[2], line.rpartition(",")[0]]) for line in lines[10_000:20_000]]
    header = ",".join([HEADER.rpartition(",")[2], HEADER.rpartition(",")[0]])
    (files / "a.csv").write_text("\n".join([HEADER, *lines[:10_000]]) + "\n")
    (files / "b.csv").write_text("\n".join([header, *turned]) + "\n")
    (files / "c.csv").write_text("\n".join([HEADER, *lines[20_000:]]) + "\n")
    table = SmallTable(tmp_path, path="parts/*.csv", split='kind = "time"')
    table.etl("etl.threads=4")
    for split in ("train", "validation", "test"):
        assert table.query("count_if(weight <> __row__ / 8)", split) == [(0,)]
    assert len(table.all_rows()) == 30_000


def test_row_numbers_are_line_numbers_when_reading_in_parallel(tmp_path: Path) -> None:
    """Several threads read a large file in pieces; `rowid` must still count lines from the top."""
    table = SmallTable(tmp_path, rows(900_000), split='kind = "head"\nrows = 1000')
    assert (tmp_path / "table.csv").stat().st_size > 30_000_000
    table.etl("etl.threads=4")
    assert table.query("count_if(weight <> __row__ / 8), count(*)", "test") == [(0, 899_000)]


@pytest.mark.parametrize("kind", ["gz", "zst", "parquet"])
def test_compressed_and_parquet_sources_give_the_same_data(tmp_path: Path, kind: str) -> None:
    """How the table is packed is no property of the table."""
    table = SmallTable(tmp_path, rows(300))
    table.etl()
    expected = table.profile()
    path = f"table.{kind}" if kind == "parquet" else f"table.csv.{kind}"
    if kind == "gz":
        (tmp_path / path).write_bytes(gzip.compress((tmp_path / "table.csv").read_bytes()))
    else:
        packed = "FORMAT parquet" if kind == "parquet" else "COMPRESSION zstd"
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (FROM read_csv('{tmp_path}/table.csv')) TO '{tmp_path / path}' ({packed})"
            )
    packed_table = SmallTable(tmp_path, path=path)
    packed_table.etl()
    assert packed_table.profile() == expected


def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path) -> None:
    """A cast from DOUBLE to integer would round."""
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT 1.5::DOUBLE AS height, 1.0::DOUBLE AS weight, 1 AS red, 0 AS blue, 'n' AS place, "
            f"true AS is_old, 'present' AS answer) TO '{tmp_path}/t.parquet'"
        )
    table = SmallTable(tmp_path, path="t.parquet")
    with pytest.raises(DatasetError, match="'height' is DOUBLE, but is declared integer"):
        table.etl()


def test_a_damaged_parquet_file_is_one_clear_error(tmp_path: Path) -> None:
    """What cannot be read is told with its name, without a trace of DuckDB's insides."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1 this is no parquet file PAR1")
    with pytest.raises(DatasetError, match=r"t\.parquet: cannot be read"):
        SmallTable(tmp_path, path="t.parquet").etl()


@pytest.mark.parametrize("position", range(20, 400, 38))
def test_a_parquet_file_with_a_damaged_byte_is_read_or_refused(tmp_path: Path, position: int) -> None:
    """Parquet has no digest of its pages: DuckDB finds what it finds, and calls it many names."""
    SmallTable(tmp_path, rows(300))
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (FROM read_csv('{tmp_path}/table.csv')) TO '{tmp_path}/t.parquet' (FORMAT parquet)"
        )
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    for place in (position, len(content) - position):
        content[place] ^= 0xFF
    (tmp_path / "t.parquet").write_bytes(content)
    table = SmallTable(tmp_path, path="t.parquet")
    try:
        found, told = table.read()[0], "t.parquet"
    except TrainingError as error:
        found, told = [], str(error)
    assert "t.parquet" in told
    assert len(found) in {0, 300}
