"""One run → one published version: convert, compose, prove parity on every test row, publish.

Nothing reaches the registry before the last check has passed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from timberline import __version__
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.exporter.errors import ExportError
from timberline.exporter.graph.compose import compose_graph, serialise
from timberline.exporter.graph.costs import RowCost, log_cost, measure_row
from timberline.exporter.graph.runtime import runtime_versions
from timberline.exporter.inputs import ExportInputs
from timberline.exporter.package import (
    Evidence,
    describe_version,
    read_baselines,
    read_seen,
    require_accuracy,
    write_test_rows,
)
from timberline.exporter.parity.compare import (
    Tolerances,
    keeps_bounds,
    load_tolerances,
    manifest_parity,
)
from timberline.exporter.parity.rows import check_slices, rows_to_feeds
from timberline.exporter.parity.verify import Network, Proof, prove, replay_golden
from timberline.exporter.report import ExportResult, log_result, make_result
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.errors import RegistryError, after_change
from timberline.registry.manifest import Manifest
from timberline.registry.rows import SEEN_FILE, TEST_ROWS_FILE
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store
from timberline.registry.version import Version
from timberline.training.features import FeatureProgram, parse_features, parse_slices

log = logging.getLogger("exporter.export")

CANDIDATE = "candidate"


def export_run(
    inputs: ExportInputs,
    store: Store,
    *,
    tolerances: Tolerances | None = None,
    created_at: Callable[[], str] = utc_now,
) -> ExportResult:
    """Publish the run as the model's next version and point alias `candidate` at it.

    A run that is published already, with these settings and by this release of the program, is
    not exported again. A broken parity bound is an answer and not an exception: the result says
    ``refused`` and names the worst rows.

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
    for version in reversed(store.versions(inputs.run.model)):
        opened = _open_version(store, inputs.run.model, version)
        if opened is None:
            continue
        manifest = opened.manifest
        if (
            manifest.lineage.run_digest == inputs.run_digest
            and manifest.opset == inputs.export.opset
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

    run = inputs.run
    read_seen(inputs.seen_rows)  # refused now, it has cost no conversion
    check_slices(inputs.test_parquet, parse_slices(inputs.gate.slices, run.columns))
    # The graph takes what features.sql reads; slices are computed here and may read every input.
    program = parse_features(run.features_sql, run.columns).narrow()
    if program.names != run.feature_names:
        raise ExportError(
            "its features are not those that its features.sql gives", where=run.run_id, hint="Train again."
        )
    network = KerasNetwork(inputs.saved_model, len(program.features))
    opset = inputs.export.opset
    model = compose_graph(
        build_feature_graph(program, opset),
        network.convert(opset),
        class_count=len(run.classes),
        precision=inputs.export.precision,
    )
    if inputs.export.precision == "int8":
        from timberline.exporter.graph.quantise import quantise_graph  # noqa: PLC0415  (half a second, for few exports)

        model = quantise_graph(model)
    return publish_proven(
        model,
        network,
        program,
        inputs,
        store,
        tolerances=tolerances,
        converters=converter_versions(),
        created_at=created_at,
    )


def publish_proven(
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
    """Prove ``model`` equal to what it was made from on every test row, and only then publish it.

    Equal within ``tolerances``; those of the precision that ``inputs.export`` names.

    Args:
        network: what was trained; the truth.
        program: the features, over the columns that ``model`` takes.
        converters: versions of the programs that made ``model``, for the manifest.

    Raises:
        ParityInputError, ExportError, RegistryError, AfterChangeError: as `export_run`.
    """
    precision = inputs.export.precision
    tolerances = tolerances.choose(precision)
    data = serialise(model)
    log_event(log, "composed the graph", nodes=len(model.graph.node), bytes=len(data))
    with tempfile.TemporaryDirectory(prefix="timberline-export-") as scratch:
        files = {name: Path(scratch) / name for name in (MODEL_FILE, EVALUATION_FILE)}
        files[MODEL_FILE].write_bytes(data)
        files |= _gather_rows(inputs, Path(scratch))
        proof = prove(
            model,
            network,
            program,
            inputs.test_parquet,
            files[EVALUATION_FILE],
            tolerances=tolerances,
            class_count=len(inputs.run.classes),
            golden_rows=inputs.export.golden_rows,
            precision=precision,
            slices=parse_slices(inputs.gate.slices, inputs.run.columns),
            baselines=read_baselines(inputs.baselines, inputs.metrics.rows),
        )
        version = row = None
        if keeps_bounds(proof.report):
            require_accuracy(proof.rows, proof.accuracy, inputs.metrics)
            replay_golden(model, proof.golden, program.columns)
            row = _measure_row(model, program, inputs, proof)
            evidence = _make_evidence(inputs, program, proof, tolerances, converters)
            version = store.publish(inputs.run.model, files, describe_version(evidence, created_at))
            _point_candidate(store, inputs.run.model, version)
    result = make_result(inputs, model, data, proof, version=version, row=row)
    log_result(result)
    return result


def _gather_rows(inputs: ExportInputs, scratch: Path) -> dict[str, Path]:
    """The files that say which rows the version has learned from and, where asked for, was tested on."""
    files = {SEEN_FILE: inputs.seen_rows}
    seen = read_seen(inputs.seen_rows)
    if inputs.export.test_rows:
        files[TEST_ROWS_FILE] = scratch / TEST_ROWS_FILE
        write_test_rows(inputs.test_parquet, seen, files[TEST_ROWS_FILE])
    return files


def _measure_row(
    model: onnx.ModelProto, program: FeatureProgram, inputs: ExportInputs, proof: Proof
) -> RowCost:
    feeds = rows_to_feeds(proof.golden.rows[:1], program.columns)
    cost = measure_row(model, program, inputs.run.features_sql, feeds, opset=inputs.export.opset)
    log_cost(cost)
    return cost


def _make_evidence(
    inputs: ExportInputs,
    program: FeatureProgram,
    proof: Proof,
    tolerances: Tolerances,
    converters: dict[str, str],
) -> Evidence:
    return Evidence(
        run=inputs.run,
        columns=program.columns,
        run_digest=inputs.run_digest,
        opset=inputs.export.opset,
        precision=inputs.export.precision,
        gate=inputs.gate,
        metrics=inputs.metrics,
        parity=manifest_parity(proof.report, tolerances.by_tensor()),
        golden=proof.golden,
        producers={**converters, **runtime_versions()},
    )


def _point_candidate(store: Store, model: str, version: int) -> None:
    """Move alias `candidate` unless it is there.

    Raises:
        AfterChangeError: it did not move, or somebody else moved it in between; the version is published.
    """
    hint = f"`python -m registry alias set {model}@{CANDIDATE} {version}` moves the alias."
    with after_change("is published", where=f"{model}@{version}", hint=hint):
        current = read_alias(store, model, CANDIDATE)
        if current is None or current.version != version:
            expected = current.sequence if current else None
            move_alias(store, model, CANDIDATE, version, expected=expected, reason="exported")
