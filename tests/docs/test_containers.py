"""docs/how-to/containers.md, done as a user does it.

Machines that run these tests have no container engine: ``docker`` and ``podman`` are the stand-in of
`tests.support.container_engine`, which reads every flag strictly, makes the images' files of the Dockerfiles
and runs their real entry points on the mounted folders. What a kernel enforces (limits, users) it does not
show. The model is forest_cover with a table of 600 made-up rows and a network that trains in seconds.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.container_engine import install_engine
from tests.support.dockerfiles import read_stages, texts
from tests.support.markdown import ROOT, list_blocks
from tests.support.s3_server import serve_s3
from tests.support.walkthrough import Walkthrough

PAGE = ROOT / "docs" / "how-to" / "containers.md"
SERVICE_PORTS = {"8000", "8080"}  # of the image, and of SageMaker
MODEL = """
[model]
name = "forest_cover"

[source]
kind = "csv"
path = "{table}"

[columns]
Elevation = {{ type = "integer", default = 0 }}
Aspect = {{ type = "integer", default = 0 }}
Slope = {{ type = "integer", default = 0 }}
Cover_Type = {{ type = "integer", allowed = [1, 2] }}

[target]
column = "Cover_Type"
classes = [{{ value = "1", label = "Spruce/Fir" }}, {{ value = "2", label = "Lodgepole Pine" }}]

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


def write_model(reader: Walkthrough) -> None:
    """Put a small table in the place of forest_cover's."""
    chance = random.Random(0)
    rows = [(chance.randrange(2000, 3800), chance.randrange(360), chance.randrange(60)) for _ in range(600)]
    lines = ["Elevation,Aspect,Slope,Cover_Type", *(f"{e},{a},{s},{1 + (e < 2900)}" for e, a, s in rows)]
    table = reader.folder.parent / "table.csv"
    table.write_text("\n".join(lines) + "\n", "utf-8")
    folder = reader.folder / "models" / "forest_cover"
    (folder / "model.toml").write_text(MODEL.format(table=table), "utf-8")
    (folder / "features.sql").write_text("SELECT Elevation, Aspect, Slope FROM raw\n", "utf-8")


def can_have_mounts() -> bool:
    """Whether this user may have a mount namespace."""
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode


def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    """From the images to a served prediction, with no Python on the host: a flag too many or few ends it."""
    if not can_have_mounts():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no mount namespaces for this user")
    (store := tmp_path / "s3").mkdir()
    with serve_s3(store, secret_key="page") as server, Walkthrough(tmp_path, server.environment) as reader:
        server.make_bucket("models")
        write_model(reader)
        install_engine(reader, "docker")
        install_engine(reader, "podman")
        assert reader.follow(PAGE) > 15


def test_published_ports_are_those_that_the_image_listens_on() -> None:
    """The stand-in has no network of its own, so that it would not notice another port."""
    code = "".join(block.code for block in list_blocks(PAGE.read_text("utf-8")) if block.language == "sh")
    assert set(re.findall(r"-p \d+:(\d+)", code)) == SERVICE_PORTS
    (exposed,) = texts(read_stages(ROOT / "Dockerfile.serve")[""], "EXPOSE")
    assert exposed in SERVICE_PORTS


def test_the_page_runs_every_stage_under_the_limit_of_its_table() -> None:
    """The limits were measured; a command with another one is a stage that is killed."""
    text = PAGE.read_text("utf-8")
    given = re.findall(r"--memory (\d+)([mg]) timberline-train (\w+)$", text, re.MULTILINE)
    used = {stage: int(number) * {"m": 1, "g": 1024}[unit] for number, unit, stage in given}
    told = re.findall(r"^\| (`[^|]*`) \|[^|]*\|[^|]*\| ([\d.]+) (MB|GB) \|", text, re.MULTILINE)
    limits = {
        stage: round(float(number) * {"MB": 1, "GB": 1024}[unit])
        for stages, number, unit in told
        for stage in re.findall(r"`(\w+)`", stages)
    }
    del limits["rollback"]  # of the tools image, as `promote` is there too
    assert used == {**limits, "release": max(limits.values())}


def test_what_the_page_says_of_the_images_is_in_the_dockerfiles() -> None:
    """Users and folders that volumes depend on."""
    text = PAGE.read_text("utf-8")
    for stage in (
        read_stages(ROOT / "Dockerfile.serve")[""],
        read_stages(ROOT / "Dockerfile.train")["train"],
    ):
        (user,) = texts(stage, "USER")
        assert f"uid {user}" in text
    (volume,) = texts(read_stages(ROOT / "Dockerfile.train")["train"], "VOLUME")
    assert f'"$PWD/var:{volume}"' in text
