"""A trained run as a published version, without an export: what calibrating a recipe starts from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.support.manifests import publish_tiny
from timberline.registry.manifest import GateLimits, Lineage, Metrics
from timberline.registry.runs import find_run, read_run
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.stages import read_receipt
from timberline.registry.store import Store
from timberline.training.config import ModelConfig
from timberline.training.evaluation.evaluate import run_evaluate
from timberline.training.fit import run_train


def publish_run(
    config: ModelConfig, models: Path, data: Path, store: Store, *, has_recipe: bool = True
) -> int:
    """Train and evaluate the prepared model (once), and publish a version with its lineage and figures.

    It has a slice ``left``. Without ``has_recipe`` its manifest is as older releases wrote it.
    """
    run_train(config, models, data)
    metrics = Path(run_evaluate(config, data)["metrics"]).read_bytes()
    folder = find_run(data, config.model.name)
    run, receipt = read_run(folder), read_receipt(folder)
    assert receipt is not None
    lineage = Lineage(
        run_id=run.run_id,
        run_digest=receipt.digest,
        data_fingerprint=run.data_fingerprint,
        test_fingerprint=run.test_fingerprint,
        features_digest=digest_bytes(run.features_sql.encode()),
        config_digest=run.config_digest,
        git_commit=None,
        seed=run.seed,
        attribution="",
        recipe_digest=run.recipe_digest if has_recipe else None,
    )
    return publish_tiny(
        store,
        config.model.name,
        lineage=lineage,
        metrics=msgspec.json.decode(metrics, type=Metrics),
        gate=GateLimits(slices={"left": "x < 0"}),
    )
