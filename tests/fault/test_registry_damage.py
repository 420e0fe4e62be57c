"""Versions that were changed after publishing: reported, named, never promoted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.manifests import build_manifest, give_verdict, publish_tiny, remove_ledger_entry
from tests.support.registry_tree import folder_of
from timberline.registry.aliases import move_alias, read_alias, read_history
from timberline.registry.checks import check_versions
from timberline.registry.errors import DigestMismatchError, ManifestError, RegistryError, VersionNotFoundError
from timberline.registry.manifest import FileDigest, encode_manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.show import summarise_versions
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store
from timberline.registry.verdict import VERDICT_FILE
from timberline.registry.version import MANIFEST_FILE


@pytest.fixture
def store(store: Store) -> Store:
    """A registry with tiny@1, whose verdict passes."""
    publish_tiny(store, model_bytes=b"0123456789")
    give_verdict(store, "tiny", 1)
    return store


@pytest.fixture
def folder(store: Store) -> Path:
    return folder_of(store.open_version("tiny", 1))


@pytest.mark.parametrize("name", [MODEL_FILE, EVALUATION_FILE])
def test_flipped_byte_is_found_and_named(store: Store, folder: Path, name: str) -> None:
    """One bit of rot in a weight may change answers without any other sign."""
    data = bytearray((folder / name).read_bytes())
    data[3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(DigestMismatchError, match=f"tiny@1: {name} has digest"):
        store.open_version("tiny", 1).verify()
    with pytest.raises(DigestMismatchError, match=name):
        store.open_version("tiny", 1).read_file(name)


@pytest.mark.parametrize("is_forced", [False, True])
def test_damaged_version_is_never_promoted(store: Store, folder: Path, is_forced: bool) -> None:
    """--force overrules the gate's opinion, not the fact that these are other bytes."""
    (folder / MODEL_FILE).write_bytes(b"0123456780")
    with pytest.raises(DigestMismatchError):
        promote(store, "tiny", 1, force=is_forced, reason="hurry")
    assert read_alias(store, "tiny", PRODUCTION) is None


def test_every_finding_is_told_at_once(store: Store, folder: Path) -> None:
    """Repairing one finding after the other, each with a new run, wastes an operator's night."""
    (folder / MODEL_FILE).write_bytes(b"short")
    (folder / EVALUATION_FILE).unlink()
    (folder / "notes.txt").write_text("left here")
    with pytest.raises(DigestMismatchError) as caught:
        store.open_version("tiny", 1).verify()
    assert caught.value.what == (
        "notes.txt is not named in the manifest; model.onnx has 5 bytes, manifest says 10; "
        "evaluation.parquet is missing"
    )


def test_file_that_a_copy_has_not_brought_whole_is_found_without_reading_it(
    store: Store, folder: Path
) -> None:
    """A service looks before it starts a process for a version; what it does not use is not looked at."""
    version = store.open_version("tiny", 1)
    assert version.digests.manifest_sha256 == digest_bytes((folder / MANIFEST_FILE).read_bytes())
    (folder / EVALUATION_FILE).unlink()
    (folder / MODEL_FILE).write_bytes(b"9876543210")  # other bytes, and as many
    version.check_size(MODEL_FILE)
    for data in (b"", b"01234", b"0123456789a"):
        (folder / MODEL_FILE).write_bytes(data)
        with pytest.raises(
            DigestMismatchError, match=f"{MODEL_FILE} has {len(data)} bytes, manifest says 10"
        ):
            version.check_size(MODEL_FILE)
    (folder / MODEL_FILE).unlink()
    with pytest.raises(DigestMismatchError, match=r"tiny@1: model\.onnx is missing"):
        version.check_size(MODEL_FILE)
    with pytest.raises(DigestMismatchError, match=r"tiny@1: model\.onnx is missing"):
        store.open_version("tiny", 1).read_file(MODEL_FILE)
    (folder / MODEL_FILE).mkdir()
    with pytest.raises(DigestMismatchError, match="is not a plain file"):
        version.check_size(MODEL_FILE)


def test_link_in_place_of_a_file_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    """Equal bytes behind a link may be other bytes a moment later."""
    outside = tmp_path / "outside"
    (folder / MODEL_FILE).rename(outside)
    (folder / MODEL_FILE).symlink_to(outside)
    with pytest.raises(DigestMismatchError, match="is not a plain file"):
        store.open_version("tiny", 1).verify()
    with pytest.raises(RegistryError, match="symbolic link"):
        store.open_version("tiny", 1).read_file(MODEL_FILE)


def test_link_in_place_of_a_manifest_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    """The manifest is the root of all trust in a version."""
    outside = tmp_path / "outside"
    (folder / MANIFEST_FILE).rename(outside)
    (folder / MANIFEST_FILE).symlink_to(outside)
    with pytest.raises(RegistryError, match="symbolic link"):
        store.open_version("tiny", 1)


def test_linked_version_folder_is_no_version(store: Store, folder: Path, tmp_path: Path) -> None:
    """A link could lead out of the registry: nothing is read through it and nothing written."""
    shutil.copytree(folder, tmp_path / "elsewhere")
    (folder.parent / "2").symlink_to(tmp_path / "elsewhere")
    assert store.versions("tiny") == [1]
    with pytest.raises(RegistryError, match="symbolic link"):
        store.open_version("tiny", 2)
    assert publish_tiny(store) == 3
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == sorted(
        path.name for path in folder.iterdir()
    )
    _, _, link = check_versions(store, None)
    assert (link.path, link.is_whole, link.findings) == ("tiny/2", False, "tiny/2: is no folder")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", ".hidden", "", "a\n"])
def test_manifest_that_names_a_file_elsewhere_is_refused(store: Store, folder: Path, name: str) -> None:
    """A path that leaves the folder would make a reader open whatever the manifest's writer wants."""
    files = {name: FileDigest(sha256="0" * 64, size=1), **store.open_version("tiny", 1).manifest.files}
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(build_manifest(files=files)))
    remove_ledger_entry(store, "tiny", 1)
    with pytest.raises(ManifestError, match="not a manifest"):
        store.open_version("tiny", 1).verify()


def test_torn_manifest_is_told_and_the_list_goes_on(store: Store, folder: Path) -> None:
    """One bad version must not hide the good ones."""
    data = (folder / MANIFEST_FILE).read_bytes()
    publish_tiny(store)
    (folder / MANIFEST_FILE).write_bytes(data[: len(data) // 2])
    first, second = summarise_versions(store, "tiny")
    assert "tiny@1: manifest.json: not a manifest" in (first.problem or "")
    assert second.problem is None


def test_version_copied_by_hand_is_refused(store: Store, folder: Path) -> None:
    """A copied folder has whole bytes but another number, so its evidence would be counted twice."""
    shutil.copytree(folder, folder.parent / "7")
    with pytest.raises(ManifestError, match=r"tiny@7: .*describes tiny@1"):
        store.open_version("tiny", 7).verify()
    assert store.open_version("tiny", 1).verify().manifest


def test_manifest_swapped_behind_an_alias_is_found(store: Store, folder: Path) -> None:
    """Rewriting manifest and files together keeps a version whole; the alias's history remembers."""
    promote(store, "tiny", 1)
    changed = build_manifest(files=store.open_version("tiny", 1).manifest.files, title="Another")
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(changed))
    remove_ledger_entry(store, "tiny", 1)
    (folder / VERDICT_FILE).unlink()
    version, alias = check_versions(store, None)
    assert version.is_whole
    assert (alias.name, alias.is_whole) == ("tiny@production", False)
    assert "the alias was moved to" in alias.findings


def test_damaged_alias_record_is_told_and_not_passed_over(store: Store) -> None:
    """Falling back to an older record would roll production back without a decision."""
    move_alias(store, "tiny", "staging", 1, expected=None, reason="first")
    move_alias(store, "tiny", "staging", 1, expected=1, reason="second")
    record = Path(store.location, "tiny", "aliases", "staging", "2.json")
    record.write_bytes(record.read_bytes()[:40])
    with pytest.raises(RegistryError, match=r"tiny@staging: .*2\.json: not an alias record"):
        read_alias(store, "tiny", "staging")
    record.write_bytes(record.with_name("1.json").read_bytes())
    with pytest.raises(RegistryError, match="is move 1 of tiny@staging"):
        read_history(store, "tiny", "staging")


def test_folder_without_a_manifest_is_no_version_and_keeps_its_number(store: Store) -> None:
    """What is left of a copy that was broken off must not be served, nor be mixed with a new version."""
    broken = Path(store.location, "tiny", "2")
    broken.mkdir()
    (broken / MODEL_FILE).write_bytes(b"half")
    assert store.versions("tiny") == [1]
    with pytest.raises(VersionNotFoundError, match=r"There are: 1\."):
        store.open_version("tiny", 2)
    assert publish_tiny(store) == 3
    assert (broken / MODEL_FILE).read_bytes() == b"half"
