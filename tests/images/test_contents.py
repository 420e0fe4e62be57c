"""What is in the images: how much, of what, from where, the same each time, and nothing that is secret."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import timberline
from tests.support.clients import ask_as
from tests.support.containers import IMAGES, SERVE, TOOLS, TRAIN
from tests.support.engine import BASE, ROOT, SECRETS, Engine
from tests.support.locks import parse_lock
from tests.support.sbom import PLACE, describe, list_licences, list_packages, write_sbom

pytestmark = pytest.mark.real("dockerd", "mmdebstrap")

SERVE_BOUND_BYTES = 205_000_000  # issue 16, on its base
LABEL = "org.opencontainers.image."
HOST = re.compile(r"https?://(?:[^/@\s]*@)?([\w.-]+)")


class Rebuilt(tuple[str, ...]):
    """Names of images that were built a second time, and the words that only this build knew."""

    planted: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def rebuilt(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Rebuilt:
    """The serve and the tools image, every step of them done again, with secrets that can be told."""
    folder = tmp_path_factory.mktemp("secrets")
    planted = {name: f"planted-{secrets.token_hex(16)}" for name in SECRETS}
    files = {}
    for name, path in SECRETS.items():
        files[name] = folder / name
        known = path.read_text("utf-8") if path.is_file() else ""
        files[name].write_text(f"{known}\n# {planted[name]}\n", "utf-8")
    words = ("--no-cache",)
    images.build("Dockerfile.serve", "rebuilt-serve", *words, secrets=files)
    images.build("Dockerfile.train", "rebuilt-tools", *words, "--target", "tools", secrets=files)
    made = Rebuilt(("rebuilt-serve", "rebuilt-tools"))
    made.planted = tuple(planted.values())
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what an engine saves."""
    return tmp_path_factory.mktemp("saved")


def list_layers(engine: Engine, image: str) -> list[str]:
    """Digests of the uncompressed layers."""
    return list(engine.inspect(image)["RootFS"]["Layers"])


def read_files(
    engine: Engine, image: str, folder: Path
) -> Iterator[tuple[int, tarfile.TarInfo, IO[bytes] | None]]:
    """Layer, entry and content of everything in an image, deleted files of lower layers too."""
    archive = folder / f"{image.replace('/', '_')}.tar"
    engine.docker("save", "-o", archive, image)
    with tarfile.open(archive) as outer:
        (manifest,) = json.load(outer.extractfile("manifest.json") or pytest.fail("no manifest"))
        for number, name in enumerate(manifest["Layers"]):
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                for entry in layer:
                    yield number, entry, layer.extractfile(entry) if entry.isfile() else None
    archive.unlink()


def list_entries(engine: Engine, image: str, folder: Path) -> list[tuple[Any, ...]]:
    """Everything of an image that makes its layers' digests, in order."""
    return [
        (
            *(number, entry.name, oct(entry.mode), entry.uid, entry.gid, entry.mtime, entry.linkname),
            hashlib.sha256(content.read()).hexdigest() if content else "",
        )
        for number, entry, content in read_files(engine, image, folder)
    ]


def test_the_serve_image_is_small(images: Engine) -> None:
    """It is fetched by every machine that begins to serve."""
    sizes = {image: images.inspect(image)["Size"] for image in (BASE, *IMAGES)}
    for image in IMAGES:
        print(f"{image}: {sizes[image] / 1e6:.0f} MB, {(sizes[image] - sizes[BASE]) / 1e6:.0f} on its base")
    assert sizes[SERVE] - sizes[BASE] <= SERVE_BOUND_BYTES


def test_the_page_tells_the_sizes_of_the_images(images: Engine) -> None:
    """Who plans disks and networks reads them there."""
    page = (ROOT / "docs" / "how-to" / "containers.md").read_text("utf-8")
    for image in IMAGES:
        (number, unit) = re.findall(rf"^\| `{image}` \|.*\| ([\d.]+) (MB|GB) \|$", page, re.MULTILINE)[0]
        told = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
        measured = images.inspect(image)["Size"] - images.inspect(BASE)["Size"]
        assert abs(measured - told) < 0.05 * told, f"{image}: {measured / 1e6:.0f} MB"


def test_two_builds_have_equal_layers(images: Engine, rebuilt: Rebuilt, folder: Path) -> None:
    """Whoever has the commit and the base can find out whether an image is what it says."""
    images.build("Dockerfile.serve", "again-serve", "--no-cache")
    images.build("Dockerfile.train", "again-tools", "--no-cache", "--target", "tools")
    for image, again in zip(rebuilt, ("again-serve", "again-tools"), strict=True):
        if list_layers(images, image) != list_layers(images, again):
            both = zip(list_entries(images, image, folder), list_entries(images, again, folder), strict=False)
            pytest.fail(f"{image}: first difference {next((a, b) for a, b in both if a != b)}")
        assert images.inspect(image)["Id"] != images.inspect(again)["Id"]  # their times tell two builds


def test_a_build_with_a_cache_has_the_same_files(images: Engine, rebuilt: Rebuilt, folder: Path) -> None:
    """Docker 20.10 may write a layer's files in another order there; they are the same ones."""
    for image, again in zip((SERVE, TOOLS), rebuilt, strict=True):
        assert set(list_entries(images, image, folder)) == set(list_entries(images, again, folder))


def test_another_date_makes_other_layers(images: Engine, rebuilt: Rebuilt) -> None:
    """The date is the caller's; and layers that are always equal would prove nothing."""
    images.build("Dockerfile.serve", "dated-serve", "--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    there, other = list_layers(images, rebuilt[0]), list_layers(images, "dated-serve")
    base = len(list_layers(images, BASE))
    assert there[:base] == other[:base]
    assert there[base] != other[base]
    seen = images.docker(
        "run", "--rm", "--entrypoint", "stat", "dated-serve", "-c", "%Y", "/app", "/opt/venv"
    )
    assert seen.stdout.split() == ["1700000000"] * 2


def test_no_secret_of_a_build_is_in_a_layer_or_in_its_history(
    images: Engine, rebuilt: Rebuilt, folder: Path
) -> None:
    """An index's address may hold a password, and an image is given to many."""
    for image in rebuilt:
        assert find_words(images, image, rebuilt.planted, folder) == []
    # What the build of the large image was given, too; some hosts stand in packages that name them.
    known = {host for path in SECRETS.values() if path.name == "pip.conf" and path.is_file()
             for host in HOST.findall(path.read_text("utf-8"))}  # fmt: skip
    index = importlib.import_module("pip._internal.models.index").PyPI
    public = {index.netloc, index.file_storage_domain}
    for image in IMAGES:
        assert find_words(images, image, tuple(known - public), folder) == []


def test_a_secret_in_a_layer_is_found(images: Engine, tmp_path: Path, folder: Path) -> None:
    """The search above would pass as well if it looked at nothing: also below a file that was deleted, and in
    a command of the history."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {SERVE}\nUSER 0\nRUN echo planted-in-a-file > /key\nRUN rm /key && true planted-in-a-command\n"
    )
    images.build("Dockerfile", "leaking", context=tmp_path)
    assert find_words(images, "leaking", ("planted-in-a-file", "planted-in-a-command"), folder) == [
        "history: planted-in-a-command",
        "history: planted-in-a-file",
        "key: planted-in-a-file",
    ]


def find_words(engine: Engine, image: str, words: tuple[str, ...], folder: Path) -> list[str]:
    """Where any of ``words`` stands: in a file of any layer, in the history or in the settings."""
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    history += json.dumps(engine.inspect(image)["Config"])
    found = [f"history: {word}" for word in words if word in history]
    pattern = re.compile(b"|".join(re.escape(word.encode()) for word in words) or b"(?!)")
    for _, entry, content in read_files(engine, image, folder) if words else ():
        data = content.read() if content else b""
        found += [f"{entry.name}: {word.decode()}" for word in sorted(set(pattern.findall(data)))]
    return sorted(found)


def test_images_say_what_they_were_made_of(images: Engine) -> None:
    """Commit, date and base lead from a running container back to its source."""
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    commit = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    stamp = subprocess.run(
        ["git", "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"],
        cwd=ROOT,
        env={**os.environ, "TZ": "UTC"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    for image in IMAGES:
        labels = images.inspect(image)["Config"]["Labels"]
        said = {key.removeprefix(LABEL): value for key, value in labels.items() if key.startswith(LABEL)}
        assert said.pop("description")
        assert said == {
            "title": image,
            "licenses": "MIT",
            "version": timberline.__version__,
            "revision": commit,
            "created": stamp,
            "source": "",
            "base.name": BASE,
            "base.digest": "",
        }


@pytest.fixture(scope="module")
def sbom(images: Engine, folder: Path) -> Path:
    """The document of the serve image; the list of licences lies beside it."""
    return write_sbom(SERVE, folder, environment=images.environment)


@pytest.mark.real("dockerd", "mmdebstrap", "syft")
def test_the_bill_of_materials_is_the_lock_file_with_licences(sbom: Path) -> None:
    """Each pin that this platform installs, and nothing that came by another way."""
    packages = [
        package
        for package in list_packages(json.loads(sbom.read_text("utf-8")))
        if any(
            entry["name"] == PLACE and entry["value"].startswith("/opt/venv/")
            for entry in package.get("properties", [])
        )
    ]
    lock = (ROOT / "requirements" / "serve.txt").read_text("utf-8")
    pins = {(pin.name, pin.version) for pin in parse_lock(lock) if pin.is_for_here}
    found = {(re.sub(r"[-_.]+", "-", package["name"]).lower(), package["version"]) for package in packages}
    assert found == pins
    assert [package["name"] for package in packages if not list_licences(package)] == []
    lines = sbom.with_name(f"{SERVE}.licences.txt").read_text("utf-8").splitlines(keepends=True)
    assert {describe(package) for package in packages} <= set(lines)


@pytest.mark.real("dockerd", "mmdebstrap", "syft")
def test_the_bill_of_materials_has_the_packages_of_the_base(images: Engine, sbom: Path) -> None:
    """What has to be mended in a hurry is mostly there: openssl, zlib, the C library."""
    listed = ("run", "--rm", "--entrypoint", "dpkg-query", SERVE, "-W", "-f", "${Package} ${Version}\n")
    there = set(images.docker(*listed).stdout.splitlines())
    packages = list_packages(json.loads(sbom.read_text("utf-8")))
    assert {f"{p['name']} {p['version']}" for p in packages if p["purl"].startswith("pkg:deb/")} == there


@pytest.mark.offline("cyclonedx", "dockerd", "syft")
def test_the_bill_of_materials_is_cyclonedx(sbom: Path, tmp_path: Path) -> None:
    """CycloneDX's own library reads it, and refuses documents that are wrong in what others rely on."""
    document = json.loads(sbom.read_text("utf-8"))
    wrong = [
        {**document, "bomFormat": "Another"},
        {**document, "components": [{**document["components"][0], "type": "thing"}]},
        {**document, "components": [{"type": "library"}]},
        {**document, "componenst": []},
    ]
    paths = [tmp_path / f"{number}.json" for number in range(len(wrong))]
    for path, text in zip(paths, wrong, strict=True):
        path.write_text(json.dumps(text), "utf-8")
    right, *others = ask_as("cyclonedx", "cyclonedx_child.py", documents=[str(sbom), *map(str, paths)])
    assert right == []
    assert [len(found) for found in others] == [1] * len(wrong)


def test_the_train_image_holds_no_build_time(images: Engine, folder: Path) -> None:
    """It takes minutes to build a second time; that its files all have one date is half of the proof."""
    base = len(list_layers(images, BASE))
    dates = {entry.mtime for number, entry, _ in read_files(images, TRAIN, folder) if number >= base}
    assert dates == {315532800}
