"""Source files → table ``raw``: typed by the declared columns, in the order of the source.

Columns are matched by their name in each file's header. Two things DuckDB would do silently are
refused or made explicit: 1.5 in an ``integer`` column is an error (its cast rounds), and NaN in a
``number`` column is NULL (the served graph does not distinguish the two either).

No name of a user's column can take the place of one of ours. The rows lie in a table whose columns
are called c0, c1, …, so that its ``rowid`` is always DuckDB's; ``raw`` is a view of it under the
declared names, of which `training.config` lets none look like ``__row__`` or differ from another by
case alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import duckdb
import msgspec

from timberline.registry.rows import quote
from timberline.registry.runs import ROW_COLUMN
from timberline.training.config import ColumnSection, HashSplit, ModelConfig
from timberline.training.data.database import Connection, fetch_aggregates, first_line, literal
from timberline.training.data.source_files import SourceFile
from timberline.training.data.splits import key_hash
from timberline.training.errors import DatasetError

RAW = "raw"
KEY_COLUMN = "__key__"
_STORED = "stored"  # the table behind the view `raw`

# Those that a header is looked through for when it lacks a column.
_DELIMITERS = (",", ";", "\t", "|", "||", "::", " ")
_NOT_WHOLE = "timberline: not a whole number"
# Columns that one statement looks through for a value that is not whole, each reading the files anew.
_STATEMENT_COLUMNS = 512
# Wide whole numbers are read with 19 digits before the point and 18 behind it; others as DOUBLE, which is
# faster to read and to check, and exact as long as they are what their column declares.
_WIDE_TYPE = "DECIMAL(37, 18)"
_INTEGER_BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
_PARQUET_TYPES = {
    "integer": ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    "boolean": ("BOOLEAN",),
    "string": ("VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "UUID", "ENUM"),
}
_PARQUET_TYPES["number"] = ("FLOAT", "DOUBLE", "DECIMAL", *_PARQUET_TYPES["integer"])


@dataclass(frozen=True)
class _Group:
    """Neighbouring files that one call reads: same kind and lines, same columns in the same order.

    ``header``: the names as they stand in the files; ``names``: those under which DuckDB reads the
    columns. They differ where it would take one for another, or would have none.
    """

    sources: tuple[SourceFile, ...]
    header: tuple[str, ...]
    names: tuple[str, ...]

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

    @functools.cached_property
    def _own(self) -> dict[str, str]:
        return dict(zip(self.header, self.names, strict=True))


def stored_columns(config: ModelConfig) -> dict[str, ColumnSection]:
    """The declared columns that are kept, in declared order: all but the ignored ones."""
    return {name: column for name, column in config.columns.items() if column.role != "ignored"}


def read_source(connection: Connection, config: ModelConfig, sources: Sequence[SourceFile]) -> None:
    """Create ``raw`` from these files: ``__row__``, its 0-based number in the source, and the stored columns.

    For a hash split it has ``__key__`` (`key_hash`) too. Rejected lines have no row number; DuckDB
    leaves them in ``reject_errors`` and ``reject_scans``.
    Whole numbers are stored in the smallest type that holds the declared range, and as BIGINT
    throughout when a value lies outside it (which the checks then report).

    Raises:
        DatasetError: a column is missing, not declared or of another type, an ``integer`` is not
            whole or beyond 64 bits, or a file is not CSV at all.
    """
    groups = _group_files(connection, config, sources)
    names = [*stored_columns(config), *([KEY_COLUMN] if isinstance(config.split, HashSplit) else [])]
    stored = {name: f"c{position}" for position, name in enumerate(names)}
    for is_narrow in (True, False):
        connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
        selects = " UNION ALL ".join(_select(config, group, is_narrow=is_narrow) for group in groups)
        try:
            connection.execute(f"CREATE TABLE {_STORED} ({', '.join(stored.values())}) AS {selects}")
        except duckdb.ConversionException as error:
            if not is_narrow:
                raise _explain_failure(connection, config, groups, error) from error
        except (duckdb.OutOfMemoryException, duckdb.IOException):
            raise
        except duckdb.Error as error:  # damaged Parquet has many names
            raise _explain_failure(connection, config, groups, error) from error
        else:
            break
    renamed = ", ".join(f"{column} AS {quote(name)}" for name, column in stored.items())
    connection.execute(f"CREATE VIEW {RAW} AS SELECT rowid AS {ROW_COLUMN}, {renamed} FROM {_STORED}")


def drop_source(connection: Connection) -> None:
    """Remove ``raw`` and give its memory back."""
    connection.execute(f"DROP VIEW {RAW}; DROP TABLE {_STORED}")


def storage_type(column: ColumnSection) -> str:
    """The smallest whole-number type that holds the declared range or the allowed values."""
    bounds = [value for value in column.allowed or () if not isinstance(value, str)] or column.bounds
    if not bounds:
        return "BIGINT"
    for name, bits in _INTEGER_BITS.items():
        if -(2 ** (bits - 1)) <= min(bounds) and max(bounds) < 2 ** (bits - 1):
            return name
    return "BIGINT"


def _group_files(connection: Connection, config: ModelConfig, sources: Sequence[SourceFile]) -> list[_Group]:
    described = [(source, _describe(connection, config, source)) for source in sources]
    alike = itertools.groupby(
        described, key=lambda item: (item[1], item[0].is_parquet, item[0].new_line, item[0].is_multiline)
    )
    return [_Group(tuple(source for source, _ in same), *columns) for (columns, *_), same in alike]


def _describe(
    connection: Connection, config: ModelConfig, source: SourceFile
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns' names as they stand in the file, and those under which DuckDB reads them."""
    if not source.is_parquet:
        _match_columns(config, source, source.header)
        return source.header, _tell_apart(config, source.header)
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
    _match_types(config, source, {name: type_ for name, (_, type_, *_) in zip(header, found, strict=True)})
    return header, tuple(name for name, *_ in found)


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
            near = _nearest(name, header)
            raise DatasetError(
                f"has no column {name!r}; it has {', '.join(map(repr, header))[:300]}",
                where=source.name,
                hint=_delimiter_hint(config, source)
                or (f"Is it {near!r}? Correct [columns]." if near else "Correct [columns]."),
            )
    for position, name in enumerate(header, 1):
        if name not in config.columns:
            raise DatasetError(
                f"has a column {name!r} that [columns] does not declare"
                if name
                else f"has a column without a name, number {position}, that [columns] does not declare",
                where=source.name,
                hint=_delimiter_hint(config, source)
                or f"Declare it, or read past it: {_toml_key(name)} = "
                '{ type = "string", role = "ignored" }.',
            )
    twice = sorted({name for name in header if header.count(name) > 1 and name in stored_columns(config)})
    if twice:
        raise DatasetError(f"has two columns {twice[0]!r}", where=source.name, hint="Rename one of them.")


def _toml_key(name: str) -> str:
    """The name as a key of [columns]."""
    is_bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if is_bare else msgspec.json.encode(name).decode()


def _delimiter_hint(config: ModelConfig, source: SourceFile) -> str:
    """Which delimiter would find more of the declared columns in the header; "" if none."""
    if source.is_parquet:
        return ""
    line = config.etl.delimiter.join(source.header)
    found = {
        delimiter: len(set(line.split(delimiter)) & set(config.columns))
        for delimiter in (config.etl.delimiter, *_DELIMITERS)
    }
    best = max(found, key=lambda delimiter: found[delimiter])
    if found[best] <= found[config.etl.delimiter]:
        return ""
    return f"Its delimiter is another one: set [etl] delimiter = {msgspec.json.encode(best).decode()}."


def _nearest(name: str, header: tuple[str, ...]) -> str | None:
    folded = {other.strip().casefold(): other for other in header}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


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
        f"auto_detect=false, compression='none', header=true, delim={literal(config.etl.delimiter)}, "
        f"quote='\"', escape='\"', new_line={literal(source.new_line.encode('unicode_escape').decode())}, "
        # A reader that begins in the middle of a cell takes a line end in it for the end of a row.
        f"parallel={str(not source.is_multiline).lower()}, decimal_separator={literal(config.etl.decimal)}, "
        f"nullstr=[{', '.join(map(literal, config.etl.null_text))}]"
    )


def _path(source: SourceFile) -> str:
    """The file as an SQL literal; DuckDB would take `[1]`, `*` and `?` in a name for a pattern."""
    return literal(re.sub(r"[*?\[]", r"[\g<0>]", str(source.path)))


def _source_sql(config: ModelConfig, group: _Group, *, is_narrow: bool, keeps_rejects: bool = True) -> str:
    paths = f"[{', '.join(map(_path, group.sources))}]"
    # A folder called a=7 would otherwise put 7 in the place of every value of column a.
    if group.is_parquet:
        return f"read_parquet({paths}, hive_partitioning=false)"
    types = ", ".join(
        f"{literal(own)}: '{_read_type(config.columns[name], is_narrow=is_narrow)}'"
        for name, own in zip(group.header, group.names, strict=True)
    )
    rejects = "store_rejects=true" if keeps_rejects else "ignore_errors=true"
    return (
        f"read_csv({paths}, {_csv_options(config, group.sources[0])}, columns={{{types}}}, "
        f"hive_partitioning=false, {rejects})"
    )


def _read_type(column: ColumnSection, *, is_narrow: bool) -> str:
    if column.role == "ignored" or column.type == "string":
        return "VARCHAR"
    if column.type == "integer":
        return _WIDE_TYPE if storage_type(column) == "BIGINT" or not is_narrow else "DOUBLE"
    return "DOUBLE" if column.type == "number" else "BOOLEAN"


def _select(config: ModelConfig, group: _Group, *, is_narrow: bool) -> str:
    items = ", ".join(
        f"{_convert(name, column, group, is_narrow=is_narrow)} AS {quote(name)}"
        for name, column in stored_columns(config).items()
    )
    inner = f"SELECT {items} FROM {_source_sql(config, group, is_narrow=is_narrow)}"
    if isinstance(config.split, HashSplit):
        return f"SELECT *, {key_hash(config.split)} AS {KEY_COLUMN} FROM ({inner})"
    return inner


def _convert(name: str, column: ColumnSection, group: _Group, *, is_narrow: bool) -> str:
    value = group.quote(name)
    if column.type == "integer":
        kept = storage_type(column) if is_narrow else "BIGINT"
        if group.is_parquet:
            return f"CAST({value} AS {kept})"
        # error() stops the statement: rounding must not pass, and testing here costs no second reading.
        return (
            f"CASE WHEN {value} <> trunc({value}) THEN CAST(error({literal(_NOT_WHOLE)}) AS {kept}) "
            f"ELSE CAST({value} AS {kept}) END"
        )
    if column.type == "number":
        return f"nullif(CAST({value} AS DOUBLE), 'nan'::DOUBLE)"
    return f"CAST({value} AS {'BOOLEAN' if column.type == 'boolean' else 'VARCHAR'})"


def _explain_failure(
    connection: Connection, config: ModelConfig, groups: list[_Group], error: duckdb.Error
) -> DatasetError:
    """Say which value of which column cannot be an integer; slow, and only on the way to an error."""
    with contextlib.suppress(duckdb.Error):  # what cannot be read shows no value
        for group in groups:
            name = _find_column(connection, config, group)
            if name is None:
                continue
            for source in group.sources:
                alone = dataclasses.replace(group, sources=(source,))
                found = _find_not_integer(connection, config, alone, name)
                if found is not None:
                    return _not_integer(name, *found, where=source.name)
    return DatasetError(
        f"cannot be read: {first_line(error)}",
        where=", ".join(group.shown for group in groups)[:200],
        hint="It is damaged; fetch or write it again."
        if all(group.is_parquet for group in groups)
        else "Check etl.delimiter and the quotes.",
    )


def _find_column(connection: Connection, config: ModelConfig, group: _Group) -> str | None:
    """The first column that is declared integer and holds another value; each statement reads the files."""
    names = [name for name, column in stored_columns(config).items() if column.type == "integer"]
    counts = fetch_aggregates(
        connection,
        [[f"count_if({_is_not_integer(group, group.quote(name))})"] for name in names],
        _source_sql(config, group, is_narrow=False, keeps_rejects=False),
        statement_columns=_STATEMENT_COLUMNS,
    )
    return next((name for name, (count,) in zip(names, counts, strict=True) if count), None)


def _is_not_integer(group: _Group, value: str) -> str:
    bad = f"{value} NOT BETWEEN (-9223372036854775808)::BIGINT AND 9223372036854775807"
    return bad if group.is_parquet else f"{value} <> trunc({value}) OR {bad}"


def _find_not_integer(
    connection: Connection, config: ModelConfig, group: _Group, name: str
) -> tuple[int, Decimal] | None:
    """The first row, by its 0-based number in the group, whose value is no whole number of 64 bits."""
    source = _source_sql(config, group, is_narrow=False, keeps_rejects=False)
    found = connection.execute(
        f"SELECT row, CAST(value AS VARCHAR) FROM (SELECT row_number() OVER () - 1 AS row, "
        f"{group.quote(name)} AS value FROM {source}) WHERE {_is_not_integer(group, 'value')} LIMIT 1"
    ).fetchone()
    return None if found is None else (int(found[0]), Decimal(found[1]))


def _not_integer(name: str, row: int, value: Decimal, *, where: str) -> DatasetError:
    is_whole = value == value.to_integral_value()
    shown = f"{value:.0f}" if is_whole else f"{value.normalize():f}"
    return DatasetError(
        f"column {name!r} is declared integer, but row {row} holds {shown}"
        + (", which is beyond 64 bits" if is_whole else ""),
        where=where,
        hint=f'Declare it `type = "{"string" if is_whole else "number"}"`, or correct the file.',
    )
