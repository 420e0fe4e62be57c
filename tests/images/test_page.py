"""docs/how-to/images.md, done as a user does it, with a real engine and a real registry."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.containers import TRAIN
from tests.support.engine import CLIENT, ROOT, Engine
from tests.support.image_registry import serve_images
from tests.support.markdown import list_blocks
from tests.support.proofs import FOLDERS, TOOLS
from tests.support.walkthrough import Walkthrough

PAGE = ROOT / "docs" / "how-to" / "images.md"


@pytest.mark.real("docker-registry", "dockerd", "mmdebstrap", "syft")
def test_every_command_of_the_page_does_what_it_says(images: Engine, tmp_path: Path) -> None:
    """A walkthrough has no terminal: the shell gets one from `script`."""
    flags = {"BUILD_FLAGS": shlex.join(images.build_flags)}
    with Walkthrough(tmp_path, images.environment | flags) as reader:
        reader.provide("docker", f'#!/bin/sh\n[ "$1 $2" != "run -it" ] || {TERMINAL}\nexec {CLIENT} "$@"\n')
        (reader.folder / "var").mkdir()
        with serve_images(tmp_path, port=reader.port("8050")):
            assert reader.follow(PAGE) == 7


# The words of the page, in a terminal whose user types what ends it.
TERMINAL = f"""exec sh -c 'echo "which python; exit" | script -qec "{CLIENT} $*" /dev/null' shell "$@" """


@pytest.mark.real("dockerd", "mmdebstrap")
def test_the_page_names_the_images_and_what_the_proof_needs() -> None:
    """A package that is not named is an afternoon of somebody's."""
    text = PAGE.read_text("utf-8")
    code = "".join(block.code for block in list_blocks(text) if block.language == "sh")
    assert f"docker run -it --rm {TRAIN} /bin/bash" in code
    (folder,) = [folder for folder, target in FOLDERS.items() if target == "images-test"]
    tests = "".join(path.read_text("utf-8") for path in folder.glob("test_*.py"))
    marks = re.findall(r"mark\.(?:real|offline)\(([^)]*)\)", tests)
    used = {TOOLS[name] for names in marks for name in re.findall(r'"([\w-]+)"', names)} - {"", "npm"}
    assert {name for name in used if f"`{name}`" not in text} == set()
