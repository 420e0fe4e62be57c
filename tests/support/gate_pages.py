"""A checkout in which the pages about the gate can be followed: a registry and a table, nothing trained.

    prepare_checkout(folder)                # models/forest_cover, var/data/prepared, var/registry
    release_candidate(folder)               # 5 is in production in the place of 1

``forest_cover`` has five versions; 1 is in production and 5 is the candidate. Of 6,000 test rows

- 2 answers 2 points more wrong: BLOCK,
- 3 answers 0.3 points more wrong, and many others right than 1: INCONCLUSIVE,
- 4 was tested on other rows: INVALID,
- 5 answers all but a few as 1 does: PASS.

``electricity`` has two versions that were promoted, and a last move of production that is cut short.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.support.evaluations import ANY_SPEED, encode_evaluation, publish_judged
from tests.support.manifests import build_manifest, give_verdict, publish_tiny
from tests.support.prepared import prepare, write_model
from timberline.registry.manifest import Lineage
from timberline.registry.promotion import promote
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import Store, open_store
from timberline.training.config import ModelConfig
from timberline.training.data.profile import load_profile
from timberline.training.fit import digest_recipe

MODEL = "forest_cover"
# Nothing but the answers decides, however busy the machine is.
_LIMITS = msgspec.structs.replace(ANY_SPEED, max_memory_increase=1e6, max_start_up_increase=1e6)
_ROWS = 6000


def prepare_checkout(folder: Path) -> None:
    """Leave model folder, prepared table and registry in ``folder``, to be copied over a checkout."""
    models, data = folder / "models", folder / "var" / "data"
    config = write_model(models, name=MODEL)
    prepare(config, data)
    store = open_store(folder / "var" / "registry")
    given: dict[str, Any] = {"model": MODEL, "lineage": _describe_run(config, models, data), "gate": _LIMITS}
    publish_judged(store, alias="candidate", evaluation_bytes=answer_rows(), **given)
    give_verdict(store, MODEL, 1)
    promote(store, MODEL, 1)
    for answers in (
        answer_rows(lost=147, gained=23),
        answer_rows(lost=132, gained=114),
        answer_rows(start=_ROWS),
        answer_rows(lost=6, gained=1),
    ):
        publish_judged(store, alias="candidate", evaluation_bytes=answers, **given)
    _publish_damaged(store, "electricity")


def release_candidate(folder: Path) -> None:
    """Version 5 passes and takes the place of 1 in production."""
    store = open_store(folder / "var" / "registry")
    give_verdict(store, MODEL, 5)
    promote(store, MODEL, 5)


def answer_rows(*, lost: int = 0, gained: int = 0, start: int = 0) -> bytes:
    """evaluation.parquet of 6,000 rows from ``start`` on: right in 9 of 10, but for some lost and gained."""
    chance = np.random.default_rng(0)
    truth = chance.integers(0, 3, _ROWS)
    is_right = np.arange(_ROWS) % 10 > 0
    rights, wrongs = chance.permutation(np.flatnonzero(is_right)), np.flatnonzero(~is_right)
    is_right[rights[:lost]] = False
    is_right[wrongs[:gained]] = True
    label = np.where(is_right, truth, (truth + 1) % 3)
    return encode_evaluation(truth, label, rows=np.arange(start, start + _ROWS))


def _describe_run(config: ModelConfig, models: Path, data: Path) -> Lineage:
    """What a version that was trained on the prepared table by this recipe says of itself."""
    profile = load_profile(data / "prepared" / MODEL / "profile.json")
    return msgspec.structs.replace(
        build_manifest().lineage,
        data_fingerprint=profile.fingerprints["source"],
        test_fingerprint=profile.fingerprints["test"],
        features_digest=digest_bytes((models / MODEL / "features.sql").read_bytes()),
        recipe_digest=digest_recipe(config, models),
        seed=config.training.seed,
    )


def _publish_damaged(store: Store, model: str) -> None:
    for _ in range(2):
        version = publish_tiny(store, model)
        give_verdict(store, model, version)
        promote(store, model, version)
    last = Path(store.location, model, "aliases", "production", "2.json")
    last.chmod(0o644)
    last.write_bytes(last.read_bytes()[:100])
