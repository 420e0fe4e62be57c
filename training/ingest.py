"""Source files → table ``raw``: typed by the declared columns, in the order of the source.

Columns are matched by their name in each file's header. Two things DuckDB would do silently are
refused or made explicit: 1.5 in an ``integer`` column is an error (its cast rounds), and NaN in a
``number`` column is NULL (the served graph cannot tell the two apart either).
"""

from __future__ import annotations

import csv
import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from training.config import ColumnSection, HashSplit, ModelConfig
from training.database import first_line, literal, quote
from training.errors import DatasetError
from training.splits import key_hash

RAW = "raw"
KEY_COLUMN = "__key__"

_NOT_WHOLE = "timberline: not a whole number"
# Whole numbers up to here are exact as DOUBLE, which is the fastest way to read and to check them.
_EXACT = 2**53
# Wide whole numbers are read with 19 digits before the point and 18 behind it.
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
    """Neighbouring files that one call reads: same kind, same columns in the same order."""

    files: tuple[Path, ...]
    is_parquet: bool
    header: tuple[str, ...]


def stored_columns(config: ModelConfig) -> dict[str, ColumnSection]:
    """The declared columns that are kept, in declared order: all but the ignored ones."""
    return {name: column for name, column in config.columns.items() if column.role != "ignored"}


def read_source(connection: duckdb.DuckDBPyConnection, config: ModelConfig, files: Sequence[Path]) -> None:
    """Create table ``raw`` from ``files``; its ``rowid`` is the 0-based row number in the source.

    Rejected lines have no row number; DuckDB leaves them in ``reject_errors`` and ``reject_scans``.
    Whole numbers are stored in the smallest type that holds the declared range, and as BIGINT
    throughout when a value lies outside it (which the checks then report).

    Raises:
        DatasetError: a column is missing, not declared or of another type, an ``integer`` is not
            whole, or a file is not CSV at all.
    """
    groups = _group_files(connection, config, files)
    for is_narrow in (True, False):
        connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
        selects = " UNION ALL ".join(_select(config, group, is_narrow=is_narrow) for group in groups)
        try:
            connection.execute(f"CREATE TABLE {RAW} AS {selects}")
        except duckdb.ConversionException as error:
            if not is_narrow:
                raise _explain_failure(connection, config, groups, error) from error
        except duckdb.InvalidInputException as error:
            raise _explain_failure(connection, config, groups, error) from error
        else:
            return


def storage_type(column: ColumnSection) -> str:
    """The smallest whole-number type that holds the declared range or the allowed values."""
    bounds = [value for value in column.allowed or () if not isinstance(value, str)] or column.range
    if not bounds:
        return "BIGINT"
    for name, bits in _INTEGER_BITS.items():
        if -(2 ** (bits - 1)) <= min(bounds) and max(bounds) < 2 ** (bits - 1):
            return name
    return "BIGINT"


def _group_files(
    connection: duckdb.DuckDBPyConnection, config: ModelConfig, files: Sequence[Path]
) -> list[_Group]:
    described = [(file, *_describe(connection, config, file)) for file in files]
    return [
        _Group(tuple(file for file, *_ in same), is_parquet, header)
        for (is_parquet, header), same in itertools.groupby(described, key=lambda item: item[1:])
    ]


def _describe(
    connection: duckdb.DuckDBPyConnection, config: ModelConfig, file: Path
) -> tuple[bool, tuple[str, ...]]:
    is_parquet = file.suffix == ".parquet"
    try:
        if not is_parquet:
            header = _read_header(connection, config, file)
            _match_columns(config, file, header)
            return is_parquet, header
        found = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(str(file))})").fetchall()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", where=file.name) from error
    types = {name: type_ for name, type_, *_ in found}
    _match_columns(config, file, tuple(types))
    _match_types(config, file, types)
    return is_parquet, tuple(types)


def _read_header(connection: duckdb.DuckDBPyConnection, config: ModelConfig, file: Path) -> tuple[str, ...]:
    """The names in the first line; DuckDB unpacks the file, and no later line can disturb."""
    found = connection.execute(
        f"SELECT line FROM read_csv({literal(str(file))}, auto_detect=false, columns={{'line': 'VARCHAR'}}, "
        f"header=false, delim='\x1f', quote='', escape='', ignore_errors=true) LIMIT 1"
    ).fetchone()
    line = "" if found is None or found[0] is None else str(found[0]).removeprefix("\ufeff")
    header = next(csv.reader([line], delimiter=config.etl.delimiter), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DatasetError(f"has two columns {twice[0]!r}", where=file.name, hint="Rename one of them.")
    return tuple(header)


def _match_columns(config: ModelConfig, file: Path, header: tuple[str, ...]) -> None:
    for name in config.columns:
        if name not in header:
            near = _nearest(name, header)
            raise DatasetError(
                f"has no column {name!r}; it has {', '.join(header)[:300]}",
                where=file.name,
                hint=f"Is it {near!r}? Correct [columns]." if near else "Correct [columns].",
            )
    for name in header:
        if name not in config.columns:
            raise DatasetError(
                f"has a column {name!r} that [columns] does not declare",
                where=file.name,
                hint=f'Declare it, or read past it: {name} = {{ type = "string", role = "ignored" }}.',
            )


def _nearest(name: str, header: tuple[str, ...]) -> str | None:
    folded = {other.strip().casefold(): other for other in header}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def _match_types(config: ModelConfig, file: Path, types: dict[str, str]) -> None:
    for name, column in stored_columns(config).items():
        if types[name].partition("(")[0] not in _PARQUET_TYPES[column.type]:
            raise DatasetError(
                f"column {name!r} is {types[name]}, but is declared {column.type}",
                where=file.name,
                hint="Declare the type that the file has.",
            )


def _csv_options(config: ModelConfig) -> str:
    return f"delim={literal(config.etl.delimiter)}, quote='\"', escape='\"', header=true"


def _source_sql(config: ModelConfig, group: _Group, *, keeps_rejects: bool = True) -> str:
    names = f"[{', '.join(literal(str(file)) for file in group.files)}]"
    if group.is_parquet:
        return f"read_parquet({names})"
    types = ", ".join(f"{literal(name)}: '{_read_type(config.columns[name])}'" for name in group.header)
    nulls = ", ".join(literal(text) for text in config.etl.null_text)
    rejects = "store_rejects=true" if keeps_rejects else "ignore_errors=true"
    return (
        f"read_csv({names}, {_csv_options(config)}, auto_detect=false, columns={{{types}}}, "
        f"nullstr=[{nulls}], {rejects})"
    )


def _read_type(column: ColumnSection) -> str:
    if column.role == "ignored" or column.type == "string":
        return "VARCHAR"
    if column.type == "integer":
        return _WIDE_TYPE if storage_type(column) == "BIGINT" else "DOUBLE"
    return "DOUBLE" if column.type == "number" else "BOOLEAN"


def _select(config: ModelConfig, group: _Group, *, is_narrow: bool) -> str:
    items = ", ".join(
        f"{_convert(name, column, group, is_narrow=is_narrow)} AS {quote(name)}"
        for name, column in stored_columns(config).items()
    )
    inner = f"SELECT {items} FROM {_source_sql(config, group)}"
    if isinstance(config.split, HashSplit):
        return f"SELECT *, {key_hash(config.split)} AS {KEY_COLUMN} FROM ({inner})"
    return inner


def _convert(name: str, column: ColumnSection, group: _Group, *, is_narrow: bool) -> str:
    value = quote(name)
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
    connection: duckdb.DuckDBPyConnection, config: ModelConfig, groups: list[_Group], error: duckdb.Error
) -> DatasetError:
    """Say which column and row was not a whole number; slow, and only on the way to an error."""
    for group in groups:
        for name, column in stored_columns(config).items():
            if column.type != "integer":
                continue
            value = f"CAST({quote(name)} AS DOUBLE)"
            found = connection.execute(
                f"SELECT row, value FROM (SELECT row_number() OVER () - 1 AS row, {value} AS value "
                f"FROM {_source_sql(config, group, keeps_rejects=False)}) "
                f"WHERE value <> trunc(value) OR abs(value) >= 9223372036854775808e0 OR isnan(value) LIMIT 1"
            ).fetchone()
            if found is not None:
                return DatasetError(
                    f"column {name!r} is declared integer, but row {found[0]} holds {found[1]}",
                    where=", ".join(file.name for file in group.files)[:200],
                    hint='Declare it `type = "number"`, or correct the file.',
                )
    return DatasetError(
        f"cannot be read: {first_line(error)}",
        where=", ".join(file.name for group in groups for file in group.files)[:200],
        hint="Check etl.delimiter, the quotes and that all lines end alike.",
    )
