"""Objects of extensions (Prometheus operator, KEDA, Argo Rollouts) have the fields of their CRDs alone.

What their controllers do with them nothing here shows: no cluster with them runs in the tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.custom_resources import PACKAGES, find_faults
from tests.support.helm import Document, find, render_matrix

pytestmark = pytest.mark.offline("helm", "npm", "kubernetes-models")


def list_objects() -> list[Document]:
    """Every object of an extension in the matrix, once."""
    found = {
        json.dumps(one, sort_keys=True)
        for documents in render_matrix().values()
        for one in documents
        if one["apiVersion"].split("/")[0] in PACKAGES
    }
    return [json.loads(text) for text in sorted(found)]


def test_every_object_is_what_its_crd_says(tmp_path: Path) -> None:
    """An unknown field is dropped without a word: the rollout goes on without a gate."""
    objects = list_objects()
    assert {one["kind"] for one in objects} == {
        "AnalysisTemplate",
        "PrometheusRule",
        "Rollout",
        "ScaledObject",
        "ServiceMonitor",
    }
    by_schemas, by_types = find_faults(objects, tmp_path)
    assert (by_schemas, by_types) == ([], [])


Plant = Callable[[Document], Any]
# By name: the kind, what is done to it, and whether the schemas find it too.
PLANTED: dict[str, tuple[str, str, Plant, bool]] = {
    "an unknown field of a rollout": (
        "Rollout",
        "timberline",
        lambda one: one["spec"]["strategy"]["canary"].update(maxUnavailible=0),
        False,
    ),
    "an unknown field of a step": (
        "Rollout",
        "timberline",
        lambda one: one["spec"]["strategy"]["canary"]["steps"][0].update(analyse={}),
        False,
    ),
    "an unknown field of its pods": (
        "Rollout",
        "timberline",
        lambda one: one["spec"]["template"]["spec"].update(terminationGracePeriod=3),
        False,
    ),
    "an unknown field of a job": (
        "AnalysisTemplate",
        "timberline-gate",
        lambda one: one["spec"]["metrics"][0]["provider"]["job"]["spec"].update(backOffLimit=0),
        False,
    ),
    "a condition of a wrong type": (
        "AnalysisTemplate",
        "timberline-verdict",
        lambda one: one["spec"]["metrics"][0].update(successCondition=True),
        True,
    ),
    "a metric without a provider": (
        "AnalysisTemplate",
        "timberline-verdict",
        lambda one: one["spec"]["metrics"][0].pop("provider"),
        True,
    ),
    "a threshold that is no text": (
        "ScaledObject",
        "timberline",
        lambda one: one["spec"]["triggers"][0]["metadata"].update(threshold=8),
        True,
    ),
    "an unknown field of a scaler": (
        "ScaledObject",
        "timberline",
        lambda one: one["spec"].update(maxReplicas=8),
        False,
    ),
    "a monitor that selects nothing": (
        "ServiceMonitor",
        "timberline",
        lambda one: one["spec"].pop("selector"),
        True,
    ),
    "an unknown field of an endpoint": (
        "ServiceMonitor",
        "timberline",
        lambda one: one["spec"]["endpoints"][0].update(intervall="15s"),
        False,
    ),
    "a rule without an expression": (
        "PrometheusRule",
        "timberline",
        lambda one: one["spec"]["groups"][0]["rules"][0].pop("expr"),
        True,
    ),
}


def test_planted_errors_are_found(tmp_path: Path) -> None:
    """Each kind of error in each kind of object: by the types all, by the schemas all but unknown fields."""
    documents = render_matrix()["volume-keda-rollout"]
    objects = []
    for kind, name, plant, _ in PLANTED.values():
        planted = copy.deepcopy(find(documents, kind, name))
        plant(planted)
        objects.append(planted)
    by_schemas, by_types = find_faults(objects, tmp_path)
    for number, (planted_name, (kind, _, _, is_seen_by_schemas)) in enumerate(PLANTED.items()):
        is_found = any(line.startswith(f"{kind} {number}: ") for line in by_schemas)
        assert is_found == is_seen_by_schemas, (planted_name, by_schemas)
    lines = (tmp_path / "types.ts").read_text("utf-8").splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("export const object")]
    found_at = [int(line.partition("(")[2].partition(",")[0]) for line in by_types]
    for name, start, end in zip(PLANTED, starts, [*starts[1:], len(lines) + 1], strict=True):
        assert any(start <= at < end for at in found_at), (name, by_types)
