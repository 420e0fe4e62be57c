"""Publish and read versions in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.manifests import build_manifest, publish_tiny, remove_ledger_entry
from timberline.registry.aliases import move_alias
from timberline.registry.checks import check_versions
from timberline.registry.errors import (
    AfterChangeError,
    ConfigError,
    DamageError,
    DigestMismatchError,
    ManifestError,
    VersionNotFoundError,
)
from timberline.registry.folder import FolderStore
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store, open_store
from timberline.registry.verdict import VERDICT_FILE
from timberline.registry.version import MANIFEST_FILE


def test_absent_registry_is_an_empty_one(store: Store) -> None:
    """The first `list` on a new machine is no error, and looking creates nothing."""
    assert store.models() == []
    assert store.versions("tiny") == []
    assert not Path(store.location).exists()


def test_versions_count_up_from_one_and_can_be_read_back(store: Store) -> None:
    """The number is what people and aliases hold on to."""
    assert [publish_tiny(store), publish_tiny(store), publish_tiny(store, "other")] == [1, 2, 1]
    assert store.models() == ["other", "tiny"]
    assert store.versions("tiny") == [1, 2]
    manifest = store.open_version("tiny", 2).verify().manifest
    assert (manifest.model, manifest.version) == ("tiny", 2)


def test_tenth_version_follows_the_ninth(store: Store) -> None:
    """Numbers in folder names sort as text; versions must not."""
    for _ in range(10):
        publish_tiny(store)
    assert store.versions("tiny") == list(range(1, 11))
    assert publish_tiny(store) == 11


def test_missing_version_says_which_there_are(store: Store) -> None:
    """The next thing the reader needs is the right number."""
    publish_tiny(store)
    publish_tiny(store)
    with pytest.raises(VersionNotFoundError, match=r"tiny: no version 3 in .*\. There are: 2, 1\."):
        store.open_version("tiny", 3)


@pytest.mark.parametrize(
    "names", [(), (EVALUATION_FILE,), (MODEL_FILE, MANIFEST_FILE), (MODEL_FILE, VERDICT_FILE)]
)
def test_wrong_set_of_files_is_refused(store: Store, tmp_path: Path, names: tuple[str, ...]) -> None:
    """No version without a model, and no publisher that brings its own verdict."""
    source = tmp_path / "source"
    source.write_bytes(b"anything")
    with pytest.raises(ManifestError, match=r"model\.onnx is required"):
        store.publish("tiny", dict.fromkeys(names, source), lambda *_: build_manifest())
    assert store.models() == []


@pytest.mark.parametrize("name", ["../escaped", "a/b", ".hidden", ".."])
def test_file_name_that_leaves_the_folder_is_not_published(store: Store, tmp_path: Path, name: str) -> None:
    """The names come from a caller; the disk outside the version is not theirs."""
    source = tmp_path / "source"
    source.write_bytes(b"anything")
    with pytest.raises(ManifestError):
        store.publish(
            "tiny",
            {MODEL_FILE: source, name: source},
            lambda version, digests: build_manifest(version=version, files=digests),
        )
    assert store.models() == []
    assert sorted(path.name for path in tmp_path.iterdir()) in (["source"], ["registry", "source"])


def test_manifest_that_could_not_be_read_back_is_not_published(store: Store) -> None:
    """A version that cannot be loaded is worse than none: its number would be promoted some day."""
    with pytest.raises(ManifestError, match="not a manifest"):
        publish_tiny(store, opset="eighteen")
    assert store.models() == []


def test_location_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A mistyped --registry must not end in a traceback, or in a folder named after a URL."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        open_store(tmp_path / "file")
    with pytest.raises(ConfigError, match="expected a folder or s3://bucket/prefix"):
        open_store("ftp://bucket/registry")
    with pytest.raises(ConfigError, match="expected s3://bucket/prefix"):
        open_store("s3:///registry")


def test_a_bucket_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The serve role has a folder's store alone, unless it is asked for more."""
    monkeypatch.delitem(sys.modules, "timberline.registry.bucket", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"needs the package obstore.*pip install 'timberline\[s3\]'"):
        open_store("s3://bucket/registry")


def test_equal_inputs_make_equal_manifests(tmp_path: Path) -> None:
    """Nothing of the place or the moment slips into a manifest by way of the store."""
    digests = []
    for name in ("one", "two"):
        store = open_store(tmp_path / name)
        publish_tiny(store)
        digests.append(store.open_version("tiny", 1).digests)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("left", ["folder", "ledger", "alias"])
def test_number_of_a_lost_version_is_not_given_out_again(store: Store, left: str) -> None:
    """Answers, verdicts and people name versions by number: none may mean two versions."""
    publish_tiny(store)
    version = publish_tiny(store)
    model = Path(store.location, "tiny")
    if left == "alias":
        move_alias(store, "tiny", "staging", version, expected=None, reason="try")
    shutil.rmtree(model / str(version))
    if left == "folder":
        (model / str(version)).mkdir()
    if left != "ledger":
        shutil.rmtree(model / "ledger")
    assert store.versions("tiny") == [1]
    assert publish_tiny(store) == version + 1


def test_lost_version_is_written_off_and_its_number_stays_taken(store: Store) -> None:
    """Who removes a version for its size records it once, and gets no finding for it later."""
    publish_tiny(store)
    publish_tiny(store)
    shutil.rmtree(Path(store.location, "tiny", "2"))
    assert [check.name for check in check_versions(store, None) if not check.is_whole] == ["tiny@2"]
    assert "not used again" in store.repair("tiny", 2, reason="too large")
    assert all(check.is_whole for check in check_versions(store, None))
    assert store.repair("tiny", 2, reason="again") == ""
    assert publish_tiny(store) == 3


def test_number_that_was_never_given_out_is_not_written_off(store: Store) -> None:
    """A typing error must not burn a number."""
    publish_tiny(store)
    with pytest.raises(VersionNotFoundError, match="no version 7"):
        store.repair("tiny", 7, reason="typing error")
    assert publish_tiny(store) == 2


def test_damaged_entry_of_a_whole_version_is_written_again(store: Store) -> None:
    """The entry pins the manifest: without it no one can tell that the version is what was published."""
    publish_tiny(store)
    entry = Path(store.location, "tiny", "ledger", "1.json")
    entry.write_bytes(b"{")
    with pytest.raises(DamageError, match=r"tiny@1: tiny/ledger/1\.json: not an entry of the ledger"):
        store.open_version("tiny", 1)
    assert "entry in the ledger" in store.repair("tiny", 1, reason="disk full")
    assert store.open_version("tiny", 1).verify().manifest.version == 1
    assert store.repair("tiny", 1, reason="again") == ""


def test_version_of_an_older_program_is_entered_in_the_ledger(store: Store) -> None:
    """From then on it is missed when it is lost, and is what it was that day."""
    publish_tiny(store)
    remove_ledger_entry(store, "tiny", 1)
    assert store.repair("tiny", 1, reason="upgraded") == "is entered in the ledger"
    assert store.repair("tiny", 1, reason="upgraded") == ""
    assert store.read_contents("tiny").numbers.published == {1}


def test_version_whose_entry_cannot_be_written_is_published_and_says_so(store: Store) -> None:
    """Whoever takes it for a failure publishes it twice."""

    class Full(FolderStore):
        """A disk that is full after the version is there."""

        def put_if_absent(self, key: str, data: bytes) -> bool:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)

    publish_tiny(store)
    with pytest.raises(AfterChangeError, match=r"tiny@2: is published, but .*No space left.*ledger/2\.json"):
        publish_tiny(Store(Full(Path(store.location))))
    assert store.versions("tiny") == [1, 2]
    assert store.repair("tiny", 2, reason="the disk was full") == "is entered in the ledger"


def test_damaged_version_is_not_repaired(store: Store) -> None:
    """Writing its entry again would make other bytes the published ones."""
    publish_tiny(store)
    folder = Path(store.location, "tiny", "1")
    (folder / MODEL_FILE).write_bytes(b"x" * (folder / MODEL_FILE).stat().st_size)
    for entry in (None, b"{"):
        if entry:
            Path(store.location, "tiny", "ledger", "1.json").write_bytes(entry)
        with pytest.raises(DigestMismatchError, match=r"model\.onnx has digest"):
            store.repair("tiny", 1, reason="hurry")


@pytest.mark.parametrize(
    "name", [".DS_Store", "._model.onnx", "Thumbs.db", ".nfs0000000000a1b2c3", "desktop.ini"]
)
def test_what_file_managers_leave_is_no_damage(store: Store, name: str) -> None:
    """A look at the folder with a Mac must not stop a release."""
    publish_tiny(store)
    for folder in ("", "tiny", "tiny/1", "tiny/ledger"):
        Path(store.location, folder, name).write_bytes(b"")
    assert [check.findings for check in check_versions(store, None)] == [""]
    assert publish_tiny(store) == 2


def test_folder_of_the_greatest_number_is_reported(store: Store) -> None:
    """There is no number for another version then; a longer one would be no version."""
    publish_tiny(store)
    Path(store.location, "tiny", "999999999").mkdir()
    with pytest.raises(DamageError, match="number 999999999 leaves none"):
        publish_tiny(store)
    assert store.versions("tiny") == [1]


def test_error_names_the_newest_versions_only(store: Store) -> None:
    """Five thousand numbers are no help."""
    for _ in range(8):
        publish_tiny(store)
    with pytest.raises(VersionNotFoundError, match=r"There are: 8, 7, 6, 5, 4 and 3 older\."):
        store.open_version("tiny", 9)
