"""Any file is read as Python's csv module reads it, or refused with a sentence; never anything between."""

from __future__ import annotations

import csv
import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.support.tables import read_files
from timberline.registry.errors import LifecycleError
from timberline.training.config import ModelConfig, load_model_config
from timberline.training.data.lines import (
    Layout,
    RowShape,
    _find_any_cells,
    _find_regular_cells,
    survey_lines,
)
from timberline.training.errors import DatasetError

MODEL_TOML = """
[model]
name = "any"
[source]
kind = "csv"
path = "any file"
[columns]
note = { type = "string", nullable = true }
size = { type = "number", nullable = true }
answer = { type = "string" }
[target]
column = "answer"
[split]
kind = "random"
"""
HEADER = ("note", "size", "answer")
# Cells with what is awkward in them; no blank beside a quote, which DuckDB passes over and csv keeps.
notes = st.text(st.sampled_from('ab",;\n\ré€\x00'), max_size=8)
sizes = st.floats(allow_nan=False, allow_infinity=False, width=32)
table_rows = st.lists(
    st.tuples(notes, sizes, st.sampled_from(("yes", "no", "a\r\nb"))), min_size=1, max_size=12
)
pieces = st.sampled_from(
    [
        *(
            b"a",
            b"1",
            b"2.5",
            b"\xc3\xa9",
            b"\xe9",
            b"\x00",
            b'"',
            b'""',
            b'"a,b"',
            b'"a\nb"',
            b'"a\r\nb"',
            b"nan",
        ),
        *(b",", b",", b",", b"\n", b"\r\n", b"\r", b"a,1,b\n", b"a,1,b\r\n", b'"a\n1,2",1,b\n'),
    ]
)


@functools.cache
def load(*overrides: str) -> ModelConfig:
    """The configuration with these overrides."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "any").mkdir()
        (Path(folder) / "any" / "model.toml").write_text(MODEL_TOML)
        return load_model_config(Path(folder), "any", overrides=overrides, use_environment=False)


def read(content: bytes, *overrides: str) -> tuple[list[tuple[object, ...]], int]:
    """The rows that the ETL reads, and how many entries of refused rows there are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any file"
        path.write_bytes(content)
        rows, refused = read_files(load(*overrides), [path], Path(folder) / "scratch")
        return rows, len(refused)


def expect(content: bytes) -> list[tuple[object, ...]] | None:
    """The rows as Python's csv module reads them; None if one of them is not of the declared form.

    Empty cells behind the last column are passed over, as the ETL does: nothing is lost with them.
    """
    try:
        text = content.decode("utf-8-sig")
        _, *found = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        rows: list[tuple[object, ...]] = []
        for note, size, answer, *surplus in found:
            if any(surplus):
                return None
            rows.append((note or None, float(size) if size else None, answer or None))
    except (UnicodeDecodeError, ValueError):
        return None
    return rows


def with_nan_as_null(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """NaN is NULL to the ETL."""
    return [tuple(None if value != value else value for value in row) for row in rows]  # noqa: PLR0124


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(pieces, max_size=40),
    begin=st.sampled_from([b"note,size,answer\n", b"note,size,answer\r", b""]),
)
@example(parts=[b"a,1,b\r\n", b"a,1,b\n"], begin=b"note,size,answer\n")
@example(parts=[b'"', b"a,1,b\n"], begin=b"note,size,answer\n")
@example(parts=[b'"a\r\nb"', b",1,b\n"], begin=b"note,size,answer\n")
def test_any_bytes_are_read_as_csv_reads_them_or_refused(parts: list[bytes], begin: bytes) -> None:
    """A table that nobody here has seen trains right or not at all; a traceback says neither."""
    content = begin + b"".join(parts)
    try:
        rows, refused = read(content)
    except LifecycleError as error:
        rows, refused = [], str(error).count("any file")
    if not refused:
        expected = expect(content)
        assert expected is not None
        assert rows == with_nan_as_null(expected)


@settings(max_examples=100, deadline=None)
@given(
    table=table_rows,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    decimal=st.sampled_from([".", ","]),
    has_last_line_end=st.booleans(),
)
def test_a_table_arrives_as_it_was_written(
    table: list[tuple[str, float, str]],
    line_end: str,
    delimiter: str,
    quoting: Literal[0, 1, 2],
    encoding: str,
    decimal: str,
    has_last_line_end: bool,
) -> None:
    """Whatever program wrote the file, each cell is the one that was put in."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    lines = [HEADER, *((note, repr(size).replace(".", decimal), answer) for note, size, answer in table)]
    writer.writerows(lines)
    text = file.getvalue()
    written = [tuple(line) for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)]
    assume(written == lines)  # csv itself leaves a line end of another kind than the file's without quotes
    content = (text if has_last_line_end else text.removesuffix(line_end)).encode(encoding)
    setting = "utf-16" if encoding.startswith("utf-16") else "utf-8"
    rows, refused = read(
        content,
        f'etl.encoding="{setting}"',
        f"etl.delimiter={json.dumps(delimiter)}",
        f'etl.decimal="{decimal}"',
    )
    assert refused == 0
    assert rows == [(note or None, size, answer) for note, size, answer in table]


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(pieces, max_size=40))
def test_the_fast_way_finds_the_cells_of_the_exact_one(parts: list[bytes]) -> None:
    """The fast way is an optimisation; where it sees other cells, a table is read wrong."""
    data = b"".join(parts)
    assume(b'"' in data)
    fast = _find_regular_cells(data, b",")
    cells, is_regular, open_at = _find_any_cells(data, b",")
    assert fast is None or (is_regular, fast) == (True, (cells, open_at))
    assert (fast is not None) == is_regular


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(pieces, min_size=1, max_size=60), block=st.integers(1, 40))
def test_where_a_file_is_cut_into_blocks_does_not_show(
    parts: list[bytes], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A cell that crosses from one block into the next is one cell."""
    path = tmp_path_factory.getbasetemp() / "blocks.csv"
    path.write_bytes(b"".join(parts))
    shape = RowShape(",", (False, True, False))

    def survey(size: int) -> Layout | str:
        try:
            return survey_lines(path, shape, where="blocks.csv", block_bytes=size)
        except DatasetError as error:
            return str(error)

    assert survey(block) == survey(1 << 20)
