"""One run → one published version: convert, compose, compare on every test row, publish.

Nothing reaches the registry before the last check has passed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import onnx

from timberline import __version__
from timberline.exporter.compiler.compile import build_feature_graph, find_opset
from timberline.exporter.errors import ExportError
from timberline.exporter.graph.compose import compose_graph, quantise_graph, serialise
from timberline.exporter.graph.costs import RowCost, log_cost, measure_row
from timberline.exporter.graph.runtime import find_minimum_runtime, runtime_versions
from timberline.exporter.inputs import ExportInputs, read_seen
from timberline.exporter.parity.compare import (
    Break,
    ParityFigures,
    Tolerances,
    keeps_bounds,
    load_tolerances,
    manifest_parity,
)
from timberline.exporter.parity.rows import check_slices, rows_to_feeds, write_test_rows
from timberline.exporter.parity.verify import Network, ParityResult, replay_golden, verify_parity
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.errors import RegistryError, after_change
from timberline.registry.manifest import SCHEMA_VERSION, Category, FileDigest, Lineage, Manifest, Metrics
from timberline.registry.rows import SEEN_FILE, TEST_ROWS_FILE
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.logs import log_event
from timberline.registry.signature import UnreadRole, build_signature
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store
from timberline.registry.version import Version
from timberline.training.features import FeatureProgram, parse_features, parse_slices

log = logging.getLogger("exporter.export")

CANDIDATE = "candidate"
# The evaluator scores Keras, this file the graph: rows within the label's tolerance may differ.
_ACCURACY_SLACK = 1e-3


class ExportResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of an export; ``version`` is None when it is refused and nothing is published."""

    outcome: Literal["published", "skipped", "refused"]
    model: str
    run_id: str
    version: int | None
    model_sha256: str
    size_bytes: int
    node_count: int | None = None
    accuracy: float | None = None
    parity: dict[str, ParityFigures] | None = None
    breaks: tuple[Break, ...] = ()
    row: RowCost | None = None


def export_run(
    inputs: ExportInputs,
    store: Store,
    *,
    tolerances: Tolerances | None = None,
    created_at: Callable[[], str] = utc_now,
) -> ExportResult:
    """Publish the run as the model's next version and point alias `candidate` at it.

    A run that is published already, with these settings and by this release of the program, is
    not exported again. A broken parity bound is a result and not an exception: ``refused``, with the
    worst rows.

    Raises:
        ConfigError: a slice of [gate] is refused, or has no row.
        ExportError: the run cannot be made into a graph, or the two sides cannot be compared.
        RegistryError: the version could not be published.
        AfterChangeError: it is published, and something after that failed.
    """
    manifest = find_exported(inputs, store)
    if manifest is None:
        return _export(inputs, store, tolerances or load_tolerances(), created_at)
    _point_candidate(store, manifest.model, manifest.version)
    log_event(
        log,
        "export is skipped: this run is published already",
        model=manifest.model,
        version=manifest.version,
        run=inputs.run.run_id,
    )
    return ExportResult(
        outcome="skipped",
        model=manifest.model,
        run_id=inputs.run.run_id,
        version=manifest.version,
        model_sha256=manifest.files[MODEL_FILE].sha256,
        size_bytes=manifest.files[MODEL_FILE].size,
    )


def find_exported(inputs: ExportInputs, store: Store) -> Manifest | None:
    """The newest version made from this very run with these settings by this release, if any."""
    wanted_rows = min(inputs.export.golden_rows, inputs.metrics.rows)
    wanted_opset = find_opset(_read_program(inputs), inputs.export.opset)
    for version in reversed(store.versions(inputs.run.model)):
        opened = _open_version(store, inputs.run.model, version)
        if opened is None:
            continue
        manifest = opened.manifest
        if (
            manifest.lineage.run_digest == inputs.run_digest
            and manifest.opset == wanted_opset
            and manifest.precision == inputs.export.precision
            and len(manifest.golden.rows) == wanted_rows
            and manifest.gate == inputs.gate
            and manifest.metrics == inputs.metrics
            and (TEST_ROWS_FILE in manifest.files) == inputs.export.test_rows
            and manifest.producers.get("timberline") == __version__
            and _is_whole(opened)
        ):
            return manifest
    return None


def _read_program(inputs: ExportInputs) -> FeatureProgram:
    """The features of the run over the columns that they read."""
    run = inputs.run
    return parse_features(run.features_sql, run.columns, fitted=run.fitted).narrow()


def _open_version(store: Store, model: str, version: int) -> Version | None:
    """A damaged version is no reason not to export another one."""
    try:
        return store.open_version(model, version)
    except (RegistryError, OSError) as error:
        log.warning("%s It is passed over.", error)
        return None


def _is_whole(version: Version) -> bool:
    try:
        version.verify()
    except (RegistryError, OSError) as error:
        log.warning("%s Exporting again.", error)
        return False
    return True


def _export(
    inputs: ExportInputs, store: Store, tolerances: Tolerances, created_at: Callable[[], str]
) -> ExportResult:
    # TensorFlow takes seconds to load, and a skipped export needs none of it.
    from timberline.exporter.graph.convert import KerasNetwork, converter_versions  # noqa: PLC0415

    inputs.bring()
    run = inputs.run
    read_seen(inputs.seen_rows)  # refused now, it has cost no conversion
    check_slices(inputs.test_parquet, parse_slices(inputs.gate.slices, run.columns))
    # The graph takes what features.sql reads; slices are computed here and may read every input.
    program = _read_program(inputs)
    if program.names != run.feature_names:
        raise ExportError(
            "its features are not those that its features.sql gives", where=run.run_id, hint="Train again."
        )
    network = KerasNetwork(inputs.saved_model, len(program.features))
    opset = find_opset(program, inputs.export.opset)
    if opset != inputs.export.opset:
        log_event(log, "the features need a newer operator set", asked=inputs.export.opset, opset=opset)
    model = compose_graph(
        build_feature_graph(program, opset),
        network.convert(opset),
        class_count=len(run.classes),
        categories=[i for i, size in enumerate(program.category_sizes) if size is not None],
        precision=inputs.export.precision,
    )
    if inputs.export.precision == "int8":
        model = quantise_graph(model)
    return publish_verified(
        model,
        network,
        program,
        inputs,
        store,
        tolerances=tolerances,
        converters=converter_versions(),
        created_at=created_at,
    )


def publish_verified(
    model: onnx.ModelProto,
    network: Network,
    program: FeatureProgram,
    inputs: ExportInputs,
    store: Store,
    *,
    tolerances: Tolerances,
    converters: dict[str, str],
    created_at: Callable[[], str] = utc_now,
) -> ExportResult:
    """Compare ``model`` with what it was made from on every test row, and publish it only if they agree.

    Agree within ``tolerances``: those of the precision that ``inputs.export`` names.

    Args:
        network: what was trained; the truth.
        program: the features, over the columns that ``model`` takes.
        converters: versions of the programs that made ``model``, for the manifest.

    Raises:
        ParityInputError, ExportError, RegistryError, AfterChangeError: as `export_run`.
    """
    tolerances = tolerances.choose(inputs.export.precision)
    data = serialise(model)
    log_event(log, "composed the graph", nodes=len(model.graph.node), bytes=len(data))
    with tempfile.TemporaryDirectory(prefix="timberline-export-") as scratch:
        files = {name: Path(scratch, name) for name in (MODEL_FILE, EVALUATION_FILE)}
        files[MODEL_FILE].write_bytes(data)
        files[SEEN_FILE], seen = inputs.seen_rows, read_seen(inputs.seen_rows)
        if inputs.export.test_rows:
            files[TEST_ROWS_FILE] = Path(scratch, TEST_ROWS_FILE)
            write_test_rows(inputs.test_parquet, seen, files[TEST_ROWS_FILE])
        parity = verify_parity(model, network, program, inputs, files[EVALUATION_FILE], tolerances)
        version = row = None
        if keeps_bounds(parity.report):
            require_accuracy(parity.rows, parity.accuracy, inputs.metrics)
            replay_golden(model, parity.golden, program.columns)
            feeds = rows_to_feeds(parity.golden.rows[:1], program.columns)
            row = measure_row(model, program, feeds, opset=inputs.export.opset)
            log_cost(row)
            describe = _describe_version(inputs, program, parity, tolerances, converters, created_at)
            version = store.publish(inputs.run.model, files, describe)
            _point_candidate(store, inputs.run.model, version)
    result = ExportResult(
        outcome="refused" if version is None else "published",
        model=inputs.run.model,
        run_id=inputs.run.run_id,
        version=version,
        model_sha256=digest_bytes(data),
        size_bytes=len(data),
        node_count=len(model.graph.node),
        accuracy=parity.accuracy,
        parity=msgspec.convert(parity.report, dict[str, ParityFigures], from_attributes=True),
        breaks=tuple(item for part in parity.report.values() for item in part.breaks),
        row=row,
    )
    _log_result(result)
    return result


def _point_candidate(store: Store, model: str, version: int) -> None:
    """Move alias `candidate` unless it is there.

    Raises:
        AfterChangeError: it did not move, or somebody else moved it in between; the version is published.
    """
    hint = f"`timberline alias set {model}@{CANDIDATE} {version}` moves the alias."
    with after_change("is published", where=f"{model}@{version}", hint=hint):
        current = read_alias(store, model, CANDIDATE)
        if current is None or current.version != version:
            expected = current.sequence if current else None
            move_alias(store, model, CANDIDATE, version, expected=expected, reason="exported")


def _log_result(result: ExportResult) -> None:
    """Log what is published, or the worst rows of what is refused."""
    if result.version is not None:
        errors = {name: part.worst_absolute_error for name, part in (result.parity or {}).items()}
        worst = " ".join(f"{name} {error:.2g}" for name, error in errors.items())
        log_event(log, "published", model=result.model, version=result.version, worst_errors=worst)
        return
    for item in result.breaks:
        log.error(
            "%s: %s in source row %d is %.9g in truth and %.9g in the graph",
            item.tensor,
            item.column,
            item.row,
            item.reference,
            item.candidate,
        )
    rows = {name: part.breaking_rows for name, part in (result.parity or {}).items()}
    log_event(log, "parity is broken; nothing was published", logging.ERROR, **rows)


def require_accuracy(rows: int, accuracy: float, metrics: Metrics) -> None:
    """Hold the graph's predictions to the figure that the manifest will claim.

    Raises:
        ExportError: other rows, or an accuracy further off than the label's tolerance explains.
    """
    claimed = metrics.accuracy.value
    if metrics.rows != rows or abs(claimed - accuracy) > _ACCURACY_SLACK:
        raise ExportError(
            f"says accuracy {claimed:.4f} on {metrics.rows:,} rows, the graph has {accuracy:.4f} on {rows:,}",
            where="metrics.json",
            hint="The figures belong to other data or another run; run `timberline evaluate` again.",
        )


def _describe_version(
    inputs: ExportInputs,
    program: FeatureProgram,
    parity: ParityResult,
    tolerances: Tolerances,
    converters: dict[str, str],
    created_at: Callable[[], str],
) -> Callable[[int, dict[str, FileDigest]], Manifest]:
    """The function that `Store.publish` calls for the manifest; ``created_at`` gives ISO 8601, UTC."""
    run, export = inputs.run, inputs.export
    opset = find_opset(program, export.opset)
    names = {column.name for column in program.columns}
    unread: dict[str, UnreadRole] = {c.name: "input" for c in run.columns if c.name not in names}

    def describe(version: int, files: dict[str, FileDigest]) -> Manifest:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            model=run.model,
            version=version,
            created_at=created_at(),
            title=run.title,
            description=run.description,
            files=files,
            signature=build_signature(program.columns, run.classes),
            opset=opset,
            minimum_onnxruntime=find_minimum_runtime(opset),
            precision=export.precision,
            producers={**run.producers, **converters, **runtime_versions(), "timberline": __version__},
            lineage=_describe_lineage(inputs),
            prior=run.prior,
            metrics=inputs.metrics,
            parity=manifest_parity(parity.report, tolerances.by_tensor()),
            histograms={name: histogram for name, histogram in run.histograms.items() if name in names},
            golden=parity.golden,
            gate=inputs.gate,
            table=msgspec.structs.replace(run.table, unread={**run.table.unread, **unread}),
            categories=tuple(
                Category(feature=feature.name, values=len(feature.vocabulary))
                for feature in program.features
                if feature.vocabulary is not None
            ),
            constants=run.fitted.constants,
        )

    return describe


def _describe_lineage(inputs: ExportInputs) -> Lineage:
    run = inputs.run
    return Lineage(
        run_id=run.run_id,
        run_digest=inputs.run_digest,
        data_fingerprint=run.data_fingerprint,
        test_fingerprint=run.test_fingerprint,
        features_digest=digest_bytes(run.features_sql.encode()),
        config_digest=run.config_digest,
        git_commit=run.git_commit,
        seed=run.seed,
        attribution=run.attribution,
        unlabelled_splits=run.unlabelled_splits,
        recipe_digest=run.recipe_digest,
    )
