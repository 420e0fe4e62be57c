"""A version's self-description: frozen, canonical, and the last file that publishing writes.

Laws: ``decode(encode(m)) == m``; equal manifests have equal bytes; an unknown ``schema_version``
or an unknown key is refused, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from timberline.registry.errors import ManifestError
from timberline.registry.runtime.documents import V, decode_document, encode_document
from timberline.registry.signature import Signature, SourceTable

SCHEMA_VERSION = 1

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
# A version is flat: a name with a separator, a leading dot or an odd character is no file of it.
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z"
FileName = Annotated[str, msgspec.Meta(pattern=FILE_NAME)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table in a manifest."""


# How the network computes: float32, or int8 (dynamically quantised layers, to be run one row at a time).
Precision = Literal["float32", "int8"]


class FileDigest(_Table, frozen=True, kw_only=True):
    """A file of the version: SHA-256 and size in bytes."""

    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=0)]


class Interval(_Table, frozen=True, kw_only=True):
    """A measured value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class ClassMetrics(_Table, frozen=True, kw_only=True):
    """Precision, recall, F1 (0 to 1) and number of test rows of one class."""

    precision: float
    recall: float
    f1: float
    rows: int


class Metrics(_Table, frozen=True, kw_only=True):
    """Quality on the test split.

    ``log_loss`` in nats; ``ece`` is the expected calibration error over 15 equal-mass bins of the
    top probability; ``confusion[i][j]`` counts rows of true class i predicted as j.
    ``baselines`` are accuracies on the same rows by baseline name.
    """

    rows: int
    accuracy: Interval
    log_loss: float
    ece: float
    classes: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    baselines: dict[str, float]


class ParityTensor(_Table, frozen=True, kw_only=True):
    """Worst disagreement of one tensor: absolute error, the source row it happened in, its bound."""

    rows: int
    worst_absolute_error: float
    worst_row: int
    atol: float
    rtol: float


class Lineage(_Table, frozen=True, kw_only=True):
    """Where the version came from; digests are SHA-256.

    ``recipe_digest`` is of all that the run was made from but its data, its seed and the program; None in
    versions from before it was written.
    """

    run_id: str
    run_digest: Sha256
    data_fingerprint: str
    test_fingerprint: str
    features_digest: Sha256
    config_digest: Sha256
    git_commit: str | None
    seed: int
    attribution: str
    unlabelled_splits: tuple[str, ...] = ()
    recipe_digest: Sha256 | None = None


class Prior(_Table, frozen=True, kw_only=True):
    """Class prior of the training rows and the one the graph corrects for, in class order."""

    method: Literal["none", "given", "em"]
    training: tuple[float, ...]
    deployment: tuple[float, ...]


class Histogram(_Table, frozen=True, kw_only=True):
    """Counts of a raw column over the training split.

    Numbers: ``edges`` has one more entry than ``counts`` (half-open bins, the last one closed).
    Text: ``categories`` names the bins. ``nulls`` counts NULL.
    """

    counts: tuple[int, ...]
    edges: tuple[float, ...] | None = None
    categories: tuple[str, ...] | None = None
    nulls: int = 0


def rank_values(histogram: Histogram) -> list[tuple[str, int]]:
    """The values of text and how often training saw each, the commonest first; empty for numbers."""
    if histogram.categories is None:
        return []
    return sorted(zip(histogram.categories, histogram.counts, strict=True), key=lambda one: -one[1])


class Golden(_Table, frozen=True, kw_only=True):
    """Rows with known answers, for warm-up and load-and-query checks.

    ``rows[i]`` holds the raw values in column order (None is NULL); ``class_indexes`` the true
    class; ``probabilities`` are the graph's own, float32; compare within ``atol``.
    """

    rows: tuple[tuple[float | int | bool | str | None, ...], ...]
    class_indexes: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]
    atol: float = 1e-5


class Category(_Table, frozen=True, kw_only=True):
    """A feature that is text, and how many training values it knows."""

    feature: str
    values: Annotated[int, msgspec.Meta(ge=0)]


# A slice becomes the column `slice_<name>` of evaluation.parquet, a baseline's answers `baseline_<name>`.
SLICE_PREFIX = "slice_"
BASELINE_PREFIX = "baseline_"
# What may have to improve: a metric, the recall of a class (by value), the accuracy in a slice (by name).
MetricName = Annotated[
    str,
    msgspec.Meta(pattern=r"^(accuracy|log_loss|calibration|recall\.[^\n]+|slices\.[a-z][a-z0-9_]{0,63})\Z"),
]
SliceName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]


class GateLimits(_Table, frozen=True, kw_only=True):
    """What a release of this model must keep; from ``[gate]`` in model.toml.

    ``min_accuracy``, ``max_log_loss``, ``max_p50_ms`` and ``max_model_bytes`` judge a first version
    alone and every later one too; ``*_drop``/``*_increase`` judge a candidate against the champion.
    Accuracies, recalls and calibration errors 0 to 1, log-losses in nats. ``max_p50_increase`` is a
    share of the champion's client p50 (0.10 is 10 %), ``max_p99_increase`` of the p99 of its time in
    the service, ``max_memory_increase`` and ``max_start_up_increase`` of its memory and start-up,
    ``max_service_p50_increase`` of the median of its net time in the service, ``max_cpu_increase`` of the
    service's processor time a request. ``max_accuracy_drop_total`` judges a candidate against the best of
    the last releases; None is ``max_accuracy_drop``.
    ``baseline`` says what a candidate gets that is proven worse than its own baselines: "block", or "warn"
    for a passing line with a mark. ``require`` "improvement" lets pass only what is proven better in one of
    ``improve`` and proven worse in nothing. ``slices`` are conditions over the raw columns by name (the
    language of features.sql); where one is NULL the row is not in the slice.
    """

    min_accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    max_log_loss: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_p50_ms: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    max_model_bytes: Annotated[int, msgspec.Meta(ge=1)] = 100_000_000
    max_accuracy_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.006
    max_accuracy_drop_total: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_recall_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.15
    max_slice_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    max_log_loss_increase: Annotated[float, msgspec.Meta(ge=0)] = 0.02
    max_ece_increase: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    max_p50_increase: Annotated[float, msgspec.Meta(gt=0)] = 0.10
    max_p99_increase: Annotated[float, msgspec.Meta(gt=0)] = 0.20
    max_service_p50_increase: Annotated[float, msgspec.Meta(gt=0)] = 0.15
    max_cpu_increase: Annotated[float, msgspec.Meta(gt=0)] = 0.15
    max_memory_increase: Annotated[float, msgspec.Meta(gt=0)] = 0.5
    max_start_up_increase: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    baseline: Literal["block", "warn"] = "block"
    require: Literal["not_worse", "improvement"] = "not_worse"
    improve: Annotated[tuple[MetricName, ...], msgspec.Meta(min_length=1)] = ("accuracy", "log_loss")
    slices: dict[SliceName, str] = {}


class Manifest(_Table, frozen=True, kw_only=True):
    """Everything that is known about one version.

    ``minimum_onnxruntime`` is the oldest release of ONNX Runtime, as ``major.minor``, that computes its
    graph; None in manifests from before it was looked for. ``categories``: the features that are text, in the
    order of the graph's output `signature.CATEGORIES_OUTPUT`.
    ``constants``: what features.sql has learned, by the text of the call (`registry.runs.Fitted`).
    """

    schema_version: int
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    created_at: str
    title: str
    description: str
    files: dict[FileName, FileDigest]
    signature: Signature
    opset: int
    minimum_onnxruntime: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\Z")] | None = None
    precision: Precision = "float32"
    producers: dict[str, str]
    lineage: Lineage
    prior: Prior
    metrics: Metrics
    parity: dict[str, ParityTensor]
    histograms: dict[str, Histogram]
    golden: Golden
    gate: GateLimits
    table: SourceTable = SourceTable()
    categories: tuple[Category, ...] = ()
    constants: dict[str, float | str | None] = {}


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one final newline."""
    return encode_document(manifest)


def decode_manifest(data: bytes, where: str = "manifest.json") -> Manifest:
    """Read a manifest's bytes.

    Raises:
        ManifestError: not JSON, not a manifest, or of a ``schema_version`` this code does not know.
    """
    _decode(data, _Head, where)  # before the rest: a later version has other keys
    return _decode(data, Manifest, where)


def _decode(data: bytes, kind: type[V], where: str) -> V:
    hint = "Upgrade timberline, or publish the version again."
    return decode_document(
        data, kind, SCHEMA_VERSION, ManifestError, what="a manifest", where=where, hint=hint
    )


class _Accuracy(msgspec.Struct, frozen=True):
    accuracy: Interval


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a manifest that a list of versions shows, under the same names."""

    schema_version: int
    model: str
    version: int
    created_at: str
    files: dict[FileName, FileDigest]
    metrics: _Accuracy


def decode_summary(data: bytes, where: str = "manifest.json") -> Summary:
    """Read the fields of a manifest that a list needs, in a fifth of the time of `decode_manifest`.

    Raises:
        ManifestError: as `decode_manifest`, but of these fields only.
    """
    return _decode(data, Summary, where)


class _Head(msgspec.Struct):
    schema_version: int
