"""Named bytes in a folder: what is read, what is refused, and which tree it is."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.manifests import publish_tiny
from timberline.registry.errors import (
    DamageError,
    RegistryError,
)
from timberline.registry.folder import FolderStore
from timberline.registry.store import open_store


def make_socket(path: Path) -> None:
    """A socket in the file system; bound by its name alone, as an address has at most 108 bytes."""
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):
        bound.bind(path.name)


def test_put_if_absent_keeps_what_is_there(tmp_path: Path) -> None:
    """The one promise that aliases and an object store have to share."""
    objects = FolderStore(tmp_path)
    assert objects.put_if_absent("a/1.json", b"first")
    assert not objects.put_if_absent("a/1.json", b"second")
    assert objects.read("a/1.json") == b"first"
    assert objects.list_keys() == objects.list_keys("a") == ["a/1.json"]


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", ".staging/x", "a\\b", "a\x00"])
def test_key_that_leads_elsewhere_is_refused(tmp_path: Path, key: str) -> None:
    """Keys are built from names that others chose."""
    with pytest.raises(RegistryError, match="is not a key"):
        FolderStore(tmp_path).read(key)


def test_file_in_the_place_of_a_folder_is_damage(tmp_path: Path) -> None:
    """Only what is not there is none: an alias whose folder became a file has not gone away."""
    objects = FolderStore(tmp_path)
    objects.put("a", b"")
    for ask in (lambda: objects.read("a/b"), lambda: objects.list_keys("a"), lambda: objects.list_names("a")):
        with pytest.raises(DamageError, match="is no folder"):
            ask()
    assert objects.read("b") is None
    assert objects.list_keys("b") == objects.list_names("b") == []


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, make_socket], ids=["FIFO", "folder", "socket"])
def test_what_is_no_file_is_refused_without_waiting_for_it(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """`read` of a FIFO would wait for a writer for ever, in a service as on the command line."""
    make(tmp_path / "a.json")
    with pytest.raises(RegistryError, match="is no plain file"):
        FolderStore(tmp_path).read("a.json")


def test_no_more_than_the_bound_is_read(tmp_path: Path) -> None:
    """A record of some bytes that has a terabyte is damage and must not fill the memory."""
    objects = FolderStore(tmp_path)
    objects.put("a", b"12345")
    assert objects.read("a", 5) == b"12345"
    with (tmp_path / "a").open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    with pytest.raises(RegistryError, match="has more than 5 bytes"):
        objects.read("a", 5)


def test_a_store_stays_with_the_tree_that_it_found(tmp_path: Path) -> None:
    """A link that is switched in the middle must not show the alias of one tree and the bytes of another."""
    for name in ("old", "new"):
        publish_tiny(open_store(tmp_path / name))
    publish_tiny(open_store(tmp_path / "new"))
    (link := tmp_path / "current").symlink_to(tmp_path / "old")
    store = open_store(link)
    (tmp_path / "next").symlink_to(tmp_path / "new")
    (tmp_path / "next").rename(link)
    assert store.versions("tiny") == [1]
    assert open_store(link).versions("tiny") == [1, 2]


@pytest.mark.parametrize("below", ["", "registry"])
def test_links_in_a_circle_are_reported(tmp_path: Path, below: str) -> None:
    """A mistake in mounting it; never a traceback, nor a registry that is empty."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(RegistryError, match="lead in a circle"):
        open_store(tmp_path / "a" / below)
