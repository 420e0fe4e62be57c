"""One bit is flipped, in every file and every document of a registry, in a folder and in a bucket."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.places import BucketPlace, FolderPlace, Place, new_prefix, open_place
from tests.support.registry_commands import ask
from tests.support.registry_model import Mirror, find_unit
from tests.support.registry_tree import Tree
from tests.support.s3_proxy import S3Proxy
from tests.support.soak import SIZES, Summary
from timberline.registry.aliases import open_reference
from timberline.registry.checks import Check, check_versions
from timberline.registry.errors import RegistryError
from timberline.registry.names import ModelRef
from timberline.registry.store import MODEL_FILE, Store

MODEL = "tiny"
# Nothing of it may decide what is served or promoted.
DERIVED = "summary.json"


class Served(NamedTuple):
    """What a service would serve."""

    manifest_sha256: str
    model: bytes


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, proxy: S3Proxy, tmp_path: Path) -> Place:
    """Two versions with verdicts and reports, each promoted, the second again in place of a third, which is
    written off; and a candidate."""
    proxy.clear()
    is_folder = request.param == "folder"
    place: Place = (
        FolderPlace(tmp_path / "registry") if is_folder else BucketPlace(new_prefix("s3://registry"))
    )
    for words in (
        "publish tiny first",
        "judge tiny@1 PASS",
        "promote tiny@1",
        "publish tiny second",
        "judge tiny@2 PASS",
        "promote tiny@2",
        "alias set tiny@candidate 1",
        "publish tiny third",
    ):
        assert ask(place.location, words).code == 0, words
    place.put("tiny/3", None)
    assert ask(place.location, "repair tiny@3 --reason lost").code == 0
    return place


def _serve(store: Store) -> Served | None:
    """What is served; None where that is refused."""
    try:
        version = open_reference(store, ModelRef(MODEL))
        return Served(version.digests.manifest_sha256, version.read_file(MODEL_FILE))
    except RegistryError:
        return None


def _leads(check: Check, path: str, key: str) -> bool:
    return check.name == find_unit(path) or check.path in (path, key)


def test_flipped_bit_is_found_and_changes_nothing_that_is_served(place: Place) -> None:
    """A disk, a memory and a network each flip one now and then; no other sign of it is seen for months."""
    is_folder = isinstance(place, FolderPlace)
    kind, bits = ("folder", SIZES.bits) if is_folder else ("bucket", SIZES.bucket_bits)
    store, summary = open_place(place), Summary(f"flipped bits, {kind}")
    mirror = Mirror(place)
    mirror.adopt()
    before = _serve(store)
    assert before
    counts = {"flipped": 0, "found": 0, "harmless": 0}
    for path in sorted(mirror.truth):
        for content in _flip(mirror.truth, path, bits):
            place.put(path, content)
            mirror.disk = {**mirror.truth, path: content}
            served = _serve(store)
            assert served in (None, before), path
            assert served == before or not path.endswith(DERIVED)
            broken = [check for check in check_versions(store, ModelRef(MODEL)) if not check.is_whole]
            is_found = any(_leads(check, path, place.find_key(path)) for check in broken)
            assert is_found or mirror.is_unfindable(path), (path, content)
            assert served == before or broken, "nobody is told why it is refused"
            counts["flipped"] += 1
            counts["found" if is_found else "harmless"] += 1
        place.put(path, mirror.truth[path])
    assert not [check for check in check_versions(store, ModelRef(MODEL)) if not check.is_whole]
    summary.show(files=len(mirror.truth), **counts)


def _flip(tree: Tree, path: str, count: int) -> list[bytes]:
    """The content of a file with one bit flipped, so many times; of a small file as often as it has bits."""
    whole = tree[path]
    assert isinstance(whole, bytes)
    places = range(8 * len(whole))
    flipped = []
    for place in random.Random(path).sample(places, min(count, len(places))):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        flipped.append(bytes(content))
    return flipped


def test_summary_is_read_by_nothing_that_serves_or_promotes(proxy: S3Proxy) -> None:
    """It is there for lists and written without a condition: what decides has to look at the truth."""
    proxy.clear()
    place = BucketPlace(new_prefix("s3://registry"))
    assert ask(place.location, "publish tiny first").code == 0
    assert ask(place.location, "judge tiny@1 PASS").code == 0
    assert any(path.endswith(DERIVED) for path in place.read_tree())
    proxy.clear()
    for words in ("promote tiny@1", "promote tiny@1 --force --reason again", "alias set tiny@candidate 1"):
        assert ask(place.location, words).code == 0
    assert _serve(open_place(place))
    assert proxy.count("GET", part="manifest.json") > 0
    assert proxy.count(part=DERIVED) == 0
