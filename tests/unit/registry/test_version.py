"""One opened version: what it reads, and what is written beside it."""

from __future__ import annotations

import pytest

from tests.support.manifests import publish_tiny
from tests.support.registry_tree import folder_of
from timberline.registry.errors import (
    ConfigError,
    VersionNotFoundError,
)
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store
from timberline.registry.verdict import VERDICT_FILE
from timberline.registry.version import MANIFEST_FILE


def test_version_folder_holds_exactly_what_was_given_and_the_manifest(store: Store) -> None:
    """Whoever opens the folder finds the documented files and nothing of the way they came there."""
    publish_tiny(store, model_bytes=b"graph")
    folder = folder_of(store.open_version("tiny", 1))
    assert sorted(path.name for path in folder.iterdir()) == [EVALUATION_FILE, MANIFEST_FILE, MODEL_FILE]
    assert (folder / MODEL_FILE).read_bytes() == b"graph"
    assert store.open_version("tiny", 1).read_file(MODEL_FILE) == b"graph"


def test_identity_is_the_digests_of_manifest_and_model(store: Store) -> None:
    """Evidence is bound to these two; a third party must be able to compute them with sha256sum."""
    publish_tiny(store, model_bytes=b"graph")
    identity = store.open_version("tiny", 1).digests
    manifest = (folder_of(store.open_version("tiny", 1)) / MANIFEST_FILE).read_bytes()
    assert identity.manifest_sha256 == digest_bytes(manifest)
    assert identity.model_sha256 == digest_bytes(b"graph")


def test_file_that_the_manifest_does_not_name_cannot_be_read(store: Store) -> None:
    """Only what was described was ever verified."""
    publish_tiny(store)
    with pytest.raises(VersionNotFoundError, match="has no file"):
        store.open_version("tiny", 1).read_file("../1/model.onnx")


def test_document_is_written_beside_a_version_and_replaced_whole(store: Store) -> None:
    """A gate may judge the same version twice; the version itself stays as it was."""
    publish_tiny(store)
    assert store.read_document("tiny", 1, VERDICT_FILE) is None
    store.open_version("tiny", 1).write_document(VERDICT_FILE, b"first")
    store.open_version("tiny", 1).write_document(VERDICT_FILE, b"second")
    assert store.read_document("tiny", 1, VERDICT_FILE) == b"second"
    assert store.open_version("tiny", 1).verify().manifest


def test_document_of_another_name_or_version_is_refused(store: Store) -> None:
    """Documents must not become a way to change a version's files, or to make up a version."""
    publish_tiny(store)
    with pytest.raises(ConfigError, match=r"no document 'model\.onnx'"):
        store.open_version("tiny", 1).write_document(MODEL_FILE, b"other weights")
    with pytest.raises(VersionNotFoundError):
        store.open_version("tiny", 2).write_document(VERDICT_FILE, b"{}")
    assert store.open_version("tiny", 1).verify().manifest
    assert store.versions("tiny") == [1]
