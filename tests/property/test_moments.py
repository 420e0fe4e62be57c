"""A text is the same moment, or none, to DuckDB, which trains, and to `registry.moments`, which serves.

Otherwise a row would train as one day and be answered as another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pytest

from tests.support.moments import iso_texts, time_formats
from timberline.registry.moments import parse_moment, write_moment
from timberline.registry.signature import Moment
from timberline.training.config import EtlSection
from timberline.training.data.cells import moment_of_text
from timberline.training.data.database import open_database


@pytest.fixture(name="database")
def open_a_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database as the ETL opens it."""
    with open_database(EtlSection(), tmp_path_factory.mktemp("spill")) as connection:
        yield connection


def _by_duckdb(
    database: duckdb.DuckDBPyConnection, texts: Sequence[str], moment: Moment, time_format: str | None
) -> list[int | None]:
    database.register("texts", pa.table({"position": range(len(texts)), "text": list(texts)}))
    found = database.execute(
        f"SELECT {moment_of_text('text', moment, time_format)} FROM texts ORDER BY position"
    ).fetchall()
    return [value for (value,) in found]


def _by_python(text: str, moment: Moment, time_format: str | None) -> int | None:
    try:
        return parse_moment(text, moment, time_format)
    except ValueError:
        return None


@pytest.mark.parametrize("moment", ["date", "timestamp"])
def test_iso_texts_are_the_same_moment_to_duckdb(database: duckdb.DuckDBPyConnection, moment: Moment) -> None:
    """Files without a format, and all clients, write ISO 8601."""
    texts = iso_texts(random.Random(17), 20_000)
    found = _by_duckdb(database, texts, moment, None)
    assert sum(value is not None for value in found) > 1000
    different = [
        (text, value, _by_python(text, moment, None))
        for text, value in zip(texts, found, strict=True)
        if _by_python(text, moment, None) != value
    ]
    assert not different


def test_texts_of_a_format_are_the_same_moment_to_duckdb(database: duckdb.DuckDBPyConnection) -> None:
    """A format is a language of its own, with blanks, names and letters that take fewer digits."""
    read = 0
    for moment, time_format, texts in time_formats(random.Random(17), 150):
        found = _by_duckdb(database, texts, moment, time_format)
        read += sum(value is not None for value in found)
        different = [
            (text, value, _by_python(text, moment, time_format))
            for text, value in zip(texts, found, strict=True)
            if _by_python(text, moment, time_format) != value
        ]
        assert not different, (moment, time_format)
    assert read > 1000


@pytest.mark.parametrize("moment", ["date", "timestamp"])
def test_what_is_written_is_the_same_moment_to_duckdb(
    database: duckdb.DuckDBPyConnection, moment: Moment
) -> None:
    """Pages and model cards write moments, and what they show can be posted and trained on."""
    draw = random.Random(17)
    reach = 700_000 if moment == "date" else 2**53 - 1
    values = [draw.randint(-reach, reach) for _ in range(5000)]
    texts = [write_moment(value, moment) for value in values]
    assert _by_duckdb(database, texts, moment, None) == values
