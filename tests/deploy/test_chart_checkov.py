"""checkov's rules for Kubernetes find nothing in the chart, but for what is listed with its reason."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clients import find_client_python
from tests.support.helm import EVERYTHING, ROLLOUTS, STORAGES, WORKING, Document, Values, find, render

pytestmark = pytest.mark.offline("helm", "checkov")

DIGEST = "@sha256:" + 64 * "0"
# As a production has it: the chart's defaults name images by what `make images` calls them.
PINNED: Values = {
    "images.serve": f"registry.example/timberline-serve{DIGEST}",
    "images.train": f"registry.example/timberline-train{DIGEST}",
    "images.tools": f"registry.example/timberline-tools{DIGEST}",
    "images.pullPolicy": "Always",
}
ACCEPTED = {
    # "Prefer secrets as files": the clients of Amazon and Kaggle read variables, of a bucket by its own
    # identity (serviceAccountAnnotations) there are none.
    "CKV_K8S_35": {"volume": {"fetch", "retrain"}, "amazon": {"fetch", "retrain"}, "bucket": None},
}


def ask_checkov(documents: Sequence[Document], folder: Path) -> tuple[int, set[tuple[str, str]]]:
    """How many checks passed, and rule and object of those that failed."""
    path = folder / "rendered.yaml"
    path.write_text(yaml.safe_dump_all(documents), "utf-8")
    python = find_client_python("checkov")
    command = [str(python), str(python.with_name("checkov")), "-f", str(path), "--framework", "kubernetes"]
    # It asks nobody for guidelines, and says nothing to anybody.
    command += ["--skip-download", "--quiet", "--compact", "-o", "json", "--soft-fail"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=300.0,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["parsing_errors"] == 0
    failed = {(one["check_id"], one["resource"]) for one in told["results"]["failed_checks"]}
    return told["summary"]["passed"], failed


def container_of(one: Document) -> Document:
    """The service's container."""
    (container,) = one["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


PLANTED: dict[str, tuple[str, Callable[[Document], Any]]] = {
    "privileged": ("CKV_K8S_16", lambda one: container_of(one)["securityContext"].update(privileged=True)),
    "escalation": (
        "CKV_K8S_20",
        lambda one: container_of(one)["securityContext"].update(allowPrivilegeEscalation=True),
    ),
    "a writable root": (
        "CKV_K8S_22",
        lambda one: container_of(one)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "capabilities": ("CKV_K8S_37", lambda one: container_of(one)["securityContext"].pop("capabilities")),
    "no memory limit": ("CKV_K8S_13", lambda one: container_of(one)["resources"]["limits"].pop("memory")),
    "no liveness": ("CKV_K8S_8", lambda one: container_of(one).pop("livenessProbe")),
    "no readiness": ("CKV_K8S_9", lambda one: container_of(one).pop("readinessProbe")),
    "a tag": ("CKV_K8S_43", lambda one: container_of(one).update(image="timberline-serve:0.1.0")),
    "root": (
        "CKV_K8S_40",
        lambda one: one["spec"]["template"]["spec"]["securityContext"].update(runAsUser=0),
    ),
    "a token": (
        "CKV_K8S_38",
        lambda one: one["spec"]["template"]["spec"].update(automountServiceAccountToken=True),
    ),
    "no seccomp profile": (
        "CKV_K8S_31",
        lambda one: one["spec"]["template"]["spec"]["securityContext"].pop("seccompProfile"),
    ),
    "the host's network": (
        "CKV_K8S_19",
        lambda one: one["spec"]["template"]["spec"].update(hostNetwork=True),
    ),
}


def plant_errors() -> list[Document]:
    """Deployments with one error each."""
    (documents,) = render(PINNED)
    planted = []
    for number, (_, plant) in enumerate(PLANTED.values()):
        one = copy.deepcopy(find(documents, "Deployment"))
        one["metadata"]["name"] = f"planted-{number}"
        plant(one)
        planted.append(one)
    return planted


Failed = dict[str, set[tuple[str, str]]]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """Rule and object of every check that failed, by kind of installation; one run takes ten seconds."""
    kinds = {
        name: render({**storage, **EVERYTHING, **({} if name == "image" else WORKING), **PINNED})[0]
        for name, storage in STORAGES.items()
        if name != "claimed"  # its user is the platform's, which no rule can see
    }
    kinds["rollout"] = render({**ROLLOUTS["rollout"], **PINNED})[0]
    kinds["planted"] = plant_errors()
    for name, documents in kinds.items():
        for one in documents:
            one["metadata"]["namespace"] = name
    every = [one for documents in kinds.values() for one in documents]
    passed, found = ask_checkov(every, tmp_path_factory.mktemp("checkov"))
    assert passed > 50 * len(kinds)
    split: Failed = {name: set() for name in kinds}
    for rule, resource in found:
        kind, namespace, name = resource.split(".")
        split[namespace].add((rule, f"{kind}/{name}"))
    return split


@pytest.mark.parametrize("kind", ["volume", "bucket", "amazon", "image", "rollout"])
def test_no_rule_is_broken_but_those_with_a_reason(failed: Failed, kind: str) -> None:
    """The whole chart with everything on, in each place that a registry may have."""
    for rule, resource in failed[kind]:
        accepted = ACCEPTED.get(rule, {}).get(kind, set())
        assert accepted is None or resource.rpartition("-")[2] in accepted, (rule, resource)


@pytest.mark.parametrize(("number", "name"), list(enumerate(PLANTED)))
def test_a_planted_error_is_found(failed: Failed, number: int, name: str) -> None:
    """By its own rule; else the rules say nothing about this chart's form."""
    rule, _ = PLANTED[name]
    assert (rule, f"Deployment/planted-{number}") in failed["planted"]
