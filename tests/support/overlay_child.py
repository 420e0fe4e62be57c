"""Folders of a lower layer, replaced and killed on the way; started by `faults.run_on_lower_layer`.

python -m tests.support.overlay_child replace DIR   prints what is there after each kill, and after a retry
python -m tests.support.overlay_child registry DIR  publishes, moves and judges in a registry below
python -m tests.support.overlay_child etl DIR       prepares a table again, whose data are below
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.manifests import give_verdict, publish_tiny
from tests.support.registry_child import run_until
from tests.support.tables import NAME, SmallTable, rows
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.runtime.stages import Stage, read_receipt
from timberline.registry.store import open_store

MARK = "mark.json"
# Names that come before and behind the mark's, and a folder; the new ones have other names and bytes.
OLD = {"a": "old", MARK: "old", "z": "old", "sub/b": "old"}
NEW = {"n": "new", MARK: "new", "sub/m": "new"}


def write(folder: Path, files: dict[str, str]) -> None:
    """Put ``files`` into ``folder``."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str] | None:
    """The files in ``folder``; None if it is not there."""
    if not folder.is_dir():
        return None
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def put_on(folder: Path, lower: Path) -> Path:
    """A place that shows ``lower`` as a lower layer; without the right to mount, a copy for the shim."""
    if not os.environ["OVERLAY"]:
        return Path(shutil.copytree(lower, folder / "lower"))
    upper, work, merged = (folder / name for name in ("upper", "work", "merged"))
    for path in (upper, work, merged):
        path.mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    return merged


def replace(root: Path) -> None:
    """Write the new folder over the old one."""
    with fresh_folder(root / "target", mark=MARK) as folder:
        write(folder, NEW)


def run_replace(folder: Path) -> None:
    """For k = 0, 1, …: replace the folder, killed before the k-th operation; then replace it again."""
    lower = folder / "below"
    write(lower / "target", OLD)
    seen: list[dict[str, Any]] = []
    for count in range(1000):
        root = put_on(folder / str(count), lower)
        child = os.fork()
        if child == 0:
            run_until(count, partial(replace, root))
        _, status = os.waitpid(child, 0)
        found = read(root / "target")
        replace(root)
        left = sorted(path.name for path in root.iterdir())
        seen.append({"found": found, "again": read(root / "target"), "left": left})
        if os.WIFEXITED(status):
            seen[-1]["code"] = os.WEXITSTATUS(status)
            break
    print(json.dumps(seen))


def run_registry(folder: Path) -> None:
    """Publish, judge and promote twice: below, and on top of that."""
    lower = folder / "below"
    store = open_store(lower)
    publish_tiny(store)
    give_verdict(store, "tiny", 1)
    promote(store, "tiny", 1)
    store = open_store(put_on(folder / "registry", lower))
    publish_tiny(store)
    give_verdict(store, "tiny", 1, "BLOCK")
    give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    record = read_alias(store, "tiny", PRODUCTION)
    assert record is not None
    for version in store.versions("tiny"):
        store.open_version("tiny", version).verify()
    print(json.dumps([store.versions("tiny"), record.version, record.sequence]))


def run_etl_again(folder: Path) -> None:
    """Prepare a table below, and again with another seed on top of that."""
    table = SmallTable(folder, rows(500))
    table.etl()
    before = table.digests()
    table.data = put_on(folder / "again", table.data)
    table.prepared = table.data / "prepared" / NAME
    summary = table.etl("split.seed=5")
    after = table.digests()
    receipt = read_receipt(table.prepared)
    assert receipt is not None
    is_whole = Stage("etl", table.prepared, receipt.inputs).find_receipt() is not None
    print(json.dumps([summary["skipped"], before.keys() == after.keys(), before == after, is_whole]))


if __name__ == "__main__":
    verbs: dict[str, Callable[[Path], None]] = {
        "replace": run_replace,
        "registry": run_registry,
        "etl": run_etl_again,
    }
    verbs[sys.argv[1]](Path(sys.argv[2]))
