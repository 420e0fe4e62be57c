"""The chart, rendered and linted by Helm's own code (`tests/deploy/helm_child.py`).

    documents = render({"replicas": 3})[0]                  # what an installation would send
    for name, documents in render_matrix().items(): ...     # every kind of installation

Values are said as dotted keys: ``{"storage.kind": "bucket"}``.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from tests.support.clients import find_client_python
from tests.support.service import ROOT

CHART = ROOT / "deploy" / "helm" / "timberline"
CHILD = ROOT / "tests" / "deploy" / "helm_child.py"
NEWEST = "1.37.0"
RELEASE, NAMESPACE = "timberline", "models"

Values = Mapping[str, Any]
Document = dict[str, Any]

STORAGES: Mapping[str, Values] = {
    "volume": {},
    "claimed": {"storage.volume.claim": "shared", "user": None},
    "bucket": {
        "storage.kind": "bucket",
        "storage.bucket.endpoint": "http://minio.storage.svc:9000",
        "storage.bucket.region": "eu-central-1",
        "storage.bucket.readSecret": "bucket-reader",
        "storage.bucket.writeSecret": "bucket-writer",
        "networkPolicy.bucket": [{"namespaceSelector": {"matchLabels": {"name": "storage"}}}],
    },
    "amazon": {
        "storage.kind": "bucket",
        "serviceAccountAnnotations": {
            "serve": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/serve"},
        },
    },
    "image": {
        "storage.kind": "image",
        "storage.image.reference": "registry.example/forest@sha256:" + 64 * "0",
        "stages.enabled": False,
    },
}
SCALERS: Mapping[str, Values] = {
    "fixed": {},
    "cpu": {"autoscaling.kind": "cpu"},
    "keda": {"autoscaling.kind": "keda", "monitoring.enabled": True},
}
ROLLOUTS: Mapping[str, Values] = {
    "deployment": {},
    "rollout": {"rollout.enabled": True, "monitoring.enabled": True, "model": "forest_cover@8"},
}
# What does not change what the others render.
EVERYTHING: Values = {
    "images.pullSecrets": ["registry"],
    "tokensSecret": "tokens",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "serving", "operator": "Exists"}],
    "ingress.enabled": True,
    "ingress.className": "nginx",
    "ingress.tlsSecret": "tls",
    "ingress.annotations": {"example.com/owner": "forest"},
    "monitoring.enabled": True,
    "monitoring.labels": {"release": "prometheus"},
    "networkPolicy.clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
    "networkPolicy.scrapers": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
}
WORKING: Values = {
    "retrain.enabled": True,
    "stages.sourceSecret": "kaggle",
    "stages.settings": {"TIMBERLINE_TRAINING_EPOCHS": "3"},
    "stages.nodeSelector": {"quiet": "yes"},
    "stages.tolerations": [{"key": "quiet", "operator": "Exists"}],
}


def spread(values: Values) -> Document:
    """The tree of dotted keys."""
    tree: Document = {}
    for key, value in values.items():
        place = tree
        *folders, last = key.split(".")
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


def ask_helm(
    *orders: Values, kube_version: str = NEWEST, lint: bool = False, chart: Path = CHART
) -> list[dict[str, Any]]:
    """What Helm makes of the chart with each of these values."""
    more = {"chart": str(chart), "kube_version": f"v{kube_version}", "lint": lint}
    told = [{**more, "values": spread(values)} for values in orders]
    done = subprocess.run(
        [find_client_python("helm"), CHILD],
        input=json.dumps(told),
        cwd=Path("/"),
        capture_output=True,
        text=True,
        timeout=300.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def render(*orders: Values, kube_version: str = NEWEST) -> list[list[Document]]:
    """The objects of the chart with each of these values; fails where Helm refuses them."""
    rendered = []
    for values, answer in zip(orders, ask_helm(*orders, kube_version=kube_version), strict=True):
        assert "error" not in answer, (values, answer)
        texts = [answer["manifests"][name] for name in sorted(answer["manifests"])]
        rendered.append([tree for text in texts for tree in yaml.safe_load_all(text) if tree])
    return rendered


def list_matrix() -> dict[str, Values]:
    """Values of every kind of installation, by name: where the registry is, what scales, what rolls out."""
    matrix: dict[str, Values] = {}
    for (storage, one), (scaler, two), (rollout, three) in product(
        STORAGES.items(), SCALERS.items(), ROLLOUTS.items()
    ):
        if (storage, rollout) != ("image", "rollout"):  # a gate needs a registry that it can write to
            matrix[f"{storage}-{scaler}-{rollout}"] = {**one, **two, **three}
    matrix["everything"] = {**STORAGES["bucket"], **EVERYTHING, **WORKING}
    matrix["everything-volume"] = {**EVERYTHING, **WORKING, **ROLLOUTS["rollout"]}
    return matrix


@functools.cache
def render_matrix(kube_version: str = NEWEST) -> dict[str, list[Document]]:
    """The objects of each of `list_matrix`."""
    matrix = list_matrix()
    return dict(zip(matrix, render(*matrix.values(), kube_version=kube_version), strict=True))


def find(documents: list[Document], kind: str, name: str = RELEASE) -> Document:
    """The one object of this kind and name."""
    (found,) = [one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def list_kinds(documents: list[Document], kind: str) -> list[Document]:
    """All objects of a kind."""
    return [one for one in documents if one["kind"] == kind]


def list_pods(documents: list[Document]) -> dict[str, Document]:
    """Every pod that the objects make, by the object that makes it."""
    pods = {}
    for one in documents:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] in {"Deployment", "Rollout"}:
            pods[name] = spec["template"]
        elif one["kind"] == "CronJob":
            pods[name] = spec["jobTemplate"]["spec"]["template"]
        elif one["kind"] == "AnalysisTemplate":
            for metric in spec["metrics"]:
                if "job" in metric["provider"]:
                    pods[name] = metric["provider"]["job"]["spec"]["template"]
    return pods


def list_containers(pod: Document) -> list[Document]:
    """Every container of a pod, in the order in which they start."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
