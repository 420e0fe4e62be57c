"""What a rollout asks the API server about the gate's pod, and what it is told, in a real Kubernetes.

Argo Rollouts is not there. Its two questions are asked as it asks them: a Job with the gate's container, and
the URL of the verdict with the token of its account. In place of the gate there is a word of the shell with
its output and its exit codes, which tests/deploy/test_chart_rollout.py has of the gate itself.
"""

from __future__ import annotations

import base64
import json

import pytest
import yaml

from tests.support.analysis import judge_job, judge_value, read_path
from tests.support.cluster import API, Cluster
from tests.support.helm import NAMESPACE, Document, find, list_kinds, render

pytestmark = pytest.mark.real(
    "kubernetes", "dockerd", "mmdebstrap", "etcd", "containerd", "iptables", "ptp", "helm"
)
OWN = "verdict"  # the namespace of these tests
VALUES = {"model": "tiny@1", "rollout.enabled": True, "monitoring.enabled": True}
PHASES = {
    "PASS": (0, "Successful"),
    "BLOCK": (1, ""),
    "INCONCLUSIVE": (2, "Inconclusive"),
    "INVALID": (3, ""),
}


@pytest.fixture(scope="module")
def documents(cluster: Cluster) -> list[Document]:
    """The chart's objects, those of them made that the verdict needs."""
    (rendered,) = render(VALUES)
    told: list[Document] = json.loads(json.dumps(rendered).replace(f'"{NAMESPACE}"', f'"{OWN}"'))
    named = "timberline-verdict"
    needed = [find(told, kind, named) for kind in ("ServiceAccount", "Secret", "Role", "RoleBinding")]
    needed.append(find(told, "ServiceAccount", "timberline-gate"))
    cluster.kubectl("create", "namespace", OWN)
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(needed))
    return told


def metric_of(documents: list[Document], name: str) -> Document:
    """The one metric of a template."""
    template = find(list_kinds(documents, "AnalysisTemplate"), "AnalysisTemplate", f"timberline-{name}")
    (metric,) = template["spec"]["metrics"]
    assert isinstance(metric, dict)
    return metric


def make_job(documents: list[Document], outcome: str) -> Document:
    """The gate's Job as Argo makes it of the template, for pods called as the outcome."""
    code, _ = PHASES[outcome]
    text = json.dumps(metric_of(documents, "gate")["provider"]["job"]["spec"])
    spec = json.loads(text.replace("{{args.pods}}", outcome.lower()))
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    told = json.dumps({"outcome": outcome})
    container["args"] = [f"stage() {{ printf '%s' '{told}'; return {code}; }}\n{container['args'][0]}"]
    container["image"] = container["image"].replace("timberline-train", "timberline-tools")
    container["resources"] = {"limits": {"cpu": "250m", "memory": "64Mi"}}
    for volume in pod["volumes"]:
        if volume.pop("persistentVolumeClaim", None):
            volume["emptyDir"] = {}
    metadata = {"name": f"gate-{outcome.lower()}", "namespace": OWN}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def ask(cluster: Cluster, path: str) -> tuple[int, str]:
    """Status and body of the API server's answer to the verdict's account."""
    secret = cluster.wait_until(
        lambda: cluster.get("-n", OWN, "secret", "timberline-verdict").get("data", {}).get("token"), "a token"
    )
    header = f"Authorization: Bearer {base64.b64decode(secret).decode()}"
    done = cluster.run("curl", "-ksS", "-m", "10", "-H", header, "-w", "\n%{http_code}", f"{API}{path}")
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize("outcome", PHASES)
def test_the_outcome_of_a_gate_s_pod_is_what_the_rollout_reads(
    cluster: Cluster, documents: list[Document], outcome: str
) -> None:
    """A message that cannot be written, or not be read, would leave every rollout without a verdict."""
    job = make_job(documents, outcome)
    name = job["metadata"]["name"]
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(job))

    def ended() -> str:
        conditions = cluster.get("-n", OWN, "job", name)["status"].get("conditions", [])
        return next((one["type"] for one in conditions if one["status"] == "True"), "")

    code, phase = PHASES[outcome]
    as_job = {"Complete": "Successful", "Failed": "Failed"}[cluster.wait_until(ended, f"{name} has ended")]
    assert as_job == judge_job(code if outcome != "INCONCLUSIVE" else 0)
    if as_job == "Successful":
        verdict = metric_of(documents, "verdict")
        url = verdict["provider"]["web"]["url"].replace("{{args.pods}}", outcome.lower())
        status, body = ask(
            cluster,
            url.replace("https://kubernetes.default.svc", "").replace(
                f"/namespaces/{NAMESPACE}/", f"/namespaces/{OWN}/"
            ),
        )
        assert status == 200, body
        said = read_path(verdict["provider"]["web"]["jsonPath"], json.loads(body))
        assert judge_value(verdict, said) == phase


def test_the_account_of_the_verdict_may_do_nothing_else(cluster: Cluster, documents: list[Document]) -> None:
    """Its token is a Secret's; it opens no other one, and no other namespace."""
    assert documents
    assert ask(cluster, f"/api/v1/namespaces/{OWN}/pods")[0] == 200
    for path in (f"/api/v1/namespaces/{OWN}/secrets", "/api/v1/namespaces/kube-system/pods", "/api/v1/nodes"):
        assert ask(cluster, path)[0] == 403
