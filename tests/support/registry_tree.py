"""What lies in a registry's folder, byte for byte, and the ways to damage it.

before = read_tree(root)
put(root, "tiny/1/manifest.json", "fifo")
compare(before, read_tree(root))           # {"tiny/1/manifest.json"}
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from timberline.registry.version import Version

# What can be in the place of a plain file; "folder" is an empty one.
Kind = Literal["folder", "fifo", "link", "socket", "device"]
KINDS: tuple[Kind, ...] = ("folder", "fifo", "link", "socket")
# Path relative to the registry → its bytes, or what it is instead of a plain file.
Tree = dict[str, bytes | Kind]
# Where writers prepare what they write: it holds nothing that a reader sees.
STAGING = ".staging"


def folder_of(version: Version) -> Path:
    """Where the files of a version lie, in a registry that is a folder."""
    return Path(version.objects.location, version.key)


def read_tree(root: Path) -> Tree:
    """Everything below ``root`` but its staging folder; links are not followed, only plain files opened."""
    tree: Tree = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as scanned:
            entries = [entry for entry in scanned if folder or entry.name != STAGING]
        if not entries and folder:
            tree[folder] = "folder"
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_file(follow_symlinks=False):
                tree[path] = (root / path).read_bytes()
            else:
                tree[path] = _tell_kind(entry.stat(follow_symlinks=False).st_mode)
    return tree


def compare(before: Tree, after: Tree) -> set[str]:
    """The paths that are not the same; a folder that lost its last file, or got its first, is not one."""

    def is_emptied(path: str, full: Tree, empty: Tree) -> bool:
        return empty.get(path) == "folder" and path not in full and has_below(full, path)

    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {
        path
        for path in changed
        if not is_emptied(path, before, after) and not is_emptied(path, after, before)
    }


def has_below(tree: Tree, folder: str) -> bool:
    """Whether anything lies in ``folder``."""
    return any(path.startswith(f"{folder}/") for path in tree)


def put(root: Path, path: str, content: bytes | Kind | None) -> None:
    """Have ``content`` at ``path``, whatever was there; None is nothing."""
    place = root / path
    _clear(place)
    if content is None:
        return
    for parent in reversed(place.relative_to(root).parents):
        if not (root / parent).is_dir() or (root / parent).is_symlink():
            _clear(root / parent)
            (root / parent).mkdir()
    if isinstance(content, bytes):
        place.write_bytes(content)
    elif content == "folder":
        place.mkdir()
    elif content == "link":
        place.symlink_to(make_target(root))
    else:
        os.mknod(place, {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}[content] | 0o600)


def restore(root: Path, tree: Tree, paths: Iterable[str]) -> None:
    """Put back what ``tree`` holds of ``paths``, and remove those of which it holds nothing."""
    known: list[str] = []
    unknown: list[str] = []
    for path in sorted(paths):
        (known if path in tree else unknown).append(path)
    for path in reversed(unknown):
        put(root, path, None)
        for parent in list((root / path).relative_to(root).parents)[:-1]:
            if not has_below(tree, str(parent)) and _is_empty(root / parent):
                (root / parent).rmdir()
    for path in known:
        put(root, path, tree[path])


def make_target(root: Path) -> Path:
    """What links lead to: a folder outside the registry that looks like a part of it."""
    target = root.parent / "elsewhere"
    target.mkdir(exist_ok=True)
    (target / "1.json").write_bytes(b"{}")
    return target


def _clear(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place):
        place.unlink()


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def _tell_kind(mode: int) -> Kind:
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"
