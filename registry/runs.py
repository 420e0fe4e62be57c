"""What a training run leaves for the exporter (`run.json`), and how far runs of one recipe differ.

The exporter may not import training, so the shape of ``run.json`` lives here. `TrainingNoise` is a document
beside a version, measured by training it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from timberline.registry.errors import ManifestError, RegistryError, StageError
from timberline.registry.manifest import Histogram, Precision, Prior
from timberline.registry.runtime.documents import decode_document, encode_document
from timberline.registry.runtime.working_copy import bring, name_path, refresh
from timberline.registry.signature import ClassLabel, Column, SourceTable

RUN_SCHEMA_VERSION = 1
# Columns of the prepared Parquet files that are neither raw columns nor features.
ROW_COLUMN = "__row__"
CLASS_COLUMN = "__class__"
# In a run's evaluation: what each baseline answers for the rows of the test split, a column each.
BASELINES_FILE = "baselines.parquet"


class ExportSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the graph is written, and what goes with it; from ``[export]`` in model.toml.

    ``test_rows``: the rows of the test split are published with the version, for a gate that does not see
    the prepared data.
    """

    opset: Annotated[int, msgspec.Meta(ge=17, le=23)] = 18
    precision: Precision = "float32"
    golden_rows: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64
    test_rows: bool = False


def code_column(feature: str) -> str:
    """The column of the prepared data that holds the codes of a category."""
    return f"__code_{feature}__"


class Fitted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What features.sql has learned from the training split.

    ``vocabularies``: of each feature that is text, its values in the order of their codes, which begin at
    `signature.FIRST_CODE`; any other value has `signature.UNKNOWN_CODE`. ``constants``: what each
    ``fitted.*`` call is, by its canonical text. ``tables``: of each call that has one value a category, those
    values by the category; its constant is what any other category has, and the one of its text and " NULL"
    what NULL has.
    """

    vocabularies: dict[str, tuple[str, ...]] = {}
    constants: dict[str, float | str | None] = {}
    tables: dict[str, dict[str, float]] = {}


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One finished training run.

    Paths are relative to the data folder. ``test_parquet`` holds the raw columns, ``__row__``
    (INT64, 0-based row in the source), ``__class__`` (index into ``classes``) and the features
    that are not plain raw columns. ``columns`` are the declared inputs, whether features_sql reads them
    or not; ``table.unread`` are the others. ``recipe_digest`` as in `registry.manifest.Lineage`.
    """

    schema_version: int
    run_id: str
    model: str
    title: str
    description: str
    attribution: str
    created_at: str
    columns: tuple[Column, ...]
    classes: tuple[ClassLabel, ...]
    features_sql: str
    feature_names: tuple[str, ...]
    saved_model: str
    keras_model: str
    test_parquet: str
    data_fingerprint: str
    test_fingerprint: str
    config_digest: str
    recipe_digest: str | None = None
    git_commit: str | None
    seed: int
    prior: Prior
    unlabelled_splits: tuple[str, ...]
    histograms: dict[str, Histogram]
    producers: dict[str, str]
    table: SourceTable = SourceTable()
    fitted: Fitted = Fitted()


def find_run(data: Path, model: str, run_id: str | None = None) -> Path:
    """The folder of a finished run: the named one, or the one that trained last.

    Raises:
        StageError: the model has no finished run, or not this one.
    """
    runs = data / "runs" / model
    if run_id is None:
        refresh(runs / "latest")
    try:
        chosen = run_id or (runs / "latest").read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        raise StageError("no finished run", where=model, hint=f"Run `timberline train {model}`.") from None
    folder = runs / chosen
    bring(folder, "run.json")
    if not (folder / "run.json").is_file():
        raise StageError(f"no finished run {chosen}", where=name_path(runs))
    return folder


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json`` in ``folder``.

    Raises:
        ManifestError: it is damaged or of another ``schema_version``.
    """
    path = folder / "run.json"
    data, what, hint = path.read_bytes(), "a run record", "Train again."
    return decode_document(
        data, RunRecord, RUN_SCHEMA_VERSION, ManifestError, what=what, where=str(path), hint=hint
    )


NOISE_SCHEMA_VERSION = 1
NOISE_FILE = "training_noise.json"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in the document."""


class RunQuality(_Table, frozen=True, kw_only=True):
    """One run on the test split: accuracy and recalls 0 to 1 (by class value), log-loss in nats, ECE."""

    seed: int
    accuracy: float
    log_loss: float
    ece: float
    recalls: dict[str, float]


class TrainingNoise(_Table, frozen=True, kw_only=True):
    """Runs of one recipe that differ in their seed alone; the first is the version's own.

    ``recipe`` is the digest of all that a run is made from but its seed and its data; ``rows`` are the
    test rows, ``test_fingerprint`` says which. ``measured_at`` is UTC, ISO 8601.
    """

    schema_version: int
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    recipe: str
    test_fingerprint: str
    rows: int
    measured_at: str
    runs: Annotated[tuple[RunQuality, ...], msgspec.Meta(min_length=2)]


def encode_noise(noise: TrainingNoise) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one final newline."""
    return encode_document(noise)


def decode_noise(data: bytes, where: str = NOISE_FILE) -> TrainingNoise:
    """Read the document's bytes.

    Raises:
        RegistryError: it is damaged, or of another ``schema_version``.
    """
    what, hint = "a record of training noise", "Run `timberline calibrate-training` again."
    return decode_document(
        data, TrainingNoise, NOISE_SCHEMA_VERSION, RegistryError, what=what, where=where, hint=hint
    )
