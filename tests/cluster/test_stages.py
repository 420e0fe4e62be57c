"""The chart's jobs in a real Kubernetes: what the exit code of a stage becomes, and a whole retraining.

`promote` runs in the image timberline-tools on the service's own volume. `retrain` runs every stage for real
in the train image, on a table of 600 made-up rows, with a gate whose windows take seconds.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import Cluster, save_images
from tests.support.engine import running_engine
from tests.support.installed import Installed, Note, give_away, installed_chart
from tests.support.makefile import QUICK_GATE
from tests.support.manifests import give_verdict
from tests.support.tiny_model import point_alias, publish_numeric
from timberline import __version__

pytestmark = pytest.mark.real(
    "kubernetes", "dockerd", "mmdebstrap", "etcd", "containerd", "iptables", "ptp", "helm"
)
STAGES = ["fetch", "etl", "train", "evaluate", "export", "gate", "promote"]
RETRAIN_S = 420.0
MODEL = """
[model]
name = "tall"

[source]
kind = "csv"
path = "/app/models/table.csv"

[columns]
height = { type = "number", default = 0.0 }
rings = { type = "integer", default = 0 }
tall = { type = "integer" }

[target]
column = "tall"
classes = [{ value = "0", label = "small" }, { value = "1", label = "tall" }]

[split]
kind = "random"

[network]
kind = "mlp"
widths = [8]

[training]
epochs = 2

[gate]
baseline = "warn"
"""


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Installed]:
    """The chart with one pod, beside which there is room for the jobs."""
    with installed_chart(cluster, "stages", "--set", "replicas=1") as installed:
        yield installed


def finish(release: Installed, job: str, timeout_s: float = 120.0) -> tuple[str, list[Any]]:
    """Wait for a job's end; what it ended as, and its pods."""

    def look() -> str:
        conditions = release.get("job", job)["status"].get("conditions", [])
        return next((entry["type"] for entry in conditions if entry["status"] == "True"), "")

    ended = release.cluster.wait_until(look, f"{job} has ended", timeout_s)
    return ended, release.get("pods", "-l", f"job-name={job}")


def exit_codes(pod: Any) -> dict[str, int]:
    """How each container of a pod ended."""
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
    ended = {entry["name"]: entry["state"].get("terminated") for entry in containers}
    return {name: end["exitCode"] for name, end in ended.items() if end}


def start(release: Installed, stage: str, job: str) -> None:
    """Start a stage as the docs do."""
    release.kubectl("create", "job", f"--from=cronjob/timberline-{stage}", job)


def test_a_refused_promotion_is_a_failed_job_of_one_pod(release: Installed) -> None:
    """The answer is no: exit code 1. A second try would ask the same again, so there is none."""
    version = publish_numeric(release.store, alias="candidate")
    give_verdict(release.store, "tiny", version, "BLOCK")
    give_away(release.volume)
    start(release, "promote", "promote-blocked")
    ended, pods = finish(release, "promote-blocked")
    assert ended == "Failed"
    assert [exit_codes(pod) for pod in pods] == [{"promote": 1}]
    assert release.ask()["version"] == 1


def test_a_promotion_without_a_candidate_says_so_by_its_exit_code(release: Installed) -> None:
    """Wrong use is 2, so that whoever reads the pod's state knows it from a verdict."""
    job = yaml.safe_load(release.kubectl("get", "cronjob", "timberline-promote", "-o", "yaml"))
    template = job["spec"]["jobTemplate"]["spec"]
    (variable,) = (
        entry for entry in template["template"]["spec"]["containers"][0]["env"] if entry["name"] == "MODEL"
    )
    variable["value"] = "unknown"
    wrong = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "promote-unknown"},
        "spec": template,
    }
    release.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wrong))
    ended, pods = finish(release, "promote-unknown")
    assert ended == "Failed"
    assert [exit_codes(pod) for pod in pods] == [{"promote": 2}]


def test_a_promotion_on_a_schedule_completes_and_the_service_follows(release: Installed) -> None:
    """Exit code 0; the CronJob's controller starts it, its pod writes the volume, the service sees it."""
    version = publish_numeric(release.store, alias="candidate", scale=-1.0)
    give_verdict(release.store, "tiny", version, "PASS")
    give_away(release.volume)
    # A copy, as Helm refuses to go over what somebody else has changed.
    cronjob = release.get("cronjob", "timberline-promote")
    cronjob["metadata"] = {"name": "every-minute"}
    cronjob["spec"] |= {"suspend": False, "schedule": "* * * * *"}
    release.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cronjob))

    def look() -> str:
        names = [str(item["metadata"]["name"]) for item in release.get("jobs")]
        return next((name for name in names if name.startswith("every-minute-")), "")

    job = release.cluster.wait_until(look, "the schedule has started a job")
    release.kubectl("patch", "cronjob", "every-minute", "-p", '{"spec": {"suspend": true}}')
    ended, pods = finish(release, job)
    assert ended == "Complete"
    assert [exit_codes(pod) for pod in pods] == [{"promote": 0}]
    wait = release.cluster.wait_until
    wait(lambda: release.ask()["version"] == version, "the service has the promoted version")
    point_alias(release.store, "tiny", "production", 1)
    give_away(release.volume)


@pytest.fixture(scope="module")
def train_image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The train image with a model folder of the test's own, as the docs tell users to build theirs."""
    folder: Path = tmp_path_factory.mktemp("train")
    chance = random.Random(0)
    rows = [(round(chance.uniform(1, 40), 2), chance.randrange(1, 300)) for _ in range(600)]
    lines = ["height,rings,tall", *(f"{height},{rings},{int(height > 18)}" for height, rings in rows)]
    place = folder / "models" / "tall"
    place.mkdir(parents=True)
    (place / "model.toml").write_text(MODEL, "utf-8")
    (place / "features.sql").write_text("SELECT height, rings FROM raw\n", "utf-8")
    (folder / "models" / "table.csv").write_text("\n".join(lines) + "\n", "utf-8")
    of_train = f"FROM timberline-train:{__version__}\nCOPY models /app/models\n"
    (folder / "Dockerfile").write_text(of_train, "ascii")
    with running_engine() as engine:
        engine.build("Dockerfile.train", f"timberline-train:{__version__}")
        engine.build("Dockerfile", "timberline-train:own", context=folder)
        cluster.load(save_images(engine, "timberline-train:own"))
    return "timberline-train:own"


def test_a_retraining_runs_every_stage_in_order_and_its_version_is_served(
    release: Installed, train_image: str, note: Note
) -> None:
    """From a table to the service's answer with what the chart makes alone: a model's first release."""
    values = {
        "images.tools": train_image,
        "images.train": train_image,
        "model": "tall",
        **{f"stages.settings.{name}": value.replace(",", "\\,") for name, value in QUICK_GATE.items()},
    }
    strings = [word for name, value in values.items() for word in ("--set-string", f"{name}={value}")]
    release.upgrade(*strings, "--set", "retrain.enabled=true,replicas=1", wait=False)
    began = time.monotonic()
    start(release, "retrain", "retrain-tall")
    ended, (pod,) = finish(release, "retrain-tall", RETRAIN_S)
    note(f"retrain, 600 rows, fetch to promote in one pod: {time.monotonic() - began:.0f} s")
    log = release.kubectl("logs", "job/retrain-tall", "--all-containers", "--tail=5", check=False)
    assert (ended, exit_codes(pod)) == ("Complete", dict.fromkeys(STAGES, 0)), log
    states = [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]
    times = {entry["name"]: entry["state"]["terminated"] for entry in states}
    assert list(times) == STAGES
    for earlier, later in itertools.pairwise(STAGES):
        assert times[earlier]["finishedAt"] <= times[later]["startedAt"]
    # Those that found no version would try again by themselves, after minutes.
    release.kubectl("delete", "pod", *(waiting.name for waiting in release.pods() if not waiting.is_ready))
    wait = release.cluster.wait_until
    wait(lambda: len(pods := release.pods()) == 1 and pods[0].is_ready, "the new pod alone is there")
    answer = release.ask()
    assert (answer["model"], answer["version"]) == ("tall", 1)
