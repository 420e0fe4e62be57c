"""docs/how-to/kubernetes.md, done as a reader does it, as far as no cluster is asked.

`helm` is its Go SDK (tests/clients/helm_command_child.py). What the page does with a cluster is marked and
run in a real one by tests/cluster.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.clients import CHILDREN, find_client_python
from tests.support.engine import running_engine
from tests.support.helm import STORAGES, list_containers, list_pods, render
from tests.support.markdown import ROOT, list_blocks
from tests.support.tiny_model import publish_numeric
from tests.support.walkthrough import Walkthrough
from timberline.registry.store import open_store

PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
BLOCKS = [block for block in list_blocks(PAGE.read_text("utf-8")) if block.language == "sh"]


def provide_helm(reader: Walkthrough) -> None:
    """The command, as far as its SDK has it."""
    command = [find_client_python("helm"), CHILDREN / "helm_command_child.py"]
    reader.provide("helm", f'#!/bin/sh\nexec {" ".join(map(str, command))} "$@"\n')


@pytest.mark.real("helm")
def test_every_command_that_asks_no_cluster_does_what_the_page_says(tmp_path: Path) -> None:
    """Values files that a reader copies are values of the chart, and render what the page shows."""
    with Walkthrough(tmp_path) as reader:
        provide_helm(reader)
        assert reader.follow(PAGE, without="cluster") > 8


@pytest.mark.offline
def test_every_command_that_asks_a_cluster_is_marked() -> None:
    """A block without the mark is run where there is none, and one with it only where there is one."""
    asks = re.compile(r"^\s*(kubectl\b|helm (install|upgrade|rollback|history))", re.MULTILINE)
    for block in BLOCKS:
        assert bool(asks.search(block.code)) == ("cluster" in block.options), block.code


@pytest.mark.offline
def test_a_registry_s_image_is_named_as_its_values_name_it() -> None:
    """What is built and what the chart asks for is one name."""
    text = PAGE.read_text("utf-8")
    assert "-t registry.example/forest-cover:8 var`" in text
    assert 'reference: "registry.example/forest-cover:8"' in text


@pytest.mark.real("helm", "dockerd", "mmdebstrap")
def test_a_registry_comes_out_of_the_image_of_the_page(tmp_path: Path) -> None:
    """Built of the page's Dockerfile, copied by the chart's command under its restrictions, and whole."""
    (dockerfile,) = re.findall(r"<<'DOCKERFILE'\n(.*?)DOCKERFILE\n", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "Dockerfile").write_text(dockerfile, "utf-8")
    publish_numeric(open_store(tmp_path / "registry"))
    (documents,) = render(STORAGES["image"])
    ((_, pod),) = list_pods(documents).items()
    copying, serving = list_containers(pod)
    (mount,) = copying["volumeMounts"]
    user = pod["spec"]["securityContext"]["runAsUser"]
    (taken := tmp_path / "taken").mkdir()
    taken.chmod(0o777)  # as an emptyDir with the pod's fsGroup
    with running_engine() as engine:
        engine.build("Dockerfile", "registry-image:test", context=tmp_path)
        flags = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--user", f"{user}:{user}"]
        flags += ["--security-opt", "no-new-privileges", "-v", f"{taken}:{mount['mountPath']}"]
        command, *words = copying["command"]
        engine.docker("run", *flags, "--entrypoint", command, "registry-image:test", *words)
        engine.docker("rmi", "registry-image:test")
    assert open_store(taken).open_version("tiny", 1).verify() is not None
    read = next(one for one in serving["volumeMounts"] if one["mountPath"] == mount["mountPath"])
    assert read["readOnly"] is True


@pytest.mark.offline("helm")
@pytest.mark.parametrize("name", re.findall(r"cat > var/(\w+)\.yaml", PAGE.read_text("utf-8")))
def test_values_of_the_page_are_values_of_the_chart(name: str) -> None:
    """Also those that the page only writes."""
    found = re.search(
        rf"cat > var/{name}\.yaml <<'VALUES'\n(.*?)VALUES\n", PAGE.read_text("utf-8"), re.DOTALL
    )
    assert found
    render(yaml.safe_load(found[1]))
