"""run.json: everything the exporter needs to know of a run, put together from what the stages left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import keras
import msgspec
import pyarrow as pa
import tensorflow as tf

from timberline import __version__
from timberline.registry.manifest import Prior
from timberline.registry.runs import RUN_SCHEMA_VERSION, RunRecord
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.stages import digest_value
from timberline.training.config import ModelConfig, read_features_sql, source_table
from timberline.training.data.profile import Profile
from timberline.training.model.saving import KERAS_FILE, SAVED_MODEL


def describe_run(config: ModelConfig, models: Path, profile: Profile, run_id: str, prior: Prior) -> RunRecord:
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
