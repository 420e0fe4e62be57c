"""The train stage: prepared splits in, a run folder out (network, history, run.json, receipt)."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import msgspec
import tensorflow as tf

from timberline.registry.errors import StageError
from timberline.registry.manifest import Prior
from timberline.registry.runs import read_run
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.files import digest_bytes, write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.stages import (
    digest_code,
    digest_value,
    find_current,
    read_receipt,
    stage_folder,
)
from timberline.training.config import ModelConfig, input_columns, read_features_sql
from timberline.training.data.profile import Profile, load_profile
from timberline.training.features import parse_features
from timberline.training.model.checkpoints import Epoch, discard_checkpoint
from timberline.training.model.dataset import PreparedSplit
from timberline.training.model.logit_correction import fit_deployment
from timberline.training.model.loop import Fitted, choose_batch_rows, fit_network
from timberline.training.model.network import build_network, build_serving_model
from timberline.training.model.precision import choose_precision
from timberline.training.model.saving import check_saved_model, save_model
from timberline.training.model.scaling import FeatureStatistics, measure_features
from timberline.training.record import describe_run

_logger = logging.getLogger("training.fit")

_HISTORY = "history.json"
# Rows of the training split that the saved model is scored on again after reloading.
_CHECK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three prepared splits, with the features that the network is to have."""

    train: PreparedSplit
    validation: PreparedSplit
    test: PreparedSplit


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network with its calibration and its prior, as it is served, and how it came to be."""

    model: keras.Model
    fitted: Fitted
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
    is_current = find_current(folder, "train", inputs) is not None
    resumed_from = 0
    checkpoints = data / "checkpoints" / name / run_id
    if is_current:
        log_event(_logger, "train is skipped: its inputs are unchanged", run=run_id)
    else:
        with stage_folder(folder, "train", inputs) as partial:
            resumed_from = _train(config, models, data, run_id, partial, checkpoints, resume=resume)
    discard_checkpoint(checkpoints)  # also of a run that was killed just before it would have
    write_atomically(folder.parent / "latest", f"{run_id}\n".encode())
    summary = _summary(folder, config, load_profile(data / "prepared" / name / "profile.json"))
    for warning in summary["warnings"]:
        log_event(_logger, warning, logging.WARNING, run=run_id)
    if not is_current:
        told = ("epochs", "minutes", "validation_accuracy", "validation_loss")
        log_event(_logger, "train finished", run=run_id, **{key: summary[key] for key in told})
    return {"stage": "train", "skipped": is_current, "resumed_from": resumed_from, **summary}


def digest_inputs(config: ModelConfig, models: Path, data: Path) -> dict[str, str]:
    """Digests of all that a run is made from.

    Raises:
        StageError: the data is not prepared, or was prepared for another features.sql.
    """
    name = config.model.name
    receipt = read_receipt(data / "prepared" / name)
    if receipt is None:
        raise StageError("the data is not prepared", where=name, hint=f"Run `make etl MODEL={name}`.")
    features = models / name / config.features.file
    digest = digest_bytes(read_features_sql(config, models).encode())
    if receipt.inputs.get("features") != digest:
        raise StageError(
            "has changed since the data was prepared",
            where=str(features),
            hint=f"Run `make etl MODEL={name}`.",
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
    splits = open_splits(prepared, profile.feature_names)
    nullable = parse_features(read_features_sql(config, models), input_columns(config)).nullable
    trained = train_network(
        config, splits, len(profile.classes), checkpoints, nullable=nullable, resume=resume
    )
    save_model(trained.model, folder)
    sample, _ = next(splits.train.read_batches(_CHECK_ROWS))
    check_saved_model(trained.model, folder, sample)
    (folder / _HISTORY).write_bytes(
        msgspec.json.format(msgspec.json.encode(trained.fitted.history), indent=2) + b"\n"
    )
    record = describe_run(config, models, profile, run_id, trained.prior)
    (folder / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return trained.fitted.resumed_from


def open_splits(prepared: Path, features: Sequence[str]) -> Splits:
    """The splits in the folder ``prepared``, with these of their features."""
    return Splits(
        *(PreparedSplit(prepared / f"{split}.parquet", features) for split in ("train", "validation", "test"))
    )


def train_network(
    config: ModelConfig,
    splits: Splits,
    classes: int,
    checkpoints: Path,
    *,
    nullable: tuple[bool, ...],
    resume: bool,
) -> Trained:
    """Train from the seed on, then calibrate; a function of the splits and ``config``.

    Args:
        classes: how many there are.
        checkpoints: folder for this run's checkpoint.
        nullable: of every feature, whether it can be NULL.
        resume: go on from the checkpoint, if there is one.
    """
    make_deterministic(config.training.seed)
    statistics = measure_features(splits.train.read_batches(), splits.train.features, classes)
    network, fitted = _fit(config, statistics, splits, checkpoints, nullable=nullable, resume=resume)
    deployment = fit_deployment(
        config.prior,
        network,
        statistics.prior,
        splits.validation,
        getattr(splits, config.prior.unlabelled_split),
    )
    model = build_serving_model(network, deployment.shift, deployment.factor)
    return Trained(model, fitted, deployment.prior)


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
    nullable: tuple[bool, ...],
    resume: bool,
) -> tuple[keras.Model, Fitted]:
    """Train in the fastest precision; the network that comes back computes in float32."""
    classes, seed = len(statistics.class_counts), config.training.seed
    precision = choose_precision(config.training.precision)
    build = functools.partial(
        build_network, config.network, statistics, classes, seed=seed, nullable=nullable
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
    """What a finished run says of itself; read back from disk, so that a skipped stage says the same."""
    record = read_run(folder)
    history = decode_json((folder / _HISTORY).read_bytes(), list[Epoch])
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
        "folder": str(folder),
    }


def _find_warnings(history: list[Epoch], profile: Profile) -> list[str]:
    """What a run must not look like: never more often right than its most frequent class."""
    counts, trained = profile.class_counts["validation"], profile.class_counts["train"]
    share = counts[trained.index(max(trained))] / sum(counts)
    best = max(line.validation_accuracy for line in history)
    if best > share:
        return []
    return [
        f"in no epoch was the network right in more of the validation rows ({best:.4f} at most) than its "
        f"most frequent class ({share:.4f})"
    ]
