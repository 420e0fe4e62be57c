"""The rules of model.toml, counted over every raw row in one pass, and told as a table.

A row that breaks a rule stays in the data: the run either stops or tolerates it
(``checks.max_violation_fraction``). What nothing can be trained on is never tolerated: a row
without a known class, a text with U+0000 (which stands for NULL in the served graph).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import msgspec

from timberline.registry.runs import ROW_COLUMN
from timberline.registry.runtime.stages import Progress
from timberline.training.config import LARGEST_EXACT, ColumnSection, ModelConfig
from timberline.training.data.database import (
    SLICE_COLUMNS,
    fetch_aggregates,
    fetch_row,
    literal,
    literals,
    quote,
)
from timberline.training.data.ingest import RAW, storage_type, stored_columns
from timberline.training.errors import DatasetError

_SHOWN_ROWS = 5
_SHOWN_CHECKS = 3


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: ``violates`` is SQL that is true in a row that breaks it."""

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
        Check(kind=kind, columns=(name,), rule=rule, violates=sql, limit=0.0 if is_hard else tolerated)
        for name, column in stored_columns(config).items()
        for kind, rule, sql, is_hard in _column_rules(config, name, column)
    ]
    target = quote(config.target.column)
    if classes is not None:
        checks.append(
            Check(
                kind="class",
                columns=(config.target.column,),
                rule=f"one of the {len(classes)} classes",
                violates=f"CAST({target} AS VARCHAR) NOT IN {literals(list(classes))}",
                limit=0.0,
            )
        )
    for group, names in config.checks.one_hot.items():
        total = _sum_sql([f"CAST({quote(name)} AS DOUBLE)" for name in names])
        checks.append(
            Check(
                kind="one_hot",
                columns=tuple(names),
                rule=f"{group} sums to 1",
                violates=f"{total} IS DISTINCT FROM 1",
                limit=tolerated,
            )
        )
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
    if column.range is not None:
        low, high = column.range
        shown = " to ".join(str(end) if isinstance(end, int) else f"{end:g}" for end in column.range)
        yield "range", shown, f"{value} NOT BETWEEN {literal(low)} AND {literal(high)}", False
    if column.allowed is not None:
        shown = ", ".join(str(item) for item in column.allowed)
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


def run_checks(
    connection: duckdb.DuckDBPyConnection,
    config: ModelConfig,
    checks: Sequence[Check],
    rejected: int,
    *,
    slice_columns: int = SLICE_COLUMNS,
    progress: Progress | None = None,
) -> CheckReport:
    """Count the violations of every rule over the raw table, and look up the first rows of those broken."""
    total = int(str(fetch_row(connection, f"SELECT count(*) FROM {RAW}")[0]))
    counts = [[f"count_if({check.violates})"] for check in checks]
    found = fetch_aggregates(connection, counts, RAW, slice_columns=slice_columns, progress=progress)
    results = [
        _judge(connection, check, int(str(violations or 0)), total)
        for check, (violations,) in zip(checks, found, strict=True)
    ]
    if config.checks.unique_key:
        results.append(_check_unique(connection, config, config.checks.unique_key, total))
    return CheckReport(rows=total, rejected_lines=rejected, checks=tuple(results))


def _judge(connection: duckdb.DuckDBPyConnection, check: Check, violations: int, total: int) -> CheckResult:
    return CheckResult(
        kind=check.kind,
        columns=check.columns,
        rule=check.rule,
        violations=violations,
        limit=check.limit,
        passed=violations <= check.limit * total,
        first_rows=_first_rows(connection, check.columns, check.violates) if violations else (),
    )


def _check_unique(
    connection: duckdb.DuckDBPyConnection, config: ModelConfig, key: tuple[str, ...], total: int
) -> CheckResult:
    names = ", ".join(quote(name) for name in key)
    extra = f"SELECT {names} FROM {RAW} GROUP BY {names} HAVING count(*) > 1"
    distinct = fetch_row(connection, f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM {RAW})")[0]
    check = Check(
        kind="unique_key",
        columns=key,
        rule="no key twice",
        # Rows compare by position, so that NULL equals NULL here as it does in GROUP BY.
        violates=f"EXISTS (SELECT 1 FROM ({extra}) AS twice WHERE {_same_key(key)})",
        limit=config.checks.max_violation_fraction,
    )
    return _judge(connection, check, total - int(str(distinct)), total)


def _same_key(key: tuple[str, ...]) -> str:
    return " AND ".join(f"twice.{quote(name)} IS NOT DISTINCT FROM {RAW}.{quote(name)}" for name in key)


def _first_rows(
    connection: duckdb.DuckDBPyConnection, columns: tuple[str, ...], violates: str
) -> tuple[BadRow, ...]:
    # Row numbers first: a sort that carries the values of 2,000 columns takes a gigabyte for forty rows.
    first = connection.execute(
        f"SELECT {ROW_COLUMN} FROM {RAW} WHERE {violates} ORDER BY {ROW_COLUMN} LIMIT {_SHOWN_ROWS}"
    ).fetchall()
    values = ", ".join(f"left(CAST({quote(name)} AS VARCHAR), 80)" for name in columns)
    wanted = ", ".join(str(row) for (row,) in first)
    found = connection.execute(
        f"SELECT {ROW_COLUMN}, {values} FROM {RAW} WHERE {ROW_COLUMN} IN ({wanted})"
    ).fetchall()
    return tuple(BadRow(row=row, values=tuple(shown)) for row, *shown in sorted(found))


def judge_checks(config: ModelConfig, report: CheckReport, *, kept_in: str) -> None:
    """Stop the run when a rule is broken by more rows than is tolerated.

    Raises:
        DatasetError: names the rules, how many rows break them, and the first rows.
    """
    if not report.failed:
        return
    told = "; ".join(_tell(check, report.rows) for check in report.failed[:_SHOWN_CHECKS])
    more = len(report.failed) - _SHOWN_CHECKS
    raise DatasetError(
        told + (f"; and {more} more rules" if more > 0 else ""),
        where=config.model.name,
        hint=f"All rules are in {kept_in}; correct the data or [columns] and [checks].",
    )


def _tell(check: CheckResult, total: int) -> str:
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


def format_checks(report: CheckReport) -> str:
    """The table for people: one line a kind of rule that all rows keep, one a rule that some break."""
    lines = [("rule", "columns", "allowed", "broken in", "")]
    kept: dict[str, int] = {}
    for check in report.checks:
        if not check.violations:
            kept[check.kind] = kept.get(check.kind, 0) + 1
    lines += [(kind, f"{count} columns or groups", "", "0 rows", "ok") for kind, count in kept.items()]
    lines += [
        (
            c.kind,
            ", ".join(c.columns)[:40],
            c.rule[:30],
            f"{c.violations:,} rows",
            "ok" if c.passed else "STOP",
        )
        for c in report.checks
        if c.violations
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
