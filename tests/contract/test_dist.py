"""What a release publishes is the same whoever builds it (`make dist` is the long form)."""

from __future__ import annotations

import re
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

import timberline
from tests.support.dist import SUMS, build_as_pip_does, build_twice, export_commit, read_record, write_sums
from tests.support.pips import ROOT
from tests.support.wheels import Distribution, copy_sources

# 2026-01-01; even, since a ZIP file counts in steps of two seconds.
EPOCH = 1_767_225_600
NAME = f"timberline-{timberline.__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """Two equal builds of this checkout; the first of them."""
    return build_twice(copy_sources, tmp_path_factory.mktemp("builds"), EPOCH)


def test_two_builds_in_different_places_are_equal(built: Distribution) -> None:
    """Whoever doubts a published file can build it again and compare; the comparison is in the fixture."""
    assert [path.name for path in built] == [f"{NAME}.tar.gz", f"{NAME}-py3-none-any.whl"]


def test_an_archive_tells_nothing_of_who_built_it(built: Distribution) -> None:
    """Names, umasks and clocks of a builder are what makes two builds differ."""
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert {member.mtime for member in members} == {EPOCH}
    assert {member.mode for member in members} == {0o644, 0o755}
    assert all(member.isdir() for member in members if member.mode == 0o755)
    with zipfile.ZipFile(built.wheel) as archive_of_wheel:
        infos = archive_of_wheel.infolist()
    assert {info.date_time for info in infos} == {(2026, 1, 1, 0, 0, 0)}
    assert {stat.S_IMODE(info.external_attr >> 16) for info in infos} <= {0o644, 0o664}


def test_pip_makes_the_same_wheel_of_the_sdist(built: Distribution, tmp_path: Path) -> None:
    """Who forbids wheels gets what the others get."""
    assert read_record(build_as_pip_does(built.sdist, tmp_path)) == read_record(built.wheel)


def test_the_sdist_says_that_its_tests_are_elsewhere(built: Distribution) -> None:
    """A distributor looks for tests in it; they need the models, lock files and docs of the repository."""
    with tarfile.open(built.sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
        said = archive.extractfile(f"{NAME}/CONTRIBUTING.md")
        assert said is not None
        text = said.read().decode()
    assert {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "PKG-INFO"} <= names
    assert not [name for name in names if name.partition("/")[0] in {"tests", "models", "docs"}]
    assert "The sdist holds no tests" in text


def test_an_export_is_the_commit_and_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    """A module that somebody deleted last week is still in build/, and would be released."""
    tree = export_commit(tmp_path / "tree")
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "-z", "HEAD"], cwd=ROOT, check=True, capture_output=True
    )
    found = {
        str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    assert found == set(filter(None, listed.stdout.decode().split("\0")))
    assert (tree / "src" / "timberline" / "registry").is_symlink()


def test_the_sums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    """A list that the usual tool does not read is checked by nobody."""
    files = [tmp_path / "a.whl", tmp_path / "b.tar.gz"]
    for file in files:
        file.write_bytes(file.name.encode())
    write_sums(files, tmp_path)
    check = ["sha256sum", "--check", "--strict", SUMS]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    files[0].write_bytes(b"another file")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_the_changelog_is_in_order() -> None:
    """Users look for their version, and then under what they have to do."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.*?)\](.*)$", text, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    numbers = [Version(number) for number, date in versions[1:] if re.fullmatch(r" - \d{4}-\d\d-\d\d", date)]
    assert len(numbers) == len(versions) - 1
    assert numbers == sorted(numbers, reverse=True)
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_images_carry_the_version_of_the_package() -> None:
    """The label is how an operator tells which release runs."""
    for name in ("Dockerfile.serve", "Dockerfile.train"):
        labelled = re.findall(r"^ARG VERSION=(.*)$", (ROOT / name).read_text("utf-8"), re.MULTILINE)
        assert set(labelled) == {timberline.__version__}
