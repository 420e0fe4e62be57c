"""Lines that are not rows of the declared table: kept with file, line, column and reason."""

from __future__ import annotations

from pathlib import Path

import duckdb

from training.config import ModelConfig
from training.database import fetch_row, literal
from training.errors import DatasetError

_SHOWN_LINES = 3
_KEPT_CHARACTERS = 1000


def collect_rejects(connection: duckdb.DuckDBPyConnection, config: ModelConfig) -> int:
    """Gather what the CSV reader refused into table ``rejects`` and return the number of lines.

    A line may have several entries, one for each bad column. ``line`` is 1-based in the file, the
    header being line 1; ``column`` is NULL where the whole line is at fault; ``text`` is the line's
    first 1,000 characters.
    """
    connection.execute(
        'CREATE TABLE rejects (file VARCHAR, line BIGINT, "column" VARCHAR, reason VARCHAR, text VARCHAR)'
    )
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall():
        return 0
    types = " ".join(
        f"WHEN {literal(name)} THEN {literal(section.type)}" for name, section in config.columns.items()
    )
    connection.execute(f"""
        INSERT INTO rejects
        SELECT DISTINCT
            parse_filename(file_path),
            line,
            CASE WHEN error_type = 'TOO MANY COLUMNS' THEN NULL ELSE column_name END,
            CASE WHEN error_type = 'CAST' THEN
                '"' || left(regexp_extract(error_message, 'Could not convert string "(.*)" to ', 1, 's'), 80)
                || '" is not of type ' || CASE column_name {types} END
            ELSE regexp_extract(error_message, '^[^\\n]*') END,
            left(csv_line, {_KEPT_CHARACTERS})
        FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
        ORDER BY ALL
    """)
    return int(
        str(fetch_row(connection, "SELECT count(*) FROM (SELECT DISTINCT file, line FROM rejects)")[0])
    )


def write_rejects(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Write table ``rejects`` as Parquet, in the order of file and line."""
    connection.execute(
        f"COPY (FROM rejects ORDER BY ALL) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
    )


def judge_rejects(
    connection: duckdb.DuckDBPyConnection, config: ModelConfig, *, rejected: int, rows: int, kept_in: Path
) -> None:
    """Stop the run when too many lines were refused.

    Raises:
        DatasetError: more than ``etl.max_reject_fraction`` of the lines, or every one of them.
    """
    limit = config.etl.max_reject_fraction
    if rejected <= limit * (rejected + rows) and rows:
        return
    found = connection.execute(
        f'SELECT file, line, "column", reason FROM rejects ORDER BY ALL LIMIT {_SHOWN_LINES}'
    ).fetchall()
    shown = "; ".join(
        f"{file} line {line}{f', column {column!r}' if column else ''}: {reason}"
        for file, line, column, reason in found
    )
    raise DatasetError(
        f"{rejected:,} of {rejected + rows:,} lines are refused (at most {limit:.2%} may be): {shown}"
        if rejected
        else "the source has no row",
        where=config.model.name,
        hint=f"All of them are in {kept_in}." if rejected else "",
    )
