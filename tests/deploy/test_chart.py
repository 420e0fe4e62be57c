"""The chart, rendered by Helm: every kind of installation, and what operators rely on in each.

What a cluster does with it is in tests/cluster; what the schemas say in test_chart_kubernetes.py.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import (
    CHART,
    NEWEST,
    RELEASE,
    ROLLOUTS,
    SCALERS,
    STORAGES,
    WORKING,
    Document,
    Values,
    ask_helm,
    find,
    list_containers,
    list_kinds,
    list_matrix,
    list_pods,
    render,
    render_matrix,
)
from timberline.inference.config import resolve_config

pytestmark = pytest.mark.offline("helm")

STAGES = ("fetch", "etl", "train", "evaluate", "export", "gate", "promote")
COMPONENT = "app.kubernetes.io/component"
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


def test_helm_s_linter_finds_nothing() -> None:
    """With every kind of installation, not only the values that stand in the file."""
    for answer in ask_helm(*list_matrix().values(), lint=True):
        assert answer["errors"] == []
        assert [one for one in answer["messages"] if "icon is recommended" not in one["error"]] == []


SLIPS: dict[str, tuple[str, str, str]] = {
    "a template that does not end": ("templates/pdb.yaml", "{{- include", "{{- inclde"),
    "a value that is none": ("templates/service.yaml", ".Values.service.port", ".Values.service.prot"),
    "text that is no YAML": ("templates/configmap.yaml", "data:\n", "data: [\n"),
    "no version": ("Chart.yaml", "version: ", "versoin: "),
    "values that break the schema": ("values.yaml", "replicas: 2", "replicas: two"),
}


@pytest.mark.parametrize("planted", SLIPS)
def test_a_planted_slip_in_the_chart_is_found(tmp_path: Path, planted: str) -> None:
    """By the linter, or where it is rendered; else a green run says nothing."""
    name, right, wrong = SLIPS[planted]
    chart = tmp_path / "timberline"
    shutil.copytree(CHART, chart)
    text = (chart / name).read_text("utf-8")
    assert right in text
    (chart / name).write_text(text.replace(right, wrong), "utf-8")
    (linted,) = ask_helm({}, lint=True, chart=chart)
    (rendered,) = ask_helm({}, chart=chart)
    is_parsed = all(try_yaml(manifest) for manifest in rendered.get("manifests", {}).values())
    assert linted.get("errors") or "error" in linted or "error" in rendered or not is_parsed


def try_yaml(text: str) -> bool:
    """Whether a manifest is YAML."""
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return False
    return True


@pytest.mark.parametrize("name", list_matrix())
def test_the_service_starts_with_the_variables_of_its_pod(name: str) -> None:
    """The service's own reading of them: one that it does not know, or cannot read, stops its start."""
    documents = render_matrix()[name]
    data = find(documents, "ConfigMap")["data"]
    config = resolve_config({}, data)
    pod = next(
        pod for maker, pod in list_pods(documents).items() if maker.startswith(("Deployment", "Rollout"))
    )
    (container,) = pod["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": config.port, "metrics": config.metrics_port}
    assert config.host == "0.0.0.0"
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    if config.is_remote:
        assert config.cache_dir in mounts
    else:
        assert any(config.registry.startswith(mount) for mount in mounts - {"/tmp"})
    if config.tokens_file:
        assert config.tokens_file.rpartition("/")[0] in mounts


REFUSED: dict[str, Values] = {
    "a value that is none": {"replica": 2},
    "a value that is none, within": {"storage.volume.name": "shared"},
    "a setting that the service does not have": {"settings": {"TIMBERLINE_SERVE_WORKER": "2"}},
    "a setting that the chart makes": {"settings": {"TIMBERLINE_SERVE_METRICS_PORT": "9000"}},
    "a number where a variable is text": {"settings": {"TIMBERLINE_SERVE_MAX_BODY_BYTES": 16777216}},
    "a name of a model that is none": {"model": "Forest Cover"},
    "no replica": {"replicas": 0},
    "root": {"user": 0},
    "a storage that is none": {"storage.kind": "disk"},
    "no image to take the registry from": {"storage.kind": "image", "stages.enabled": False},
    "stages without a registry that they may write": {**STORAGES["image"], "stages.enabled": True},
    "a bucket that is none": {"storage.bucket.registry": "models/registry"},
    "a quantity that is none": {"resources.limits.memory": "256 MB"},
    "a stage that is none": {"stages.resources.deploy": {"cpu": "1", "memory": "1Gi"}},
    "a setting of the service for the stages": {"stages.settings": {"TIMBERLINE_SERVE_WORKERS": "2"}},
    "a role for nobody": {"serviceAccountAnnotations": {"server": {"a": "b"}}},
    "a scaler that is none": {"autoscaling.kind": "memory"},
    "KEDA without anything to ask": {"autoscaling.kind": "keda"},
    "a rollout of an alias": {"rollout.enabled": True, "monitoring.enabled": True},
    "a rollout that nothing watches": {"rollout.enabled": True, "model": "forest_cover@8"},
    "a schedule that is none": {"retrain.schedule": "weekly"},
    "a required value taken away": {"replicas": None},
    "a peer that is none": {"networkPolicy.clients": [{"namespace": "ingress"}]},
}


@pytest.mark.parametrize("planted", REFUSED)
def test_a_wrong_value_is_refused(planted: str) -> None:
    """Before anything is changed: a misspelt value that is taken is one that does nothing."""
    (answer,) = ask_helm(REFUSED[planted])
    assert "error" in answer
    assert "templates/" not in answer["error"]  # by the schema, which says where, and by no template


def test_autoscaling_by_processor_is_refused_where_its_api_is_not_there() -> None:
    """An object that the cluster does not know would end the installation half way."""
    (answer,) = ask_helm({"autoscaling.kind": "cpu"}, kube_version="1.20.2")
    assert "needs Kubernetes 1.23" in answer["error"]


@pytest.mark.parametrize("name", list_matrix())
def test_an_installation_has_what_it_asks_for_and_names_everything_once(name: str) -> None:
    """What is rendered beside what was asked for is made, and stays."""
    documents, values = render_matrix()[name], list_matrix()[name]
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))
    assert {one["metadata"]["namespace"] for one in documents} == {"models"}
    kinds = {one["kind"] for one in documents}
    is_rollout = values.get("rollout.enabled", False)
    assert ("Rollout" in kinds, "Deployment" in kinds) == (is_rollout, not is_rollout)
    assert ("AnalysisTemplate" in kinds) == is_rollout
    scaler = values.get("autoscaling.kind", "none")
    assert ("HorizontalPodAutoscaler" in kinds, "ScaledObject" in kinds) == (
        scaler == "cpu",
        scaler == "keda",
    )
    makes_claim = values.get("storage.kind", "volume") == "volume" and "storage.volume.claim" not in values
    assert ("PersistentVolumeClaim" in kinds) == makes_claim
    assert ("ServiceMonitor" in kinds) == values.get("monitoring.enabled", False)
    assert ("Ingress" in kinds) == values.get("ingress.enabled", False)
    assert {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"} <= kinds
    assert list_references(documents) <= {f"{kind}/{named}" for kind, named in names}


def list_references(documents: list[Document]) -> set[str]:
    """What objects of the chart name and the chart has to make."""
    found = set()
    for pod in list_pods(documents).values():
        found.add(f"ServiceAccount/{pod['spec']['serviceAccountName']}")
        for container in list_containers(pod):
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    found.add(f"ConfigMap/{source['configMapRef']['name']}")
    for scaler in [*list_kinds(documents, "HorizontalPodAutoscaler"), *list_kinds(documents, "ScaledObject")]:
        target = scaler["spec"]["scaleTargetRef"]
        found.add(f"{target['kind']}/{target['name']}")
    for rollout in list_kinds(documents, "Rollout"):
        for step in rollout["spec"]["strategy"]["canary"]["steps"]:
            for template in step.get("analysis", {}).get("templates", []):
                found.add(f"AnalysisTemplate/{template['templateName']}")
    for ingress in list_kinds(documents, "Ingress"):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            found.add(f"Service/{path['backend']['service']['name']}")
    return found


@pytest.mark.parametrize("name", list_matrix())
def test_every_container_runs_under_the_restricted_standard(name: str) -> None:
    """Pod Security's "restricted" refuses a pod for one container that lacks one line of this."""
    values = list_matrix()[name]
    for pod in list_pods(render_matrix()[name]).values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"].get("runAsUser") == (None if "user" in values else 10001)
        for container in list_containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
            }
            assert set(container["resources"]) == {"requests", "limits"}
            for amounts in container["resources"].values():
                assert set(amounts) == {"cpu", "memory"}
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret"}


@pytest.mark.parametrize("name", list_matrix())
def test_selectors_take_the_service_s_pods_and_no_stage_s(name: str) -> None:
    """A stage's pod behind the Service would be sent requests."""
    documents = render_matrix()[name]
    pods = list_pods(documents)
    serving = {maker for maker in pods if maker.split("/")[0] in {"Deployment", "Rollout"}}
    for one in documents:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            selector = spec["selector"]
        elif one["kind"] in {"Deployment", "Rollout", "PodDisruptionBudget"}:
            selector = spec["selector"]["matchLabels"]
        else:
            continue
        taken = {
            maker for maker, pod in pods.items() if selector.items() <= pod["metadata"]["labels"].items()
        }
        assert taken == serving


def find_serving_pod(documents: list[Document]) -> Document:
    """The service's pod."""
    makers = ("Deployment", "Rollout")
    return next(pod for maker, pod in list_pods(documents).items() if maker.startswith(makers))


def serving_pod(values: Values) -> Document:
    """The service's pod with these values."""
    return find_serving_pod(render(values)[0])


@pytest.mark.parametrize(("drain", "grace", "wait"), [("5", "30", 2), ("0", "0", 0), ("12.5", "60", 10)])
def test_a_pod_has_time_for_its_drain(drain: str, grace: str, wait: int) -> None:
    """A pod that is killed before it is done loses the requests in flight."""
    settings = {"TIMBERLINE_SERVE_DRAIN_S": drain, "TIMBERLINE_SERVE_SHUTDOWN_GRACE_S": grace}
    spec = serving_pod({"settings": settings, "preStopS": wait})["spec"]
    (container,) = spec["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(wait)]
    needed = wait + float(drain) + float(grace)
    assert needed < spec["terminationGracePeriodSeconds"] < needed + 12


def test_a_changed_setting_rolls_the_pods_and_nothing_else_does() -> None:
    """A ConfigMap that changes alone is read by nobody; pods that roll for nothing cost a start each."""

    def annotations(values: Values) -> Any:
        return serving_pod(values)["metadata"]["annotations"]

    assert annotations({}) == annotations({"replicas": 5, "retrain.enabled": True})
    assert annotations({}) != annotations({"settings": {"TIMBERLINE_SERVE_REQUEST_LOG": "true"}})
    assert annotations({}) != annotations({"model": "forest_cover@7"})


@pytest.mark.parametrize("name", STORAGES)
def test_the_service_writes_to_no_registry(name: str) -> None:
    """What serves strangers changes no model: a read-only mount, or an account that only reads."""
    spec = serving_pod(STORAGES[name])["spec"]
    (container,) = spec["containers"]
    mounts = {one["name"]: one for one in container["volumeMounts"]}
    assert {one for one in mounts if not mounts[one].get("readOnly")} <= {"tmp", "cache"}
    variables = {one["name"]: one for one in container.get("env", [])}
    secrets = {one["valueFrom"]["secretKeyRef"]["name"] for one in variables.values() if "valueFrom" in one}
    assert secrets == ({"bucket-reader"} if name == "bucket" else set())
    if name == "image":
        (copying,) = spec["initContainers"]
        assert copying["command"] == ["cp", "-R", "/registry/.", "/var/timberline/registry/"]


def test_the_fetch_stage_alone_has_the_source_s_credentials() -> None:
    """The secret of a data source is of no use to a stage that trains, and a loss to everybody there."""
    for name in ("everything", "everything-volume"):
        holders = {
            (maker, container["name"])
            for maker, pod in list_pods(render_matrix()[name]).items()
            for container in list_containers(pod)
            if {"secretRef": {"name": "kaggle"}} in container.get("envFrom", [])
        }
        assert holders == {("CronJob/timberline-fetch", "fetch"), ("CronJob/timberline-retrain", "fetch")}


def test_every_stage_has_an_account_and_an_object_of_its_own() -> None:
    """A role for the bucket is given by account: one for all would let `fetch` move production."""
    documents = render_matrix()["everything"]
    pods = list_pods(documents)
    for stage in STAGES:
        pod = pods[f"CronJob/{RELEASE}-{stage}"]
        assert pod["spec"]["serviceAccountName"] == f"{RELEASE}-{stage}"
        assert pod["metadata"]["labels"][COMPONENT] == stage
        (container,) = list_containers(pod)
        assert container["args"] == [stage]
        spec = find(documents, "CronJob", f"{RELEASE}-{stage}")["spec"]
        assert spec["suspend"] is True
        assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
        assert pod["spec"]["restartPolicy"] == "Never"
    accounts = [one["spec"]["serviceAccountName"] for one in pods.values()]
    assert len(accounts) == len(set(accounts))
    for account in list_kinds(documents, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_retrain_runs_the_stages_in_their_order_in_one_pod() -> None:
    """A stage that ends with another code than 0 ends the pod: only what passed the gate is promoted."""
    documents = render_matrix()["everything"]
    spec = find(documents, "CronJob", f"{RELEASE}-retrain")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert not spec.get("suspend", False)
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # an initContainer that fails is not started again
    assert [one["args"] for one in list_containers(spec["jobTemplate"]["spec"]["template"])] == [
        [stage] for stage in STAGES
    ]


def test_accounts_carry_the_annotations_that_are_theirs() -> None:
    """On EKS the role of a pod is an annotation of its account."""
    documents = render_matrix()["amazon-fixed-deployment"]
    serve = find(documents, "ServiceAccount", f"{RELEASE}-serve")["metadata"]
    assert serve["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/serve"}
    assert "annotations" not in find(documents, "ServiceAccount", f"{RELEASE}-fetch")["metadata"]
    for pod in list_pods(documents).values():
        for container in list_containers(pod):
            assert {one["name"] for one in container.get("env", [])}.isdisjoint(CREDENTIALS)


def list_egress(documents: list[Document], labels: Document) -> list[Document] | None:
    """What the policies let a pod with these labels reach; None where none is about it."""
    found: list[Document] | None = None
    for policy in list_kinds(documents, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        is_meant = selector.get("matchLabels", {}).items() <= labels.items() and all(
            (labels[one["key"]] in one["values"]) == (one["operator"] == "In")
            for one in selector.get("matchExpressions", [])
        )
        if is_meant and "Egress" in policy["spec"]["policyTypes"]:
            found = [*(found or []), *policy["spec"]["egress"]]
    return found


@pytest.mark.parametrize("name", list_matrix())
def test_fetch_alone_reaches_the_world(name: str) -> None:
    """What a stage cannot send it cannot leak; the service answers and asks nobody but its bucket."""
    documents, values = render_matrix()[name], list_matrix()[name]
    for maker, pod in list_pods(documents).items():
        component = pod["metadata"]["labels"][COMPONENT]
        egress = list_egress(documents, pod["metadata"]["labels"])
        if component in {"fetch", "retrain"}:
            assert egress == [{}], maker
        elif values.get("storage.kind") == "bucket":
            assert egress is not None
            ports = [[one["port"] for one in rule["ports"]] for rule in egress]
            assert ports == [[53, 53], [9000 if "storage.bucket.endpoint" in values else 443]], maker
            assert egress[1].get("to") == values.get("networkPolicy.bucket")
        else:
            assert egress == [], maker


@pytest.mark.parametrize("name", list_matrix())
def test_no_stage_can_be_connected_to_and_the_service_has_two_ports(name: str) -> None:
    """The gate starts services of its own, which nobody else has to see."""
    documents = render_matrix()[name]
    for policy in list_kinds(documents, "NetworkPolicy"):
        assert "Ingress" in policy["spec"]["policyTypes"]
        if policy["metadata"]["name"] == f"{RELEASE}-serve":
            assert [one["ports"][0]["port"] for one in policy["spec"]["ingress"]] == [8000, 8001]
        else:
            assert policy["spec"]["ingress"] == []


def test_what_scales_the_pods_does_not_fight_with_the_chart() -> None:
    """A count in the Deployment is set back at every upgrade."""
    for name, documents in render_matrix().items():
        made_by = next(one for one in documents if one["kind"] in {"Deployment", "Rollout"})
        assert ("replicas" in made_by["spec"]) == ("-cpu-" not in name and "-keda-" not in name)


def test_keda_asks_for_the_requests_in_work_of_a_pod() -> None:
    """The sum over the pods, of which KEDA makes an average: a pod more as soon as it is above."""
    documents = render_matrix()["volume-keda-deployment"]
    (trigger,) = find(documents, "ScaledObject")["spec"]["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["query"] == (
        'sum(requests_in_flight{namespace="models",service="timberline-metrics"})'
    )
    assert find(documents, "Service", "timberline-metrics")


def test_prometheus_finds_the_metrics_by_the_name_that_the_alerts_know() -> None:
    """Rules about job="timberline" say nothing about a job of another name."""
    documents = render_matrix()["everything"]
    monitor = find(documents, "ServiceMonitor")
    metrics = find(documents, "Service", "timberline-metrics")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert metrics["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "timberline"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {one["name"] for one in metrics["spec"]["ports"]}
    rule = find(documents, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "alerts.yml").read_text("utf-8"))
    for one in (monitor, rule):
        assert one["metadata"]["labels"]["release"] == "prometheus"


def test_pods_of_a_release_with_another_name_are_its_own() -> None:
    """Two releases in one namespace: the selectors of one must not take the pods of the other."""
    (documents,) = render({})
    for one in (find(documents, "Service"), find(documents, "Service", "timberline-metrics")):
        assert one["spec"]["selector"]["app.kubernetes.io/instance"] == RELEASE


def test_the_matrix_has_every_kind_of_installation() -> None:
    """Three places of the registry, three scalers, with and without a rollout."""
    kinds = {(name.split("-")[0], *name.split("-")[1:]) for name in list_matrix() if name.count("-") == 2}
    assert len(kinds) == len(STORAGES) * len(SCALERS) * len(ROLLOUTS) - len(SCALERS)
    assert set(WORKING)
    assert re.fullmatch(r"\d+\.\d+\.\d+", NEWEST)
