"""The stage `etl`: fetched files → typed rows → checks → splits → features → Parquet and a profile."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from timberline.registry.rows import SEEN_FILE, SEEN_ODDS, SEEN_SCHEMA_VERSION, quote
from timberline.registry.runtime.documents import encode_document
from timberline.registry.runtime.files import digest_bytes, fresh_folder
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.registry.runtime.stages import Stage, digest_code, digest_value, read_receipt
from timberline.registry.runtime.working_copy import bring, discard, name_path, share_folder
from timberline.registry.signature import ClassLabel, Column
from timberline.training.config import HeadSplit, ModelConfig, TimeSplit, input_columns, read_features_sql
from timberline.training.data.checks import (
    CheckReport,
    build_checks,
    collect_rejects,
    print_checks,
    require_checks,
    require_few_rejects,
    run_checks,
    write_rejects,
)
from timberline.training.data.database import Connection, literal, open_database
from timberline.training.data.fetch import fetched_files, raw_folder
from timberline.training.data.fitting import FITTED_FILE, FittedFeatures, fit_features
from timberline.training.data.ingest import RAW, drop_source, read_source, stored_columns
from timberline.training.data.prepare import PREPARED, check_features, write_seen_rows, write_split
from timberline.training.data.profile import (
    PROFILE_SCHEMA_VERSION,
    ColumnProfile,
    Profile,
    SplitSummary,
    load_profile,
    summarise_splits,
)
from timberline.training.data.source_files import SourceFile, open_source_files
from timberline.training.data.splits import SPLIT_NAMES, TRAIN, VALIDATION, draw_number, split_rows
from timberline.training.data.statistics import count_parts, profile_columns
from timberline.training.errors import DatasetError
from timberline.training.features import FeatureError, FeatureProgram, parse_features, parse_slices

_MAX_CLASSES = 1000
# A whole-number target beyond these is taken for a quantity, unless its classes are listed.
_MAX_INTEGER_CLASSES = 20
_MIN_CLASS_ROWS = 10
# Reading weighs as much as three of the others.
_READ_STEPS = 3
_STEPS = _READ_STEPS + 9
_logger = logging.getLogger("training.data.etl")


def run_etl(config: ModelConfig, models: Path, data: Path) -> dict[str, Any]:
    """Prepare the fetched table of ``config`` under DATA/prepared/<model>/, unless it is there already.

    The bytes written depend on the source, the configuration, features.sql and the versions of
    timberline and DuckDB; not on threads, memory or time. When the data break a rule, what was
    found (rejects.parquet, checks.json) stays in DATA/prepared/<model>.failed/ and an earlier
    result stays as it is.

    Returns:
        What is there, as JSON values: rows by split, features, whether the stage was skipped.

    Raises:
        ConfigError: a slice of [gate] is refused; nothing was read.
        FeatureError: features.sql is refused; nothing was read.
        StageError: the source is not fetched.
        DatasetError: the table is not what model.toml says.
        TrainingError: the memory or the disk did not suffice.
    """
    program, sql = _read_features(config, models)
    files = fetched_files(config, data)
    folder = data / "prepared" / config.model.name
    stage = Stage("etl", folder, _digest_inputs(config, data, sql), {raw_folder(config, data): ()})
    if stage.is_current(_logger, model=config.model.name):
        return _summary(folder, is_skipped=True)
    with (
        stage.fill() as partial,
        open_database(
            config.etl, partial / "spill", columns=max(len(config.columns), len(program.features))
        ) as connection,
        Progress(
            f"etl {config.model.name}",
            _STEPS,
            "steps",
            logger=_logger,
            running=lambda: connection.query_progress() / 100,
        ) as progress,
    ):
        run = _Run(config, program, sql, connection, partial, _failed_folder(folder), progress)
        run.prepare(files)
    discard(_failed_folder(folder))
    summary = _summary(folder, is_skipped=False)
    log_event(_logger, "etl finished", model=config.model.name, rows=sum(summary["rows"].values()))
    return summary


def _failed_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed")


def _read_features(config: ModelConfig, models: Path) -> tuple[FeatureProgram, str]:
    folder = models / config.model.name
    # Nothing here needs the slices; refused now, they have cost no training.
    parse_slices(config.gate.slices, input_columns(config), where=f"{folder / 'model.toml'}: gate.slices")
    sql, file = read_features_sql(config, models), str(folder / config.features.file)
    program = parse_features(sql, input_columns(config), file=file)
    # Those of inputs are refused by `parse_features`, which knows no others.
    others = {name.casefold(): name for name in stored_columns(config) if name not in config.inputs}
    for feature in program.names:
        if (column := others.get(feature.casefold())) is not None:
            raise FeatureError(
                f"feature {feature!r} has the name of column {column!r}, which is no input",
                where=file,
                hint="Give it a name of its own.",
            )
    return program, sql


def _digest_inputs(config: ModelConfig, data: Path, features_sql: str) -> dict[str, str]:
    raw = read_receipt(raw_folder(config, data))
    assert raw is not None  # `fetched_files` needs it
    # Threads and memory decide how fast the result comes, not what it is.
    etl = msgspec.structs.replace(config.etl, threads=0, memory_limit="1GB")
    relevant = [
        config.model.name,
        config.columns,
        config.target,
        config.split,
        config.checks,
        etl,
        config.features,
    ]
    return {
        "raw": raw.digest,
        "config": digest_value(relevant),
        "features": digest_bytes(features_sql.encode()),
        "code": digest_code(Path(__file__).parents[1]),
        "seen_rows": digest_value([SEEN_SCHEMA_VERSION, SEEN_ODDS]),
        "duckdb": duckdb.__version__,
    }


@dataclass(frozen=True)
class _Run:
    """One run's steps, in order; each leaves a table in the database or a file in the folder."""

    config: ModelConfig
    program: FeatureProgram  # before it has learned anything
    features_sql: str
    connection: Connection
    folder: Path
    failed: Path
    progress: Progress

    def prepare(self, files: Sequence[Path]) -> None:
        """Files in, a filled folder out."""
        self.progress.begin("read", size=_READ_STEPS)
        sources = open_source_files(self.config, files, self.folder / "spill" / "sources")
        read_source(self.connection, self.config, sources)
        report, classes = self._check_rows(sources)
        self.progress.begin("splits")
        class_sql = _class_sql(self.config, classes)
        self._assign_splits(class_sql)
        summary = summarise_splits(
            self.connection,
            PREPARED,
            class_count=len(classes),
            columns=stored_columns(self.config),
            inputs=self.config.inputs,
        )
        _require_rows(self.config, classes, summary)
        self.progress.begin("profile", parts=count_parts(self.config.inputs))
        train = f"{PREPARED} WHERE __split__ = {TRAIN}"
        columns = profile_columns(self.connection, self.config.inputs, train, progress=self.progress)
        features = self._fit(train, classes)
        profile = _describe(self.config, self.program, report, classes, summary, columns)
        (self.folder / "profile.json").write_bytes(encode_document(profile))
        self._write_seen_rows(summary)
        self._write_splits(features)

    def _fit(self, train: str, classes: Sequence[ClassLabel]) -> FittedFeatures:
        self.progress.begin(FITTED_FILE)
        columns = input_columns(self.config)
        features = fit_features(
            self.connection,
            self.program,
            lambda fitted: parse_features(self.features_sql, columns, fitted=fitted),
            settings=self.config.features,
            classes=classes,
            relation=train,
            seed=getattr(self.config.split, "seed", 0),
            where=self.config.model.name,
        )
        for statement in features.prepare_sql:
            self.connection.execute(statement)
        (self.folder / FITTED_FILE).write_bytes(encode_document(features.fitted))
        return features

    def _check_rows(self, sources: Sequence[SourceFile]) -> tuple[CheckReport, tuple[ClassLabel, ...]]:
        rejected = collect_rejects(self.connection, self.config, sources)
        declared = self.config.target.classes
        values = None if declared is None else [label.value for label in declared]
        checks = build_checks(self.config, values)
        self.progress.begin("checks", parts=len(checks))
        report = run_checks(self.connection, self.config, checks, rejected, progress=self.progress)
        self._leave_findings(self.folder, report)
        try:
            require_few_rejects(
                self.connection, self.config, rejected=rejected, rows=report.rows, kept_in=self.failed
            )
            require_checks(self.config, report, kept_in=name_path(self.failed))
        except DatasetError:
            with fresh_folder(self.failed, mark="checks.json") as failed:
                self._leave_findings(failed, report)
            share_folder(self.failed, "etl")
            raise
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # below the bar
            print_checks(report, sys.stderr)
        return report, declared or _find_classes(self.connection, self.config)

    def _leave_findings(self, folder: Path, report: CheckReport) -> None:
        write_rejects(self.connection, folder / "rejects.parquet")
        (folder / "checks.json").write_bytes(encode_document(report))

    def _assign_splits(self, class_sql: str) -> None:
        numbered = (
            f"(SELECT {class_sql} AS __class__, {draw_number(self.config.split)} AS __draw__, * FROM {RAW})"
        )
        chosen = split_rows(self.connection, self.config.split, numbered)
        # Where it is a comparison with the row number or one column, the split is worked out anew by each
        # statement; where it is a draw for every row, that would cost more than a copy of the table.
        is_cheap = isinstance(self.config.split, HeadSplit | TimeSplit)
        self.connection.execute(
            f"CREATE {'VIEW' if is_cheap else 'TABLE'} {PREPARED} AS SELECT * EXCLUDE (__draw__), "
            f"CAST({chosen} AS UTINYINT) AS __split__ FROM {numbered}"
        )
        if not is_cheap:
            drop_source(self.connection)

    def _write_seen_rows(self, summary: SplitSummary) -> None:
        self.progress.begin(SEEN_FILE)
        rows = sum(summary.rows[SPLIT_NAMES[split]] for split in (TRAIN, VALIDATION))
        write_seen_rows(self.connection, self.config, rows=rows, path=self.folder / SEEN_FILE)

    def _write_splits(self, features: FittedFeatures) -> None:
        for split, name in enumerate(SPLIT_NAMES):
            self.progress.begin(f"{name}.parquet")
            path = self.folder / f"{name}.parquet"
            write_split(self.connection, self.config, features, split=split, path=path)
        self.progress.begin("features", parts=len(features.program.features))
        check_features(self.connection, self.config, features.program, self.folder, progress=self.progress)


def _find_classes(connection: Connection, config: ModelConfig) -> tuple[ClassLabel, ...]:
    """The classes as they stand in the data, in the order of their values.

    Raises:
        DatasetError: there are fewer than 2 or more than 1,000 values, or the values are a quantity.
    """
    target = quote(config.target.column)
    found = connection.execute(
        f"SELECT CAST({target} AS VARCHAR), count(*) FROM {RAW} GROUP BY {target} ORDER BY {target} "
        f"LIMIT {_MAX_CLASSES + 1}"
    ).fetchall()
    if len(found) > 1:
        _refuse_quantity(config, dict(found))
    if not 2 <= len(found) <= _MAX_CLASSES:
        raise DatasetError(
            f"has {'more than ' * (len(found) > _MAX_CLASSES)}{min(len(found), _MAX_CLASSES)} different "
            f"values, expected 2 to {_MAX_CLASSES} classes",
            where=f"{config.model.name}: target {config.target.column!r}",
            hint="Is it the column to predict?",
        )
    return tuple(ClassLabel(value=value, label=value) for value, _ in found)


def _refuse_quantity(config: ModelConfig, rows: Mapping[str, int]) -> None:
    """Stop at a target that looks like a quantity; ``rows`` counts the rows of each value that was found.

    Raises:
        DatasetError: it is a number, or a whole number of many values or of few rows each.
    """
    kind = config.columns[config.target.column].type
    rare = sum(count < _MIN_CLASS_ROWS for count in rows.values())
    if kind == "number":
        why = "is of type number"
    elif kind == "integer" and len(rows) > _MAX_INTEGER_CLASSES:
        why = f"has more than {_MAX_INTEGER_CLASSES} different whole numbers"
    elif kind == "integer" and 2 * rare > len(rows):
        why = f"has fewer than {_MIN_CLASS_ROWS} rows for {rare} of its {len(rows)} different whole numbers"
    else:
        return
    first = ", ".join(f'{{ value = "{value}", label = … }}' for value in list(rows)[:2])
    raise DatasetError(
        f"{why}, which looks like a quantity: each value would become a class of its own, and "
        "regression is not supported",
        where=f"{config.model.name}: target {config.target.column!r}",
        hint=f"If the values are classes, list them all: classes = [{first}, …] in [target]. A quantity has "
        "to be cut into classes in the source first.",
    )


def _class_sql(config: ModelConfig, classes: Sequence[ClassLabel]) -> str:
    target = quote(config.target.column)
    cases = " ".join(f"WHEN {literal(label.value)} THEN {index}" for index, label in enumerate(classes))
    return f"CASE CAST({target} AS VARCHAR) {cases} END"


def _require_rows(config: ModelConfig, classes: Sequence[ClassLabel], summary: SplitSummary) -> None:
    for name, rows in summary.rows.items():
        if not rows:
            raise DatasetError(
                f"the {name} split has no row of {sum(summary.rows.values()):,}",
                where=config.model.name,
                hint="Change [split].",
            )
    for label, rows in zip(classes, summary.class_counts["train"], strict=True):
        if not rows:
            log_event(
                _logger,
                "no training row of a class",
                logging.WARNING,
                model=config.model.name,
                value=label.value,
            )


def _describe(
    config: ModelConfig,
    program: FeatureProgram,
    report: CheckReport,
    classes: tuple[ClassLabel, ...],
    summary: SplitSummary,
    columns: dict[str, ColumnProfile],
) -> Profile:
    return Profile(
        schema_version=PROFILE_SCHEMA_VERSION,
        model=config.model.name,
        duckdb=duckdb.__version__,
        classes=classes,
        feature_names=program.names,
        input_columns=tuple(_with_range(column, columns[column.name]) for column in input_columns(config)),
        rejected_lines=report.rejected_lines,
        rows=summary.rows,
        class_counts=summary.class_counts,
        fingerprints=summary.fingerprints,
        duplicates=summary.duplicates,
        columns=columns,
    )


def _with_range(column: Column, seen: ColumnProfile) -> Column:
    """The column as the signature names it, with what training saw in it."""
    whole = (
        seen.distinct is not None and seen.categories is not None and seen.distinct == len(seen.categories)
    )
    return msgspec.structs.replace(
        column,
        minimum=seen.minimum,
        maximum=seen.maximum,
        categories=seen.categories if whole else None,
    )


def _summary(folder: Path, *, is_skipped: bool) -> dict[str, Any]:
    bring(folder, "profile.json")
    profile = load_profile(folder / "profile.json")
    receipt = read_receipt(folder)
    return {
        "stage": "etl",
        "model": profile.model,
        "skipped": is_skipped,
        "folder": name_path(folder),
        "rows": profile.rows,
        "features": len(profile.feature_names),
        "rejected_lines": profile.rejected_lines,
        "inputs_in_two_splits": profile.duplicates.distinct_inputs,
        "fingerprint": profile.fingerprint,
        "digest": receipt.digest if receipt else None,
    }
