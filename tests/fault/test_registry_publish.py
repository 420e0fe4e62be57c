"""Publishers that race, are killed, or run out of input: a reader sees the old state or the new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.manifests import build_manifest, give_verdict, publish_tiny
from tests.support.pausing_store import PausingStore
from timberline.registry.aliases import move_alias, read_alias, resolve
from timberline.registry.errors import LifecycleError
from timberline.registry.manifest import FileDigest, Manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.registry.verdict import VERDICT_FILE, decode_verdict

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def start(root: Path) -> Iterator[_Start]:
    children = _Start(root)
    yield children
    for child in children.running:
        child.kill()
        child.communicate()


class _Start:
    """Starts publishing children that are imported and ready, and wait for a line to go."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.running: list[subprocess.Popen[str]] = []

    def __call__(self, *rest: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.registry_child", "publish", str(self.root), *rest]
        child = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.running.append(child)
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        return child


def _go(child: subprocess.Popen[str]) -> None:
    assert child.stdin
    child.stdin.write("go\n")
    child.stdin.flush()


def _staged(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".staging").iterdir())


def _assert_whole(store: Store, versions: list[int]) -> None:
    assert store.versions("tiny") == versions
    for version in versions:
        assert store.open_version("tiny", version).verify().manifest.version == version


def test_racing_processes_get_numbers_without_gap_or_double(root: Path, start: _Start) -> None:
    """A number given twice would let one release overwrite another."""
    children = [start() for _ in range(4)]
    for child in children:
        _go(child)
    numbers = sorted(int(child.communicate()[0]) for child in children)
    assert numbers == [1, 2, 3, 4]
    _assert_whole(open_store(root), numbers)


def test_racing_threads_get_numbers_without_gap_or_double(root: Path) -> None:
    """The same inside one process, where process-wide locks would hide the race."""
    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(pool.map(lambda _: publish_tiny(open_store(root)), range(24)))
    assert numbers == list(range(1, 25))
    _assert_whole(open_store(root), numbers)
    assert _staged(root) == []


def test_publisher_that_lost_its_number_describes_the_next(root: Path) -> None:
    """Both chose number 1; the loser's manifest must not go out saying 1 in folder 2."""
    barrier = threading.Barrier(2)
    arrived: list[int] = []

    def line_up() -> None:
        if len(arrived) < 2:
            arrived.append(barrier.wait(timeout=30))

    stores = [Store(PausingStore(root, line_up)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        numbers = sorted(pool.map(publish_tiny, stores))
    assert numbers == [1, 2]
    _assert_whole(open_store(root), [1, 2])


def test_live_publisher_survives_the_cleaning_of_another(root: Path) -> None:
    """A cleaner that took a slow publisher for a dead one would lose a release."""
    described, go_on = threading.Event(), threading.Event()

    def describe_slowly(version: int, digests: dict[str, FileDigest]) -> Manifest:
        described.set()
        assert go_on.wait(timeout=30)
        return build_manifest("tiny", version, digests)

    source = root.parent / "model"
    source.write_bytes(b"slow")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(open_store(root).publish, "tiny", {MODEL_FILE: source}, describe_slowly)
        assert described.wait(timeout=30)
        assert publish_tiny(open_store(root)) == 1
        go_on.set()
        assert slow.result(timeout=30) == 2
    _assert_whole(open_store(root), [1, 2])


def test_killed_publisher_leaves_no_version_and_is_cleaned_up(root: Path, start: _Start) -> None:
    """Files without a manifest must never be servable, and must not fill the disk for ever."""
    fifo = root.parent / "fifo"
    os.mkfifo(fifo)
    child = start(str(fifo))
    _go(child)
    with fifo.open("wb"):  # opens when the child, its files copied, wants to describe them
        assert len(_staged(root)) == 2  # its folder and its lock
        child.send_signal(signal.SIGKILL)
        child.wait()
    store = open_store(root)
    assert store.versions("tiny") == []
    assert publish_tiny(store) == 1
    assert _staged(root) == []
    _assert_whole(store, [1])


def test_live_publisher_in_another_process_is_not_cleaned_up(root: Path, start: _Start) -> None:
    """A lock of the kernel shows which writer lives, so it must hold between processes."""
    fifo = root.parent / "fifo"
    os.mkfifo(fifo)
    child = start(str(fifo))
    _go(child)
    with fifo.open("wb"):
        assert publish_tiny(open_store(root)) == 1
    assert child.communicate()[0] == "2\n"
    _assert_whole(open_store(root), [1, 2])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, the first in production, the second with a passing verdict."""
    base = tmp_path_factory.mktemp("kill") / "base"
    store = open_store(base)
    publish_tiny(store)
    give_verdict(store, "tiny", 1)
    promote(store, "tiny", 1)
    publish_tiny(store)
    give_verdict(store, "tiny", 2)
    return base


def _kill_everywhere(base: Path, folder: Path, action: str) -> list[Path]:
    shutil.copytree(base, folder / "base")
    command = [sys.executable, "-m", "tests.support.registry_child", "kill", str(folder), action]
    subprocess.run(command, cwd=PROJECT, check=True)
    roots = sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    assert len(roots) > 5
    return roots


def test_publisher_killed_anywhere_leaves_the_old_versions_or_one_more(base: Path, tmp_path: Path) -> None:
    """kill -9 before every single file operation: whatever a reader finds must be whole."""
    seen = set()
    for root in _kill_everywhere(base, tmp_path, "publish"):
        store = open_store(root)
        versions = store.versions("tiny")
        seen.add(tuple(versions))
        _assert_whole(store, versions)
        assert resolve(store, "tiny@production") == 1
        assert publish_tiny(store) == len(versions) + 1
        assert _staged(root) == []
    assert seen == {(1, 2), (1, 2, 3)}


def test_alias_move_killed_anywhere_is_done_or_not_done(base: Path, tmp_path: Path) -> None:
    """A half-moved production would serve nothing at all."""
    seen = set()
    for root in _kill_everywhere(base, tmp_path, "move"):
        store = open_store(root)
        record = read_alias(store, "tiny", PRODUCTION)
        assert record
        seen.add((record.sequence, record.version))
        moved = move_alias(store, "tiny", PRODUCTION, 2, expected=record.sequence, reason="again")
        assert moved.sequence == record.sequence + 1
    assert seen == {(1, 1), (2, 2)}


def test_verdict_killed_anywhere_is_the_old_or_the_new_one(base: Path, tmp_path: Path) -> None:
    """A torn verdict that still parsed could pass what was blocked."""
    seen = set()
    for root in _kill_everywhere(base, tmp_path, "judge"):
        data = open_store(root).read_document("tiny", 2, VERDICT_FILE)
        assert data
        seen.add(decode_verdict(data).outcome)
        open_store(root).open_version("tiny", 2).verify()
    assert seen == {"PASS", "BLOCK"}


def test_failed_publisher_leaves_nothing(root: Path) -> None:
    """A missing source file or a manifest that cannot be made is no reason to leave rubbish."""
    missing = root.parent / "missing"
    with pytest.raises(FileNotFoundError):
        open_store(root).publish("tiny", {MODEL_FILE: missing}, lambda *_: build_manifest())
    missing.write_bytes(b"now here")
    with pytest.raises(LifecycleError, match="does not describe the files"):
        open_store(root).publish("tiny", {MODEL_FILE: missing}, lambda *_: build_manifest())
    assert open_store(root).models() == []
    assert _staged(root) == []
