"""Kubernetes' own schemas take every object that the chart makes, with no field that they do not know.

They are OpenAPI: types, required fields, unknown fields. What an API server checks beyond that (selectors
that match, ports that exist, quantities in their limits) they do not see; tests/cluster asks a real one, of
1.20.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import find_client_python
from tests.support.helm import NEWEST, Document, find, list_matrix, list_pods, render, render_matrix

pytestmark = pytest.mark.offline("helm", "kubernetes-validate")

CHILD = Path(__file__).with_name("validate_child.py")
NONE = "no such kind"  # as the child says it
OLDEST = "1.25.0"  # of the schemas that are there
CUSTOM = {"AnalysisTemplate", "PrometheusRule", "Rollout", "ScaledObject", "ServiceMonitor"}


def ask(**order: Any) -> Any:
    """What the schemas say."""
    done = subprocess.run(
        [find_client_python("kubernetes-validate"), CHILD],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=600.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def list_versions() -> list[str]:
    """The three newest that there are schemas of, and the oldest."""
    versions: list[str] = ask()
    assert versions[0] == OLDEST
    assert versions[-1] == NEWEST
    return [versions[0], *versions[-3:]]


def list_objects(version: str) -> list[Document]:
    """Every object of the matrix, once."""
    objects = [one for documents in render_matrix(version).values() for one in documents]
    return [json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in objects})]


def test_every_object_is_one_of_kubernetes_or_of_a_known_extension() -> None:
    """In four versions, three of them the newest: what a schema refuses an API server does too."""
    for version in list_versions():
        objects = list_objects(version)
        found = ask(version=version, documents=objects)
        wrong = [(said, one) for one, said in zip(objects, found, strict=True) if said not in {None, NONE}]
        assert wrong == []
        unknown = {one["kind"] for one, said in zip(objects, found, strict=True) if said == NONE}
        assert unknown == CUSTOM


def test_pods_inside_of_extensions_are_pods_of_kubernetes() -> None:
    """An extension's own schema takes any pod; its controller makes one that Kubernetes refuses."""
    pods = []
    for documents in render_matrix().values():
        for maker, pod in list_pods(documents).items():
            if maker.split("/")[0] in CUSTOM:
                metadata = {"labels": pod["metadata"]["labels"], "name": "pod"}
                pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})
    assert pods
    assert set(ask(version=NEWEST, documents=pods)) == {None}


PLANTED: dict[str, tuple[str, Callable[[Document], Any]]] = {
    "an unknown field": ("Deployment", lambda one: one["spec"].update(replica=2)),
    "a wrong type": ("Deployment", lambda one: one["spec"].update(replicas="two")),
    "a missing field": ("Deployment", lambda one: one["spec"].pop("selector")),
    "an unknown field of a container": (
        "Deployment",
        lambda one: one["spec"]["template"]["spec"]["containers"][0].update(startupprobe={}),
    ),
    "a wrong word": ("PodDisruptionBudget", lambda one: one.update(apiVersion="policy/v1beta1")),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_found(planted: str) -> None:
    """Else the schemas say nothing, whatever they are given."""
    kind, plant = PLANTED[planted]
    document = copy.deepcopy(find(render_matrix()["volume-fixed-deployment"], kind))
    plant(document)
    assert ask(version=NEWEST, documents=[document]) != [None]


def test_the_versions_of_the_apis_follow_the_cluster() -> None:
    """Kubernetes 1.25 has no more what 1.20 has instead of today's: one chart for both."""
    values = list_matrix()["volume-fixed-deployment"]
    told = {}
    for version in ("1.20.2", "1.21.0", NEWEST):
        (documents,) = render(values, kube_version=version)
        told[version] = {one["kind"]: one["apiVersion"] for one in documents}
    assert told["1.21.0"] == told[NEWEST]
    changed = {kind for kind in told[NEWEST] if told[NEWEST][kind] != told["1.20.2"][kind]}
    assert changed == {"PodDisruptionBudget", "CronJob"}
    assert told["1.20.2"]["PodDisruptionBudget"] == "policy/v1beta1"
    assert told["1.20.2"]["CronJob"] == "batch/v1beta1"
