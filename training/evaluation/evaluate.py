"""Score a finished run on its test split: figures, baselines, pictures.

The network is read back from the SavedModel that the exporter will read, so what is scored is what
is shipped and not what was in the trainer's memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.registry.manifest import Metrics
from timberline.registry.runs import BASELINES_FILE, RunRecord, find_run, read_run
from timberline.registry.runtime.documents import decode_json, encode_document
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.registry.runtime.stages import Stage, digest_code, digest_value, require_receipt
from timberline.registry.runtime.working_copy import bring, name_path
from timberline.registry.signature import FIRST_CODE
from timberline.training.config import ModelConfig
from timberline.training.evaluation.baselines import Labels, predict_baselines
from timberline.training.evaluation.plots import plot_confusion, plot_learning_curves, plot_reliability
from timberline.training.evaluation.scores import calibration_table, score
from timberline.training.model.checkpoints import read_history
from timberline.training.model.dataset import FeatureArray, PreparedSplit
from timberline.training.model.saving import SAVED_MODEL, load_scorer

log = logging.getLogger("training.evaluation.evaluate")

Probabilities = npt.NDArray[np.float32]  # (rows, classes)
Classes = npt.NDArray[np.int32]  # (rows,)


def run_evaluate(config: ModelConfig, data: Path) -> dict[str, Any]:
    """Score the model's latest run and leave ``metrics.json``, the baselines' answers and plots beside it.

    Returns:
        The figures as JSON values; ``warnings`` has a sentence for each way in which the model is no
        better than its baselines.

    Raises:
        StageError: nothing has been trained, or the files of the run or of the prepared data are damaged.
    """
    model = config.model.name
    run_folder = find_run(data, model)
    run = read_run(run_folder)
    inputs = {
        "run": require_receipt(run_folder, f"timberline train {model}").digest,
        "prepared": require_receipt((data / run.test_parquet).parent, f"timberline etl {model}").digest,
        "seed": digest_value(run.seed),
        "code": digest_code(Path(__file__).parents[1]),
    }
    folder = run_folder.with_name(f"{run.run_id}.evaluation")
    reads = {
        run_folder: (SAVED_MODEL, "history.json"),
        (data / run.test_parquet).parent: ("train.parquet", "test.parquet"),
    }
    stage = Stage("evaluate", folder, inputs, reads)
    is_skipped = stage.is_current(log, run=run.run_id)
    if not is_skipped:
        with stage.fill() as partial:
            _evaluate(run, run_folder, data, partial)
    bring(folder, "metrics.json")
    metrics = decode_json((folder / "metrics.json").read_bytes(), Metrics)
    warnings = find_warnings(metrics)
    for warning in warnings:
        log_event(log, warning, logging.WARNING, model=run.model, run=run.run_id)
    return {
        "stage": "evaluate",
        "skipped": is_skipped,
        "model": run.model,
        "run_id": run.run_id,
        "rows": metrics.rows,
        "accuracy": msgspec.to_builtins(metrics.accuracy),
        "log_loss": metrics.log_loss,
        "ece": metrics.ece,
        "baselines": metrics.baselines,
        "warnings": warnings,
        "metrics": name_path(folder / "metrics.json"),
        "plots": name_path(folder / "plots"),
    }


def _evaluate(run: RunRecord, run_folder: Path, data: Path, folder: Path) -> None:
    vocabularies = run.fitted.vocabularies
    sizes = [FIRST_CODE + len(vocabularies[n]) if n in vocabularies else None for n in run.feature_names]
    test = PreparedSplit(data / run.test_parquet, run.feature_names, sizes)
    train = PreparedSplit((data / run.test_parquet).with_name("train.parquet"), run.feature_names, sizes)
    probabilities, truth = predict_split(load_scorer(data / run.saved_model), test)
    answers = predict_baselines(
        train,
        test,
        training_prior=np.array(run.prior.training),
        deployment_prior=np.array(run.prior.deployment),
    )
    _write_baselines(folder / BASELINES_FILE, answers)
    baselines = {name: float((labels == truth).mean()) for name, labels in answers.items()}
    metrics = score(probabilities, truth, run.classes, baselines)
    (folder / "metrics.json").write_bytes(encode_document(metrics))
    plots = folder / "plots"
    plot_learning_curves(plots / "learning_curves.png", read_history(run_folder))
    plot_confusion(plots / "confusion.png", metrics, run.classes)
    confidence, accuracy, _ = calibration_table(probabilities, truth)
    plot_reliability(plots / "reliability.png", metrics, confidence, accuracy)
    log_event(
        log,
        "scored the test split",
        rows=metrics.rows,
        accuracy=metrics.accuracy.value,
        low=metrics.accuracy.low,
        high=metrics.accuracy.high,
        log_loss=metrics.log_loss,
        baselines=baselines,
    )


def _write_baselines(path: Path, answers: dict[str, Labels]) -> None:
    """A column a baseline, class indexes INT16, rows as in test.parquet."""
    table = pa.table({name: pa.array(labels, pa.int16()) for name, labels in answers.items()})
    pq.write_table(table, path, compression="zstd")


def find_warnings(metrics: Metrics) -> list[str]:
    """A warning for each: one answer for every row, or no more right than a baseline."""
    found = []
    if np.count_nonzero(np.sum(metrics.confusion, axis=0)) == 1:
        found.append("the model predicts one class only")
    found += [
        f"the model is right in {metrics.accuracy.value:.4f} of the test rows, "
        f"its baseline {name} in {accuracy:.4f}"
        for name, accuracy in metrics.baselines.items()
        if metrics.accuracy.value <= accuracy
    ]
    return found


def predict_split(
    scorer: Callable[[FeatureArray], Probabilities], split: PreparedSplit
) -> tuple[Probabilities, Classes]:
    """Every row's probabilities, float32 (rows, classes), and true class, in file order."""
    parts: list[Probabilities] = []
    truths: list[Classes] = []
    with Progress("score", split.rows, "rows", logger=log) as progress:
        for features, truth in split.read_batches():
            parts.append(scorer(features))
            truths.append(truth)
            progress.advance(len(truth))
    return np.concatenate(parts), np.concatenate(truths)
