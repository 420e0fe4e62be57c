"""A DuckDB for one ETL run: bounded memory, spilling beside its output, no network, no extensions."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from timberline.registry.runtime.cpus import count_cpus, find_memory_bytes
from timberline.registry.runtime.files import explain_refusal
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.training.config import EtlSection
from timberline.training.errors import TrainingError

Connection = duckdb.DuckDBPyConnection

_logger = logging.getLogger("training.data.etl")

_UNITS = {
    "b": 1,
    "bytes": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
# What the process needs beside the memory that DuckDB counts: seen up to 195 MB with 500 columns, 400 MB with
# 2,000.
_OWN_BYTES = 200_000_000
_OWN_COLUMN_BYTES = 100_000

# Their time grows with the square of the expressions in a projection: at 4,000 features that use a part twice
# they take 27 s of 32. At 256 it is a tenth of a second, and what they save on half a million rows is more.
_SQUARE_OPTIMIZERS = "common_subexpressions,projection_placement"
_WIDE_COLUMNS = 256

# The least with which tables were prepared: each thread holds for each column a block of 256 KiB that it
# reads and one that it fills; the sort and a row group of 65,536 rows take the rest. 250 columns of 300,000
# rows went through with 450 MB and not with 350.
_BASE_BYTES = 50_000_000
_COLUMN_BYTES = 800_000
_THREAD_COLUMN_BYTES = 600_000

# Columns whose aggregates one statement asks for. The planner's time grows with the square of the expressions
# in a statement; each statement costs some time for every column of the table. Of 16 to 256, 64 took least.
STATEMENT_COLUMNS = 64


@contextlib.contextmanager
def open_database(
    etl: EtlSection, spill: Path, *, columns: int = 1, root: Path = Path("/")
) -> Iterator[Connection]:
    """Yield a database in memory that spills to ``spill``, which is removed afterwards.

    Args:
        columns: how wide the table is; decides how DuckDB plans, and how much memory an error advises.
        root: where the limits of the container are looked for.

    Raises:
        TrainingError: inside the block DuckDB ran out of memory or disk.
    """
    threads = etl.threads or count_cpus(root)
    asked = parse_bytes(etl.memory_limit)
    limit = _fit_container(asked, find_memory_bytes(root), columns)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{limit}B",
        "temp_directory": str(spill),
        "threads": threads,
        "disabled_optimizers": _SQUARE_OPTIMIZERS if columns > _WIDE_COLUMNS else "",
        # Row numbers are positions in the source, so order is part of the result.
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        # A table that SQL names is never a variable of ours.
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=settings)
    # A time without an offset is UTC, wherever the machine is.
    connection.execute("SET TimeZone = 'UTC'")
    # `query_progress` answers only then; `Progress` shows it.
    connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    try:
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise TrainingError(
            f"DuckDB needs more than etl.memory_limit = {etl.memory_limit}"
            f"{f', which the container lowers to {_format_bytes(limit)}' if limit < asked else ''}: "
            f"{first_line(error)}",
            where="etl",
            hint=_advise(limit, threads, columns, is_contained=limit < asked),
        ) from error
    except duckdb.IOException as error:
        hint = "" if explain_refusal(error) else "Is the disk full?"
        raise TrainingError(first_line(error), where="etl", hint=hint) from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def _fit_container(limit: int, container: int | None, columns: int) -> int:
    """``limit``, or less where the container would kill the process at it."""
    if container is None:
        return limit
    fitting = max(container - _own_bytes(columns), container // 2)
    if fitting < limit:
        log_event(
            _logger,
            "etl.memory_limit is lowered to what the container leaves",
            memory_limit_mb=fitting // 10**6,
            asked_mb=limit // 10**6,
            container_mb=container // 10**6,
        )
    return min(limit, fitting)


def _own_bytes(columns: int) -> int:
    return _OWN_BYTES + columns * _OWN_COLUMN_BYTES


def _advise(limit: int, threads: int, columns: int, *, is_contained: bool) -> str:
    """What would do: the estimate, or twice what was there if that did not do."""
    enough = max(_estimate_bytes(threads, columns), 2 * limit)
    advice = f"Raise etl.memory_limit to about {_format_bytes(enough)}"
    if is_contained:
        advice += f" and the container's memory to {_format_bytes(enough + _own_bytes(columns))}"
    advice += f" ({columns:,} columns, threads = {threads})"
    if threads > 1:
        alone = max(_estimate_bytes(1, columns), limit)
        advice += f", or set etl.threads = 1, which needs about {_format_bytes(alone)}"
    return f"{advice}."


def _estimate_bytes(threads: int, columns: int) -> int:
    return _BASE_BYTES + columns * (_COLUMN_BYTES + threads * _THREAD_COLUMN_BYTES)


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f}GB" if count >= 1e9 else f"{math.ceil(count / 1e6)}MB"


def parse_bytes(text: str) -> int:
    """A size as model.toml and DuckDB write it ("1GB", "953.6 MiB") in bytes, rounded down."""
    match = re.fullmatch(r"([\d.]+) ?([A-Za-z]+)", text)
    assert match is not None, text
    return int(float(match[1]) * _UNITS[match[2].lower()])


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


def literals(values: Iterable[str | float]) -> str:
    """Values as a parenthesised SQL list."""
    return f"({', '.join(literal(value) for value in values)})"


def first_line(error: BaseException) -> str:
    """DuckDB's message without its advice, at most 300 characters."""
    return str(error).strip().partition("\n")[0][:300]


def fetch_row(connection: Connection, sql: str) -> tuple[Any, ...]:
    """The one row of an aggregate query."""
    row: tuple[Any, ...] | None = connection.execute(sql).fetchone()
    assert row is not None
    return row


def fetch_aggregates(
    connection: Connection,
    wanted: Sequence[Sequence[str]],
    relation: str,
    *,
    statement_columns: int = STATEMENT_COLUMNS,
    progress: Progress | None = None,
) -> list[tuple[Any, ...]]:
    """The values of ``wanted``, the aggregates of one column each, over ``relation``.

    At most ``statement_columns`` columns go into one statement, so that the work grows with their number and
    not with its square; the values do not depend on it. A column is a part of the step that ``progress``
    shows.
    """
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(wanted), statement_columns):
        columns = wanted[start : start + statement_columns]
        if progress is not None:
            progress.begin_part(len(columns))
        aggregates = ", ".join(itertools.chain.from_iterable(columns))
        values = iter(fetch_row(connection, f"SELECT {aggregates} FROM {relation}"))
        found += [tuple(itertools.islice(values, len(own))) for own in columns]
    return found
