"""The templates of deploy/aws name what is there: settings, paths, verbs, users, rights and times.

That Amazon would take them is shown in tests/deploy/test_aws.py.
"""

from __future__ import annotations

import fnmatch
import json
import re
from typing import Any

import pytest

from tests.support.aws import list_templates, read_template, resolve
from tests.support.dockerfiles import read_stages, texts
from tests.support.markdown import ROOT, list_blocks
from timberline.inference.config import ServiceConfig, environment_name, resolve_config
from timberline.inference.routes.access import OPEN_ROUTES

SERVICE = read_template("service.yaml")["Resources"]
STAGES = read_template("stages.yaml")["Resources"]
BUCKET = {"Bucket": "models"}
SERVE_IMAGE = read_stages(ROOT / "Dockerfile.serve")[""]
TOOLS_IMAGE = read_stages(ROOT / "Dockerfile.train")["tools"]
TASKS = {use: STAGES[f"{use}Task"]["Properties"] for use in ("Fetch", "Train", "Gate", "Promote")}
REGISTRY_PAGE = (ROOT / "docs" / "reference" / "registry.md").read_text("utf-8")
# Actions that Amazon knows no resource for.
ANYWHERE = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData", "ecs:StopTask", "ecs:DescribeTasks"}


def find_container(resources: dict[str, Any], logical: str) -> Any:
    (container,) = resources[logical]["Properties"]["ContainerDefinitions"]
    return container


def read_environment(container: Any) -> dict[str, str]:
    return {each["Name"]: resolve(each["Value"], BUCKET) for each in container["Environment"]}


def read_statements(resources: dict[str, Any], role: str, policy: str) -> list[dict[str, Any]]:
    given = {each["PolicyName"]: each["PolicyDocument"] for each in resources[role]["Properties"]["Policies"]}
    statements: list[dict[str, Any]] = resolve(given[policy], BUCKET)["Statement"]
    return statements


def normalise(statements: list[dict[str, Any]]) -> list[str]:
    """Statements as text, whatever their order and whether one or a list."""
    lists = [
        {
            key: sorted(value) if isinstance(value, list) else [value] if isinstance(value, str) else value
            for key, value in statement.items()
        }
        for statement in statements
    ]
    return sorted(json.dumps(each, sort_keys=True) for each in lists)


def list_policies() -> list[list[dict[str, Any]]]:
    """The statements of reader, publisher and promoter, as the page of the registry has them."""
    blocks = [json.loads(block.code) for block in list_blocks(REGISTRY_PAGE) if block.language == "json"]
    return [block["Statement"] for block in blocks if "Statement" in block]


def find_drain_s() -> float:
    """Seconds that the image drains for."""
    (found,) = re.findall(r"TIMBERLINE_SERVE_DRAIN_S=(\d+)", " ".join(texts(SERVE_IMAGE, "ENV")))
    return float(found)


def test_the_services_variables_are_settings_of_the_service() -> None:
    """An unknown one stops the start, and of a first deployment there is nothing to roll back to."""
    container = find_container(SERVICE, "Task")
    given = read_environment(container) | {"MODEL": "forest_cover"}
    config = resolve_config({}, given)
    assert (config.registry, config.port, config.cache_bytes) == ("s3://models/registry", 8000, 0)
    assert container["Secrets"]["Fn::If"][1][0]["Name"] == environment_name("tokens")
    ports = {container["PortMappings"][0]["ContainerPort"], SERVICE["TargetGroup"]["Properties"]["Port"]}
    assert ports == {config.port}
    assert read_template("service.yaml")["Parameters"]["Model"]["Default"] == ServiceConfig().model


def test_times_of_the_platform_are_longer_than_those_of_the_service() -> None:
    """What is shorter cuts requests that the service would have answered."""
    config = ServiceConfig()
    container = find_container(SERVICE, "Task")
    assert container["StopTimeout"] >= find_drain_s() + config.shutdown_grace_s + 1
    assert container["StopTimeout"] <= 120  # Fargate's limit
    group = SERVICE["TargetGroup"]["Properties"]
    attributes = {each["Key"]: each["Value"] for each in group["TargetGroupAttributes"]}
    delay = float(attributes["deregistration_delay.timeout_seconds"])
    assert delay >= config.receive_timeout_s + config.deadline_s
    given = SERVICE["LoadBalancer"]["Properties"]["LoadBalancerAttributes"]
    attributes = {each["Key"]: each["Value"] for each in given}
    assert float(attributes["idle_timeout.timeout_seconds"]) < config.keep_alive_s
    # By then a task that drains is out of the load balancer's list.
    noticed = group["HealthCheckIntervalSeconds"] * group["UnhealthyThresholdCount"]
    assert noticed <= delay


def test_the_health_check_asks_a_path_of_the_service() -> None:
    """One that is not there answers 404, one that asks for a token 401: no task would ever get a request."""
    path = SERVICE["TargetGroup"]["Properties"]["HealthCheckPath"]
    assert path in OPEN_ROUTES
    assert f"| GET | `{path}` |" in (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")


@pytest.mark.parametrize(
    "container", [find_container(SERVICE, "Task"), *(find_container(STAGES, f"{use}Task") for use in TASKS)]
)
def test_a_container_runs_as_the_images_user_with_a_root_that_it_cannot_write(container: Any) -> None:
    """The images are made for it, and nothing of the platform asks for more."""
    assert {container["User"]} == set(texts(SERVE_IMAGE, "USER")) == set(texts(TOOLS_IMAGE, "USER"))
    assert container["ReadonlyRootFilesystem"] is True
    assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    assert "Privileged" not in container


def test_a_stage_writes_where_its_image_has_a_volume() -> None:
    """Fargate gives a volume the owner of the image's folder only if the image says that it is one."""
    (volume,) = texts(TOOLS_IMAGE, "VOLUME")
    for use, task in TASKS.items():
        (container,) = task["ContainerDefinitions"]
        assert container["MountPoints"] == [{"SourceVolume": "scratch", "ContainerPath": volume}]
        given = read_environment(container)
        assert given["TMPDIR"] == volume
        assert given["TIMBERLINE_CACHE"].startswith(f"{volume}/")
        assert (given["DATA"], given["REGISTRY"]) == ("s3://models/data", "s3://models/registry"), use


def test_the_stages_of_a_release_are_verbs_with_the_memory_that_they_need() -> None:
    """A misspelt verb is found in the night, and too little memory in the middle of a training."""
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
    limits = (ROOT / "docs" / "how-to" / "containers.md").read_text("utf-8")
    told = re.findall(r"^\| (`[^|]*`) \|[^|]*\|[^|]*\| ([\d.]+) (MB|GB) \|", limits, re.MULTILINE)
    states = STAGES["Release"]["Properties"]["Definition"]["States"]
    tasks = {name: state for name, state in states.items() if "Cluster" in state.get("Parameters", {})}
    assert list(tasks) == ["fetch", "etl", "train", "evaluate", "export", "gate", "promote"]
    for name, state in tasks.items():
        ((override,),) = state["Parameters"]["Overrides"].values()
        assert override["Command"][0] == name
        assert f"### `{name}`" in page
        task = STAGES[state["Parameters"]["TaskDefinition"]["Ref"]]["Properties"]
        (limit,) = [
            float(number) * {"MB": 1, "GB": 1024}[unit]
            for verbs, number, unit in told
            if f"`{name}`" in verbs
        ]
        assert float(task["Memory"]) >= 1.5 * limit


def test_rights_on_the_registry_are_those_of_its_page() -> None:
    """Two lists of rights would differ from the first change of one on."""
    reader, publisher, promoter = list_policies()
    assert normalise(read_statements(SERVICE, "ServeRole", "registry")) == normalise(reader)
    assert normalise(read_statements(STAGES, "TrainRole", "registry")) == normalise(reader + publisher)
    assert normalise(read_statements(STAGES, "PromoteRole", "registry")) == normalise(reader + promoter)


def test_the_gate_may_write_a_part_of_what_a_publisher_may() -> None:
    """It gives the verdict; it must not be able to make what it judges, nor to promote it."""
    reader, publisher, _ = list_policies()
    given = read_statements(STAGES, "GateRole", "registry")
    (more,) = [each for each in given if each not in reader]
    allowed, denied = publisher
    assert more["Effect"] == "Allow"
    assert set(more["Action"]) < set(allowed["Action"])
    for resource in more["Resource"]:
        assert fnmatch.fnmatchcase(resource, allowed["Resource"])
        for refused in denied["Resource"]:
            assert not fnmatch.fnmatchcase(refused.replace("*", "x"), resource)
    for name in ("manifest.json", "model.onnx", "claim"):
        key = f"arn:aws:s3:::models/registry/tiny/1/{name}"
        assert not any(fnmatch.fnmatchcase(key, resource) for resource in more["Resource"])


@pytest.mark.parametrize("name", list_templates())
def test_nobody_may_do_everything_or_anything_everywhere(name: str) -> None:
    """One star makes a role of every use out of the role of one."""
    statements = [
        statement
        for resource in read_template(name)["Resources"].values()
        if resource["Type"] in ("AWS::IAM::Role", "AWS::IAM::Policy")
        for policy in [*resource["Properties"].get("Policies", []), resource["Properties"]]
        for statement in policy.get("PolicyDocument", {}).get("Statement", [])
    ]
    assert bool(statements) == (name != "base.yaml")
    for statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions)
        assert (statement["Resource"] == "*") <= (set(actions) <= ANYWHERE)


@pytest.mark.parametrize("name", list_templates())
def test_every_parameter_says_what_it_is(name: str) -> None:
    """It is what Amazon's console shows, and all that many read."""
    parameters = read_template(name)["Parameters"]
    assert [key for key, each in parameters.items() if len(each.get("Description", "")) < 15] == []
