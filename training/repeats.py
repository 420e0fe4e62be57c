"""The calibrate stage: a version's recipe trained again on other seeds, to measure the effect of the seed.

The version's own run is one of the runs. The others differ from it in their seed only: same prepared
rows, same features, same settings. ``DATA/repeats/<model>/<recipe>/<seed>/`` keeps the answers of each
to the test rows; the quality of all is written to a `registry.runs.TrainingNoise` beside the version.

The same stage makes recipes that are known to be worse (fewer rows, fewer features), for the gate's
self-test. They lie beside the others and are never a version's noise.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.registry.errors import ConfigError, StageError
from timberline.registry.manifest import Manifest, Metrics
from timberline.registry.runs import (
    CLASS_COLUMN,
    NOISE_FILE,
    NOISE_SCHEMA_VERSION,
    ROW_COLUMN,
    RunQuality,
    TrainingNoise,
    encode_noise,
)
from timberline.registry.runtime.documents import decode_json, encode_document, utc_now
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.stages import Stage, digest_value, read_receipt
from timberline.registry.runtime.working_copy import bring, name_path
from timberline.registry.store import EVALUATION_FILE, Store
from timberline.training.child_process import run_in_child_process
from timberline.training.config import ModelConfig, read_features_sql
from timberline.training.data.database import literal
from timberline.training.data.profile import Profile, load_profile
from timberline.training.errors import TrainingError
from timberline.training.evaluation.evaluate import predict_split
from timberline.training.evaluation.scores import score
from timberline.training.features import FeatureProgram, parse_slices
from timberline.training.fit import PREPARED_FILES, digest_inputs, digest_recipe, open_splits, train_network
from timberline.training.model.checkpoints import discard_checkpoint
from timberline.training.model.dataset import PreparedSplit
from timberline.training.model.saving import scorer

_logger = logging.getLogger("training.repeats")

METRICS_FILE = "metrics.json"
# A standard deviation takes two runs.
FEWEST_RUNS = 2


@dataclass(frozen=True)
class Reduction:
    """The shares (over 0 to 1) of the training rows and of the features that a recipe gets."""

    rows: float = 1.0
    features: float = 1.0

    def __post_init__(self) -> None:
        for flag, share in (("--rows-share", self.rows), ("--features-share", self.features)):
            if not 0 < share <= 1:
                raise ConfigError(f"is {share:g}, expected more than 0 and at most 1", where=flag)

    @property
    def is_none(self) -> bool:
        """Whether nothing is taken away."""
        return self == Reduction()

    @property
    def suffix(self) -> str:
        """What its folders' names end with."""
        given = {"rows": self.rows, "features": self.features}
        return "".join(f"-{name}-{share:g}" for name, share in given.items() if share < 1)


@dataclass(frozen=True)
class Recipe:
    """What is trained again: a model folder's settings on its prepared rows, for one version."""

    config: ModelConfig
    models: Path
    data: Path
    manifest: Manifest
    reduction: Reduction

    @property
    def digest(self) -> str:
        """As in `registry.manifest.Lineage`."""
        return digest_recipe(self.config, self.models)

    @property
    def prepared(self) -> Path:
        """The folder of the prepared splits."""
        return self.data / "prepared" / self.config.model.name

    def with_seed(self, seed: int) -> ModelConfig:
        """The settings of the run on ``seed``."""
        training = msgspec.structs.replace(self.config.training, seed=seed)
        return msgspec.structs.replace(self.config, training=training)

    def digest_inputs(self, seed: int) -> dict[str, str]:
        """Digests of all that the repeat on ``seed`` is made from."""
        inputs = digest_inputs(self.with_seed(seed), self.models, self.data)
        del inputs["record"]  # a title
        reduction = digest_value([self.reduction.rows, self.reduction.features])
        return {**inputs, "slices": digest_value(self.manifest.gate.slices), "reduction": reduction}


def run_calibrate(
    config: ModelConfig,
    models: Path,
    data: Path,
    store: Store,
    version: int,
    *,
    count: int,
    reduction: Reduction = Reduction(),
) -> dict[str, Any]:
    """Train until there are ``count`` runs of the version's recipe, and write how much they differ.

    Runs that are there are not trained again, and one that was killed goes on from its last epoch. The
    model's latest run stays what it is. With a ``reduction``, ``count`` runs are trained and nothing is
    written beside the version.

    Raises:
        ConfigError: ``count`` is too small, or the settings are not the version's.
        StageError: the prepared rows are not the version's, or there are none.
    """
    if count < FEWEST_RUNS:
        raise ConfigError(f"is {count}, expected {FEWEST_RUNS} or more", where="--seeds")
    manifest = store.open_version(config.model.name, version).manifest
    recipe = Recipe(config, models, data, manifest, reduction)
    bring(recipe.prepared, "profile.json")
    profile = load_profile(recipe.prepared / "profile.json")
    _require_same_rows(manifest, profile)
    _require_same_recipe(recipe)
    own = manifest.lineage.seed
    seeds = [own + step for step in range(count)]
    folder = _choose_folder(recipe)
    runs, trained = [], []
    if reduction.is_none:
        runs.append(_run_quality(own, manifest.metrics))
        seeds.remove(own)
    for seed in seeds:
        if _repeat(recipe, profile, seed, folder / str(seed)):
            trained.append(seed)
        runs.append(_read_quality(seed, folder / str(seed)))
    if reduction.is_none:
        noise = _describe(recipe, runs)
        store.open_version(manifest.model, version).write_document(NOISE_FILE, encode_noise(noise))
    return {
        "stage": "calibrate",
        "model": manifest.model,
        "version": version,
        "recipe": recipe.digest,
        "trained": trained,
        "runs": msgspec.to_builtins(runs),
        "sd": standard_deviations(runs),
        "folder": name_path(folder),
        "document": NOISE_FILE if reduction.is_none else None,
    }


def _require_same_rows(manifest: Manifest, profile: Profile) -> None:
    lineage = manifest.lineage
    expected = {"source": lineage.data_fingerprint, "test": lineage.test_fingerprint}
    for rows, fingerprint in expected.items():
        if profile.fingerprints[rows] != fingerprint:
            raise StageError(
                f"is made of other rows than the prepared data ({rows}: {fingerprint[:16]}, prepared "
                f"{profile.fingerprints[rows][:16]})",
                where=f"{manifest.model}@{manifest.version}",
                hint="Calibrate a version that was trained on the prepared data, or prepare its table again.",
            )


def _require_same_recipe(recipe: Recipe) -> None:
    """A version from before recipes were written down is known by its run, or by its whole model.toml."""
    lineage = recipe.manifest.lineage
    if lineage.recipe_digest is not None:
        is_same = lineage.recipe_digest == recipe.digest
    else:
        is_same = (
            _has_same_run(recipe) or digest_value(recipe.with_seed(lineage.seed)) == lineage.config_digest
        )
    if not is_same or lineage.features_digest != digest_bytes(_read_features(recipe)):
        raise ConfigError(
            "was not trained with these settings and features",
            where=f"{recipe.manifest.model}@{recipe.manifest.version}",
            hint="Give --set as it was trained, or restore its model.toml and features.sql.",
        )


def _has_same_run(recipe: Recipe) -> bool:
    lineage, name = recipe.manifest.lineage, recipe.config.model.name
    receipt = read_receipt(recipe.data / "runs" / name / lineage.run_id)
    if receipt is None or receipt.digest != lineage.run_digest:
        return False
    now = digest_inputs(recipe.with_seed(lineage.seed), recipe.models, recipe.data)
    return all(receipt.inputs.get(key) == now[key] for key in ("features", "training"))


def _read_features(recipe: Recipe) -> bytes:
    return read_features_sql(recipe.config, recipe.models).encode()


def _choose_folder(recipe: Recipe) -> Path:
    """One folder for each recipe and table, so that the repeats of an older table stay."""
    table = digest_value(recipe.manifest.lineage.test_fingerprint)
    name = f"{recipe.digest[:12]}-{table[:8]}{recipe.reduction.suffix}"
    return recipe.data / "repeats" / recipe.manifest.model / name


def _repeat(recipe: Recipe, profile: Profile, seed: int, folder: Path) -> bool:
    """Leave the run on ``seed`` in ``folder``; False when it was there."""
    inputs = recipe.digest_inputs(seed)
    checkpoints = recipe.data / "checkpoints" / recipe.manifest.model / digest_value(inputs)[:12]
    stage = Stage("calibrate", folder, inputs, {recipe.prepared: PREPARED_FILES})
    if stage.is_current(_logger, seed=seed):
        discard_checkpoint(checkpoints)  # a run that was killed at its end may have left it
        return False
    with stage.fill() as partial:
        code = run_in_child_process(_train, recipe, profile, seed, checkpoints, partial)
        if code != 0:
            raise TrainingError(
                f"the run ended with {code}",
                where=f"{recipe.manifest.model}, seed {seed}",
                hint="Its error is logged above.",
            )
    discard_checkpoint(checkpoints)
    found = _read_quality(seed, folder)
    log_event(
        _logger, "run finished", seed=seed, accuracy=found.accuracy, log_loss=found.log_loss, ece=found.ece
    )
    return True


def _train(recipe: Recipe, profile: Profile, seed: int, checkpoints: Path, folder: Path) -> None:
    """Train and score as the train and evaluate stages do, without saving a network in between."""
    config = recipe.with_seed(seed)
    chosen = choose_features(profile.feature_names, recipe.reduction.features)
    splits = open_splits(config, recipe.models, recipe.prepared, profile, chosen)
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        if recipe.reduction.rows < 1:
            path = Path(scratch) / "train.parquet"
            sample_rows(splits.train.path, path, share=recipe.reduction.rows, seed=seed)
            splits = replace(splits, train=PreparedSplit(path, chosen, splits.train.category_sizes))
        trained = train_network(config, splits, checkpoints, resume=True)
        probabilities, truth = predict_split(scorer(trained.model), splits.test)
    slices = parse_slices(recipe.manifest.gate.slices, profile.input_columns)
    write_evaluation(folder / EVALUATION_FILE, splits.test.path, probabilities, truth, slices)
    metrics = score(probabilities, truth, profile.classes, {})
    (folder / METRICS_FILE).write_bytes(encode_document(metrics))


def choose_features(names: Sequence[str], share: float) -> tuple[str, ...]:
    """``share`` of the names, evenly spread: of 0.5, every second one, the first among them."""
    return tuple(names[int(index / share)] for index in range(max(1, round(share * len(names)))))


def sample_rows(source: Path, target: Path, *, share: float, seed: int) -> None:
    """Write ``share`` of the rows of every class (one at least) of a prepared split, in their order."""
    chance = np.random.default_rng(seed)
    with pq.ParquetFile(source) as file:
        classes = file.read(columns=[CLASS_COLUMN])[CLASS_COLUMN].to_numpy()
        kept = np.zeros(classes.size, bool)
        for index in np.unique(classes):
            rows = np.flatnonzero(classes == index)
            kept[chance.choice(rows, max(1, round(share * rows.size)), replace=False)] = True
        begin = 0
        with pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                writer.write_table(table.filter(pa.array(kept[begin : begin + table.num_rows])))
                begin += table.num_rows


def write_evaluation(
    path: Path,
    test: Path,
    probabilities: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int32],
    slices: FeatureProgram,
) -> None:
    """Write answers to the rows of ``test`` as the exporter does, without baselines.

    Columns: row INT64, class_index and label_index INT16, p_0 to p_{C-1} FLOAT, slice_<name> BOOLEAN; in
    source order, which is the test split's.
    """
    columns = {
        "row": pq.read_table(test, columns=[ROW_COLUMN])[ROW_COLUMN].cast(pa.int64()),
        "class_index": pa.array(truth, pa.int16()),
        "label_index": pa.array(probabilities.argmax(axis=1), pa.int16()),
    }
    columns |= {f"p_{index}": pa.array(chances) for index, chances in enumerate(probabilities.T)}
    pq.write_table(pa.table(columns | _read_slices(test, slices)), path, compression="zstd")


def _read_slices(test: Path, slices: FeatureProgram) -> dict[str, pa.Array]:
    if not slices.features:
        return {}
    # One thread keeps the rows in their order.
    with duckdb.connect(config={"threads": 1}) as connection:
        for statement in slices.prepare_sql:
            connection.execute(statement)
        sql = slices.select_sql(f"read_parquet({literal(str(test))})", order=ROW_COLUMN)
        table = connection.sql(sql).to_arrow_table()
    # NULL is neither inside nor outside; a row is judged in a slice only when it is surely inside.
    return {name: pa.array(table[name].fill_null(0).to_numpy() == 1) for name in slices.names}


def _read_quality(seed: int, folder: Path) -> RunQuality:
    bring(folder, METRICS_FILE)
    return _run_quality(seed, decode_json((folder / METRICS_FILE).read_bytes(), Metrics))


def _run_quality(seed: int, metrics: Metrics) -> RunQuality:
    return RunQuality(
        seed=seed,
        accuracy=metrics.accuracy.value,
        log_loss=metrics.log_loss,
        ece=metrics.ece,
        recalls={value: scores.recall for value, scores in metrics.classes.items() if scores.rows},
    )


def _describe(recipe: Recipe, runs: Sequence[RunQuality]) -> TrainingNoise:
    manifest = recipe.manifest
    return TrainingNoise(
        schema_version=NOISE_SCHEMA_VERSION,
        model=manifest.model,
        version=manifest.version,
        recipe=recipe.digest,
        test_fingerprint=manifest.lineage.test_fingerprint,
        rows=manifest.metrics.rows,
        measured_at=utc_now(),
        runs=tuple(runs),
    )


def standard_deviations(runs: Sequence[RunQuality]) -> dict[str, Any]:
    """Standard deviations over two runs or more, of each figure and of each class's recall."""
    figures = ("accuracy", "log_loss", "ece")
    spreads: dict[str, Any] = {name: statistics.stdev(getattr(run, name) for run in runs) for name in figures}
    classes = runs[0].recalls
    spreads["recalls"] = {value: statistics.stdev(run.recalls[value] for run in runs) for value in classes}
    return spreads
