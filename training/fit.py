"""The train stage: prepared splits in, a run folder out (network, history, run.json, receipt)."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import duckdb
import keras
import msgspec
import pyarrow as pa
import tensorflow as tf

from timberline import __version__
from timberline.registry.errors import StageError
from timberline.registry.manifest import Prior
from timberline.registry.runs import RUN_SCHEMA_VERSION, Fitted, RunRecord, read_run
from timberline.registry.runtime.documents import encode_document, utc_now
from timberline.registry.runtime.files import digest_bytes, write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.stages import Stage, digest_code, digest_value, require_receipt
from timberline.registry.runtime.working_copy import bring, name_path, refresh, share_file
from timberline.training.config import ModelConfig, input_columns, read_features_sql, source_table
from timberline.training.data.fitting import FITTED_FILE, load_fitted
from timberline.training.data.profile import Profile, load_profile
from timberline.training.data.splits import SPLIT_NAMES
from timberline.training.features import parse_features
from timberline.training.model.calibration import fit_logit_correction
from timberline.training.model.checkpoints import Epoch, discard_checkpoint, read_history, write_history
from timberline.training.model.dataset import PreparedSplit
from timberline.training.model.loop import FitResult, choose_batch_rows, fit_network
from timberline.training.model.network import build_network, build_serving_model
from timberline.training.model.saving import KERAS_FILE, SAVED_MODEL, check_saved_model, save_model
from timberline.training.model.scaling import FeatureStatistics, measure_features

_logger = logging.getLogger("training.fit")

# Rows of the training split that the saved model is scored on again after reloading.
_CHECK_ROWS = 4096
# What training reads of the prepared data.
PREPARED_FILES = (*(f"{name}.parquet" for name in SPLIT_NAMES), "profile.json", FITTED_FILE)

Precision = Literal["float32", "mixed_bfloat16"]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three prepared splits, with the features that the network is to have.

    ``nullable``: of every feature, whether a served row may hold NULL.
    """

    train: PreparedSplit
    validation: PreparedSplit
    test: PreparedSplit
    class_count: int
    nullable: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network with its calibration and its prior, as it is served, and its history."""

    model: keras.Model
    fitted: FitResult
    prior: Prior


def run_train(config: ModelConfig, models: Path, data: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train the model on its prepared splits and leave a finished run, which becomes the latest.

    Nothing is done when a run of the same data and configuration is there. A killed run leaves its
    checkpoint: with ``resume`` the next call goes on from it and ends with the same weights; without,
    the checkpoint is discarded. No row of the test split takes part, but for its unlabelled features
    where ``[prior]`` asks for them.

    Raises:
        StageError: the data has not been prepared.
        TrainingError: the loss diverged, or the saved model does not answer as the trained one.
    """
    name = config.model.name
    inputs = digest_inputs(config, models, data)
    run_id = digest_value(inputs)[:12]
    folder = data / "runs" / name / run_id
    prepared = data / "prepared" / name
    stage = Stage("train", folder, inputs, {prepared: PREPARED_FILES})
    is_skipped = stage.is_current(_logger, run=run_id)
    resumed_from = 0
    checkpoints = data / "checkpoints" / name / run_id
    if not is_skipped:
        with stage.fill() as partial:
            resumed_from = _train(config, models, data, run_id, partial, checkpoints, resume=resume)
    discard_checkpoint(checkpoints)  # also of a run that was killed just before it would have
    _point_latest(folder)
    bring(prepared, "profile.json")
    bring(folder, "run.json", "history.json")
    summary = _summary(folder, config, load_profile(prepared / "profile.json"))
    for warning in summary["warnings"]:
        log_event(_logger, warning, logging.WARNING, run=run_id)
    if not is_skipped:
        shown = ("epochs", "minutes", "validation_accuracy", "validation_loss")
        log_event(_logger, "train finished", run=run_id, **{key: summary[key] for key in shown})
    return {"stage": "train", "skipped": is_skipped, "resumed_from": resumed_from, **summary}


def _point_latest(folder: Path) -> None:
    """Make a run the model's latest."""
    path, text = folder.with_name("latest"), f"{folder.name}\n".encode()
    refresh(path)
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text)
        share_file(path)


def digest_inputs(config: ModelConfig, models: Path, data: Path) -> dict[str, str]:
    """Digests of all that a run is made from.

    Raises:
        StageError: the data is not prepared or is damaged, or was prepared for another features.sql.
    """
    name = config.model.name
    command = f"timberline etl {name}"
    receipt = require_receipt(data / "prepared" / name, command)
    features = models / name / config.features.file
    digest = digest_bytes(read_features_sql(config, models).encode())
    if receipt.inputs.get("features") != digest:
        raise StageError(
            "has changed since the data was prepared",
            where=str(features),
            hint=f"Run `{command}`.",
        )
    return {
        "prepared": receipt.digest,
        "features": digest,
        "training": digest_value([config.network, config.training, config.prior]),
        "record": digest_value(config.model),
        "code": digest_code(Path(__file__).parent),
    }


def _train(
    config: ModelConfig,
    models: Path,
    data: Path,
    run_id: str,
    folder: Path,
    checkpoints: Path,
    *,
    resume: bool,
) -> int:
    """Fill the run's ``folder``; returns the number of epochs that a checkpoint had done already."""
    prepared = data / "prepared" / config.model.name
    profile = load_profile(prepared / "profile.json")
    splits = open_splits(config, models, prepared, profile, profile.feature_names)
    trained = train_network(config, splits, checkpoints, resume=resume)
    save_model(trained.model, folder)
    sample, _ = next(splits.train.read_batches(_CHECK_ROWS))
    check_saved_model(trained.model, folder, sample)
    write_history(folder, trained.fitted.history)
    record = describe_run(
        config, models, profile, run_id=run_id, prior=trained.prior, fitted=load_fitted(prepared)
    )
    (folder / "run.json").write_bytes(encode_document(record))
    return trained.fitted.resumed_from


def open_splits(
    config: ModelConfig, models: Path, prepared: Path, profile: Profile, features: Sequence[str]
) -> Splits:
    """The splits in the folder ``prepared``, with these of their features."""
    sql, fitted = read_features_sql(config, models), load_fitted(prepared)
    program = parse_features(sql, input_columns(config), fitted=fitted)
    nullable = dict(zip(program.names, program.nullable, strict=True))
    sizes = dict(zip(program.names, program.category_sizes, strict=True))
    train, validation, test = (
        PreparedSplit(prepared / f"{name}.parquet", features, [sizes[feature] for feature in features])
        for name in SPLIT_NAMES
    )
    chosen = tuple(nullable[name] for name in features)
    return Splits(train, validation, test, len(profile.classes), chosen)


def train_network(config: ModelConfig, splits: Splits, checkpoints: Path, *, resume: bool) -> TrainedModel:
    """Train from the seed on, then calibrate; a function of the splits and ``config``.

    Args:
        checkpoints: folder for this run's checkpoint.
        resume: go on from the checkpoint, if there is one.
    """
    make_deterministic(config.training.seed)
    train = splits.train
    statistics = measure_features(
        train.read_batches(), train.features, splits.class_count, category_sizes=train.category_sizes
    )
    network, fitted = _fit(config, statistics, splits, checkpoints, resume=resume)
    deployment = fit_logit_correction(
        config.prior,
        network,
        statistics.prior,
        splits.validation,
        getattr(splits, config.prior.unlabelled_split),
    )
    model = build_serving_model(network, deployment.shift, deployment.factor)
    return TrainedModel(model, fitted, deployment.prior)


def make_deterministic(seed: int) -> None:
    """Make every draw of this process follow ``seed`` and every operator give one result for one input.

    Bit-for-bit repeatability holds on one kind of machine with one number of threads.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _fit(
    config: ModelConfig,
    statistics: FeatureStatistics,
    splits: Splits,
    checkpoints: Path,
    *,
    resume: bool,
) -> tuple[keras.Model, FitResult]:
    """Train in the fastest precision; the network that comes back computes in float32."""
    precision = choose_precision(config.training.precision)
    build = functools.partial(
        build_network,
        config.network,
        statistics,
        splits.class_count,
        seed=config.training.seed,
        nullable=splits.nullable,
    )
    network = build(precision=precision)
    log_event(
        _logger,
        "training",
        rows=splits.train.rows,
        features=len(splits.train.features),
        parameters=sum(weight.shape.num_elements() for weight in network.trainable_weights),
        precision=precision,
        batch_rows=choose_batch_rows(config.training, splits.train.rows),
    )
    fitted = fit_network(
        network, splits.train, splits.validation, config.training, checkpoints=checkpoints, resume=resume
    )
    if precision != "float32":
        trained = network.get_weights()
        network = build()
        network.set_weights(trained)
    return network, fitted


def _summary(folder: Path, config: ModelConfig, profile: Profile) -> dict[str, Any]:
    """The summary of a finished run, read from disk, so that a skipped stage has the same."""
    record = read_run(folder)
    history = read_history(folder)
    stops_early = config.training.early_stopping_patience is not None
    kept = min(history, key=lambda line: line.validation_loss) if stops_early else history[-1]
    return {
        "model": record.model,
        "run_id": record.run_id,
        "epochs": len(history),
        "kept_epoch": kept.epoch + 1,
        "minutes": round(sum(line.seconds for line in history) / 60, 2),
        "validation_accuracy": kept.validation_accuracy,
        "validation_loss": kept.validation_loss,
        "warnings": _find_warnings(history, profile),
        "deployment_prior": [round(share, 4) for share in record.prior.deployment],
        "folder": name_path(folder),
    }


def _find_warnings(history: list[Epoch], profile: Profile) -> list[str]:
    """A warning if the network was never right more often than its most frequent class."""
    counts, trained = profile.class_counts["validation"], profile.class_counts["train"]
    share = counts[trained.index(max(trained))] / sum(counts)
    best = max(line.validation_accuracy for line in history)
    if best > share:
        return []
    return [
        f"in no epoch was the network right in more of the validation rows ({best:.4f} at most) than its "
        f"most frequent class ({share:.4f})"
    ]


def choose_precision(
    asked: Literal["auto", "float32", "mixed_bfloat16"],
    processor: Path = Path("/proc/cpuinfo"),
    environment: Mapping[str, str] | None = None,
) -> Precision:
    """The Keras dtype policy for ``asked``; ``auto`` looks for AMX tiles in the processor's flags.

    Measured on such a processor: mixed_bfloat16 takes 24 µs of CPU a row where float32 takes 39.
    Without the tiles bfloat16 is emulated, and slower. Where ``processor`` cannot be read (not
    Linux), ``auto`` is float32; and where the environment (the process's own when None) keeps oneDNN from
    the tiles. TensorFlow asks the processor and oneDNN the variable: capped below AVX-512, the first
    bfloat16 product aborts the process (seen with TensorFlow 2.21).
    """
    if asked != "auto":
        return asked
    if not _may_use_tiles(os.environ if environment is None else environment):
        return "float32"
    try:
        flags = processor.read_text("utf-8", errors="replace").split()
    except OSError:
        return "float32"
    return "mixed_bfloat16" if "amx_bf16" in flags else "float32"


def _may_use_tiles(environment: Mapping[str, str]) -> bool:
    """Whether oneDNN is on, and not capped at a set of instructions without AMX in its name."""
    cap = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    is_on = environment.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() not in {"0", "false"}
    return is_on and (cap.upper() == "DEFAULT" or "AMX" in cap.upper())


def describe_run(
    config: ModelConfig, models: Path, profile: Profile, *, run_id: str, prior: Prior, fitted: Fitted
) -> RunRecord:
    """The record of a run that has just been trained; its paths are relative to the data folder."""
    name = config.model.name
    run = f"runs/{name}/{run_id}"
    saw_unlabelled = prior.method == "em"
    return RunRecord(
        schema_version=RUN_SCHEMA_VERSION,
        run_id=run_id,
        model=name,
        title=config.model.title,
        description=config.model.description,
        attribution=config.model.attribution,
        created_at=utc_now(),
        columns=profile.input_columns,
        classes=profile.classes,
        features_sql=read_features_sql(config, models),
        feature_names=profile.feature_names,
        saved_model=f"{run}/{SAVED_MODEL}",
        keras_model=f"{run}/{KERAS_FILE}",
        test_parquet=f"prepared/{name}/test.parquet",
        data_fingerprint=profile.fingerprint,
        test_fingerprint=profile.fingerprints["test"],
        config_digest=digest_value(config),
        recipe_digest=digest_recipe(config, models),
        git_commit=read_commit(models),
        seed=config.training.seed,
        prior=prior,
        unlabelled_splits=(config.prior.unlabelled_split,) if saw_unlabelled else (),
        histograms=profile.histograms,
        producers={
            "timberline": __version__,
            "python": sys.version.split()[0],
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "duckdb": duckdb.__version__,
            "pyarrow": pa.__version__,
        },
        table=source_table(config),
        fitted=fitted,
    )


def digest_recipe(config: ModelConfig, models: Path) -> str:
    """SHA-256 of all that a run is made from but its data, its seed and the program.

    That is the text of features.sql, [network], [training] without its seed, and [prior].
    """
    training = msgspec.structs.asdict(config.training)
    del training["seed"]
    return digest_value([read_features_sql(config, models), config.network, training, config.prior])


def read_commit(folder: Path) -> str | None:
    """The git commit that ``folder`` is checked out from; None outside a work tree or without git."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
