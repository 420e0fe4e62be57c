"""The prepared Parquet files: row number, class, raw columns, and the features that are computed; the
hashes of the rows that are learned from.

A feature that is a raw column under its own name is stored once. What was written is then read
back: a feature that is NaN or infinite in any row stops the run, as does one that is NULL, unless a column
that it is computed from is NULL in that row, and may be.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from timberline.registry.rows import (
    SEEN_KEY,
    SEEN_ODDS,
    SEEN_SCHEMA_VERSION,
    SeenRows,
    StoredColumn,
    hash_row,
    quote,
)
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN
from timberline.registry.runtime.progress import Progress
from timberline.training.config import DATATYPES, MOMENTS, ModelConfig
from timberline.training.data.cells import show_value
from timberline.training.data.database import Connection, fetch_aggregates, fetch_row, literal
from timberline.training.data.fitting import FittedFeatures
from timberline.training.data.ingest import stored_columns
from timberline.training.data.splits import SPLIT_NAMES, TEST, TRAIN, mix_rows
from timberline.training.errors import DatasetError
from timberline.training.features import Feature, FeatureProgram, read_columns

# The trainer reads row groups in a random order and shuffles inside a window of some of them.
ROW_GROUP_ROWS = 65_536
# Level 3, the default, takes a sixth more time here and saves 4 % of the bytes.
_ZSTD_LEVEL = 1
_SHOWN_INPUTS = 6
# The raw table with row number, class and split of each row.
PREPARED = "prepared"
_SEEN = "seen"
_SEEN_GROUP_ROWS = 1_048_576
# Features that one statement checks. Each reads the footers of the files, which describe every column: of
# 4,000 features, 64 a statement take 3.0 s, 512 take 1.5, all at once 2.5.
_STATEMENT_FEATURES = 512


def write_split(
    connection: Connection, config: ModelConfig, features: FittedFeatures, *, split: int, path: Path
) -> None:
    """Write the rows of one split: training rows in a seeded pseudo-random order, others in source order.

    The order is always spelt out: only then are the row groups, and so the bytes, the same for any
    number of threads.
    """
    program = features.program
    own = features.training_sql if split == TRAIN else {}
    computed = [
        f"{own.get(feature.name) or program.feature_sql(feature)} AS {quote(feature.stored_name)}"
        for feature in program.features
        if not feature.is_plain_column
    ]
    columns = ", ".join(
        [
            f"CAST(__row__ AS BIGINT) AS {ROW_COLUMN}",
            f"CAST(__class__ AS SMALLINT) AS {CLASS_COLUMN}",
            *(quote(name) for name in stored_columns(config)),
            *computed,
        ]
    )
    seed = getattr(config.split, "seed", 0)
    order = f"{mix_rows('__row__', seed, 'order')}, __row__" if split == TRAIN else "__row__"
    rows = f"{PREPARED} WHERE __split__ = {split}"
    # Features are computed behind the sort, which so has less to carry; but a look-up is a join, behind which
    # rows may come in another order.
    chosen = (
        f"SELECT {columns} FROM {rows} ORDER BY {order}"
        if program.tables
        else f"SELECT {columns} FROM (SELECT * FROM {rows} ORDER BY {order})"
    )
    connection.execute(
        f"COPY ({chosen}) TO {literal(str(path))} (FORMAT parquet, "
        f"COMPRESSION zstd, COMPRESSION_LEVEL {_ZSTD_LEVEL}, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
    )


def write_seen_rows(connection: Connection, config: ModelConfig, *, rows: int, path: Path) -> None:
    """Write `registry.rows.SEEN_FILE`: the rows that train or validate, ``rows`` in number.

    The hashes are sorted on disk where memory does not suffice, and the bytes are the same for any
    number of threads.
    """
    columns = tuple(
        StoredColumn(name=name, datatype=DATATYPES[column.type], moment=MOMENTS.get(column.type))
        for name, column in stored_columns(config).items()
    )
    target, span = config.target.column, SEEN_ODDS * rows
    known_by = [column for column in columns if column.name != target]
    connection.execute(
        f"CREATE TABLE {_SEEN} AS SELECT DISTINCT {hash_row(known_by, span)} AS hash "
        f"FROM {PREPARED} WHERE __split__ <> {TEST}"
    )
    (hashes,) = fetch_row(connection, f"SELECT count(*) FROM {_SEEN}")
    seen = SeenRows(
        schema_version=SEEN_SCHEMA_VERSION,
        columns=columns,
        target=target,
        rows=rows,
        span=span,
        false_positive_rate=hashes / span,
    )
    metadata = f"{{{SEEN_KEY.decode()}: {literal(msgspec.json.encode(seen).decode())}}}"
    # Version 2 of the format packs the differences between neighbours; a dictionary of values that all
    # differ saves nothing.
    connection.execute(
        f"COPY (FROM {_SEEN} ORDER BY hash) TO {literal(str(path))} (FORMAT parquet, PARQUET_VERSION v2, "
        f"COMPRESSION zstd, DICTIONARY_SIZE_LIMIT 1, ROW_GROUP_SIZE {_SEEN_GROUP_ROWS}, "
        f"KV_METADATA {metadata})"
    )
    connection.execute(f"DROP TABLE {_SEEN}")


def check_features(
    connection: Connection,
    config: ModelConfig,
    program: FeatureProgram,
    folder: Path,
    *,
    statement_columns: int = _STATEMENT_FEATURES,
    progress: Progress | None = None,
) -> None:
    """Read every feature of every split back.

    Raises:
        DatasetError: names the feature, the number of rows in which it is not a finite number, and
            the first of them with the raw values it was computed from.
    """
    files = [literal(str(folder / f"{name}.parquet")) for name in SPLIT_NAMES]
    # A folder called a=7 in the path of DATA would otherwise stand for column a.
    source = f"read_parquet([{', '.join(files)}], hive_partitioning=false)"
    values = [_value(config, program, feature) for feature in program.features]
    usable = [
        _is_usable(config, feature, value, is_nullable=is_nullable)
        for feature, value, is_nullable in zip(program.features, values, program.nullable, strict=True)
    ]
    bad = [[f"count_if(NOT ({test}))"] for test in usable]
    found = fetch_aggregates(connection, bad, source, statement_columns=statement_columns, progress=progress)
    for feature, value, test, (count,) in zip(program.features, values, usable, found, strict=True):
        if count:
            raise _unusable(connection, config, feature, value, f"{source} WHERE NOT ({test})", count)


def _value(config: ModelConfig, program: FeatureProgram, feature: Feature) -> str:
    """How the trainer will see the stored column: as 32-bit float."""
    if feature.is_plain_column and config.columns[feature.name].type == "number":
        return program.feature_sql(feature)
    return quote(feature.stored_name)


def _is_usable(config: ModelConfig, feature: Feature, value: str, *, is_nullable: bool) -> str:
    is_finite = f"coalesce(isfinite(CAST({value} AS FLOAT)), false)"
    if not is_nullable:
        return is_finite
    # What divides by zero is NULL too, whatever its columns may be.
    read = [name for name in read_columns(feature.expression) if config.columns[name].nullable]
    nulls = " OR ".join(f"{quote(name)} IS NULL" for name in read)
    return f"{is_finite} OR ({value} IS NULL AND ({nulls}))"


def _unusable(
    connection: Connection, config: ModelConfig, feature: Feature, value: str, rows: str, count: int
) -> DatasetError:
    inputs = read_columns(feature.expression)[:_SHOWN_INPUTS]
    shown = ", ".join(show_value(name, config.columns[name]) for name in inputs)
    row, got, *raw = fetch_row(
        connection,
        f"SELECT {ROW_COLUMN}, CAST({value} AS VARCHAR), {shown} FROM {rows} ORDER BY {ROW_COLUMN} LIMIT 1",
    )
    known = ", ".join(
        f"{name} = {'NULL' if item is None else item}" for name, item in zip(inputs, raw, strict=True)
    )
    return DatasetError(
        f"feature {feature.name!r} is {'NULL' if got is None else got} in row {row} ({known}), "
        f"and not a finite number in {count:,} rows",
        where=f"{config.model.name}: {config.features.file}",
        hint="Say what it is there, for example `coalesce(…, 0)` or `CASE WHEN … THEN … ELSE … END`.",
    )
