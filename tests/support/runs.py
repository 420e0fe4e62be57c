"""Small finished runs: everything that the exporter reads, as the training stages leave it.

The table is random, the network is real (Keras, random weights, biases that are not zero, so that
a lost bias shows), and its evaluation is the network's own accuracy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timberline import __version__
from timberline.registry.manifest import ClassMetrics, Histogram, Interval, Metrics, Prior
from timberline.registry.rows import (
    SEEN_FILE,
    SEEN_KEY,
    SEEN_ODDS,
    SEEN_SCHEMA_VERSION,
    SeenRows,
    StoredColumn,
)
from timberline.registry.runs import (
    BASELINES_FILE,
    CLASS_COLUMN,
    ROW_COLUMN,
    RUN_SCHEMA_VERSION,
    Fitted,
    RunRecord,
)
from timberline.registry.runtime.logs import capture_native_stderr, silence_tensorflow
from timberline.registry.runtime.receipts import Receipt
from timberline.registry.runtime.stages import Stage, digest_value, read_receipt
from timberline.registry.signature import ClassLabel, Column, SourceTable
from timberline.training.features import FeatureProgram, parse_features

_ARROW = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}


TARGET = "answer"
_TABLE = SourceTable()
_NOTHING_LEARNED = Fitted()


@dataclass(frozen=True)
class RunPlan:
    """What the run is made of; the default has every datatype, NULLs, and three classes."""

    model: str = "tiny"
    columns: tuple[Column, ...] = (
        Column(name="height", datatype="FP64"),
        Column(name="count", datatype="INT64", is_nullable=True),
        Column(name="is_wet", datatype="BOOL"),
        Column(name="colour", datatype="BYTES", is_nullable=True, categories=("blue", "green", "red")),
    )
    features_sql: str = (
        "SELECT height, coalesce(count, -1) AS count_filled, is_wet, sqrt(abs(height) + 1) AS root, "
        "height * coalesce(count, 0) AS product, coalesce(colour, 'none') = 'red' AS is_red FROM raw"
    )
    classes: tuple[str, ...] = ("1", "2", "3")
    rows: int = 400
    seed: int = 7
    table: SourceTable = _TABLE
    fitted: Fitted = _NOTHING_LEARNED


# Numbers with NULLs and two features that are text, one with a value that training has never seen.
CODED = RunPlan(
    model="coded",
    columns=(
        Column(name="height", datatype="FP64", is_nullable=True),
        Column(name="colour", datatype="BYTES", is_nullable=True, categories=("blue", "green")),
        Column(name="place", datatype="BYTES", categories=("here", "there")),
    ),
    features_sql="SELECT colour, height, place, fitted.mean(height) + height AS moved FROM raw",
    fitted=Fitted(
        vocabularies={"colour": ("blue",), "place": (*(f"place {i}" for i in range(20)), "there")},
        constants={"mean(height)": 0.25},
    ),
)


def build_run(data: Path, plan: RunPlan | None = None) -> RunRecord:
    """Leave prepared data, a run and its evaluation for ``plan`` under ``data``."""
    plan = plan or RunPlan()
    program = parse_features(plan.features_sql, plan.columns, fitted=plan.fitted)
    prepared = data / "prepared" / plan.model
    table = _make_table(plan)
    with Stage("etl", prepared, {"raw": digest_value(plan.seed)}).fill() as folder:
        pq.write_table(table, folder / "test.parquet", compression="zstd")
        pq.write_table(make_seen(plan.columns, [3, 5, 8]), folder / SEEN_FILE)
    etl = _receipt(prepared)
    run_id = digest_value([etl.digest, plan.features_sql])[:12]
    run_folder = data / "runs" / plan.model / run_id
    record = _make_record(plan, program, run_id)
    with Stage("train", run_folder, {"prepared": etl.digest}).fill() as folder:
        predict = _save_network(folder / "saved_model", plan, program, table)
        encoded = msgspec.json.encode(record, order="sorted")
        (folder / "run.json").write_bytes(encoded)
    (run_folder.parent / "latest").write_text(run_id, "utf-8")
    metrics = _make_metrics(plan, table, predict)
    inputs = {"run": _receipt(run_folder).digest, "prepared": etl.digest}
    with Stage("evaluate", run_folder.with_name(f"{run_id}.evaluation"), inputs).fill() as folder:
        (folder / "metrics.json").write_bytes(msgspec.json.encode(metrics, order="sorted"))
        baselines = {"majority_class": pa.array([0] * plan.rows, pa.int16())}
        pq.write_table(pa.table(baselines), folder / BASELINES_FILE)
    return record


def make_seen(columns: Iterable[Column], hashes: Sequence[int]) -> pa.Table:
    """A `SEEN_FILE` with these hashes, of as many learned rows of ``columns`` and a target."""
    stored = [StoredColumn(name=column.name, datatype=column.datatype) for column in columns]
    seen = SeenRows(
        schema_version=SEEN_SCHEMA_VERSION,
        columns=(*stored, StoredColumn(name=TARGET, datatype="BYTES")),
        target=TARGET,
        rows=len(hashes),
        span=SEEN_ODDS * len(hashes),
        false_positive_rate=1 / SEEN_ODDS,
    )
    return pa.table({"hash": pa.array(hashes, pa.int64())}).replace_schema_metadata(
        {SEEN_KEY: msgspec.json.encode(seen)}
    )


def _receipt(folder: Path) -> Receipt:
    receipt = read_receipt(folder)
    assert receipt is not None
    return receipt


def _make_table(plan: RunPlan) -> pa.Table:
    generator = np.random.default_rng(plan.seed)
    # Source rows with gaps, as a split leaves them: a row number is not an offset in the file.
    rows = np.arange(plan.rows, dtype=np.int64) * 3 + 5
    classes = generator.integers(0, len(plan.classes), plan.rows).astype(np.int16)
    columns: dict[str, pa.Array] = {ROW_COLUMN: pa.array(rows), CLASS_COLUMN: pa.array(classes)}
    for column in plan.columns:
        columns[column.name] = pa.array(
            _make_values(column, plan.rows, generator),
            _ARROW[column.datatype],
            mask=(generator.random(plan.rows) < 0.1) if column.is_nullable else None,
        )
    columns[TARGET] = pa.array([plan.classes[index] for index in classes])
    return pa.table(columns)


def _make_values(column: Column, rows: int, generator: np.random.Generator) -> Any:
    match column.datatype:
        case "FP64":
            return generator.normal(size=rows)
        case "INT64":
            return generator.integers(-50, 50, rows)
        case "BOOL":
            return generator.random(rows) < 0.5
        case "BYTES":
            return np.array(column.categories or ("a", "b"), object)[generator.integers(0, 2, rows)]


def _save_network(folder: Path, plan: RunPlan, program: FeatureProgram, table: pa.Table) -> Any:
    """Write the SavedModel and return its probabilities over ``table``, float32 (rows, C)."""
    silence_tensorflow()
    with capture_native_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party deprecation notes at import and export
        import keras
        import tensorflow as tf

        features = _features(program, table)
        keras.utils.set_random_seed(plan.seed)
        if plan.fitted.vocabularies:
            return _save_own_network(folder, plan, program, features)
        inputs = keras.Input((features.shape[1],), name="features")
        scaled = keras.layers.Normalization(mean=features.mean(0), variance=features.var(0) + 1)(inputs)
        hidden = keras.layers.Dense(16, "relu", bias_initializer="random_normal")(scaled)
        dropped = keras.layers.Dropout(0.2)(hidden)
        outputs = keras.layers.Dense(len(plan.classes), "softmax", bias_initializer="random_normal")(dropped)
        model = keras.Model(inputs, {"probabilities": outputs})
        spec = tf.TensorSpec((None, features.shape[1]), tf.float32, name="features")
        model.export(folder, format="tf_saved_model", input_signature=[spec], verbose=False)
        return model(features)["probabilities"].numpy()


def _save_own_network(folder: Path, plan: RunPlan, program: FeatureProgram, features: Any) -> Any:
    """As `_save_network`, of the layers that training has for categories and NULL."""
    from timberline.training.config import MlpNetwork
    from timberline.training.model.network import build_network, build_serving_model
    from timberline.training.model.saving import save_model, scorer
    from timberline.training.model.scaling import measure_features

    classes = (np.arange(len(features)) % len(plan.classes)).astype(np.int32)
    statistics = measure_features(
        [(features, classes)], program.names, len(plan.classes), category_sizes=program.category_sizes
    )
    network = build_network(
        MlpNetwork(widths=(16,)), statistics, len(plan.classes), seed=plan.seed, nullable=program.nullable
    )
    model = build_serving_model(network, np.linspace(-0.5, 0.5, len(plan.classes)))
    save_model(model, folder.parent)
    return scorer(model)(features)


def _features(program: FeatureProgram, table: pa.Table) -> Any:
    with duckdb.connect(config={"threads": 1}) as connection:
        for statement in program.prepare_sql:
            connection.execute(statement)
        connection.register("raw", table)
        result = connection.sql(program.select_sql("raw", order=ROW_COLUMN)).to_arrow_table()
    return np.stack([column.to_numpy() for column in result.itercolumns()], axis=1).astype(np.float32)


def _make_record(plan: RunPlan, program: FeatureProgram, run_id: str) -> RunRecord:
    prior = tuple([1 / len(plan.classes)] * len(plan.classes))
    run = f"runs/{plan.model}/{run_id}"
    return RunRecord(
        schema_version=RUN_SCHEMA_VERSION,
        run_id=run_id,
        model=plan.model,
        title="Tiny",
        description="A random table.",
        attribution="none",
        created_at="2025-01-01T00:00:00+00:00",
        columns=plan.columns,
        classes=tuple(ClassLabel(value=value, label=f"Class {value}") for value in plan.classes),
        features_sql=plan.features_sql,
        feature_names=tuple(feature.name for feature in program.features),
        saved_model=f"{run}/saved_model",
        keras_model=f"{run}/model.keras",
        test_parquet=f"prepared/{plan.model}/test.parquet",
        data_fingerprint="data",
        test_fingerprint="test",
        config_digest=digest_value(plan.model),
        git_commit=None,
        seed=plan.seed,
        prior=Prior(method="none", training=prior, deployment=prior),
        unlabelled_splits=(),
        histograms={column.name: _make_histogram(column, plan.rows) for column in plan.columns},
        producers={"timberline": __version__},
        table=plan.table,
        fitted=plan.fitted,
    )


def _make_histogram(column: Column, rows: int) -> Histogram:
    if column.datatype == "BYTES":
        return Histogram(counts=(rows,), categories=("a",))
    return Histogram(counts=(rows,), edges=(0.0, 1.0))


def _make_metrics(plan: RunPlan, table: pa.Table, probabilities: Any) -> Metrics:
    """True accuracy; the other figures are no business of the exporter and are filled in."""
    accuracy = float((probabilities.argmax(1) == table[CLASS_COLUMN].to_numpy()).mean())
    part = ClassMetrics(precision=0.5, recall=0.5, f1=0.5, rows=plan.rows)
    return Metrics(
        rows=plan.rows,
        accuracy=Interval(value=accuracy, low=accuracy, high=accuracy),
        log_loss=1.0,
        ece=0.1,
        classes=dict.fromkeys(plan.classes, part),
        confusion=((plan.rows,),),
        baselines={"majority_class": float((table[CLASS_COLUMN].to_numpy() == 0).mean())},
    )
