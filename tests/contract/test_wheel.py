"""What `pip install` brings: built as a release is, from this checkout, and looked into."""

from __future__ import annotations

import configparser
import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import timberline
from tests.support.pips import ROOT
from tests.support.roles import PARTS
from tests.support.wheels import build, copy_sources


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's sources unpacked from an sdist: what an index hands out."""
    copy = copy_sources(tmp_path_factory.mktemp("checkout"))
    sdist = build("sdist", copy, tmp_path_factory.mktemp("sdist"))
    unpacked: Path = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if member.issym() or member.islnk()] == []
        archive.extractall(unpacked, filter="data")
    (found,) = unpacked.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist."""
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_one_top_level_of_plain_files(wheel: Path) -> None:
    """Five generic names in site-packages are five that may be somebody else's."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert all(info.external_attr >> 28 != 0o12 for info in archive.infolist())  # no link
    assert {name.partition("/")[0] for name in names} == {
        "timberline",
        f"timberline-{timberline.__version__}.dist-info",
    }
    assert {name.split("/")[1] for name in names if name.count("/") > 1 and "dist-info" not in name} == set(
        PARTS
    )
    assert "timberline/py.typed" in names


def test_the_wheel_holds_every_file_of_the_parts_but_the_developers(wheel: Path) -> None:
    """A data file that is not declared is missing on an installation, and there only."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("timberline/")}
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for part in ("", *PARTS)
        for path in (ROOT / "src" / "timberline" / part).glob("**/*" if part else "*")
        if path.is_file() and "__pycache__" not in path.parts and "dev" not in path.parts
    }
    assert shipped == wanted
    assert {Path(name).suffix for name in shipped} >= {".py", ".toml", ".html", ".css", ".js"}


def test_the_metadata_say_what_the_project_does(wheel: Path) -> None:
    """One source of the version; an extra for every role."""
    with zipfile.ZipFile(wheel) as archive:
        folder = f"timberline-{timberline.__version__}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    assert metadata["Version"] == timberline.__version__
    assert set(metadata.get_all("Provides-Extra", [])) >= {"serve", "tools", "train", "bench"}
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert dict(entries["console_scripts"]) == {"timberline": "timberline.__main__:main"}


def test_the_installed_wheel_runs_outside_of_the_checkout(
    wheel: Path, registry: Path, tmp_path: Path
) -> None:
    """Its own script, with the packages of this environment and no source of this checkout."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "REGISTRY": str(registry)}

    def run(*words: str) -> str:
        return subprocess.run(
            [str(site / "bin" / "timberline"), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert '"model": "tiny"' in run("list")
    where = "import timberline; print(timberline.__file__)"
    command = [sys.executable, "-c", where]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site)
    assert '"timberline": "' in run("doctor")
    assert "attacks" not in run("help")
