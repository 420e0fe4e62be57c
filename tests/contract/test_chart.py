"""The chart's values and the rest of the house say the same: settings, limits, version, ports, alerts.

No Helm here: tests/deploy renders the chart.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

import timberline
from tests.support.dockerfiles import read_stages, texts
from tests.support.makefile import QUICK_GATE
from tests.support.markdown import ROOT
from timberline.inference.config import ServiceConfig, environment_name, resolve_config
from timberline.release import _STAGES

CHART = ROOT / "deploy" / "helm" / "timberline"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
TEMPLATES = "".join(path.read_text("utf-8") for path in sorted((CHART / "templates").iterdir()))
# What the chart sets by other values, or must not leave to a variable that everybody sees.
MADE_BY_THE_CHART = {
    "model",
    "registry",
    "host",
    "port",
    "metrics_port",
    "cache_dir",
    "tokens",
    "tokens_file",
}
UNITS = {"m": 1, "g": 1024, "Mi": 1, "Gi": 1024}


def test_the_values_keep_their_own_schema() -> None:
    """Helm holds the merged values to it: a default that breaks it refuses every installation."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)  # the newest that Helm 3 knows
    jsonschema.validate(VALUES, SCHEMA, cls=jsonschema.Draft7Validator)


def list_open(tree: Any, place: str = "") -> list[str]:
    """Tables of a schema that take any key."""
    found = []
    if isinstance(tree, dict):
        if (
            tree.get("type") == "object"
            and "properties" in tree
            and tree.get("additionalProperties") is not False
        ):
            found.append(place)
        for key, value in tree.items():
            found += list_open(value, f"{place}/{key}")
    return found


def list_keys(tree: Any, place: str = "") -> set[str]:
    """The dotted keys of values, down to what is no table."""
    if not isinstance(tree, dict) or not tree:
        return {place}
    return set().union(*(list_keys(value, f"{place}.{key}".strip(".")) for key, value in tree.items()))


def list_described(schema: dict[str, Any], place: str = "") -> set[str]:
    """The dotted keys that a schema knows by name."""
    if "properties" not in schema:
        return {place}
    parts = schema["properties"].items()
    return set().union(*(list_described(value, f"{place}.{key}".strip(".")) for key, value in parts))


def test_the_schema_refuses_what_is_no_value_and_knows_no_other() -> None:
    """A key of the schema alone is a value that does nothing; one of the file alone is refused."""
    assert list_open(SCHEMA) == []
    described = {key for key in list_described(SCHEMA) if not key.startswith(("settings.", "serviceAccount"))}
    known = {key for key in list_keys(VALUES) if not key.startswith(("settings.", "serviceAccount"))}
    assert described - {"global"} == known  # `global` is Helm's own


def test_every_value_is_read_by_a_template() -> None:
    """One that nothing reads is a promise that is not kept."""
    for key in list_keys(VALUES):
        *_, section, name = ["", *key.split(".")]
        is_read = (
            rf"\.{name}\b|\"{name}\"" if section not in {"settings", "resources"} else rf"\.?{section}\b"
        )
        if not key.startswith(("resources.", "stages.resources.")):
            assert re.search(is_read, TEMPLATES), key


def test_every_value_has_a_comment() -> None:
    """The file is the reference of the chart. What lies in `settings` and `resources` is said above them."""
    lines = (CHART / "values.yaml").read_text("utf-8").splitlines()
    keys = [(number, line.strip()) for number, line in enumerate(lines) if re.match(r" *\w+:", line)]
    bare = {line for number, line in keys if not lines[number - 1].lstrip().startswith("#")}
    assert {line.partition(":")[0] for line in bare} <= {
        *VALUES["settings"],
        *VALUES["resources"],
        *VALUES["stages"]["resources"],
    }


def test_settings_are_the_service_s() -> None:
    """A variable that the service does not know stops its start."""
    names = {environment_name(key) for key in set(ServiceConfig.__struct_fields__) - MADE_BY_THE_CHART}
    assert set(SCHEMA["properties"]["settings"]["properties"]) == names
    known = {environment_name(key) for key in ServiceConfig.__struct_fields__}
    told = re.findall(
        r"^  (\w+): ", (CHART / "templates" / "configmap.yaml").read_text("utf-8"), re.MULTILINE
    )
    assert {name for name in told if name.isupper()} == known & set(told) - {"kind"}
    assert {environment_name(key) for key in MADE_BY_THE_CHART - {"tokens"}} <= set(told)


def test_stages_may_have_every_setting_of_a_gate() -> None:
    """A digit in a name (…_P99_RATIO) is no reason to refuse it."""
    values = {**VALUES, "stages": {**VALUES["stages"], "settings": QUICK_GATE}}
    jsonschema.validate(values, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_defaults_are_those_of_the_image_and_the_service() -> None:
    """The time that a pod is given is reckoned from these values: the service must have the same."""
    settings = VALUES["settings"]
    (image,) = [one for one in texts(read_stages(ROOT / "Dockerfile.serve")[""], "ENV") if "DRAIN_S" in one]
    assert f"TIMBERLINE_SERVE_DRAIN_S={settings['TIMBERLINE_SERVE_DRAIN_S']}" in image
    assert float(settings["TIMBERLINE_SERVE_SHUTDOWN_GRACE_S"]) == ServiceConfig().shutdown_grace_s
    assert int(settings["TIMBERLINE_SERVE_WORKERS"]) == ServiceConfig().workers


def test_a_slow_start_is_waited_for() -> None:
    """A pod that is killed while it loads never serves."""
    pod = (CHART / "templates" / "_pod.tpl").read_text("utf-8")
    (startup,) = re.findall(r"startupProbe:\n(.*?)readinessProbe", pod, re.DOTALL)
    period, failures = (
        int(re.findall(rf"{key}: (\d+)", startup)[0]) for key in ("periodSeconds", "failureThreshold")
    )
    assert period * failures > ServiceConfig().load_timeout_s


def mebibytes(quantity: str) -> float:
    """A quantity of the chart or of a `docker run` in MiB."""
    (found,) = re.findall(r"^([\d.]+)(\w+)$", quantity)
    return float(found[0]) * UNITS[found[1]]


def test_limits_are_those_that_were_measured() -> None:
    """docs/how-to/containers.md says what each stage needs; another limit is a stage that is killed."""
    page = (ROOT / "docs" / "how-to" / "containers.md").read_text("utf-8")
    runs = re.findall(r"--memory (\d+[mg]) timberline-train (\w+)$", page, re.MULTILINE)
    given = {stage: amount for amount, stage in runs}
    for stage, amounts in VALUES["stages"]["resources"].items():
        assert mebibytes(amounts["memory"]) == mebibytes(given[stage])
    served = re.search(r"--memory (\d+[mg]) --cpus 1 \\\n +-p 8000:8000", page)
    assert served
    assert mebibytes(VALUES["resources"]["limits"]["memory"]) == mebibytes(served[1])
    assert VALUES["resources"]["limits"]["cpu"] == "1"


def test_stages_are_those_of_a_release() -> None:
    """A stage that the chart does not know would be missing in `retrain` alone."""
    (listed,) = re.findall(r'define "timberline.stages" -}}\n(\[.*\])', TEMPLATES)
    assert json.loads(listed) == list(_STAGES) == list(VALUES["stages"]["resources"])


def test_the_chart_has_the_version_of_the_package() -> None:
    """One release is one number: of the chart, of what it installs, of the images that it names."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == timberline.__version__
    for name in ("serve", "train", "tools"):
        assert VALUES["images"][name] == f"timberline-{name}:{timberline.__version__}"


def test_the_chart_s_alerts_are_those_of_the_repository() -> None:
    """A chart reads no file outside of its folder; a copy that is older warns of something else."""
    assert (CHART / "alerts.yml").read_bytes() == (ROOT / "deploy/prometheus/alerts.yml").read_bytes()


def test_kserve_s_runtime_sets_what_the_service_knows_and_runs_this_version() -> None:
    """A variable that the service does not know stops its start; another port is asked by nobody."""
    runtime, service = (
        yaml.safe_load((ROOT / "deploy" / "kserve" / f"{name}.yaml").read_text("utf-8"))
        for name in ("servingruntime", "inferenceservice")
    )
    (container,) = runtime["spec"]["containers"]
    predictor = service["spec"]["predictor"]
    variables = {one["name"]: one["value"] for one in [*container["env"], *predictor["model"]["env"]]}
    config = resolve_config({}, variables)
    assert (config.registry, config.host, config.port) == (
        "/mnt/models",
        "0.0.0.0",
        container["ports"][0]["containerPort"],
    )
    assert container["image"] == VALUES["images"]["serve"]
    assert container["resources"] == VALUES["resources"]
    drain, grace = (
        float(VALUES["settings"][f"TIMBERLINE_SERVE_{key}"]) for key in ("DRAIN_S", "SHUTDOWN_GRACE_S")
    )
    assert predictor["terminationGracePeriodSeconds"] > drain + grace


@pytest.mark.parametrize("metric", ["requests_in_flight", "http_requests_total"])
def test_metrics_that_decide_are_documented(metric: str) -> None:
    """A query for a metric that was renamed finds nothing, and nothing is scaled."""
    assert f"{metric}{{" in TEMPLATES
    assert f"| `{metric}` |" in (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")


def test_probes_ask_for_the_service_s_own_paths() -> None:
    """A probe of a path that is not there kills every pod."""
    http = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
    asked = set(re.findall(r"httpGet: \{path: (\S+), port: http\}", TEMPLATES))
    assert asked == {"/v2/health/ready", "/v2/health/live"}
    for path in asked:
        assert path in http
