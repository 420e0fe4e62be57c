"""The rollout's analysis: the gate's exit codes as Argo Rollouts' phases, and the queries that watch answers.

The commands of the rendered containers run for real, with the real gate and registry; promtool evaluates the
queries. Argo's controller is not there: what it does with a measurement is tests/support/analysis.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.analysis import judge_job, judge_value, read_path
from tests.support.evaluations import ANY_SPEED, publish_judged
from tests.support.helm import Document, find, list_kinds, render
from tests.support.makefile import QUICK_GATE
from tests.support.registry_tree import folder_of
from tests.support.service import ROOT
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.store import MODEL_FILE, Store, open_store

pytestmark = pytest.mark.real("helm")

DEADLINE_S = 180.0
VALUES = {"model": "tiny@1", "rollout.enabled": True, "monitoring.enabled": True}


@pytest.fixture(scope="module", name="metrics")
def list_metrics() -> dict[str, Document]:
    """The one metric of each template of the rollout."""
    (documents,) = render(VALUES)
    found = {}
    for template in list_kinds(documents, "AnalysisTemplate"):
        (found[template["metadata"]["name"].removeprefix("timberline-")],) = template["spec"]["metrics"]
    return found


def run_container(metric: Document, store: Store, folder: Path) -> tuple[int, str, str]:
    """Exit code, last words (the termination message) and output of a job's container, run in ``folder``."""
    (container,) = metric["provider"]["job"]["spec"]["template"]["spec"]["containers"]
    (folder / "tmp").mkdir(exist_ok=True)
    said = folder / "termination-log"
    said.write_text("", "utf-8")
    stage = folder / "bin" / "stage"
    stage.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy" / "stage", stage)
    stage.chmod(0o755)
    command = container.get("command", ["stage"])  # the image's own
    places = {"/dev/termination-log": str(said), "/tmp/gate.json": str(folder / "tmp" / "gate.json")}
    words = [
        re.sub("|".join(places), lambda found: places[found[0]], word)
        for word in [*command, *container["args"]]
    ]
    given = {one["name"]: one["value"] for one in container["env"]}
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={
            **os.environ,
            **QUICK_GATE,
            "PATH": f"{stage.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "REGISTRY": store.location,
            "DATA": str(folder / "data"),
            **given,
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, said.read_text("utf-8"), done.stdout + done.stderr


def publish(store: Store, min_accuracy: float) -> int:
    """A first version that is right in 9 of 10 rows; the floor alone decides, not this machine's speed."""
    limits = msgspec.structs.replace(ANY_SPEED, min_accuracy=min_accuracy)
    return publish_judged(store, alias="candidate", gate=limits)


def publish_damaged(store: Store) -> int:
    """A version whose graph was cut short."""
    version = publish(store, 0.5)
    path = folder_of(store.open_version("tiny", version)) / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-1])
    return version


def list_pods_as_the_api_does(message: str) -> Document:
    """The answer that the verdict's URL gets when the gate's pod has ended with this message."""
    terminated = {"exitCode": 0, "reason": "Completed", "message": message}
    status = {
        "phase": "Succeeded",
        "containerStatuses": [{"name": "gate", "state": {"terminated": terminated}}],
    }
    return {"kind": "PodList", "apiVersion": "v1", "items": [{"status": status}]}


@pytest.mark.parametrize(
    ("outcome", "phases", "publish_candidate"),
    [
        ("PASS", ["Successful", "Successful"], lambda store: publish(store, 0.5)),
        ("BLOCK", ["Failed"], lambda store: publish(store, 0.99)),
        ("INCONCLUSIVE", ["Successful", "Inconclusive"], lambda store: publish(store, 0.9)),
        ("INVALID", ["Failed"], publish_damaged),
    ],
    ids=["PASS", "BLOCK", "INCONCLUSIVE", "INVALID"],
)
def test_each_outcome_of_the_gate_is_a_phase_of_the_analysis(
    metrics: dict[str, Document],
    tmp_path: Path,
    outcome: str,
    phases: list[str],
    publish_candidate: Callable[[Store], int],
) -> None:
    """A rollout goes on, is aborted, or waits for a person, as PASS, BLOCK and INCONCLUSIVE mean it."""
    store = open_store(tmp_path / "registry")
    assert publish_candidate(store) == 1
    code, message, log = run_container(metrics["gate"], store, tmp_path)
    assert f'"outcome": "{outcome}"' in log or f'"outcome":"{outcome}"' in log, log
    seen = [judge_job(code)]
    if seen == ["Successful"]:  # the step behind it
        verdict = metrics["verdict"]
        answer = list_pods_as_the_api_does(message)
        seen.append(judge_value(verdict, read_path(verdict["provider"]["web"]["jsonPath"], answer)))
    assert seen == phases, log
    promoted, _, log = run_container(metrics["promote"], store, tmp_path)
    production = read_alias(store, "tiny", PRODUCTION)
    assert (promoted == 0) == (outcome == "PASS") == (production is not None), log


def test_a_gate_that_was_asked_wrongly_lets_nothing_through(
    metrics: dict[str, Document], tmp_path: Path
) -> None:
    """Its exit code is that of INCONCLUSIVE: a person would be asked about no verdict at all."""
    store = open_store(tmp_path / "registry")
    publish(store, 0.5)
    metric = json.loads(json.dumps(metrics["gate"]))
    (container,) = metric["provider"]["job"]["spec"]["template"]["spec"]["containers"]
    container["env"].append({"name": "TIMBERLINE_DUET_LOOKS", "value": "none"})
    code, message, log = run_container(metric, store, tmp_path)
    assert (judge_job(code), message) == ("Failed", ""), log


@pytest.mark.offline("helm")
def test_a_verdict_that_cannot_be_read_is_no_verdict(metrics: dict[str, Document]) -> None:
    """No pod, or a pod that said nothing: an error, or Failed, and in neither case Successful."""
    verdict = metrics["verdict"]
    path = verdict["provider"]["web"]["jsonPath"]
    with pytest.raises(LookupError):
        read_path(path, {"items": []})
    assert judge_value(verdict, "") == "Failed"
    assert judge_value(verdict, "passed") == "Failed"


@pytest.mark.offline("helm")
def test_the_verdict_is_read_of_the_pod_that_the_gate_ran_in(metrics: dict[str, Document]) -> None:
    """Of another release, or another version, it would let through what nobody judged."""
    (documents,) = render(VALUES)
    labels = metrics["gate"]["provider"]["job"]["spec"]["template"]["metadata"]["labels"]
    url = metrics["verdict"]["provider"]["web"]["url"]
    path, _, query = url.removeprefix("https://kubernetes.default.svc").partition("?")
    assert path == "/api/v1/namespaces/models/pods"
    asked = dict(one.split("=") for one in query.split("&"))
    assert asked["fieldSelector"] == "status.phase%3DSucceeded"
    selector = dict(one.split("%3D") for one in asked["labelSelector"].split(","))
    assert selector.items() <= labels.items()
    assert selector["timberline/judges"] == "{{args.pods}}"
    steps = find(documents, "Rollout")["spec"]["strategy"]["canary"]["steps"]
    for step in steps[:2]:
        assert step["analysis"]["args"] == [{"name": "pods", "valueFrom": {"podTemplateHashValue": "Latest"}}]


@pytest.mark.offline("helm")
def test_the_gate_comes_before_the_first_pod() -> None:
    """A version that is blocked answers nobody."""
    (documents,) = render(VALUES)
    canary = find(documents, "Rollout")["spec"]["strategy"]["canary"]
    kinds = [next(iter(step)) for step in canary["steps"]]
    assert kinds == ["analysis", "analysis", "setWeight", "pause", "analysis", "setWeight", "analysis"]
    assert canary["maxUnavailable"] == 0


@pytest.mark.offline("helm")
def test_who_reads_the_verdict_may_list_pods_and_nothing_else() -> None:
    """Its token lies in a Secret: whoever has it learns which pods there are."""
    (documents,) = render(VALUES)
    name = "timberline-verdict"
    assert find(documents, "Role", name)["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    ]
    binding = find(documents, "RoleBinding", name)
    assert binding["roleRef"]["name"] == name
    assert [one["name"] for one in binding["subjects"]] == [name]
    secret = find(documents, "Secret", name)
    assert secret["metadata"]["annotations"] == {"kubernetes.io/service-account.name": name}
    assert "data" not in secret


@pytest.mark.offline("helm")
@pytest.mark.parametrize(
    ("value", "phase"),
    [
        ([0.0], "Successful"),
        ([0.01], "Successful"),
        ([0.5], "Failed"),
        ([float("nan")], "Inconclusive"),
        ([], "Inconclusive"),
    ],
)
def test_answers_without_errors_let_a_version_go_on(
    metrics: dict[str, Document], value: list[float], phase: str
) -> None:
    """Where no request came there is nothing to judge by, and a person decides."""
    assert judge_value(metrics["answers"], value) == phase


def evaluate(queries: dict[str, tuple[str, float | None]], series: dict[str, str], folder: Path) -> None:
    """Hold the value of each query, 30 minutes in, to what is expected; None is no value at all."""
    tests: dict[str, Any] = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "30m",
                        "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
                    }
                    for query, value in queries.values()
                ],
            }
        ],
    }
    path = folder / "test.yml"
    path.write_text(json.dumps(tests), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60.0, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.real("helm", "prometheus")
def test_the_queries_find_what_they_are_for(metrics: dict[str, Document], tmp_path: Path) -> None:
    """Evaluated by Prometheus' own engine: of the new pods alone, of requests and not of probes."""
    (documents,) = render({**VALUES, "autoscaling.kind": "keda"})
    errors = metrics["answers"]["provider"]["prometheus"]["query"]
    (trigger,) = find(documents, "ScaledObject")["spec"]["triggers"]
    pods = 'namespace="models",service="timberline-metrics"'
    series = {}
    for pod, status, method, values in [
        ("new", "200", "POST", "0+90x60"),
        ("new", "500", "POST", "0+10x60"),
        ("new", "200", "GET", "0+1000x60"),
        ("old", "500", "POST", "0+1000x60"),
        ("clean", "200", "POST", "0+90x60"),
        ("idle", "200", "GET", "0+90x60"),
    ]:
        labels = f'{pods},rollouts_pod_template_hash="{pod}",status="{status}",method="{method}"'
        series[f"http_requests_total{{{labels}}}"] = values
    for pod, values in [("a", "3x60"), ("b", "9x60")]:
        series[f'requests_in_flight{{{pods},pod="{pod}"}}'] = values
    series['requests_in_flight{namespace="other",service="timberline-metrics"}'] = "100x60"
    expected: dict[str, float | None] = {"new": 0.1, "clean": 0.0, "idle": None, "nobody": None}
    queries = {name: (errors.replace("{{args.pods}}", name), value) for name, value in expected.items()}
    queries["keda"] = (trigger["metadata"]["query"], 12.0)
    evaluate(queries, series, tmp_path)
    with pytest.raises(AssertionError):  # a value that is not there is told
        evaluate({"keda": (trigger["metadata"]["query"], 13.0)}, series, tmp_path)


@pytest.mark.parametrize("is_pinned", [False, True])
def test_the_version_in_production_rolls_out_without_another_verdict(
    metrics: dict[str, Document], tmp_path: Path, is_pinned: bool
) -> None:
    """Other settings are a rollout too; its version is compared with nothing, by number or by digest."""
    store = open_store(tmp_path / "registry")
    publish_judged(store, alias=PRODUCTION)
    metric = json.loads(json.dumps(metrics["gate"]))
    (container,) = metric["provider"]["job"]["spec"]["template"]["spec"]["containers"]
    if is_pinned:
        digest = store.open_version("tiny", 1).digests.manifest_sha256
        container["env"] = [{"name": "MODEL", "value": f"tiny@1#sha256:{digest}"}]
    code, message, log = run_container(metric, store, tmp_path)
    assert (judge_job(code), message) == ("Successful", "PASS"), log
    assert '"event":"gate started"' not in log
