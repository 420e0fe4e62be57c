"""Images in a registry: pushed, found and run by digest, and built on a base that a digest names."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import IMAGES, SERVE, TOOLS
from tests.support.engine import BASE, ROOT, Engine
from tests.support.image_registry import serve_images

pytestmark = pytest.mark.real("dockerd", "mmdebstrap", "docker-registry", "skopeo")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of images."""
    with serve_images(tmp_path_factory.mktemp("registry")) as host:
        yield host


def push(engine: Engine, to: str, *images: str) -> list[str]:
    """What `deploy/push` prints."""
    command = [str(ROOT / "deploy" / "push"), to, *images]
    done = subprocess.run(
        command, env=engine.environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def inspect(name: str) -> dict[str, object]:
    """What skopeo sees of an image in a registry."""
    command = ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def seen_tag(engine: Engine) -> str:
    """The tag that `deploy/push` gives."""
    return str(engine.inspect(TOOLS)["Config"]["Labels"]["org.opencontainers.image.revision"])


def test_an_image_is_pushed_and_run_by_its_digest(images: Engine, host: str) -> None:
    """A tag may be moved by whoever can push; what was judged is what runs."""
    pushed = push(images, f"{host}/team", SERVE, TOOLS)
    assert [name.partition("@")[0] for name in pushed] == [f"{host}/team/{image}" for image in (SERVE, TOOLS)]
    for image, name in zip((SERVE, TOOLS), pushed, strict=True):
        seen = inspect(name)
        labels = images.inspect(image)["Config"]["Labels"]
        assert seen["Labels"] == labels
        assert (
            inspect(f"{host}/team/{image}:{labels['org.opencontainers.image.revision']}")["Digest"]
            == seen["Digest"]
        )
        assert name.endswith(f"@{seen['Digest']}")
    *_, tools = pushed
    images.docker("rmi", f"{host}/team/{TOOLS}:{seen_tag(images)}")
    assert not images.has(tools)
    images.docker("pull", tools)
    assert "promote" in images.docker("run", "--rm", "--network", "none", tools, "help").stdout
    assert push(images, f"{host}/team", TOOLS) == [tools]  # again: the same image has the same name


def test_a_push_without_a_registry_is_wrong_use(images: Engine) -> None:
    """Docker would take an image without a host for one of the public registry."""
    done = subprocess.run(
        [ROOT / "deploy" / "push"], env=images.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "name a registry" in done.stderr


def test_make_push_pushes_every_image(images: Engine) -> None:
    """The recipe is the script's; the train image is pushed by nobody twice."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "-n", "push", "TO=registry.example/team"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "ENGINE='docker' deploy/push 'registry.example/team'"
    script = (ROOT / "deploy" / "push").read_text("utf-8")
    assert re.findall(r"^\[ .*set -- (.*)$", script, re.MULTILINE) == [" ".join(IMAGES)]


def test_a_base_is_named_by_its_digest(images: Engine, host: str) -> None:
    """The tag of a base moves with every release of Debian and Python; a build by digest not."""
    base = f"{host}/python"
    images.docker("tag", BASE, f"{base}:3.11")
    images.docker("push", f"{base}:3.11")
    digest = str(inspect(f"{base}:3.11")["Digest"])
    words = ("--build-arg", f"PYTHON_IMAGE={base}:3.11", "--build-arg")
    images.build("Dockerfile.serve", "pinned-serve", *words, f"PYTHON_DIGEST={digest}")
    labels = images.inspect("pinned-serve")["Config"]["Labels"]
    assert labels["org.opencontainers.image.base.name"] == f"{base}:3.11"
    assert labels["org.opencontainers.image.base.digest"] == digest
    assert images.inspect("pinned-serve")["RootFS"]["Layers"] == images.inspect(SERVE)["RootFS"]["Layers"]
    with pytest.raises(AssertionError, match=r"not found|manifest unknown"):
        images.build("Dockerfile.serve", "wrong", *words, f"PYTHON_DIGEST=sha256:{'0' * 64}")


def test_a_digest_pushed_is_the_one_of_the_registry_not_of_another(images: Engine, tmp_path: Path) -> None:
    """An image that went to two registries has a name in each; a deployment gets the one it asked for."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with serve_images(tmp_path / "one") as one, serve_images(tmp_path / "two") as two:
        (first,) = push(images, one, TOOLS)
        (second,) = push(images, two, TOOLS)
    assert (first.startswith(f"{one}/"), second.startswith(f"{two}/")) == (True, True)
    assert first.partition("@")[2] == second.partition("@")[2]
