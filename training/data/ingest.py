"""Source files → table ``raw``: typed by the declared columns, in the order of the source.

Columns are matched by their name in each file's header, or by their place without one. Things that DuckDB
would do silently are refused or made explicit: 1.5 in an ``integer`` column is an error (its cast rounds),
1,2,3 with a thousands separator is no number, a date with a time of day is no date, and NaN in a ``number``
column is NULL (the served graph does not distinguish the two either).

What DuckDB's reader cannot convert it rejects with line and column. Cells that it has no type for are read as
text and converted here: if one cannot be, the files are read again with that column as an ENUM of the
texts that can, and the reader rejects the others as it rejects any.

No name of a user's column can take the place of one of ours. The rows lie in a table whose columns
are called c0, c1, …, so that its ``rowid`` is always DuckDB's; ``raw`` is a view of it under the
declared names, of which `training.config` lets none look like ``__row__`` or differ from another by
case alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb

from timberline.registry.moments import parse_moment
from timberline.registry.rows import quote
from timberline.registry.runs import ROW_COLUMN
from timberline.training.config import MOMENTS, ColumnSection, HashSplit, ModelConfig
from timberline.training.data.cells import (
    grouped_number,
    is_converted,
    moment_of_text,
    moment_of_value,
    number_type,
    storage_type,
)
from timberline.training.data.database import Connection, fetch_aggregates, first_line, literal, literals
from timberline.training.data.hints import hint_format, hint_missing_column, hint_undeclared_column
from timberline.training.data.source_files import SourceFile
from timberline.training.data.splits import key_hash
from timberline.training.errors import DatasetError

RAW = "raw"
KEY_COLUMN = "__key__"
_STORED = "stored"  # the table behind the view `raw`

_NOT_WHOLE = "timberline: not a whole number"
_NOT_READABLE = "timberline: a text that is no value of its column"
# The ENUM of the words of boolean columns.
_WORDS = "words"
# Columns that one statement looks through for a value that is not whole, each reading the files anew.
_STATEMENT_COLUMNS = 512
_PARQUET_TYPES = {
    "integer": ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    "boolean": ("BOOLEAN",),
    "string": ("VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "UUID", "ENUM"),
}
_PARQUET_TYPES["number"] = ("FLOAT", "DOUBLE", "DECIMAL", *_PARQUET_TYPES["integer"])
_PARQUET_TYPES["date"] = _PARQUET_TYPES["timestamp"] = (
    *("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    "VARCHAR",
)


@dataclass(frozen=True)
class _Group:
    """Neighbouring files that one call reads: same kind and lines, same columns in the same order.

    ``header``: the names as they stand in the files; ``names``: those under which DuckDB reads the
    columns. They differ where it would take one for another, or would have none. ``types``: those of Parquet.
    """

    sources: tuple[SourceFile, ...]
    header: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]

    @property
    def is_parquet(self) -> bool:
        return self.sources[0].is_parquet

    @property
    def shown(self) -> str:
        """The names of the files, for people."""
        return ", ".join(source.name for source in self.sources)[:200]

    def quote(self, name: str) -> str:
        """The column ``name`` of the files as an SQL identifier."""
        return quote(self._own[name])

    def is_text(self, name: str) -> bool:
        """Whether the column ``name`` is text in the files, or is read as such."""
        return not self.is_parquet or self.types[self.header.index(name)] == "VARCHAR"

    @functools.cached_property
    def _own(self) -> dict[str, str]:
        return dict(zip(self.header, self.names, strict=True))


@dataclass(frozen=True)
class _Plan:
    """How the files are read: so that it takes least, unless what is in them needs more.

    ``is_narrow``: whole numbers are stored in the smallest type. ``readable``: the ENUM of all texts of a
    column that can be converted, where some cannot; by the column's name. ``is_text``: nothing is converted.
    """

    is_narrow: bool = True
    readable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    is_text: bool = False


_WIDE, _TEXT = _Plan(is_narrow=False), _Plan(is_text=True)


def stored_columns(config: ModelConfig) -> dict[str, ColumnSection]:
    """The declared columns that are kept, in declared order: all but the ignored ones."""
    return {name: column for name, column in config.columns.items() if column.role != "ignored"}


def read_source(connection: Connection, config: ModelConfig, sources: Sequence[SourceFile]) -> None:
    """Create ``raw`` from these files: ``__row__``, its 0-based number in the source, and the stored columns.

    For a hash split it has ``__key__`` (`key_hash`) too. Rejected lines have no row number; DuckDB
    leaves them in ``reject_errors`` and ``reject_scans``.
    Whole numbers are stored in the smallest type that holds the declared range, and as BIGINT
    throughout when a value lies outside it (which the checks then report). Dates and timestamps are BIGINT.

    Raises:
        DatasetError: a column is missing, not declared or of another type, an ``integer`` is not
            whole or beyond 64 bits, a date in a Parquet file is none, or a file is not CSV at all.
    """
    groups = _group_files(connection, config, sources)
    names = [*stored_columns(config), *([KEY_COLUMN] if isinstance(config.split, HashSplit) else [])]
    stored = {name: f"c{position}" for position, name in enumerate(names)}
    if config.etl.true_text:
        words = ", ".join(map(literal, (*config.etl.true_text, *config.etl.false_text)))
        _create_enum(connection, _WORDS, f"SELECT unnest([{words}])")
    plan: _Plan | None = _Plan()
    while plan is not None:
        plan = _store(connection, config, groups, ", ".join(stored.values()), plan)
    renamed = ", ".join(f"{column} AS {quote(name)}" for name, column in stored.items())
    connection.execute(f"CREATE VIEW {RAW} AS SELECT rowid AS {ROW_COLUMN}, {renamed} FROM {_STORED}")


def _store(
    connection: Connection, config: ModelConfig, groups: list[_Group], columns: str, plan: _Plan
) -> _Plan | None:
    """Read the files into a table of ``columns``, or return a plan that is for what is in them, too."""
    connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
    selects = " UNION ALL ".join(_select(config, group, plan) for group in groups)
    try:
        connection.execute(f"CREATE TABLE {_STORED} ({columns}) AS {selects}")
    except (duckdb.OutOfMemoryException, duckdb.IOException):
        raise
    except duckdb.Error as error:  # damaged Parquet has many names
        if _NOT_READABLE in str(error) and not plan.readable:
            if readable := _list_readable(connection, config, groups):
                return dataclasses.replace(plan, readable=readable)
        elif isinstance(error, duckdb.ConversionException) and plan.is_narrow:
            return dataclasses.replace(plan, is_narrow=False)
        raise _explain_failure(connection, config, groups, error) from error
    return None


def drop_source(connection: Connection) -> None:
    """Remove ``raw`` and give its memory back."""
    connection.execute(f"DROP VIEW {RAW}; DROP TABLE {_STORED}")


def _group_files(connection: Connection, config: ModelConfig, sources: Sequence[SourceFile]) -> list[_Group]:
    described = [(source, _describe(connection, config, source)) for source in sources]
    alike = itertools.groupby(
        described, key=lambda item: (item[1], dataclasses.replace(item[0], path=Path(), name=""))
    )
    return [_Group(tuple(source for source, _ in same), *columns) for (columns, _), same in alike]


def _describe(
    connection: Connection, config: ModelConfig, source: SourceFile
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The columns' names as they stand in the file, those under which DuckDB reads them, and their types."""
    if not source.is_parquet:
        _match_columns(config, source, source.header)
        return source.header, _tell_apart(config, source.header), ()
    try:
        found = connection.execute(
            f"DESCRIBE SELECT * FROM read_parquet({_path(source)}, hive_partitioning=false)"
        ).fetchall()
        header = _read_parquet_names(connection, source)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", where=source.name) from error
    _match_columns(config, source, header)
    types = tuple(type_ for _, type_, *_ in found)
    _match_types(config, source, dict(zip(header, types, strict=True)))
    return header, tuple(name for name, *_ in found), types


def _read_parquet_names(connection: Connection, source: SourceFile) -> tuple[str, ...]:
    """The columns' names as they stand in the file: of two that differ by case, DuckDB renames one."""
    found = connection.execute(
        f"SELECT name, coalesce(num_children, 0) FROM parquet_schema({_path(source)})"
    ).fetchall()
    names: list[str] = []
    inside = 0  # the parts of a nested column follow it; each counts its parts
    for name, children in found[1:]:
        if inside:
            inside -= 1
        else:
            names.append(name)
        inside += children
    return tuple(names)


def _tell_apart(config: ModelConfig, header: Sequence[str]) -> tuple[str, ...]:
    """The header with another name for each ignored column that has none, or to DuckDB that of another."""
    kept = stored_columns(config)
    taken = {"", *(name.casefold() for name in kept)}
    names = []
    for position, name in enumerate(header, 1):
        own = name
        while name not in kept and own.casefold() in taken:
            own = f"{own} (column {position})".lstrip()
        taken.add(own.casefold())
        names.append(own)
    return tuple(names)


def _match_columns(config: ModelConfig, source: SourceFile, header: tuple[str, ...]) -> None:
    for name in config.columns:
        if name not in header:
            raise DatasetError(
                f"has no column {name!r}; it has {', '.join(map(repr, header))[:300]}",
                where=source.name,
                hint=hint_missing_column(config, source, name),
            )
    for position, name in enumerate(header, 1):
        if name not in config.columns:
            raise DatasetError(
                f"has a column {name!r} that [columns] does not declare"
                if name
                else f"has a column without a name, number {position}, that [columns] does not declare",
                where=source.name,
                hint=hint_undeclared_column(config, source, name),
            )
    twice = sorted({name for name in header if header.count(name) > 1 and name in stored_columns(config)})
    if twice:
        raise DatasetError(f"has two columns {twice[0]!r}", where=source.name, hint="Rename one of them.")


def _match_types(config: ModelConfig, source: SourceFile, types: dict[str, str]) -> None:
    for name, column in stored_columns(config).items():
        if types[name].partition("(")[0] not in _PARQUET_TYPES[column.type]:
            raise DatasetError(
                f"column {name!r} is {types[name]}, but is declared {column.type}",
                where=source.name,
                hint="Declare the type that the file has.",
            )


def _csv_options(config: ModelConfig, source: SourceFile) -> str:
    """How the files of one group are written, in full: DuckDB must guess nothing."""
    return (
        f"auto_detect=false, compression='none', header={str(config.etl.header).lower()}, "
        f"skip={source.skip}, delim={literal(config.etl.delimiter)}, "
        f"quote='\"', escape='\"', new_line={literal(source.new_line.encode('unicode_escape').decode())}, "
        # A reader that begins in the middle of a cell takes a line end in it for the end of a row.
        f"parallel={str(not source.is_multiline).lower()}, decimal_separator={literal(config.etl.decimal)}, "
        f"nullstr=[{', '.join(map(literal, config.etl.null_text))}]"
    )


def _path(source: SourceFile) -> str:
    """The file as an SQL literal; DuckDB would take `[1]`, `*` and `?` in a name for a pattern."""
    return literal(re.sub(r"[*?\[]", r"[\g<0>]", str(source.path)))


def _source_sql(config: ModelConfig, group: _Group, plan: _Plan, *, keeps_rejects: bool = True) -> str:
    paths = f"[{', '.join(map(_path, group.sources))}]"
    # A folder called a=7 would otherwise put 7 in the place of every value of column a.
    if group.is_parquet:
        return f"read_parquet({paths}, hive_partitioning=false)"
    types = ", ".join(
        f"{literal(own)}: '{_read_type(config, name, plan)}'"
        for name, own in zip(group.header, group.names, strict=True)
    )
    rejects = "store_rejects=true" if keeps_rejects else "ignore_errors=true"
    return (
        f"read_csv({paths}, {_csv_options(config, group.sources[0])}, columns={{{types}}}, "
        f"hive_partitioning=false, {rejects})"
    )


def _read_type(config: ModelConfig, name: str, plan: _Plan) -> str:
    column = config.columns[name]
    if name in plan.readable:
        return plan.readable[name]
    if (
        plan.is_text
        or column.role == "ignored"
        or column.type == "string"
        or is_converted(column, config.etl)
    ):
        return "VARCHAR"
    if column.type == "boolean":
        return _WORDS if config.etl.true_text else "BOOLEAN"
    return number_type(column, is_narrow=plan.is_narrow)


def _select(config: ModelConfig, group: _Group, plan: _Plan) -> str:
    items = ", ".join(
        f"{_convert(config, name, group, plan)} AS {quote(name)}" for name in stored_columns(config)
    )
    inner = f"SELECT {items} FROM {_source_sql(config, group, plan)}"
    if isinstance(config.split, HashSplit):
        return f"SELECT *, {key_hash(config.split)} AS {KEY_COLUMN} FROM ({inner})"
    return inner


def _convert(config: ModelConfig, name: str, group: _Group, plan: _Plan) -> str:
    """The value of a column as it is stored."""
    column, cell = config.columns[name], group.quote(name)
    value = _value(config, name, group, plan)
    if is_converted(column, config.etl) and (column.type in MOMENTS or not group.is_parquet):
        kind = "BIGINT" if column.type in MOMENTS else number_type(column, is_narrow=plan.is_narrow)
        # error() stops the statement: it must not pass, and testing here costs no second reading.
        refusal = f"CAST(error({literal(_NOT_READABLE)}) AS {kind})"
        value = f"coalesce({value}, CASE WHEN {cell} IS NOT NULL THEN {refusal} END)"
    if column.type == "integer":
        kept = storage_type(column) if plan.is_narrow else "BIGINT"
        if group.is_parquet:
            return f"CAST({value} AS {kept})"
        return (
            f"CASE WHEN {value} <> trunc({value}) THEN CAST(error({literal(_NOT_WHOLE)}) AS {kept}) "
            f"ELSE CAST({value} AS {kept}) END"
        )
    if column.type == "number":
        return f"nullif(CAST({value} AS DOUBLE), 'nan'::DOUBLE)"
    if column.type == "boolean" and config.etl.true_text and not group.is_parquet:
        return f"CAST({cell} AS VARCHAR) IN {literals(config.etl.true_text)}"
    kinds = {"boolean": "BOOLEAN", "string": "VARCHAR"}
    return f"CAST({value} AS {kinds[column.type]})" if column.type in kinds else value


def _value(config: ModelConfig, name: str, group: _Group, plan: _Plan) -> str:
    """The cell of a column as a value; NULL where it is a text that stands for none."""
    column, cell = config.columns[name], group.quote(name)
    text = f"CAST({cell} AS VARCHAR)"
    if column.type in MOMENTS:
        if group.is_text(name):
            return moment_of_text(text, MOMENTS[column.type], column.format)
        return moment_of_value(cell, MOMENTS[column.type])
    if is_converted(column, config.etl) and not group.is_parquet:
        return grouped_number(text, config.etl, number_type(column, is_narrow=plan.is_narrow))
    return cell


def _list_readable(connection: Connection, config: ModelConfig, groups: Sequence[_Group]) -> dict[str, str]:
    """An ENUM for each column with texts that cannot be converted: of those that can."""
    texts = [group for group in groups if not group.is_parquet]
    names = [name for name, column in stored_columns(config).items() if is_converted(column, config.etl)]
    found: dict[str, str] = {}
    for group in texts:
        counts = fetch_aggregates(
            connection,
            [[f"count_if({_is_unreadable(config, group, name)})"] for name in names],
            _source_sql(config, group, _TEXT, keeps_rejects=False),
            statement_columns=_STATEMENT_COLUMNS,
        )
        found |= {
            name: f"readable{names.index(name)}"
            for name, (count,) in zip(names, counts, strict=True)
            if count
        }
    for name, enum in found.items():
        selects = " UNION ".join(
            f"SELECT {group.quote(name)} FROM {_source_sql(config, group, _TEXT, keeps_rejects=False)} "
            f"WHERE ({_value(config, name, group, _WIDE)}) IS NOT NULL"
            for group in texts
        )
        _create_enum(connection, enum, selects)
    return found


def _is_unreadable(config: ModelConfig, group: _Group, name: str) -> str:
    return f"{group.quote(name)} IS NOT NULL AND ({_value(config, name, group, _WIDE)}) IS NULL"


def _create_enum(connection: Connection, name: str, selected: str) -> None:
    connection.execute(f"CREATE TYPE {name} AS ENUM (SELECT DISTINCT * FROM ({selected}))")


def _explain_failure(
    connection: Connection, config: ModelConfig, groups: list[_Group], error: duckdb.Error
) -> DatasetError:
    """Say which value cannot be what its column is declared; slow, and only on the way to an error."""
    with contextlib.suppress(duckdb.Error):  # what cannot be read shows no value
        for group in groups:
            name = _find_column(connection, config, group)
            if name is None:
                continue
            for source in group.sources:
                alone = dataclasses.replace(group, sources=(source,))
                found = _find_bad(connection, config, alone, name)
                if found is not None:
                    if config.columns[name].type == "integer":
                        return _not_integer(name, *found, where=source.name)
                    time_format = config.columns[name].format if group.is_text(name) else None
                    return _not_moment(config, name, *found, time_format, where=source.name)
    return DatasetError(
        f"cannot be read: {first_line(error)}",
        where=", ".join(group.shown for group in groups)[:200],
        hint="It is damaged; fetch or write it again."
        if all(group.is_parquet for group in groups)
        else "Check etl.delimiter and the quotes.",
    )


def _find_column(connection: Connection, config: ModelConfig, group: _Group) -> str | None:
    """The first column that holds a value of another type; each statement reads the files."""
    names = [
        name
        for name, column in stored_columns(config).items()
        if column.type == "integer" or (group.is_parquet and column.type in MOMENTS)
    ]
    counts = fetch_aggregates(
        connection,
        [[f"count_if({_is_bad(config, group, name)})"] for name in names],
        _source_sql(config, group, _WIDE, keeps_rejects=False),
        statement_columns=_STATEMENT_COLUMNS,
    )
    return next((name for name, (count,) in zip(names, counts, strict=True) if count), None)


def _is_bad(config: ModelConfig, group: _Group, name: str) -> str:
    """Whether the cell is no whole number of 64 bits, or in a Parquet file no date or timestamp."""
    value = _value(config, name, group, _WIDE)
    if config.columns[name].type in MOMENTS:
        return _is_unreadable(config, group, name)
    bad = f"{value} NOT BETWEEN (-9223372036854775808)::BIGINT AND 9223372036854775807"
    return bad if group.is_parquet else f"{value} <> trunc({value}) OR {bad}"


def _find_bad(
    connection: Connection, config: ModelConfig, group: _Group, name: str
) -> tuple[int, str] | None:
    """The first row that `_is_bad`, by its 0-based number in the group, and its value."""
    source = _source_sql(config, group, _WIDE, keeps_rejects=False)
    value = group.quote(name) if config.columns[name].type in MOMENTS else _value(config, name, group, _WIDE)
    found = connection.execute(
        f"SELECT row, shown FROM (SELECT row_number() OVER () - 1 AS row, CAST({value} AS VARCHAR) AS shown, "
        f"({_is_bad(config, group, name)}) AS is_bad FROM {source}) WHERE is_bad LIMIT 1"
    ).fetchone()
    return None if found is None else (int(found[0]), str(found[1]))


def _not_moment(
    config: ModelConfig, name: str, row: int, text: str, time_format: str | None, *, where: str
) -> DatasetError:
    kind = config.columns[name].type
    try:
        parse_moment(text, MOMENTS[kind], time_format)
        reason = "is none"
    except ValueError as error:
        reason = str(error)
    return DatasetError(
        f"column {name!r} is declared {kind}, but row {row} holds {text[:80]!r}, which {reason}",
        where=where,
        hint=hint_format(MOMENTS[kind], [text]) or "Correct the file.",
    )


def _not_integer(name: str, row: int, shown: str, *, where: str) -> DatasetError:
    value = Decimal(shown)
    is_whole = value == value.to_integral_value()
    shown = f"{value:.0f}" if is_whole else f"{value.normalize():f}"
    return DatasetError(
        f"column {name!r} is declared integer, but row {row} holds {shown}"
        + (", which is beyond 64 bits" if is_whole else ""),
        where=where,
        hint=f'Declare it `type = "{"string" if is_whole else "number"}"`, or correct the file.',
    )
