"""This project's sdist and wheel, built from a copy: a checkout's own build folder may hold old modules.

Two builds of the same sources are equal byte by byte, wherever, whenever and under whatever umask they are
made: every file is of the time ``epoch``, root's, and readable for all.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from build import ProjectBuilder

from tests.support.pips import ROOT

# Of a build whose time does not matter; a ZIP file knows none before 1980.
EPOCH = 315_532_800


class Distribution(NamedTuple):
    """What a release consists of."""

    sdist: Path
    wheel: Path


def copy_sources(folder: Path) -> Path:
    """What a build reads of the checkout, links as links, in ``folder``."""
    for name in ("pyproject.toml", "MANIFEST.in", "LICENSE", *(path.name for path in ROOT.glob("*.md"))):
        shutil.copy(ROOT / name, folder)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (
        "src",
        *(link.name for link in (ROOT / "src" / "timberline").iterdir() if link.is_symlink()),
    ):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=left_out)
    return folder


def build(kind: Literal["sdist", "wheel"], source: Path, folder: Path, epoch: int = EPOCH) -> Path:
    """Build the tree ``source`` into ``folder`` with this environment's setuptools, without an index."""

    def run(
        cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None
    ) -> None:
        environment = {**os.environ, **(extra_environ or {}), "SOURCE_DATE_EPOCH": str(epoch)}
        done = subprocess.run(
            cmd, cwd=cwd, env=environment, umask=0o022, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    built = Path(ProjectBuilder(source, runner=run).build(kind, folder))
    if kind == "sdist":
        _settle(built, epoch)
    return built


def build_distribution(source: Path, folder: Path, epoch: int = EPOCH) -> Distribution:
    """Build the sdist of the tree ``source``, and the wheel of the unpacked sdist, into ``folder``."""
    sdist = build("sdist", source, folder, epoch)
    unpacked = folder / ".unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    wheel = build("wheel", tree, folder, epoch)
    shutil.rmtree(unpacked)
    return Distribution(sdist, wheel)


def _settle(sdist: Path, epoch: int) -> None:
    """Write an archive again without its builder: setuptools keeps times, owners and modes of the files."""
    with tarfile.open(sdist) as archive:
        found = [(member, archive.extractfile(member) if member.isfile() else None) for member in archive]
        files = [(member, content.read() if content else b"") for member, content in found]
    with (
        sdist.open("wb") as sink,
        gzip.GzipFile(filename="", mode="wb", fileobj=sink, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member, content in sorted(files, key=lambda file: file[0].name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.linkname, plain.size = member.type, member.linkname, member.size
            plain.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            plain.mtime = epoch
            archive.addfile(plain, io.BytesIO(content))


def install_wheel(python: Path, wheel: Path) -> None:
    """Install a wheel of the project, and nothing else, into the environment of ``python``."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", str(wheel)], check=True)


def install_project(python: Path, scratch: Path) -> None:
    """Build the checkout's wheel and install it, and nothing else, into the environment of ``python``."""
    (scratch / "sources").mkdir()
    install_wheel(python, build("wheel", copy_sources(scratch / "sources"), scratch))
