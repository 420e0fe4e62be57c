"""What can lie in a bucket and in no folder, or is written by other programs: told, and it stops nothing."""

from __future__ import annotations

import obstore
import pytest

from tests.support.places import new_prefix
from tests.support.registry_commands import ask, build_registry, list_broken
from tests.support.s3_proxy import S3Proxy
from timberline.registry.bucket import open_client


@pytest.fixture(scope="module")
def location(proxy: S3Proxy) -> str:
    """A registry of `build_registry`, which tests share: each removes what it puts there."""
    location = new_prefix("s3://registry")
    build_registry(location)
    return location


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("tiny/aliases/production/notes.txt", "tiny/aliases/production"),
        ("tiny/aliases/production/5.json", "tiny/aliases/production"),  # a record, in the layout of a folder
        ("tiny/aliases/production/log/5.json", "tiny/aliases/production"),
        ("tiny/aliases/odd/notes.txt", "tiny/aliases/odd"),
        ("tiny/aliases/odd", "tiny/aliases/odd"),
        ("tiny/heads/notes.txt", "tiny/heads/notes.txt"),
        ("tiny/1/.hidden", "tiny/1"),
        ("tiny/ledger/one.json", "tiny/ledger/one.json"),
        ("tiny/notes.txt", "tiny/notes.txt"),
        ("Odd/1/model.onnx", "Odd"),
        ("tiny/1/.DS_Store", ""),
        (".hidden/model.onnx", ""),
        ("empty/.DS_Store", ""),
    ],
)
def test_object_that_is_none_of_the_registry_is_told_and_stops_nothing(
    key: str, told: str, location: str
) -> None:
    """A bucket has many writers, and file managers leave what they like; the rest has to go on."""
    client = open_client(location)
    before = _list_broken_paths(location)
    obstore.put(client, key, b"{}", use_multipart=False)
    try:
        assert _list_broken_paths(location) - before == ({told} if told else set())
        assert ask(location, "show other").code == 0
        assert ask(location, "alias set tiny@candidate 1").code == 0
    finally:
        obstore.delete(client, key)
    assert ask(location, "alias set tiny@candidate 2").code == 0


def test_model_that_was_emptied_ends_no_report(location: str) -> None:
    """Some servers keep the folder of the last object; "no model" was all that was told of the others."""
    client = open_client(location)
    obstore.put(client, "gone/1/model.onnx", b"{}", use_multipart=False)
    obstore.delete(client, "gone/1/model.onnx")
    assert {f"{model}/1" for model in ("tiny", "other")} <= {
        check["path"] for check in ask(location, "verify").value
    }
    assert {row["model"] for row in ask(location, "list").value} >= {"tiny", "other"}


def _list_broken_paths(location: str) -> set[str]:
    """Some servers keep a folder whose last object is gone, so a test may leave one to the next."""
    return {check["path"] for check in list_broken(ask(location, "verify"))}
