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

    @property
    def keeps_folders(self) -> bool:
        """Whether a folder is there although the program sees nothing in it."""

    def read_tree(self) -> Tree:
        """Everything that a reader may see."""

    def find_key(self, path: str) -> str:
        """The key that the program knows a path by."""

    def put(self, path: str, content: bytes | Kind | None) -> None:
        """Have ``content`` at ``path``, whatever was there; None is nothing."""

    def restore(self, tree: Tree, paths: Iterable[str]) -> None:
        """Put back what ``tree`` holds of ``paths``, and remove those of which it holds nothing."""


class FolderPlace:
    """In a folder."""

    keeps_folders = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def read_tree(self) -> Tree:
        return registry_tree.read_tree(self.root)

    def find_key(self, path: str) -> str:
        return path

    def put(self, path: str, content: bytes | Kind | None) -> None:
        registry_tree.put(self.root, path, content)

    def restore(self, tree: Tree, paths: Iterable[str]) -> None:
        registry_tree.restore(self.root, tree, paths)


class BucketPlace:
    """Under a prefix of a bucket, where only bytes lie; what was read once is known by its ETag.

    The records and heads of aliases are named as in a folder, so that one model of a registry is enough for
    both; `find_key` tells what they are called in the bucket.
    """

    keeps_folders = False

    def __init__(self, location: str) -> None:
        self.location = location
        self._client: Any = open_client(location)
        self._known: dict[tuple[str, str], bytes] = {}

    def read_tree(self) -> Tree:
        found = [each for each in self._list() if not each["path"].startswith(f"{_OWN}/")]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(pool.map(self._read, found))

    def _list(self) -> list[Any]:
        return [each for page in obstore.list(self._client) for each in page]

    def _read(self, found: Any) -> tuple[str, bytes]:
        known = found["path"], found["e_tag"]
        if known not in self._known:
            self._known[known] = bytes(obstore.get(self._client, found["path"]).bytes())
        return _find_path(found["path"]), self._known[known]

    def find_key(self, path: str) -> str:
        model, part, *names = path.split("/") if path.count("/") else (path, "")
        if part == "heads" and len(names) == 1 and names[0].endswith(".json"):
            return f"{model}/aliases/{names[0].removesuffix('.json')}/head.json"
        if part == "aliases" and len(names) == 2:
            stem, _, suffix = names[1].rpartition(".")
            is_record = suffix == "json" and stem.isdigit() and stem[0] != "0"
            return f"{model}/aliases/{names[0]}/log/{f'{stem:0>9}.json' if is_record else names[1]}"
        return path

    def put(self, path: str, content: bytes | Kind | None) -> None:
        """Nothing lies beneath what has content: a folder is the first part of keys."""
        if content is None:
            self._delete(path)
            return
        assert isinstance(content, bytes), f"a bucket has no {content}"
        obstore.put(self._client, self.find_key(path), content, use_multipart=False)

    def _delete(self, path: str) -> None:
        for each in self._list():
            if f"{_find_path(each['path'])}/".startswith(f"{path}/"):
                obstore.delete(self._client, each["path"])

    def restore(self, tree: Tree, paths: Iterable[str]) -> None:
        for path in sorted(paths):
            self.put(path, tree.get(path))

    def fill(self, tree: Tree) -> None:
        """Put everything of ``tree`` there."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.put, tree, tree.values()))


def _find_path(key: str) -> str:
    """What lies under a key of a bucket, as it is called in a folder."""
    model, part, *names = key.split("/") if key.count("/") else (key, "")
    if part == "aliases" and len(names) == 2 and names[1] == "head.json":
        return f"{model}/heads/{names[0]}.json"
    if part == "aliases" and len(names) == 3 and names[1] == "log":
        stem, _, suffix = names[2].rpartition(".")
        is_record = suffix == "json" and stem.isdigit() and len(stem) == 9
        return f"{model}/aliases/{names[0]}/{f'{int(stem)}.json' if is_record else names[2]}"
    return key


def upload(folder: Path, location: str) -> None:
    """Put every file of a folder into a bucket, as ``aws s3 sync`` does."""
    client = open_client(location)
    for path in folder.rglob("*"):
        if path.is_file() and registry_tree.STAGING not in path.parts:
            obstore.put(client, path.relative_to(folder).as_posix(), path, use_multipart=False)


def download(location: str, folder: Path) -> None:
    """Write every object of a bucket into a folder, as ``aws s3 sync`` does."""
    client = open_client(location)
    for page in obstore.list(client):
        for each in page:
            path = folder / each["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(obstore.get(client, each["path"]).bytes()))


def new_prefix(bucket: str) -> str:
    """A place in the bucket where nothing lies yet; the proof that it keeps conditions is not made again."""
    location = f"{bucket}/{secrets.token_hex(4)}"
    obstore.put(open_client(location), f"{_OWN}/conditions.json", b"{}\n", use_multipart=False)
    return location


def open_place(place: Place) -> Store:
    """The registry that lies there."""
    return open_store(place.location)
