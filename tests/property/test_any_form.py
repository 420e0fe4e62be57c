"""A table arrives as it was written, whatever stands around its rows and however its cells are written."""

from __future__ import annotations

import datetime
import functools
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tables import read_files
from timberline.registry.moments import parse_moment
from timberline.training.config import ModelConfig, load_model_config

MODEL_TOML = """
[model]
name = "any"
[source]
kind = "csv"
path = "any file"
[columns]
note = {{ type = "string" }}
size = {{ type = "number" }}
day = {{ type = "date", format = {format} }}
is_new = {{ type = "boolean" }}
answer = {{ type = "string" }}
[target]
column = "answer"
[split]
kind = "random"
[etl]
null_text = ["none"]
true_text = ["Ja"]
false_text = ["Nein"]
comment = "#"
delimiter = {delimiter}
thousands = {thousands}
decimal = {decimal}
escape = {escape}
header = {header}
skip_lines = {skip_lines}
"""
NAMES = ("note", "size", "day", "is_new", "answer")
# Whole lines that are no rows, with what could open a cell or be a row.
titles = st.lists(st.sampled_from(["", "A title", '5" and more', "#", '"a;b', "1;2;3;4;5"]), max_size=3)
comments = st.lists(
    st.sampled_from([None, None, "#", '#"', '# a "b;', "#a;1;b;c;d"]), min_size=13, max_size=13
)
table_rows = st.lists(
    st.tuples(
        st.text(st.sampled_from('ab#";,\\\n\ré '), max_size=8),
        st.floats(-1e7, 1e7, allow_nan=False, width=32),
        st.dates(datetime.date(1000, 1, 1)),
        st.booleans(),
        st.sampled_from(("yes", "no")),
    ),
    min_size=1,
    max_size=12,
)


@functools.cache
def load(**values: str) -> ModelConfig:
    """The configuration with these values in it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "any").mkdir()
        (Path(folder) / "any" / "model.toml").write_text(MODEL_TOML.format(**values), "utf-8")
        return load_model_config(Path(folder), "any", use_environment=False)


def write_text(text: str, escape: str) -> str:
    """The cell in quotes."""
    doubled = text.replace("\\", "\\\\") if escape == "\\" else text
    return f'"{doubled.replace(chr(34), escape + chr(34))}"'


def write_number(number: float, thousands: str, decimal: str) -> str:
    """The number with its digits in groups where they are to be, in quotes."""
    marks = {",": thousands, ".": decimal}
    text = f"{number:,}" if thousands else repr(number)
    return f'"{"".join(marks.get(character, character) for character in text)}"'


@settings(max_examples=60, deadline=None)
@given(
    table=table_rows,
    titles=titles,
    comments=comments,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    marks=st.sampled_from(
        [(";", "", "."), (";", ".", ","), (",", ",", "."), ("\t", "'", "."), ("|", " ", ",")]
    ),
    escape=st.sampled_from(['"', "\\"]),
    header=st.booleans(),
    time_format=st.sampled_from(["%d.%m.%Y", "%Y%m%d", "%B %d, %Y", "%m/%d/%Y %H:%M"]),
)
def test_a_table_arrives_whatever_is_around_its_rows(
    table: list[tuple[str, float, datetime.date, bool, str]],
    titles: list[str],
    comments: list[str | None],
    line_end: str,
    marks: tuple[str, str, str],
    escape: str,
    header: bool,
    time_format: str,
) -> None:
    """Programs and people write tables in many ways; a row that is read as another trains as another."""
    delimiter, thousands, decimal = marks
    lines = [
        delimiter.join(
            (
                write_text(note, escape),
                write_number(size, thousands, decimal),
                f'"{day.strftime(time_format.replace("%Y", f"{day.year:04}"))}"',
                "Ja" if is_new else "Nein",
                answer,
            )
        )
        for note, size, day, is_new, answer in table
    ]
    if header:
        lines.insert(0, delimiter.join(NAMES))
    mixed = list(titles)
    for comment, line in zip(comments, lines, strict=False):
        mixed += [line] if comment is None else [comment, line]
    config = load(
        format=json.dumps(time_format),
        delimiter=json.dumps(delimiter),
        thousands=json.dumps(thousands),
        decimal=json.dumps(decimal),
        escape=json.dumps(escape),
        header=json.dumps(header),
        skip_lines=str(len(titles)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any file"
        path.write_bytes(line_end.join([*mixed, ""]).encode())
        found, refused = read_files(config, [path], Path(folder) / "scratch")
    assert refused == []
    assert found == [
        (note, size, parse_moment(day.isoformat(), "date"), is_new, answer)
        for note, size, day, is_new, answer in table
    ]
