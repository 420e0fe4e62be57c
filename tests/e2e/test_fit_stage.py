"""The train stage: what a run folder holds, and when nothing is done."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import pytest
import tensorflow as tf

from tests.support.prepared import FEATURES_SQL, MODEL, prepare, write_model
from timberline.registry.errors import ConfigError, StageError
from timberline.registry.runs import find_run, read_run
from timberline.training.config import ModelConfig
from timberline.training.errors import TrainingError
from timberline.training.fit import run_train
from timberline.training.model.checkpoints import read_history
from timberline.training.model.dataset import PreparedSplit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, Path, Path, dict[str, Any]]:
    """A model folder, a data folder, and the summary of one run with a prior from unlabelled test rows."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_model(folder / "models", ('prior.method="em"',))
    prepare(config, folder / "data")
    before = os.umask(0o002)  # as in the image
    try:
        summary = run_train(config, folder / "models", folder / "data")
    finally:
        os.umask(before)
    return config, folder / "models", folder / "data", summary


def test_another_user_of_the_group_can_replace_a_run(
    trained: tuple[ModelConfig, Path, Path, dict[str, Any]],
) -> None:
    """TensorFlow's folders are 0755 whatever the umask: what is in them, only their maker could remove."""
    _, _, data, _ = trained
    run = find_run(data, MODEL)
    closed = [path for path in (run, *run.rglob("*")) if not path.stat().st_mode & stat.S_IWGRP]
    assert closed == []


def test_the_run_is_found_and_described(trained: tuple[ModelConfig, Path, Path, dict[str, Any]]) -> None:
    """run.json is the only word between training and the exporter."""
    _, _, data, summary = trained
    record = read_run(find_run(data, MODEL))
    assert record.run_id == summary["run_id"]
    assert record.features_sql == FEATURES_SQL
    assert record.feature_names == ("x", "y", "squared")
    assert [label.value for label in record.classes] == ["0", "1", "2"]
    assert record.histograms.keys() == {"x", "y"}
    for path in (record.keras_model, record.test_parquet, f"{record.saved_model}/saved_model.pb"):
        assert (data / path).is_file(), path


def test_a_prior_from_unlabelled_rows_is_said_and_served(
    trained: tuple[ModelConfig, Path, Path, dict[str, Any]],
) -> None:
    """Whoever reads the manifest must know that the test split's features took part."""
    _, _, data, _ = trained
    record = read_run(find_run(data, MODEL))
    assert record.unlabelled_splits == ("test",)
    assert sum(record.prior.deployment) == pytest.approx(1)
    saved = tf.saved_model.load(str(data / record.saved_model))
    features, _ = next(PreparedSplit(data / record.test_parquet, record.feature_names).read_batches())
    probabilities = saved.serve(tf.constant(features))["probabilities"].numpy()
    # The answer already holds the deployment prior: averaged over the rows it estimates itself. That is
    # where EM ends for any network (it stops within 1e-7 of a share), so the bound is for rounding alone.
    np.testing.assert_allclose(probabilities.mean(axis=0), record.prior.deployment, atol=1e-3)
    model = keras.models.load_model(data / record.keras_model)
    assert float(model.get_layer("correction").constants["factor"]) != 1.0  # EM saw calibrated posteriors


def test_a_checkpoint_that_a_killed_run_has_left_behind_is_removed(
    trained: tuple[ModelConfig, Path, Path, dict[str, Any]],
) -> None:
    """Between the end of a run and the removal is a moment; the next call finds the run finished."""
    config, models, data, summary = trained
    left = data / "checkpoints" / summary["model"] / summary["run_id"]
    left.mkdir(parents=True)
    assert run_train(config, models, data)["skipped"]
    assert not left.exists()


def test_the_history_has_a_line_an_epoch(trained: tuple[ModelConfig, Path, Path, dict[str, Any]]) -> None:
    """The learning curves are drawn from it."""
    config, _, data, summary = trained
    history = msgspec.json.decode((find_run(data, MODEL) / "history.json").read_bytes())
    assert [line["epoch"] for line in history] == list(range(config.training.epochs))
    assert summary["validation_accuracy"] == history[-1]["validation_accuracy"]


def test_a_run_that_never_beat_the_most_frequent_class_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every stage was green for a network with one answer for every row."""
    config = write_model(tmp_path / "models", ("training.learning_rate=1e-30", "training.epochs=1"))
    prepare(config, tmp_path / "data")
    for _ in range(2):  # a run that is skipped says the same
        caplog.clear()
        summary = run_train(config, tmp_path / "models", tmp_path / "data")
        (warning,) = summary["warnings"]
        assert "in no epoch was the network right in more of the validation rows" in warning
        assert warning in caplog.text


def test_a_run_that_learned_does_not_warn(trained: tuple[ModelConfig, Path, Path, dict[str, Any]]) -> None:
    """A warning that is always there is not read."""
    assert trained[3]["warnings"] == []


def test_a_second_run_on_the_same_inputs_is_skipped(
    trained: tuple[ModelConfig, Path, Path, dict[str, Any]],
) -> None:
    """`make serve` twice must not train twice."""
    config, models, data, summary = trained
    written = (find_run(data, MODEL) / "model.keras").stat().st_mtime_ns
    again = run_train(config, models, data)
    assert again == {**summary, "skipped": True}
    assert (find_run(data, MODEL) / "model.keras").stat().st_mtime_ns == written


def test_a_prior_of_the_wrong_length_is_a_configuration_error(tmp_path: Path) -> None:
    """Three classes and two values: no guess is right."""
    config = write_model(
        tmp_path / "models", ('prior.method="given"', "prior.values=[0.5, 0.5]", "training.epochs=1")
    )
    prepare(config, tmp_path)
    with pytest.raises(ConfigError, match=r"prior\.values: has 2 values, the data has 3 classes"):
        run_train(config, tmp_path / "models", tmp_path)


def test_training_without_prepared_data_says_what_to_run(tmp_path: Path) -> None:
    """The stage before is missing; the message is the next command."""
    config = write_model(tmp_path / "models")
    with pytest.raises(StageError, match="timberline etl circle"):
        run_train(config, tmp_path / "models", tmp_path)


def test_features_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """An editor saved them as Latin-1 after the data was prepared; the message names the file."""
    config = write_model(tmp_path / "models")
    prepare(config, tmp_path)
    (tmp_path / "models" / MODEL / "features.sql").write_bytes(b"SELECT x, y FROM raw -- caf\xe9")
    with pytest.raises(ConfigError, match=r"features\.sql: cannot be read"):
        run_train(config, tmp_path / "models", tmp_path)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'[{"epoch": "\xe4"}]', b"[", None])
def test_damaged_history_says_to_train_again(tmp_path: Path, data: bytes | None) -> None:
    """The plots are drawn from it; the model itself may be whole."""
    path = tmp_path / "history.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"history\.json: not readable.*timberline train"):
        read_history(tmp_path)


def test_features_changed_since_etl_are_refused(tmp_path: Path) -> None:
    """A run that records one features.sql and was trained on another would serve skewed."""
    config = write_model(tmp_path / "models")
    prepare(config, tmp_path)
    (tmp_path / "models" / MODEL / "features.sql").write_text("SELECT x, y FROM raw", "utf-8")
    with pytest.raises(StageError, match=r"features\.sql.*timberline etl"):
        run_train(config, tmp_path / "models", tmp_path)
