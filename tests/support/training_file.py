"""A training file posted to the real service, against the answers that its version was judged by."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.registry_tree import folder_of
from tests.support.service import running_service
from timberline.registry.store import open_store

# As many rows as the largest of these tables has, and their bytes.
_FLAGS = ("--max-rows", "1000000", "--max-body-bytes", "200000000")


def post_training_file(registry: Path, model: str, body: bytes) -> tuple[int, float]:
    """Post ``body``, the file in UTF-8, to the newest version of ``model`` as CSV.

    Returns:
        How many rows were answered, and by how much the furthest probability of a test row is from that in
        the version's evaluation.parquet.
    """
    version = open_store(registry).open_version(model, 1)
    classes = [label.value for label in version.manifest.signature.classes]
    expected = pq.read_table(folder_of(version) / "evaluation.parquet").to_pydict()
    with running_service(registry, f"{model}@1", *_FLAGS) as service:
        status, _, answer = service.request("POST", "/predict", body, {"Content-Type": "text/csv"})
    assert status == 200, answer[:500]
    found = json.loads(answer)["predictions"]
    worst = max(
        abs(found[row]["probabilities"][value] - expected[f"p_{number}"][at])
        for at, row in enumerate(expected["row"])
        for number, value in enumerate(classes)
    )
    return len(found), worst
