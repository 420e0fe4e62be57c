"""The chart's Deployment, Service, probes, budget and settings, as a real Kubernetes understands them.

The clients ask the Service's address from the node, so that kube-proxy's rules choose the pods. The model is
a tiny graph: nothing here depends on what it computes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.installed import Installed, Note, Pod, installed_chart, seconds_until
from tests.support.pod_clients import PodClients
from tests.support.tiny_model import build_endless_graph, point_alias, publish_numeric

pytestmark = pytest.mark.real(
    "kubernetes", "dockerd", "mmdebstrap", "etcd", "containerd", "iptables", "ptp", "helm"
)
CLIENTS = 6
# More small processes than the container has memory for; the kernel takes the service for the worst.
HOG = """
echo 1000 > /proc/1/oom_score_adj
for number in $(seq 20); do python -c 'taken = b"x" * (20 << 20); input()' & done
wait
"""


@pytest.fixture(scope="module")
def release(cluster: Cluster, note: Note) -> Iterator[Installed]:
    """The chart with two pods; each test leaves it as it was."""
    began = time.monotonic()
    with installed_chart(cluster, "serving") as installed:
        note(f"install --wait: 2 pods ready after {time.monotonic() - began:.1f} s")
        yield installed


def names_of(pods: list[Pod]) -> set[str]:
    """Names of pods."""
    return {pod.name for pod in pods}


def test_an_installation_answers_at_its_service(release: Installed) -> None:
    """`--wait` has waited for readiness: the first request already has pods to go to."""
    pods = release.wait_for_pods(2)
    assert release.ask()["version"] == 1
    assert release.routed() == {pod.address for pod in pods}
    assert [release.version_of(pod) for pod in pods] == [1, 1]


def test_a_container_has_no_more_than_the_chart_says(release: Installed) -> None:
    """The kernel's word for it: no root, no capability, none to get, calls filtered, nothing to write."""
    pod = release.wait_for_pods(2)[0].name
    status = release.kubectl("exec", pod, "--", "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    for place in ("/", "/var/timberline/registry"):
        script = f"touch {place}/x 2>&1; true"
        assert "Read-only file system" in release.kubectl("exec", pod, "--", "sh", "-c", script)
    secrets = "/var/run/secrets/kubernetes.io"
    assert release.kubectl("exec", pod, "--", "sh", "-c", f"ls {secrets} 2>&1; true").endswith(
        "No such file or directory\n"
    )


def test_a_changed_setting_rolls_all_pods_and_a_rollback_rolls_them_back(
    release: Installed, note: Note
) -> None:
    """A ConfigMap alone changes nothing that runs; its checksum does. Two pods are ready all the time."""
    settings, deployment = release.get("configmap", "timberline"), release.get("deployment", "timberline")
    first = release.wait_for_pods(2)
    with PodClients(release.cluster, release.url, CLIENTS) as clients:
        clients.wait_for_answers(100)
        release.upgrade("--set-string", "settings.TIMBERLINE_SERVE_REQUEST_LOG=true")
        second = release.wait_for_pods(2)
        clients.wait_for_answers(100)
        changed = release.get("configmap", "timberline")["data"]
        log = release.kubectl("logs", second[0].name)
        release.cluster.helm("rollback", "timberline", "-n", release.namespace, "--wait")
        third = release.wait_for_pods(2)
        clients.wait_for_answers(100)
    note(f"rolling update for a setting, and the rollback: {clients.fate}")
    assert changed == {**settings["data"], "TIMBERLINE_SERVE_REQUEST_LOG": "true"}
    assert '"event":"request"' in log
    assert '"event":"request"' not in release.kubectl("logs", third[0].name)
    assert release.get("configmap", "timberline")["data"] == settings["data"]
    assert release.get("deployment", "timberline")["spec"] == deployment["spec"]
    assert len(names_of([*first, *second, *third])) == 6
    assert (clients.fate.lost, clients.fate.refused) == ([], 0)
    assert set(clients.fate.answers) == {"200"}


def test_a_release_that_cannot_start_harms_nobody(release: Installed) -> None:
    """A version that is not there: its pod never gets ready, so the old ones stay, and a rollback ends it."""
    before = release.wait_for_pods(2)
    release.upgrade("--set", "model=tiny@9", wait=False)

    def look() -> list[Pod]:
        return [pod for pod in release.pods() if pod.name not in names_of(before) and pod.last_end]

    (failed,) = release.cluster.wait_until(look, "the new pod has ended")
    assert failed.last_end["exitCode"] == 2  # there is no such version
    assert not failed.is_ready
    assert names_of(before) < names_of(release.pods())
    assert release.routed() == {pod.address for pod in before}
    assert release.ask()["version"] == 1
    release.cluster.helm("rollback", "timberline", "-n", release.namespace, "--wait")
    assert names_of(release.wait_for_pods(2)) == names_of(before)


def test_a_pod_that_is_frozen_gets_no_requests_and_is_restarted(release: Installed, note: Note) -> None:
    """Readiness takes it out of the Service within seconds; liveness then ends it, and it comes back."""
    frozen, other = release.wait_for_pods(2)
    began = time.monotonic()
    for process in processes_of(frozen):
        os.kill(process, signal.SIGSTOP)
    wait = release.cluster.wait_until
    wait(lambda: release.routed() == {other.address}, "the frozen pod is out of the Service")
    out_s = time.monotonic() - began
    assert [release.ask()["version"] for _ in range(20)] == [1] * 20

    def look() -> Pod:
        return next(pod for pod in release.pods() if pod.name == frozen.name)

    wait(lambda: look().restarts == frozen.restarts + 1, "the frozen pod is restarted")
    note(
        f"frozen pod: out of the Service after {out_s:.1f} s,"
        f" restarted after {time.monotonic() - began:.1f} s"
    )
    assert look().last_end["exitCode"] == 137  # it does not hear SIGTERM
    release.wait_for_pods(2)
    wait(lambda: len(release.routed()) == 2, "both pods are in the Service")


def test_a_pod_that_loads_for_long_is_not_taken_for_dead(release: Installed) -> None:
    """The startup probe holds liveness off; the service's own limit ends what loads too long, no probe."""
    before = release.wait_for_pods(2)
    version = publish_numeric(release.store, alias=None, model_bytes=build_endless_graph())
    # Longer than liveness would need to end a process that never answers: 3 times 5 s.
    settings = f"model=tiny@{version},settings.TIMBERLINE_SERVE_LOAD_TIMEOUT_S=20"
    release.upgrade("--set-string", settings, wait=False)

    def look() -> list[Pod]:
        return [pod for pod in release.pods() if pod.name not in names_of(before) and pod.last_end]

    (loading,) = release.cluster.wait_until(look, "the new pod has ended")
    assert loading.last_end["exitCode"] == 3
    ran = [
        time.strptime(loading.last_end[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("startedAt", "finishedAt")
    ]
    assert time.mktime(ran[1]) - time.mktime(ran[0]) > 17
    release.cluster.helm("rollback", "timberline", "-n", release.namespace, "--wait")
    assert names_of(release.wait_for_pods(2)) == names_of(before)


def test_a_second_eviction_is_refused_while_the_first_pod_is_away(release: Installed) -> None:
    """Who drains nodes asks before each pod: the budget says that one at a time may go."""
    pods = release.wait_for_pods(2)
    budget = ["get", "pdb", "timberline", "-o", "jsonpath={.status.disruptionsAllowed}"]
    release.cluster.wait_until(lambda: release.kubectl(*budget) == "1", "one disruption is allowed")
    assert evict(release, pods[0]) == 201
    assert evict(release, pods[1]) == 429
    assert release.ask()["version"] == 1
    release.wait_for_pods(2)
    release.cluster.wait_until(lambda: release.kubectl(*budget) == "1", "one disruption is allowed again")
    assert pods[1].name in names_of(release.pods())


def test_a_drained_pod_loses_no_request(release: Installed, note: Note) -> None:
    """What happens at each node upgrade and each scaling down: the pod that goes finishes what it has."""
    (going, staying) = release.wait_for_pods(2)
    with PodClients(release.cluster, release.url, CLIENTS) as clients:
        clients.wait_for_answers(100)
        began = time.monotonic()
        release.kubectl("delete", "pod", going.name, "--wait=true")
        left_s = time.monotonic() - began
        release.wait_for_pods(2)
        clients.wait_for_answers(100)
    note(f"a pod deleted under load: {clients.fate}; it was gone after {left_s:.1f} s")
    assert staying.name in names_of(release.pods())
    assert clients.fate.lost == []
    assert clients.fate.refused == 0
    assert set(clients.fate.answers) == {"200"}


def test_the_last_pods_answer_all_that_they_were_sent(release: Installed, note: Note) -> None:
    """Scaled to nothing under load: what was sent is answered, what comes later is refused."""
    release.wait_for_pods(2)
    with PodClients(release.cluster, release.url, CLIENTS) as clients:
        clients.wait_for_answers(100)
        release.kubectl("scale", "deployment", "timberline", "--replicas=0")
        release.wait_for_pods(0)
        release.cluster.wait_until(lambda: clients.look().refused > 0, "clients are refused")
        answered = clients.look().answered
        began = time.monotonic()
        release.kubectl("scale", "deployment", "timberline", "--replicas=2")
        ready_s = seconds_until(release, 2, began)
        clients.wait_for_answers(100)
    note(f"scaled 2 to 0 to 2 under load: {clients.fate}; 2 pods ready {ready_s:.1f} s after the scaling up")
    assert clients.fate.answered > answered
    assert clients.fate.lost == []
    assert set(clients.fate.answers) == {"200"}


def test_a_pod_at_its_memory_limit_is_restarted_and_the_other_one_answers(
    release: Installed, note: Note
) -> None:
    """The limit is the container's own: a leak in one pod is no outage."""
    hungry, other = release.wait_for_pods(2)
    with PodClients(release.cluster, f"http://{other.address}:8000/predict", CLIENTS) as clients:
        clients.wait_for_answers(100)
        release.kubectl("exec", "-i", hungry.name, "--", "sh", "-c", HOG, check=False)

        def look() -> Pod:
            return next(pod for pod in release.pods() if pod.name == hungry.name)

        release.cluster.wait_until(lambda: look().restarts == hungry.restarts + 1, "the pod is restarted")
        release.wait_for_pods(2)
        clients.wait_for_answers(100)
    note(f"the other pod while one is killed at its memory limit: {clients.fate}")
    assert look().last_end["reason"] == "OOMKilled"
    assert set(clients.fate.answers) == {"200"}
    assert (clients.fate.lost, clients.fate.refused, clients.fate.again) == ([], 0, 0)


def test_a_moved_alias_reaches_all_pods_without_a_restart(release: Installed, note: Note) -> None:
    """A release is a record in the registry, not a rollout: every pod takes the version over by itself."""
    before = release.wait_for_pods(2)
    version = publish_numeric(release.store, alias=None, scale=-1.0)
    with PodClients(release.cluster, release.url, CLIENTS) as clients:
        clients.wait_for_answers(100)
        began = time.monotonic()
        point_alias(release.store, "tiny", "production", version)
        wait = release.cluster.wait_until
        wait(lambda: {release.version_of(pod) for pod in before} == {version}, "both pods have it")
        swapped_s = time.monotonic() - began
        point_alias(release.store, "tiny", "production", 1)
        wait(lambda: {release.version_of(pod) for pod in before} == {1}, "both pods are back")
        clients.wait_for_answers(100)
    note(f"alias moved and moved back under load: {clients.fate}; both pods had it after {swapped_s:.1f} s")
    assert set(clients.fate.versions) == {"1", str(version)}
    assert (clients.fate.lost, clients.fate.refused, clients.fate.again) == ([], 0, 0)
    assert [(pod.name, pod.restarts) for pod in release.pods()] == [
        (pod.name, pod.restarts) for pod in before
    ]


def processes_of(pod: Pod) -> list[int]:
    """The processes of a pod's container, by their numbers here."""
    (place,) = Path("/sys/fs/cgroup/memory").glob(f"k8s.io/{pod.container}")
    return [int(line) for line in (place / "cgroup.procs").read_text("ascii").split()]


def evict(release: Installed, pod: Pod) -> int:
    """Ask for a pod's eviction as `kubectl drain` does; the status of the answer."""
    cluster = release.cluster
    eviction = {
        "apiVersion": "policy/v1beta1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": release.namespace},
    }
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod.name}/eviction"
    done = cluster.run("kubectl", "create", "--raw", path, "-f", "-", stdin=json.dumps(eviction), check=False)
    if done.returncode:
        assert "Too Many Requests" in done.stderr or "disruption budget" in done.stderr, done.stderr
        return 429
    code: int = json.loads(done.stdout)["code"]
    return code
