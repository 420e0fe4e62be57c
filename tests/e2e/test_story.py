"""The story on real data: from the package index to a served prediction, and the releases after it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.makefile import ROOT, Workshop
from tests.support.registry_tree import folder_of
from tests.support.service import running_service
from timberline.registry.aliases import read_alias
from timberline.registry.runs import find_run, read_run
from timberline.registry.store import open_store

# A network that trains in seconds; what it reaches is not what these tests are about. Latency is
# not judged here: two processes of this size on a busy runner may differ by more than the limit.
SMALL = (
    "training.epochs=2 network.widths=[48] gate.min_accuracy=0.3 gate.max_p50_increase=20 "
    "gate.max_accuracy_drop=0.05 gate.max_recall_drop=0.9 gate.max_slice_drop=0.9 "
    "gate.max_log_loss_increase=0.1 gate.max_ece_increase=0.1 gate.max_p99_increase=20 "
    "gate.max_service_p50_increase=20 gate.max_cpu_increase=20 "
    "gate.max_memory_increase=20 gate.max_start_up_increase=20 gate.baseline=warn"
)
# Better and worse by construction, whatever a processor's kernels make of the training: all three are the
# same network, and two of them were told that nearly every row is DOWN, or UP, at deployment. In the table
# 58 % are DOWN: the second is right in those rows alone, the third in the others alone.
ALL_DOWN = SMALL + " prior.method=given prior.values=[0.9999,0.0001]"
ALL_UP = SMALL + " prior.method=given prior.values=[0.0001,0.9999]"


def production(workshop: Workshop) -> int:
    """The version that production points at."""
    alias = read_alias(open_store(workshop.registry), workshop.model, "production")
    assert alias is not None
    return alias.version


def readme_body() -> dict[str, Any]:
    """The body of the README's first curl line."""
    match = re.search(r"/predict .*?-d '(\{.*?\})'", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert match
    body: dict[str, Any] = json.loads(match[1])
    return body


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Forest cover, fetched and released once with a small network; its model folder may be edited."""
    folder = (
        tmp_path_factory.mktemp("forest") / "of a user's own"
    )  # a blank and a quote for make and the shell
    shutil.copytree(ROOT / "models", folder / "models")
    workshop = Workshop(folder, "forest_cover", folder / "models")
    workshop.made("release", overrides=SMALL)
    return workshop


def test_the_readmes_curl_line_gets_what_keras_says(forest: Workshop) -> None:
    """The promise of the whole project: a raw row over HTTP equals DuckDB plus Keras on that row."""
    with running_service(forest.registry, forest.model) as service:
        status, answer = service.predict(readme_body())
        metrics = service.request("GET", "/metrics")[2].decode()
    assert (status, answer["model"], answer["version"]) == (200, "forest_cover", 1)
    # Imported here, where TensorFlow is loaded anyway.
    from tests.support.keras_answer import answer as ask_keras

    expected = ask_keras(str(forest.data), forest.model, readme_body())
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    # Of two that are within twice that bound either may be named.
    assert expected[answer["prediction"]] == pytest.approx(max(expected.values()), abs=2e-5)
    assert re.search(r'^http_requests_total\{[^}]*route="/predict"[^}]*\} 1\.0$', metrics, re.MULTILINE)


@pytest.mark.parametrize("above", [0, 5])
def test_a_row_with_a_feature_that_cannot_be_computed_is_refused(forest: Workshop, above: int) -> None:
    """features.sql divides by the distance + 1: at -1 that is 0/0 or 5/0, which no kernel is to answer."""
    row = {**readme_body(), "Horizontal_Distance_To_Hydrology": -1, "Vertical_Distance_To_Hydrology": above}
    with running_service(forest.registry, forest.model) as service:
        status, answer = service.predict(row)
        beside = service.predict({"instances": [readme_body(), row]})
    assert (status, beside[0]) == (400, 400)
    assert "no finite answer" in answer["error"]
    assert beside[1]["error"].startswith("row 1: the model has no finite answer")


def test_the_version_tells_where_it_came_from(forest: Workshop) -> None:
    """An estimate of the prior from unlabelled test rows must be declared, and parity covers every row."""
    manifest = open_store(forest.registry).open_version("forest_cover", 1).verify().manifest
    assert manifest.lineage.unlabelled_splits == ("test",)
    assert manifest.prior.method == "em"
    assert {tensor.rows for tensor in manifest.parity.values()} == {565_892}
    assert manifest.metrics.rows == 565_892
    predictions = pq.read_table(
        folder_of(open_store(forest.registry).open_version("forest_cover", 1)) / "evaluation.parquet",
        columns=["class_index", "label_index"],
    )
    right = (predictions["class_index"].to_numpy() == predictions["label_index"].to_numpy()).mean()
    # The figure is Keras's, the file the graph's: a label may differ where two are within their bound.
    assert manifest.metrics.accuracy.value == pytest.approx(right, abs=1e-3)
    # Counted, not trained: all classes are equally many in training, and the first of them is named.
    assert manifest.metrics.baselines["majority_class"] == 209_680 / 565_892


def test_a_second_release_of_the_same_inputs_does_nothing(forest: Workshop) -> None:
    """A stage that is done says so, and no version appears."""
    again = forest.made("release", overrides=SMALL)
    assert again.stages == dict.fromkeys(["fetch", "etl", "train", "evaluate"], True)
    assert [r["outcome"] for r in again.results if "model_sha256" in r] == ["skipped"]
    assert open_store(forest.registry).versions("forest_cover") == [1]


def test_one_changed_line_of_sql_runs_etl_again_and_no_download(forest: Workshop) -> None:
    """What a change costs is what follows from it."""
    sql = forest.models / "forest_cover" / "features.sql"
    text = sql.read_text("utf-8")
    try:
        sql.write_text(text.replace("\nFROM raw", ",\n  Slope * 0.5 AS half_slope\nFROM raw"))
        changed = forest.made("etl", overrides=SMALL)
    finally:
        sql.write_text(text)
    assert changed.stages == {"fetch": True, "etl": False}
    forest.made("etl", overrides=SMALL)


def test_releases_after_the_first_are_judged_against_production(tmp_path: Path) -> None:
    """Better replaces, worse is refused and changes nothing, rollback brings the old one back.

    On the second table, which has no line of Python of its own.
    """
    workshop = Workshop(tmp_path, "electricity")
    workshop.export_here(overrides=ALL_DOWN)
    first = workshop.made("gate", "promote")
    assert production(workshop) == 1
    # Network and logistic regression get the same prior, and both answer DOWN.
    assert "; to be looked at: baseline" in first.log
    workshop.export_here(overrides=SMALL)
    workshop.made("gate", "promote")
    assert production(workshop) == 2
    refused = workshop.make("release", overrides=ALL_UP)
    assert refused.code != 0
    assert "BLOCK" in refused.output
    assert production(workshop) == 2
    assert open_store(workshop.registry).versions("electricity") == [1, 2, 3]
    promoted = workshop.make("promote")
    assert promoted.code != 0, "a version with a refusing verdict must not reach production"
    workshop.made("rollback")
    assert production(workshop) == 1
    run = read_run(find_run(workshop.data, "electricity"))
    assert len(run.classes) == 2
