"""Training that is killed: the next run goes on from the last checkpoint, or starts afresh."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from tests.support.calibrated import publish_run
from tests.support.ended import starting
from tests.support.prepared import MODEL, prepare
from timberline.registry.errors import StageError
from timberline.registry.runs import NOISE_FILE, find_run
from timberline.registry.store import open_store
from timberline.training.config import ModelConfig, load_model_config
from timberline.training.fit import run_train
from timberline.training.repeats import run_calibrate

PROJECT = Path(__file__).parents[2]
Weights = list[npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def whole(config: ModelConfig, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The weights of a run that nobody disturbed."""
    data = tmp_path_factory.mktemp("whole")
    prepare(config, data)
    run_train(config, models, data)
    return weights(data)


def weights(data: Path) -> Weights:
    loaded: Weights = keras.models.load_model(find_run(data, MODEL) / "model.keras").get_weights()
    return loaded


def kill_training(models: Path, data: Path, at: int, moment: str) -> None:
    """Train under ``data`` in another process until it dies at its ``at``-th checkpoint."""
    command = [sys.executable, "-m", "tests.support.training_child", str(models), str(data), str(at), moment]
    child = subprocess.run(command, check=False, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.fixture(scope="module")
def killed(config: ModelConfig, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose training died as the second of four checkpoints stood."""
    data = tmp_path_factory.mktemp("killed")
    prepare(config, data)
    kill_training(models, data, 2, "after")
    return data


@pytest.fixture
def data(killed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(killed, tmp_path / "data")


def assert_resumes(config: ModelConfig, models: Path, data: Path, whole: Weights) -> None:
    with pytest.raises(StageError, match="no finished run"):
        find_run(data, MODEL)
    summary = run_train(config, models, data, resume=True)
    assert summary["resumed_from"] == 2
    assert_equal(weights(data), whole)
    assert list((data / "runs" / MODEL).glob(".partial-*")) == []
    assert not (data / "checkpoints" / MODEL / summary["run_id"]).exists()


def assert_equal(found: Weights, expected: Weights) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_killed_run_resumes_to_the_weights_of_an_undisturbed_one(
    config: ModelConfig, models: Path, data: Path, whole: Weights
) -> None:
    """Bit for bit: a resumed night must not be a different experiment."""
    assert_resumes(config, models, data, whole)


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    config: ModelConfig, models: Path, whole: Weights, tmp_path: Path
) -> None:
    """The third checkpoint is on disk but has no name yet; the second must still be whole."""
    prepare(config, tmp_path)
    kill_training(models, tmp_path, 3, "before")
    assert_resumes(config, models, tmp_path, whole)


def test_without_resume_a_killed_runs_checkpoint_is_discarded(
    config: ModelConfig, models: Path, data: Path, whole: Weights
) -> None:
    """A fresh run that is asked for is a fresh run."""
    summary = run_train(config, models, data)
    assert summary["resumed_from"] == 0
    assert_equal(weights(data), whole)


def test_a_checkpoint_of_another_configuration_is_never_resumed(models: Path, data: Path) -> None:
    """The run id is a digest of data and configuration, so another run looks elsewhere."""
    other = load_model_config(models, MODEL, overrides=["training.seed=1"], use_environment=False)
    assert run_train(other, models, data, resume=True)["resumed_from"] == 0


def test_a_run_that_is_asked_to_end_is_run_again_to_the_same_weights(
    config: ModelConfig, models: Path, tmp_path: Path
) -> None:
    """As the first process of a container, between two of many epochs."""
    epochs = "training.epochs=20"
    for name in ("whole", "ended"):
        prepare(config, tmp_path / name)
    long = load_model_config(models, MODEL, overrides=[epochs], use_environment=False)
    run_train(long, models, tmp_path / "whole")
    command = ["-m", "training", "train", "--model", MODEL, "--models", str(models), "--set", epochs]
    command += ["--data", str(tmp_path / "ended")]
    with starting(command, tmp_path / "log") as run:
        run.await_fact(lambda: any((tmp_path / "ended" / "checkpoints").rglob("checkpoint.npz")))
        run.end()
    with pytest.raises(StageError, match="no finished run"):
        find_run(tmp_path / "ended", MODEL)
    subprocess.run([sys.executable, *command], cwd=PROJECT, capture_output=True, timeout=300, check=True)
    assert_equal(weights(tmp_path / "ended"), weights(tmp_path / "whole"))


def test_a_calibration_that_is_ended_or_killed_goes_on_and_leaves_no_training_behind(
    config: ModelConfig, models: Path, tmp_path: Path
) -> None:
    """Each run has a process of its own: one that outlived its calibration would hold two processors."""
    prepare(config, tmp_path)
    store = open_store(tmp_path / "registry")
    publish_run(config, models, tmp_path, store)
    places = ["--models", str(models), "--data", str(tmp_path), "--registry", str(tmp_path / "registry")]
    command = ["-m", "training", "calibrate-training", "--model", f"{MODEL}@1", *places, "--seeds", "4"]

    def is_done(seed: int) -> bool:
        return any(tmp_path.glob(f"repeats/{MODEL}/*/{seed}/receipt.json"))

    with starting(command, tmp_path / "log") as calibration:
        calibration.await_fact(lambda: is_done(1))
        calibration.end()
    with starting(command, tmp_path / "log", is_first=False) as calibration:
        calibration.await_fact(lambda: is_done(2))
        children = calibration.find().children(recursive=True)
        calibration.send(signal.SIGKILL)
        calibration.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert store.read_document(MODEL, 1, NOISE_FILE) is None
    assert run_calibrate(config, models, tmp_path, store, 1, count=4)["trained"] == [3]
    assert sorted(path.name for path in tmp_path.glob(f"repeats/{MODEL}/*/*")) == ["1", "2", "3"]
    assert not any(tmp_path.glob(f"checkpoints/{MODEL}/*"))
