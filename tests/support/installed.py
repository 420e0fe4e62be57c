"""The chart installed in a cluster, in a namespace of its own, with a registry on a volume; see `Installed`.

with installed_chart(cluster, "serving") as release:
    release.upgrade("--set", "replicas=3")
    release.ask()["version"]
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.cluster import READY_S, Cluster
from tests.support.tiny_model import publish_numeric
from timberline.registry.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "timberline"
VALUES = ROOT / "tests" / "cluster" / "values.yaml"
RELEASE = "timberline"
SERVE = "app.kubernetes.io/component=serve"
USER = 10001  # of the images
Note = Callable[[str], None]  # keeps a figure for the end


class Pod(NamedTuple):
    """A pod of the service as the API server knows it."""

    name: str
    address: str
    is_ready: bool
    is_started: bool
    is_leaving: bool
    restarts: int
    last_end: dict[str, Any]
    container: str


class Installed(NamedTuple):
    """A release of the chart; its registry is a folder here, which the pods have as a volume."""

    cluster: Cluster
    namespace: str
    volume: Path

    @property
    def store(self) -> Store:
        """The registry, as a promoter on another machine has it."""
        return open_store(self.volume / "registry")

    def upgrade(self, *words: str, wait: bool = True) -> str:
        """Install, or go on to the rehearsal's values with ``words``; what Helm said."""
        flags: list[str | Path] = [
            "--install",
            "-n",
            self.namespace,
            "-f",
            VALUES,
            *words,
            *(["--wait"] if wait else []),
        ]
        return self.cluster.helm("upgrade", RELEASE, CHART, *flags)

    def kubectl(self, *words: str | Path, stdin: str = "", check: bool = True) -> str:
        """A command of kubectl in this namespace."""
        return self.cluster.kubectl("-n", self.namespace, *words, stdin=stdin, check=check)

    def get(self, *words: str) -> Any:
        """Objects of this namespace."""
        return self.cluster.get("-n", self.namespace, *words)

    def pods(self) -> list[Pod]:
        """The service's pods, those that leave among them."""
        return [read_pod(item) for item in self.get("pods", "-l", SERVE)]

    def wait_for_pods(self, count: int, timeout_s: float = READY_S) -> list[Pod]:
        """Wait until as many pods are there, all of them ready, and no other."""

        def look() -> list[list[Pod]]:
            pods = self.pods()
            is_so = len(pods) == count and all(pod.is_ready and not pod.is_leaving for pod in pods)
            return [pods] if is_so else []

        (found,) = self.cluster.wait_until(look, f"{count} pods", timeout_s)
        return list(found)

    def routed(self) -> set[str]:
        """The addresses of the pods that the Service sends requests to."""
        subsets = self.get("endpoints", RELEASE).get("subsets", [])
        return {entry["ip"] for subset in subsets for entry in subset.get("addresses", [])}

    @property
    def url(self) -> str:
        """Where the Service's clients send rows to, by its address: the cluster has no DNS."""
        service = self.get("service", RELEASE)["spec"]
        return f"http://{service['clusterIP']}:{service['ports'][0]['port']}/predict"

    def ask(self, url: str = "") -> dict[str, Any]:
        """The answer to one row, of the Service or of ``url``."""
        flags = ["-sS", "-m", "10", "-H", "content-type: application/json", "-d", '{"rings": 40}']
        answer: dict[str, Any] = json.loads(self.cluster.run("curl", *flags, url or self.url).stdout)
        return answer

    def version_of(self, pod: Pod) -> Any:
        """The version that a pod answers with."""
        return self.ask(f"http://{pod.address}:8000/predict")["version"]


def read_pod(item: Any) -> Pod:
    """A pod of `kubectl get pods -o json`."""
    status = item["status"]
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
    (container,) = status.get("containerStatuses") or [{}]
    ends = [container.get(name, {}).get("terminated") for name in ("state", "lastState")]
    return Pod(
        item["metadata"]["name"],
        status.get("podIP", ""),
        conditions.get("Ready") == "True",
        bool(container.get("started")),
        "deletionTimestamp" in item["metadata"],
        container.get("restartCount", 0),
        next((end for end in ends if end), {}),
        container.get("containerID", "").removeprefix("containerd://"),
    )


@contextlib.contextmanager
def installed_chart(cluster: Cluster, namespace: str, *words: str) -> Iterator[Installed]:
    """The chart with the rehearsal's values and tiny@1 in production, ready; it is uninstalled at the end."""
    volume = make_volume(cluster, namespace)
    release = Installed(cluster, namespace, volume)
    publish_numeric(release.store)
    give_away(volume)
    cluster.kubectl("create", "namespace", namespace)
    release.upgrade(*words)
    yield release
    cluster.helm("uninstall", RELEASE, "-n", namespace, "--wait")
    release.wait_for_pods(0)


def make_volume(cluster: Cluster, namespace: str) -> Path:
    """A folder, and the volume of it that waits for the claim that the chart makes in ``namespace``."""
    folder = cluster.folder / "volumes" / namespace
    for name in ("data", "registry"):
        (folder / name).mkdir(parents=True)
    claim = {"namespace": namespace, "name": f"{RELEASE}-models"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteMany"],
            "claimRef": claim,
            "hostPath": {"path": str(folder)},
        },
    }
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(volume))
    return folder


def give_away(folder: Path) -> None:
    """Let the images' user write what this process has written."""
    for path in [folder, *folder.rglob("*")]:
        shutil.chown(path, USER, USER)


def seconds_until(release: Installed, count: int, began: float) -> float:
    """Seconds from ``began`` (`time.monotonic`) until ``count`` pods are ready."""
    release.wait_for_pods(count)
    return time.monotonic() - began
