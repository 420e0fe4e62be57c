"""Rows that break a rule of model.toml, and lines that the CSV reader rejects.

A row that breaks a rule stays in the data: the run either stops or tolerates it
(``checks.max_violation_fraction``). What nothing can be trained on is never tolerated: a row
without a known class, a text with U+0000 (which stands for NULL in the served graph).

A rejected row is kept with file, lines, column and reason. It weighs as many lines of its file as it
covers: a cell that took in half of the file is half of the file.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from timberline.registry.moments import parse_moment, write_moment
from timberline.registry.rows import quote
from timberline.registry.runs import ROW_COLUMN
from timberline.registry.runtime.progress import Progress
from timberline.training.config import LARGEST_EXACT, MOMENTS, ColumnSection, ModelConfig
from timberline.training.data.cells import show_value, storage_type
from timberline.training.data.database import (
    STATEMENT_COLUMNS,
    Connection,
    fetch_aggregates,
    fetch_row,
    literal,
    literals,
)
from timberline.training.data.hints import NOT_UTF_8, hint_refused_cells
from timberline.training.data.ingest import RAW, stored_columns
from timberline.training.data.lines import locate_records
from timberline.training.data.source_files import SourceFile
from timberline.training.errors import DatasetError

_SHOWN_ROWS = 5
_SHOWN_CHECKS = 3
_SHOWN_LINES = 3
_HINTED_CELLS = 1000
_KEPT_CHARACTERS = 1000
_REASONS = {
    "INVALID ENCODING": NOT_UTF_8,
    "UNQUOTED VALUE": "text follows the closing quote of a cell",
}


class Check(NamedTuple):
    """One rule: ``violates`` is SQL that is true in a row that breaks it, which a share of ``limit`` may."""

    kind: str
    columns: tuple[str, ...]
    rule: str
    violates: str
    limit: float


class BadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that breaks a rule: its number in the source and its values, as text of at most 80 characters."""

    row: int
    values: tuple[str | None, ...]


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows break one rule, the share of them that is tolerated, and the first of them."""

    kind: str
    columns: tuple[str, ...]
    rule: str
    violations: int
    limit: float
    passed: bool
    first_rows: tuple[BadRow, ...] = ()


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every rule and what came of it: ``checks.json``."""

    rows: int
    rejected_lines: int
    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The rules that more rows break than is tolerated."""
        return tuple(check for check in self.checks if not check.passed)


def build_checks(config: ModelConfig, classes: Sequence[str] | None) -> tuple[Check, ...]:
    """The rules of a model, in the order of its columns; ``classes`` None: any class value will do."""
    tolerated = config.checks.max_violation_fraction
    checks = [
        Check(kind, (name,), rule, violates, 0.0 if is_hard else tolerated)
        for name, column in stored_columns(config).items()
        for kind, rule, violates, is_hard in _column_rules(config, name, column)
    ]
    if classes is not None:
        target = config.target.column
        violates = f"CAST({quote(target)} AS VARCHAR) NOT IN {literals(classes)}"
        checks.append(Check("class", (target,), f"one of the {len(classes)} classes", violates, 0.0))
    for group, names in config.checks.one_hot.items():
        total = _sum_sql([f"CAST({quote(name)} AS DOUBLE)" for name in names])
        violates = f"{total} IS DISTINCT FROM 1"
        checks.append(Check("one_hot", tuple(names), f"{group} sums to 1", violates, tolerated))
    return tuple(checks)


def _sum_sql(terms: Sequence[str]) -> str:
    """The sum of ``terms``, halved again and again: as one chain DuckDB refuses it at 1,000 terms."""
    if len(terms) < 2:
        return f"({''.join(terms)})"
    middle = len(terms) // 2
    return f"({_sum_sql(terms[:middle])} + {_sum_sql(terms[middle:])})"


def _column_rules(
    config: ModelConfig, name: str, column: ColumnSection
) -> Iterator[tuple[str, str, str, bool]]:
    value = quote(name)
    is_target = name == config.target.column
    if not column.nullable or is_target:
        yield "not_null", "not NULL", f"{value} IS NULL", is_target
    if column.bounds is not None:
        low, high = column.bounds
        shown = " to ".join(_write(column, end) for end in column.bounds)
        yield "range", shown, f"{value} NOT BETWEEN {literal(low)} AND {literal(high)}", False
    if column.allowed is not None:
        shown = ", ".join(_write(column, item) for item in column.allowed)
        yield "allowed", f"one of {shown[:80]}", f"{value} NOT IN {literals(column.allowed)}", False
    # A narrower column holds a larger value only where a broken range is tolerated.
    may_be_wide = storage_type(column) == "BIGINT" or config.checks.max_violation_fraction > 0
    if column.type == "integer" and name in config.inputs and may_be_wide:
        rule = "at most ±(2^53 - 1), beyond which a feature loses digits; an identifier is a key or a string"
        yield "exact", rule, f"{value} NOT BETWEEN {-LARGEST_EXACT} AND {LARGEST_EXACT}", True
    if column.type == "number":
        yield "finite", "not infinite", f"isinf({value})", False
    if column.type == "string":
        yield "text", "no U+0000", f"contains({value}, chr(0))", True


def _write(column: ColumnSection, value: float | str) -> str:
    """A value of [columns] for people."""
    if column.type in MOMENTS:
        return write_moment(int(value), MOMENTS[column.type])
    return f"{value:g}" if isinstance(value, float) else str(value)


def run_checks(
    connection: Connection,
    config: ModelConfig,
    checks: Sequence[Check],
    rejected: int,
    *,
    statement_columns: int = STATEMENT_COLUMNS,
    progress: Progress | None = None,
) -> CheckReport:
    """Count the violations of every rule over the raw table, and look up the first rows of those broken."""
    total = fetch_row(connection, f"SELECT count(*) FROM {RAW}")[0]
    counts = [[f"count_if({check.violates})"] for check in checks]
    found = fetch_aggregates(connection, counts, RAW, statement_columns=statement_columns, progress=progress)
    results = [
        _measure_check(connection, config, check, violations or 0, total)
        for check, (violations,) in zip(checks, found, strict=True)
    ]
    if config.checks.unique_key:
        results.append(_check_unique(connection, config, config.checks.unique_key, total))
    return CheckReport(rows=total, rejected_lines=rejected, checks=tuple(results))


def _measure_check(
    connection: Connection, config: ModelConfig, check: Check, violations: int, total: int
) -> CheckResult:
    return CheckResult(
        kind=check.kind,
        columns=check.columns,
        rule=check.rule,
        violations=violations,
        limit=check.limit,
        passed=violations <= check.limit * total,
        first_rows=_first_rows(connection, config, check) if violations else (),
    )


def _check_unique(
    connection: Connection, config: ModelConfig, key: tuple[str, ...], total: int
) -> CheckResult:
    names = ", ".join(quote(name) for name in key)
    extra = f"SELECT {names} FROM {RAW} GROUP BY {names} HAVING count(*) > 1"
    distinct = fetch_row(connection, f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM {RAW})")[0]
    # NULL equals NULL here, as it does in GROUP BY.
    same = " AND ".join(f"twice.{quote(name)} IS NOT DISTINCT FROM {RAW}.{quote(name)}" for name in key)
    violates = f"EXISTS (SELECT 1 FROM ({extra}) AS twice WHERE {same})"
    limit = config.checks.max_violation_fraction
    check = Check("unique_key", key, "no key twice", violates, limit)
    return _measure_check(connection, config, check, total - distinct, total)


def _first_rows(connection: Connection, config: ModelConfig, check: Check) -> tuple[BadRow, ...]:
    # Row numbers first: a sort that carries the values of 2,000 columns takes a gigabyte for forty rows.
    first = connection.execute(
        f"SELECT {ROW_COLUMN} FROM {RAW} WHERE {check.violates} ORDER BY {ROW_COLUMN} LIMIT {_SHOWN_ROWS}"
    ).fetchall()
    values = ", ".join(show_value(name, config.columns[name]) for name in check.columns)
    wanted = ", ".join(str(row) for (row,) in first)
    found = connection.execute(
        f"SELECT {ROW_COLUMN}, {values} FROM {RAW} WHERE {ROW_COLUMN} IN ({wanted})"
    ).fetchall()
    return tuple(BadRow(row=row, values=tuple(shown)) for row, *shown in sorted(found))


def require_checks(config: ModelConfig, report: CheckReport, *, kept_in: str) -> None:
    """Stop the run when a rule is broken by more rows than is tolerated.

    Raises:
        DatasetError: names the rules, how many rows break them, and the first rows.
    """
    if not report.failed:
        return
    failures = "; ".join(_describe_failure(check, report.rows) for check in report.failed[:_SHOWN_CHECKS])
    more = len(report.failed) - _SHOWN_CHECKS
    raise DatasetError(
        failures + (f"; and {more} more rules" if more > 0 else ""),
        where=config.model.name,
        hint=f"All rules are in {kept_in}; correct the data or [columns] and [checks].",
    )


def _describe_failure(check: CheckResult, total: int) -> str:
    columns = ", ".join(check.columns[:3]) + (", …" if len(check.columns) > 3 else "")
    rows = "; ".join(f"row {bad.row} ({_show(check, bad)})" for bad in check.first_rows)
    return (
        f"{columns}: rule {check.kind} ({check.rule}) is broken in {check.violations:,} of {total:,} rows "
        f"(at most {check.limit:.2%} may), first {rows}"
    )


def _show(check: CheckResult, bad: BadRow) -> str:
    if check.kind == "one_hot":
        hot = [
            name
            for name, value in zip(check.columns, bad.values, strict=True)
            if value not in {"0", "false", None}
        ]
        return f"set: {', '.join(hot[:4]) or 'none'}"
    return ", ".join("NULL" if value is None else value for value in bad.values)


def print_checks(report: CheckReport, file: IO[str]) -> None:
    """Print a line for each kind of rule that all rows keep, and one for each rule that some break."""
    table = Table("rule", "columns", "allowed", "broken in", "", box=None, pad_edge=False)
    kept = collections.Counter(check.kind for check in report.checks if not check.violations)
    for kind, count in kept.items():
        table.add_row(kind, f"{count} columns or groups", "", "0 rows", "ok")
    for check in report.checks:
        if check.violations:
            columns, rule = ", ".join(check.columns)[:40], check.rule[:30]
            outcome = "ok" if check.passed else "STOP"
            table.add_row(check.kind, columns, rule, f"{check.violations:,} rows", outcome)
    # A column's name is text, and no markup.
    Console(file=file, markup=False, highlight=False, emoji=False).print(table)


def collect_rejects(connection: Connection, config: ModelConfig, sources: Sequence[SourceFile]) -> int:
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
    _locate(connection, config, sources)
    types = " ".join(
        f"WHEN {literal(name)} THEN {literal(section.type)}" for name, section in config.columns.items()
    )
    reasons = " ".join(f"WHEN {literal(kind)} THEN {literal(text)}" for kind, text in _REASONS.items())
    connection.execute(f"""
        INSERT INTO rejects
        SELECT DISTINCT
            coalesce(name, parse_filename(file_path)),
            coalesce(spans.line, reject_errors.line),
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
            coalesce(spans.lines, 1)
        FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
        LEFT JOIN source_files ON source_files.path = file_path
        LEFT JOIN spans ON spans.path = file_path AND position = line_byte_position
        -- DuckDB has one entry a missing column; the first has their number.
        QUALIFY error_type <> 'MISSING COLUMNS' OR column_idx = min(column_idx) OVER (
            PARTITION BY scan_id, file_id, line_byte_position, error_type)
        ORDER BY ALL
    """)
    _explain_moments(connection, config)
    lines = "SELECT file, line, max(lines) AS lines FROM rejects GROUP BY file, line"
    (count,) = fetch_row(connection, f"SELECT coalesce(sum(lines), 0) FROM ({lines})")
    return int(count)


def _explain_moments(connection: Connection, config: ModelConfig) -> None:
    """Say of each text that is no date or timestamp why not."""
    for name, column in stored_columns(config).items():
        if column.type not in MOMENTS:
            continue
        found = connection.execute(
            'SELECT DISTINCT reason FROM rejects WHERE "column" = ? AND starts_with(reason, \'"\')', [name]
        ).fetchall()
        reasons = {old: _moment_reason(old, column) for (old,) in found}
        connection.execute(
            "UPDATE rejects SET reason = new FROM (SELECT unnest(?) AS old, unnest(?) AS new) "
            'WHERE "column" = ? AND reason = old',
            [list(reasons), list(reasons.values()), name],
        )


def _moment_reason(reason: str, column: ColumnSection) -> str:
    text = reason.rpartition('" is not of type ')[0].removeprefix('"')
    try:
        parse_moment(text, MOMENTS[column.type], column.format)
    except ValueError as error:
        return f'"{text}" {error}'
    return reason  # only its first characters, which by themselves would do


def _locate(connection: Connection, config: ModelConfig, sources: Iterable[SourceFile]) -> None:
    """Create tables of the files' names, and of the lines of rejected rows where a row has several.

    DuckDB counts rows and blank lines, which is the same where no row covers two lines.
    """
    connection.execute("CREATE TEMP TABLE source_files (path VARCHAR, name VARCHAR)")
    connection.execute("CREATE TEMP TABLE spans (path VARCHAR, position BIGINT, line BIGINT, lines BIGINT)")
    for source in sources:
        path = str(source.path)
        connection.execute("INSERT INTO source_files VALUES (?, ?)", [path, source.name])
        if not source.is_multiline:
            continue
        found = connection.execute(
            "SELECT DISTINCT line_byte_position "
            "FROM reject_errors JOIN reject_scans USING (scan_id, file_id) WHERE file_path = ? ORDER BY ALL",
            [path],
        ).fetchall()
        positions = [position for (position,) in found]
        # DuckDB's positions count from 1.
        spans = locate_records(source.path, config.etl.delimiter, [position - 1 for position in positions])
        connection.execute(
            "INSERT INTO spans SELECT ?, unnest(?), unnest(?), unnest(?)",
            [path, positions, [span.line for span in spans], [span.lines for span in spans]],
        )


def write_rejects(connection: Connection, path: Path) -> None:
    """Write table ``rejects`` as Parquet, in the order of file and line."""
    connection.execute(
        f"COPY (FROM rejects ORDER BY ALL) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
    )


def require_few_rejects(
    connection: Connection, config: ModelConfig, *, rejected: int, rows: int, kept_in: Path
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
    cells = connection.execute(
        f"SELECT DISTINCT coalesce(\"column\", ''), reason FROM rejects ORDER BY ALL LIMIT {_HINTED_CELLS}"
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
        hint=f"{hint_refused_cells(config, cells)}All of them are in {kept_in}." if rejected else "",
    )
