"""A DuckDB for one ETL run: bounded memory, spilling beside its output, no network, no extensions."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb

from registry.ground.permissions import explain_refusal
from training.config import EtlSection
from training.errors import TrainingError


@contextlib.contextmanager
def open_database(etl: EtlSection, spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a database in memory that spills to ``spill``, which is removed afterwards.

    Raises:
        TrainingError: inside the block DuckDB ran out of memory or disk.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": etl.memory_limit,
        "temp_directory": str(spill),
        "threads": etl.threads or os.cpu_count() or 1,
        # Row numbers are positions in the source, so order is part of the result.
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        # A table that SQL names is never a variable of ours.
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=settings)
    try:
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise TrainingError(
            f"DuckDB needs more than etl.memory_limit = {etl.memory_limit}: {first_line(error)}",
            where="etl",
            hint="Raise etl.memory_limit, or lower etl.threads (each thread holds buffers of its own).",
        ) from error
    except duckdb.IOException as error:
        hint = "" if explain_refusal(error) else "Is the disk full?"
        raise TrainingError(first_line(error), where="etl", hint=hint) from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def quote(name: str) -> str:
    """A name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | float | bool) -> str:
    """A value as an SQL literal that DuckDB reads back as the same value."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool | int):
        # Beyond HUGEINT no column holds a whole number, so that all that it can be compared with is a DOUBLE.
        if abs(value) < 2**127:
            return str(value)
        value = float(value) if abs(value) <= sys.float_info.max else math.inf * (1 if value > 0 else -1)
    if not math.isfinite(value):
        return f"'{value}'::DOUBLE"
    text = repr(value)
    # With an exponent it is a DOUBLE; without one DuckDB reads a DECIMAL.
    return text if "e" in text else f"{text}e0"


def literals(values: Iterator[str] | tuple[str | float, ...] | list[str]) -> str:
    """Values as a parenthesised SQL list."""
    return f"({', '.join(literal(value) for value in values)})"


def first_line(error: BaseException) -> str:
    """DuckDB's message without its advice, at most 300 characters."""
    return str(error).strip().partition("\n")[0][:300]


def fetch_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[object, ...]:
    """The one row of an aggregate query."""
    row: tuple[object, ...] | None = connection.execute(sql).fetchone()
    assert row is not None
    return row
