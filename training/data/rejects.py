"""Rows that are not rows of the declared table: kept with file, lines, column and reason.

A row weighs as many lines of its file as it covers, so that a cell which took in half of the file
is half of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb

from timberline.training.config import ModelConfig
from timberline.training.data.database import fetch_row, literal
from timberline.training.data.forms import ENCODING_HINT, Form
from timberline.training.errors import DatasetError

_SHOWN_LINES = 3
_KEPT_CHARACTERS = 1000
_REASONS = {
    "INVALID ENCODING": "is not UTF-8 text",
    "UNQUOTED VALUE": "text follows the closing quote of a cell",
}


def collect_rejects(connection: duckdb.DuckDBPyConnection, config: ModelConfig, forms: Sequence[Form]) -> int:
    """Gather what the CSV reader refused into table ``rejects`` and return how many lines that is.

    A row may have several entries, one for each bad column. ``line`` is the row's first line,
    1-based in the file, the header being line 1; ``lines`` is how many it covers; ``column`` is NULL
    where the whole row is at fault, and the first one that a short row lacks; ``text`` is the row's
    first 1,000 characters.
    """
    connection.execute(
        'CREATE TABLE rejects (file VARCHAR, line BIGINT, "column" VARCHAR, reason VARCHAR, text VARCHAR, '
        "lines BIGINT)"
    )
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall():
        return 0
    _locate(connection, config, forms)
    types = " ".join(
        f"WHEN {literal(name)} THEN {literal(section.type)}" for name, section in config.columns.items()
    )
    reasons = " ".join(f"WHEN {literal(kind)} THEN {literal(text)}" for kind, text in _REASONS.items())
    connection.execute(f"""
        INSERT INTO rejects
        SELECT DISTINCT
            coalesce(name, parse_filename(file_path)),
            coalesce(places.line, reject_errors.line),
            CASE WHEN error_type IN ('CAST', 'INVALID ENCODING', 'MISSING COLUMNS') THEN column_name END,
            CASE
                WHEN error_type = 'CAST' THEN
                    '"' || left(regexp_extract(error_message, 'convert string "(.*)" to ', 1, 's'), 80)
                    || '" is not of type ' || CASE column_name {types} END
                WHEN error_type IN ('TOO MANY COLUMNS', 'MISSING COLUMNS') THEN regexp_replace(
                    error_message, '(?s)^Expected Number of Columns: (\\d+) Found: (\\d+).*',
                    'has \\2 columns, expected \\1')
                ELSE CASE error_type {reasons} ELSE regexp_extract(error_message, '^[^\\n]*') END
            END,
            left(ltrim(csv_line, chr(10) || chr(13)), {_KEPT_CHARACTERS}),
            coalesce(places.lines, 1)
        FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
        LEFT JOIN source_files ON source_files.path = file_path
        LEFT JOIN places ON places.path = file_path AND position = line_byte_position
        -- DuckDB has one entry a missing column; the first says how many there are.
        QUALIFY error_type <> 'MISSING COLUMNS' OR column_idx = min(column_idx) OVER (
            PARTITION BY scan_id, file_id, line_byte_position, error_type)
        ORDER BY ALL
    """)
    lines = "SELECT file, line, max(lines) AS lines FROM rejects GROUP BY file, line"
    return int(str(fetch_row(connection, f"SELECT coalesce(sum(lines), 0) FROM ({lines})")[0]))


def _locate(connection: duckdb.DuckDBPyConnection, config: ModelConfig, forms: Iterable[Form]) -> None:
    """Leave what the files are called, and the lines of their rejected rows where a row has several.

    DuckDB counts rows and blank lines, which is the same where no row covers two lines.
    """
    connection.execute("CREATE TEMP TABLE source_files (path VARCHAR, name VARCHAR)")
    connection.execute("CREATE TEMP TABLE places (path VARCHAR, position BIGINT, line BIGINT, lines BIGINT)")
    for form in forms:
        path = str(form.path)
        connection.execute("INSERT INTO source_files VALUES (?, ?)", [path, form.name])
        if not form.is_multiline:
            continue
        found = connection.execute(
            "SELECT DISTINCT line_byte_position "
            "FROM reject_errors JOIN reject_scans USING (scan_id, file_id) WHERE file_path = ? ORDER BY ALL",
            [path],
        ).fetchall()
        positions = [position for (position,) in found]
        # DuckDB's positions count from 1.
        places = form.locate(config.etl.delimiter, [position - 1 for position in positions])
        connection.execute(
            "INSERT INTO places SELECT ?, unnest(?), unnest(?), unnest(?)",
            [path, positions, [place.line for place in places], [place.lines for place in places]],
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
        f'SELECT file, line, lines, "column", reason FROM rejects ORDER BY ALL LIMIT {_SHOWN_LINES}'
    ).fetchall()
    shown = "; ".join(
        f"{file} line {line}{f' to {line + lines - 1}' if lines > 1 else ''}"
        f"{f', column {column!r}' if column else ''}: {reason}"
        for file, line, lines, column, reason in found
    )
    raise DatasetError(
        f"{rejected:,} of {rejected + rows:,} lines are refused (at most {limit:.2%} may be): {shown}"
        if rejected
        else "the source has no row",
        where=config.model.name,
        hint=f"{_setting_hint(connection, config)}All of them are in {kept_in}." if rejected else "",
    )


def _setting_hint(connection: duckdb.DuckDBPyConnection, config: ModelConfig) -> str:
    """The setting that would have read some of the refused lines, if there is one."""
    other = {".": ",", ",": "."}[config.etl.decimal]
    number = rf'^"[+-]?\d*[{other}]\d+([eE][+-]?\d+)?" is not of type (number|integer)$'
    encodings, decimals = fetch_row(
        connection,
        f"SELECT count_if(reason = {literal(_REASONS['INVALID ENCODING'])}), "
        f"count_if(regexp_matches(reason, {literal(number)})) FROM rejects",
    )
    if encodings:
        return f"{ENCODING_HINT} "
    return f'Numbers are written with "{other}": set [etl] decimal = "{other}". ' if decimals else ""
