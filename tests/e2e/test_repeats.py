"""Calibrating a recipe: which runs count, what is kept of them, and what is refused."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.calibrated import publish_run
from tests.support.prepared import MODEL, forced_precision, prepare, write_model
from timberline.exporter.parity.rows import EvaluationWriter
from timberline.registry.errors import ConfigError, StageError
from timberline.registry.manifest import Manifest, Metrics
from timberline.registry.runs import CLASS_COLUMN, NOISE_FILE, decode_noise
from timberline.registry.store import Store, open_store
from timberline.training.__main__ import main
from timberline.training.config import ModelConfig
from timberline.training.evaluation.evaluate import run_evaluate
from timberline.training.fit import run_train
from timberline.training.repeats import Reduction, choose_features, run_calibrate, sample_rows

PRECISION = f"training.precision={forced_precision()}"


@pytest.fixture(scope="module")
def place(config: ModelConfig, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with a run and ``registry`` with the version made of it, whose recipe was calibrated once."""
    place = tmp_path_factory.mktemp("calibrated")
    prepare(config, place / "data")
    publish_run(config, models, place / "data", open_store(place / "registry"))
    calibrate(config, models, place, count=3)
    return place


@pytest.fixture
def fresh(place: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(place, tmp_path / "copy"))


def calibrate(config: ModelConfig, models: Path, place: Path, **options: Any) -> dict[str, Any]:
    return run_calibrate(config, models, place / "data", open_store(place / "registry"), 1, **options)


def list_tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def read_manifest(place: Path) -> Manifest:
    return open_store(place / "registry").open_version(MODEL, 1).manifest


def find_repeat(place: Path, seed: int, suffix: str = "") -> Path:
    (folder,) = (place / "data" / "repeats" / MODEL).glob(
        f"{'[0-9a-f]' * 12}-{'[0-9a-f]' * 8}{suffix}/{seed}"
    )
    return folder


def test_the_versions_own_run_is_the_first_of_those_written_beside_it(place: Path) -> None:
    """It is one of the runs that are compared, and costs no training."""
    data = open_store(place / "registry").read_document(MODEL, 1, NOISE_FILE)
    assert data is not None
    noise, manifest = decode_noise(data), read_manifest(place)
    assert [run.seed for run in noise.runs] == [0, 1, 2]
    assert noise.runs[0].accuracy == manifest.metrics.accuracy.value
    assert noise.runs[0].recalls == {value: one.recall for value, one in manifest.metrics.classes.items()}
    assert noise.recipe == manifest.lineage.recipe_digest
    assert (noise.version, noise.rows) == (1, manifest.metrics.rows)
    assert len({run.log_loss for run in noise.runs}) == 3
    assert not (find_repeat(place, 1).parent / "0").exists()


def test_a_repeat_is_the_run_that_this_seed_trains(
    config: ModelConfig, models: Path, place: Path, tmp_path: Path
) -> None:
    """Else the noise would be of the repeating: same weights after other runs in one process as alone."""
    shutil.copytree(place / "data" / "prepared", tmp_path / "prepared")
    training = msgspec.structs.replace(config.training, seed=2)
    alone = msgspec.structs.replace(config, training=training)
    run_train(alone, models, tmp_path)
    found = Path(run_evaluate(alone, tmp_path)["metrics"]).read_bytes()
    expected = msgspec.json.decode(found, type=Metrics)
    repeated = msgspec.json.decode((find_repeat(place, 2) / "metrics.json").read_bytes(), type=Metrics)
    assert repeated == msgspec.structs.replace(expected, baselines={})


def test_the_answers_of_a_repeat_are_written_as_the_exporter_writes_them(place: Path, tmp_path: Path) -> None:
    """The gate's own reader lays them side by side."""
    found: Any = pq.read_table(find_repeat(place, 1) / "evaluation.parquet")
    with EvaluationWriter(tmp_path / "e.parquet", 3, ["slice_left"]):
        pass
    assert found.schema.equals(pq.read_schema(tmp_path / "e.parquet"))
    test: Any = pq.read_table(place / "data" / "prepared" / MODEL / "test.parquet")
    assert found["row"].equals(test["__row__"].cast(pa.int64()))
    assert found["class_index"].equals(test[CLASS_COLUMN].cast(pa.int16()))
    assert found["slice_left"].to_pylist() == [value < 0 for value in test["x"].to_pylist()]
    chances = np.stack([found[f"p_{index}"].to_numpy() for index in range(3)], axis=1)
    assert found["label_index"].to_pylist() == chances.argmax(axis=1).tolist()


def test_nothing_but_the_repeats_and_the_document_is_written(
    config: ModelConfig, models: Path, place: Path, tmp_path: Path
) -> None:
    """The latest run is what the next export publishes: calibrating must not exchange it."""
    data = tmp_path / "data"
    shutil.copytree(place / "data", data, ignore=shutil.ignore_patterns("repeats"))
    store = open_store(shutil.copytree(place / "registry", tmp_path / "registry"))
    before = list_tree(tmp_path)
    run_calibrate(config, models, data, store, 1, count=2)
    after = list_tree(tmp_path)
    written = {name for name in after if after[name] != before.get(name)}
    assert before.keys() <= after.keys()
    assert {name for name in written if not name.startswith("data/repeats/")} == {
        f"registry/{MODEL}/1/{NOISE_FILE}"
    }


def test_runs_that_are_there_are_not_trained_again(config: ModelConfig, models: Path, fresh: Path) -> None:
    """Five trainings are an hour for a large table: a calibration that was stopped goes on."""
    before = list_tree(find_repeat(fresh, 1))
    (find_repeat(fresh, 2) / "evaluation.parquet").write_bytes(b"torn")
    summary = calibrate(config, models, fresh, count=4)
    assert summary["trained"] == [2, 3]
    assert list_tree(find_repeat(fresh, 1)) == before
    assert [run["seed"] for run in summary["runs"]] == [0, 1, 2, 3]


def test_other_rows_than_the_versions_are_refused(config: ModelConfig, models: Path, fresh: Path) -> None:
    """Runs on another table would differ by their rows, too."""
    path = fresh / "data" / "prepared" / MODEL / "profile.json"
    profile = msgspec.json.decode(path.read_bytes())
    for rows in ("source", "test"):
        changed = {**profile["fingerprints"], rows: "ab" * 16}
        path.write_bytes(msgspec.json.encode({**profile, "fingerprints": changed}))
        before = list_tree(fresh)
        with pytest.raises(StageError, match=rf"{MODEL}@1: is made of other rows .*{rows}"):
            calibrate(config, models, fresh, count=4)
        assert list_tree(fresh) == before


@pytest.mark.parametrize("setting", ["training.epochs=5", "network.widths=[8]", "prior.calibrate=false"])
def test_another_recipe_than_the_versions_is_refused(models: Path, fresh: Path, setting: str) -> None:
    """Its noise would widen or narrow the limits of a model that it says nothing about."""
    other, before = write_model(models, (setting,)), list_tree(fresh)
    with pytest.raises(ConfigError, match="was not trained with these settings"):
        calibrate(other, models, fresh, count=4)
    assert list_tree(fresh) == before


def test_another_seed_or_title_is_the_same_recipe(models: Path, fresh: Path) -> None:
    """A release on another seed can use the noise that was measured of the one before."""
    other = write_model(models, ("training.seed=9", 'model.title="Circles"'))
    assert calibrate(other, models, fresh, count=3)["trained"] == []


@pytest.fixture
def older(fresh: Path, config: ModelConfig, models: Path) -> Path:
    """The version as a release of the program published it that did not write recipes down."""
    shutil.rmtree(fresh / "registry")
    publish_run(config, models, fresh / "data", open_store(fresh / "registry"), has_recipe=False)
    assert read_manifest(fresh).lineage.recipe_digest is None
    return fresh


def test_the_recipe_of_an_older_version_is_that_of_its_run(
    config: ModelConfig, models: Path, older: Path
) -> None:
    """Versions of before can be calibrated without being published again."""
    assert calibrate(config, models, older, count=2)["trained"] == []
    with pytest.raises(ConfigError, match="was not trained with these settings"):
        calibrate(write_model(models, ("training.epochs=5",)), models, older, count=2)


def test_the_recipe_of_an_older_version_without_its_run_is_its_whole_model_toml(
    config: ModelConfig, models: Path, older: Path
) -> None:
    """What cannot be known is refused: a new title is taken for a new recipe then."""
    shutil.rmtree(older / "data" / "runs")
    assert calibrate(config, models, older, count=2)["trained"] == []
    with pytest.raises(ConfigError, match="was not trained with these settings"):
        calibrate(write_model(models, ('model.title="Circles"',)), models, older, count=2)


def test_a_reduced_recipe_is_never_a_versions_noise(config: ModelConfig, models: Path, fresh: Path) -> None:
    """It is trained to be worse; its spread would say nothing of the version's."""
    store = open_store(fresh / "registry")
    before = store.read_document(MODEL, 1, NOISE_FILE), list_tree(find_repeat(fresh, 1))
    summary = calibrate(config, models, fresh, count=2, reduction=Reduction(rows=0.1, features=0.5))
    assert summary["document"] is None
    assert summary["trained"] == [0, 1]
    assert find_repeat(fresh, 0, "-rows-0.1-features-0.5").parent == Path(summary["folder"])
    assert (store.read_document(MODEL, 1, NOISE_FILE), list_tree(find_repeat(fresh, 1))) == before
    full = msgspec.json.decode((find_repeat(fresh, 1) / "metrics.json").read_bytes(), type=Metrics)
    assert all(run["log_loss"] > full.log_loss for run in summary["runs"])


def test_a_sample_of_rows_keeps_every_class_and_the_order(place: Path, tmp_path: Path) -> None:
    """A tenth of the rows is a tenth of every class; a class that fell out would change the network."""
    source = place / "data" / "prepared" / MODEL / "train.parquet"
    path = tmp_path / "some.parquet"
    sample_rows(source, path, share=0.1, seed=3)
    whole: Any = pq.read_table(source)
    some: Any = pq.read_table(path)
    counts = np.bincount(whole[CLASS_COLUMN].to_numpy())
    assert np.bincount(some[CLASS_COLUMN].to_numpy()).tolist() == [
        max(1, round(0.1 * count)) for count in counts
    ]
    order = {row: index for index, row in enumerate(whole["__row__"].to_pylist())}
    places = [order[row] for row in some["__row__"].to_pylist()]
    assert places == sorted(places)
    sample_rows(source, tmp_path / "again.parquet", share=0.1, seed=3)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_half_of_the_features_is_every_second_one() -> None:
    """Both halves of a group of alike columns would be left out or kept by another choice."""
    assert choose_features("abcdefg", 0.5) == ("a", "c", "e", "g")
    assert choose_features("abcdefg", 1) == tuple("abcdefg")
    assert choose_features("ab", 0.1) == ("a",)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """A typing error must not train for an hour."""
    with pytest.raises(ConfigError, match="--rows-share"):
        Reduction(rows=share)


def test_one_run_is_refused(config: ModelConfig, models: Path, fresh: Path) -> None:
    """One run has no spread."""
    before = list_tree(fresh)
    with pytest.raises(ConfigError, match="--seeds: is 1, expected 2 or more"):
        calibrate(config, models, fresh, count=1)
    assert list_tree(fresh) == before


def test_no_network_is_left_in_the_calibrating_process(
    config: ModelConfig, models: Path, fresh: Path
) -> None:
    """Twenty runs must fit where one does; TensorFlow keeps some of every network that it has traced."""

    def count_networks() -> int:
        gc.collect()
        return sum(isinstance(thing, keras.Model) for thing in gc.get_objects())

    before = count_networks()
    assert calibrate(config, models, fresh, count=4)["trained"] == [3]
    assert count_networks() == before


def test_the_command_calibrates_the_version_that_is_named(
    models: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary is for machines, too: the spreads stand in it."""
    write_model(models)
    places = ["--models", str(models), "--data", str(fresh / "data"), "--registry", str(fresh / "registry")]
    flags = ["--seeds", "3", "--set", PRECISION, "--log-format", "json"]
    assert main(["calibrate-training", "--model", f"{MODEL}@1", *places, *flags]) == 0
    summary = msgspec.json.decode(capsys.readouterr().out)
    accuracies = [run["accuracy"] for run in summary["runs"]]
    assert summary["sd"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert summary["sd"]["recalls"].keys() == {"0", "1", "2"}
    # No alias production: nothing was promoted here.
    assert main(["calibrate-training", "--model", MODEL, *places, *flags]) == 2


def test_a_document_of_another_schema_is_refused(place: Path) -> None:
    """Wider limits must not come from a file that was read by guessing."""
    store: Store = open_store(place / "registry")
    data = store.read_document(MODEL, 1, NOISE_FILE) or b""
    with pytest.raises(Exception, match="calibrate-training"):
        decode_noise(data.replace(b'"schema_version": 1', b'"schema_version": 9'))
    with pytest.raises(Exception, match="not a record of training noise"):
        decode_noise(data[:-20])
