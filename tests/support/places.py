"""A registry's bytes where they lie, in a folder or in a bucket: to look at, to copy and to damage.

place = BucketPlace(bucket.url)                  # or FolderPlace(root)
before = place.read_tree()
place.put("tiny/1/manifest.json", b"{}")
compare(before, place.read_tree())               # {"tiny/1/manifest.json"}

"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import obstore

from tests.support import registry_tree
from tests.support.registry_tree import Kind, Tree
from timberline.registry.bucket import open_client
from timberline.registry.store import Store, open_store

_OWN = ".timberline"
_AT_ONCE = 8


class Place(Protocol):
    """Where a registry lies."""

    @property
    def location(self) -> str:
        """For `open_store` and for commands."""

    def read_tree(self) -> Tree:
        """Everything that a reader may see."""

    def put(self, path: str, content: bytes | Kind | None) -> None:
        """Have ``content`` at ``path``, whatever was there; None is nothing."""

    def restore(self, tree: Tree, paths: Iterable[str]) -> None:
        """Put back what ``tree`` holds of ``paths``, and remove those of which it holds nothing."""


class FolderPlace:
    """In a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def read_tree(self) -> Tree:
        return registry_tree.read_tree(self.root)

    def put(self, path: str, content: bytes | Kind | None) -> None:
        registry_tree.put(self.root, path, content)

    def restore(self, tree: Tree, paths: Iterable[str]) -> None:
        registry_tree.restore(self.root, tree, paths)


class BucketPlace:
    """Under a prefix of a bucket. Only bytes lie there; what was read once is known by its ETag."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._client: Any = open_client(location)
        self._known: dict[tuple[str, str], bytes] = {}

    def read_tree(self) -> Tree:
        found = [each for page in obstore.list(self._client) for each in page]
        found = [each for each in found if not each["path"].startswith(f"{_OWN}/")]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(pool.map(self._read, found))

    def _read(self, found: Any) -> tuple[str, bytes]:
        known = found["path"], found["e_tag"]
        if known not in self._known:
            self._known[known] = bytes(obstore.get(self._client, found["path"]).bytes())
        return found["path"], self._known[known]

    def put(self, path: str, content: bytes | Kind | None) -> None:
        """Nothing lies beneath what has content: a folder is its keys' prefix."""
        if content is None:
            self._delete(path)
            return
        assert isinstance(content, bytes), f"a bucket has no {content}"
        obstore.put(self._client, path, content, use_multipart=False)

    def _delete(self, path: str) -> None:
        below = [each["path"] for page in obstore.list(self._client, f"{path}/") for each in page]
        for key in (path, *below):
            obstore.delete(self._client, key)

    def restore(self, tree: Tree, paths: Iterable[str]) -> None:
        for path in sorted(paths):
            self.put(path, tree.get(path))

    def fill(self, tree: Tree) -> None:
        """Put everything of ``tree`` there."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.put, tree, tree.values()))


def make_bucket(name: str = "registry") -> str:
    """The URL of a bucket of the server that the environment names, and that has it from now on."""
    obstore.put(open_client(f"s3://{name}"), "made", b"so that it is there", use_multipart=False)
    return f"s3://{name}"


def new_prefix(bucket: str) -> str:
    """A place in the bucket where nothing lies yet; the proof that it keeps conditions is not made again."""
    location = f"{bucket}/{secrets.token_hex(4)}"
    obstore.put(open_client(location), f"{_OWN}/conditions.json", b"{}\n", use_multipart=False)
    return location


def open_place(place: Place) -> Store:
    """The registry that lies there."""
    return open_store(place.location)
