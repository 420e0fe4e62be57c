"""What a column holds is decided by every one of its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.found_tables import column, lines, look, write
from timberline.registry.moments import parse_moment


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "+3"], "integer"),
        (["1", "2.5", "3e2"], "number"),
        (["1", "NA", "3"], "integer"),
        (["1.5", "?", "."], "number"),
        (["Yes", "No", "NA"], "boolean"),
        (["t", "f", "T"], "boolean"),
        (["M", "F", "F"], "string"),
        (["007", "012", "100"], "string"),
        (["9007199254740993", "1", "2"], "string"),
        (["2013-05-01", "2014-12-31", "NA"], "date"),
        (["2013-05-01T10:00:00Z", "2014-12-31 23:59:59.5", ""], "timestamp"),
        (["$5", "$6", "$7"], "string"),
        (["red", "?", "blue"], "string"),
    ],
)
def test_a_type_is_proposed_where_every_value_has_it(tmp_path: Path, values: list[str], kind: str) -> None:
    """One value that does not fit stops the ETL, so that a majority is not enough."""
    rows = [f"{values[i % 3]},{i}.25,x" for i in range(30)]
    table = look(write(tmp_path, "\n".join(["a,b,c", *rows]) + "\n"))
    assert column(table, "a").kind == kind


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("2013/05/{:02}", "%Y/%m/%d"),
        ("{:02}.05.2013", "%d.%m.%Y"),
        ("{:02} May 2013", "%d %b %Y"),
        ("May {:02}, 2013", "%b %d, %Y"),
        ("05/{:02}/13 10:30 PM", "%m/%d/%y %I:%M %p"),
        ("201305{:02}", "%Y%m%d"),
    ],
)
def test_the_format_of_a_date_is_one_that_the_service_reads(tmp_path: Path, text: str, way: str) -> None:
    """The training file's own lines are sent to the service, which has a reader of its own."""
    rows = [f'"{text.format(i)}",x{i % 2}' for i in range(1, 29)]
    found = column(look(write(tmp_path, "\n".join(["date,c", *rows]) + "\n")), "date")
    assert found.format == way
    assert found.kind in ("date", "timestamp")
    values = [parse_moment(text.format(i), found.kind, way) for i in range(1, 29)]
    assert (found.low, found.high) == (min(values), max(values))


def test_a_day_that_may_be_a_month_is_said_to_be_unsure(tmp_path: Path) -> None:
    """Nothing in the file tells 03/04 from 04/03, and a wrong guess moves every date."""
    found = column(look(write(tmp_path, lines("day,c", "0{i}/04/2013,{c}", 9))), "day")
    assert any("the other way round" in remark for remark in found.remarks)
    told = column(look(write(tmp_path, lines("day,c", "{i}/04/2013,{c}", 28))), "day")
    assert (told.format, told.remarks) == ("%d/%m/%Y", ())


@pytest.mark.parametrize(
    ("delimiter", "value", "decimal", "thousands"),
    [
        (",", "{i}.5", ".", ""),
        (";", "{i},5", ",", ""),
        (";", "{i}.000,5", ",", "."),
        (",", '"{i},000.5"', ".", ","),
        (";", "{i} 000,5", ",", " "),
        (";", "{i}'000.5", ".", "'"),
    ],
)
def test_the_marks_are_those_that_make_numbers_of_the_most_columns(
    tmp_path: Path, delimiter: str, value: str, decimal: str, thousands: str
) -> None:
    """A decimal comma read as text would make a category of every measurement."""
    text = lines(delimiter.join("abc"), delimiter.join((value, "{i}", "{c}")))
    table = look(write(tmp_path, text))
    assert (table.etl.decimal, table.etl.thousands) == (decimal, thousands)
    assert column(table, "a").kind == "number"
    assert column(table, "a").low == (1000.5 if thousands else 1.5)


def test_a_comma_before_three_digits_is_said_to_be_unsure(tmp_path: Path) -> None:
    """1,234 is a thousand or a little more than one."""
    table = look(write(tmp_path, lines("a,c", '"{i},234",{c}')))
    assert table.etl.thousands == ","
    assert any("1,234" in remark for remark in table.remarks)


def test_a_word_for_nothing_is_one_for_the_whole_file(tmp_path: Path) -> None:
    """``?`` among numbers is NULL; the same word in a text column is then NULL too, which is said."""
    rows = [f"{'?' if i % 5 == 0 else i},{'?' if i % 7 == 0 else 'red'},none" for i in range(40)]
    table = look(write(tmp_path, "\n".join(["a,b,c", *rows]) + "\n"))
    assert table.etl.null_text == ("", "?")
    assert (column(table, "a").nulls, column(table, "b").nulls) == (8, 6)
    assert any("taken for NULL" in remark for remark in column(table, "b").remarks)
    assert column(table, "c").nulls == 0


def test_the_targets_words_stay_as_they_are_written(tmp_path: Path) -> None:
    """Its classes are named by what stands in the file, not by true and false."""
    table = look(write(tmp_path, lines("a,b,c", "{i},{c},{c}")), target="c")
    assert (column(table, "b").kind, column(table, "c").kind) == ("boolean", "string")
    assert (table.etl.true_text, table.etl.false_text) == (("yes",), ("no",))


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    """They are not in the table, so that the proposal has to say how many there are."""
    text = lines("a,b,c", "{i},{i},{c}", 100) + "1,2,3,4,5\n"
    assert look(write(tmp_path, text)).rejected == 1


def test_parquet_has_its_own_types(tmp_path: Path) -> None:
    """A Parquet file says what its columns are, and nothing is guessed."""
    import duckdb

    path = tmp_path / "table.parquet"
    duckdb.execute(
        "COPY (SELECT i::BIGINT AS a, i / 2 AS b, i % 2 = 0 AS c, DATE '2013-05-01' + i::INT AS d, "
        f"'x' || i AS e FROM range(30) AS t(i)) TO '{path}'"
    )
    assert [found.kind for found in look(path).columns] == ["integer", "number", "boolean", "date", "string"]
