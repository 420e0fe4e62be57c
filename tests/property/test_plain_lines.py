"""A file without its backslashes, comments and skipped lines is the same table as the file itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from timberline.training.data.lines import Marks, plain_lines

_PIECES = ('\\"', '\\"', "\\\\", "\\a", "\\\n", "\\,", "\\é", ",", "\n", "a", " ", "é", '\\",')


@pytest.fixture(name="database", scope="module")
def open_a_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """One for all files."""
    with duckdb.connect() as connection:
        yield connection


def _read(database: duckdb.DuckDBPyConnection, path: Path, escape: str) -> list[tuple[Any, ...]]:
    return database.execute(
        f"FROM read_csv('{path}', auto_detect=false, header=true, delim=',', quote='\"', escape='{escape}', "
        "new_line='\\n', columns={'a': 'VARCHAR', 'b': 'VARCHAR'}, ignore_errors=true, parallel=false)"
    ).fetchall()


def _chunks(data: bytes, draw: random.Random) -> Iterator[bytes]:
    """``data`` in pieces of a few bytes, as a file of many megabytes comes."""
    while data:
        size = draw.randrange(1, 9)
        yield data[:size]
        data = data[size:]


@pytest.mark.parametrize("seed", range(4))
def test_backslashes_are_taken_out_as_duckdb_reads_them(
    database: duckdb.DuckDBPyConnection, tmp_path: Path, seed: int
) -> None:
    """What DuckDB's own option `escape` makes of the cells is what the plain copy has in them."""
    draw = random.Random(seed)
    marks = Marks(b",", 0, b"", is_backslash=True)
    raw, plain = tmp_path / "raw", tmp_path / "plain"
    for _ in range(250):
        cell = "".join(draw.choice(_PIECES) for _ in range(draw.randrange(8)))
        text = f'a,b\n1,"{cell}"\n2,c\n3,"d"\n'
        raw.write_text(text, "utf-8")
        plain.write_bytes(b"".join(plain_lines(_chunks(text.encode(), draw), marks)))
        assert plain.read_bytes().count(b"\n") == text.count("\n")
        expected = _read(database, raw, "\\")
        assert len(expected) == 3
        assert _read(database, plain, '"') == expected, text


@pytest.mark.parametrize("seed", range(3))
def test_lines_that_are_passed_over_are_those_outside_of_cells(tmp_path: Path, seed: int) -> None:
    """Cells with line ends, quotes and marks of comments in them stay as they are, wherever a chunk ends."""
    draw = random.Random(seed)
    for _ in range(200):
        end = draw.choice(("\n", "\r\n", "\r"))
        skipped = [draw.choice(("title", '"', "#", "")) for _ in range(draw.randrange(3))]
        found: list[str] = []
        kept: list[str] = []
        for _ in range(draw.randrange(8)):
            if draw.random() < 0.4:
                found.append(draw.choice(("#", '#"', "# a,b", '#"a","')))
                kept.append("")
            else:
                text = draw.choice(("a", " #", "5", f"a{end}#b", f'{end}#""', f"#{end}{end}#", '"",""'))
                other = draw.choice(("x", " #", "#", "x#y", '5" z'))
                row = f'"{text}",{other}'
                found.append(row)
                kept.append(row)
        behind = draw.choice(("", end))
        data = (end.join([*skipped, *found]) + behind).encode()
        marks = Marks(b",", len(skipped), b"#", is_backslash=False)
        expected = (end.join([*[""] * len(skipped), *kept]) + behind).encode()
        assert b"".join(plain_lines(_chunks(data, draw), marks)) == expected, data
