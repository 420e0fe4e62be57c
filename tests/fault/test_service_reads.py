"""What a service reads of a version: its manifest and its graph, once a load, and nothing else."""

from __future__ import annotations

import collections
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.registry_tree import folder_of
from tests.support.service import DEADLINE_S, RunningService, running_service
from tests.support.swapping import publish_versions
from tests.support.tiny_model import NUMERIC_ROWS, point_alias
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store, open_store
from timberline.registry.version import MANIFEST_FILE

WATCH = ("--watch-s", "0.02")
# Python runs a module of this name before anything else, in each process; this one writes down every file
# of the registry that is opened: by whom, and which.
WITNESS = """
import os, sys
registry = os.environ["WITNESSED"]
def witness(event, arguments):
    if event == "open" and str(arguments[0]).startswith(registry):
        with open(os.environ["WITNESS"], "a") as file:
            file.write(f"{os.getpid()} {str(arguments[0])[len(registry):]}\\n")
sys.addaudithook(witness)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry with tiny@1, in production, and tiny@2."""
    publish_versions(root := tmp_path / "registry")
    return root


def wait_for_version(service: RunningService, version: int) -> None:
    """Ask until the service answers with it; of several workers another may answer each time."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        status, answer = service.predict({"instances": [list(NUMERIC_ROWS[0])]})
        assert status == 200
        if answer["version"] == version:
            return
        assert time.monotonic() < deadline, service.log


def wait_for_reads(seen: Path, version: int, processes: int) -> None:
    """Look until so many processes have opened the version's graph."""
    deadline = time.monotonic() + DEADLINE_S
    while len(count_reads(seen, version).get(MODEL_FILE, [])) < processes:
        assert time.monotonic() < deadline, seen.read_text("utf-8")


def count_reads(seen: Path, version: int) -> dict[str, list[int]]:
    """By file of a version: how often each process opened it."""
    lines = [line.split(maxsplit=1) for line in seen.read_text("utf-8").splitlines()]
    counts = collections.Counter((pid, path) for pid, path in lines if path.startswith(f"/tiny/{version}/"))
    found: dict[str, list[int]] = {}
    for (_, path), count in sorted(counts.items()):
        found.setdefault(path.rpartition("/")[2], []).append(count)
    return found


@pytest.mark.parametrize("name", ["tiny", "tiny@1"])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_load_reads_the_manifest_and_the_graph_once(
    workers: int, name: str, root: Path, tmp_path: Path
) -> None:
    """A read is a read of 22 MB over the network for evaluation.parquet, in each worker and each trial, and
    bytes that are read twice are checked the first time and used the second."""
    site, seen = tmp_path / "site", tmp_path / "seen"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITNESS, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(site), "WITNESS": str(seen), "WITNESSED": str(root)}
    flags = ("--workers", str(workers), *WATCH)
    with running_service(root, name, *flags, environment=environment) as service:
        wait_for_version(service, 1)
        assert count_reads(seen, 1) == {MANIFEST_FILE: [1] * workers, MODEL_FILE: [1] * workers}
        if "@" in name:
            return
        # The move itself reads the manifest of the second version, here; it is none of the service's.
        point_alias(open_store(root), "tiny", "production", 2)
        wait_for_version(service, 2)
        wait_for_reads(seen, 2, workers + 1)  # one trial for all workers
    found = count_reads(seen, 2)
    assert found == {MANIFEST_FILE: [1] * (workers + 1), MODEL_FILE: [1] * (workers + 1)}


def damage_evaluation(folder: Path) -> None:
    """Other bytes in a file that only people and the gate look at."""
    (folder / EVALUATION_FILE).write_bytes(b"other")


def remove_evaluation(folder: Path) -> None:
    """As a copy for serving leaves it out."""
    (folder / EVALUATION_FILE).unlink()


def leave_things(folder: Path) -> None:
    """What desktops, file servers and people leave in folders."""
    for name in (".DS_Store", ".nfs0000000000abcdef00000001", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"left here")
    (folder / "old").mkdir()
    (folder / "evaluation.link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize("harm", [damage_evaluation, remove_evaluation, leave_things])
def test_what_a_service_does_not_use_does_not_stop_it(harm: Callable[[Path], None], root: Path) -> None:
    """A .DS_Store in a mounted registry took a release down; `registry verify` is where it is told."""
    store = open_store(root)
    for version in (1, 2):
        harm(folder_of(store.open_version("tiny", version)))
    with running_service(root, "tiny", *WATCH) as service:
        wait_for_version(service, 1)
        point_alias(store, "tiny", "production", 2)
        wait_for_version(service, 2)


def test_version_without_what_is_not_used_is_followed_from_a_copy(root: Path, tmp_path: Path) -> None:
    """Manifest, graph and alias are a registry to serve from; the rest may come later, or never."""
    point_alias(store := open_store(root), "tiny", "production", 2)
    copy = tmp_path / "copy"
    for part in ("tiny/2/manifest.json", "tiny/2/model.onnx", *list_moves(store)):
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / part, copy / part)
    with running_service(copy, "tiny") as service:
        wait_for_version(service, 2)


def list_moves(store: Store) -> list[str]:
    """The keys of the records of `production`, and of its head."""
    return [*store.objects.list_keys("tiny/aliases/production"), *store.objects.list_keys("tiny/heads")]
