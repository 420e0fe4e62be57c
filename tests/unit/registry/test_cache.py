"""Copies of a bucket's bytes: whole or not there, bounded, shared by threads and processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.faults import ROOT, compile_shim, describe_fault, run_python
from tests.support.forked import open_to_all, run_forked
from tests.support.service import DEADLINE_S
from timberline.registry.cache import Cache, Take, choose_cache
from timberline.registry.objects import Known
from timberline.registry.runtime.files import PARTIAL_PREFIX, digest_bytes

DATA = bytes(range(256)) * 40
SHA256 = digest_bytes(DATA)
OTHER = b"other bytes"


class Source:
    """Has bytes to fetch, and counts how often that is done."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.count = 0

    def fetch(self) -> Known | None:
        self.count += 1
        return Known(self.data, digest_bytes(self.data))

    def stream(self, take: Take) -> str | None:
        self.count += 1
        for start in range(0, len(self.data), 1000):
            take(self.data[start : start + 1000])
        return digest_bytes(self.data)


def read(cache: Cache, data: bytes = DATA, source: Source | None = None) -> bytes | None:
    """What a reader of ``data``'s digest gets."""
    source = source or Source(data)
    known = cache.read_known(digest_bytes(data), len(data), source.fetch)
    return known.data if known else None


def list_entries(folder: Path) -> set[str]:
    """The names of whatever lies among the bytes."""
    return {path.name for path in (folder / "sha256").iterdir()} if (folder / "sha256").is_dir() else set()


def refuse() -> Known | None:
    """A store that is down."""
    raise ConnectionError("no store")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Events in the log so far."""
    return [record.getMessage() for record in caplog.records]


def test_bytes_are_fetched_once(tmp_path: Path) -> None:
    """A worker, its trial and the next start share one download."""
    source = Source()
    assert [read(Cache(tmp_path), source=source) for _ in range(3)] == [DATA] * 3
    assert source.count == 1
    assert Cache(tmp_path).read_known(SHA256, len(DATA), refuse) == Known(DATA, SHA256)


def test_nothing_is_kept_of_what_was_not_asked_for(tmp_path: Path) -> None:
    """A damaged object's bytes are for whoever reports the damage, and for nobody after that."""
    cache = Cache(tmp_path)
    assert cache.read_known(SHA256, len(DATA), Source(OTHER).fetch) == Known(OTHER, digest_bytes(OTHER))
    assert cache.read_known(SHA256, len(DATA), lambda: None) is None
    with pytest.raises(ConnectionError):
        cache.read_known(SHA256, len(DATA), refuse)
    assert cache.open_file(SHA256, len(DATA), Source(OTHER).stream) is None
    assert list_entries(tmp_path) == set()


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [damage_bit, cut, lengthen, empty, make_link, make_fifo]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_found_and_fetched_again(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A power cut, a bad disk or a curious hand must not reach a prediction."""
    cache, source = Cache(tmp_path), Source()
    read(cache)
    damage(tmp_path / "sha256" / SHA256)
    assert read(cache, source=source) == DATA
    assert source.count == 1
    assert told(caplog) == ["cache entry damaged"]
    assert Cache(tmp_path).read_known(SHA256, len(DATA), refuse) == Known(DATA, SHA256)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_is_verified_before_it_is_given_out(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whoever gets a path reads it by other means, which verify nothing."""
    read(Cache(tmp_path))
    damage(tmp_path / "sha256" / SHA256)
    source = Source()
    path = Cache(tmp_path).open_file(SHA256, len(DATA), source.stream)
    assert path is not None
    assert (path.read_bytes(), source.count) == (DATA, 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    most=st.integers(0, 60),
    uses=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 25)), max_size=25),
)
def test_the_bound_is_kept_and_the_latest_stay(most: int, uses: list[tuple[int, int]]) -> None:
    """A cache that grows fills the disk; one that drops what is in use fetches it over and over."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), most)
        expected: dict[bytes, None] = {}  # as an ordered set: what was used last comes last
        for number, (name, size) in enumerate(uses):
            data = bytes([name]) * size
            assert read(cache, data) == data
            path = Path(folder, "sha256", digest_bytes(data))
            if path.exists():  # a clock of its own, so that each use is later than the one before
                os.utime(path, ns=(number, number))
            expected.pop(data, None)
            if size <= most:
                expected[data] = None
            while sum(map(len, expected)) > most:
                del expected[next(iter(expected))]
            assert list_entries(Path(folder)) == {digest_bytes(data) for data in expected}


def test_what_is_too_large_is_not_kept_and_drives_nothing_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One large file would leave an empty cache behind."""
    cache = Cache(tmp_path, len(DATA))
    read(cache)
    large = b"x" * (len(DATA) + 1)
    assert read(cache, large) == large
    assert cache.open_file(digest_bytes(large), len(large), Source(large).stream) is None
    assert list_entries(tmp_path) == {SHA256}
    assert told(caplog) == ["too large for the cache"]


def test_a_file_that_is_read_stays_while_others_go(tmp_path: Path) -> None:
    """An evaluation that is being read must not be lost to a download beside it."""
    cache = Cache(tmp_path, len(DATA))
    path = cache.open_file(SHA256, len(DATA), Source().stream)
    assert path is not None
    for number in range(3):  # another process's, by its own descriptor
        read(Cache(tmp_path, len(DATA)), bytes([number]) * len(DATA))
    assert path.read_bytes() == DATA
    assert list_entries(tmp_path) == {SHA256}


def test_a_file_may_go_once_its_reader_has_ended(tmp_path: Path) -> None:
    """Readers that crashed must not fill the cache for good."""
    assert run_forked(
        lambda: Cache(tmp_path, len(DATA)).open_file(SHA256, len(DATA), Source().stream) is not None
    )
    other = b"y" * len(DATA)
    read(Cache(tmp_path, len(DATA)), other)
    assert list_entries(tmp_path) == {digest_bytes(other)}


def test_a_reader_in_the_middle_keeps_its_bytes(tmp_path: Path) -> None:
    """What was opened is read to its end, whatever happens to its name."""
    read(Cache(tmp_path))
    with (tmp_path / "sha256" / SHA256).open("rb") as file:
        begun = file.read(100)
        read(Cache(tmp_path, len(DATA)), b"z" * len(DATA))
        assert SHA256 not in list_entries(tmp_path)
        assert begun + file.read() == DATA


def test_threads_that_ask_at_the_same_time_fetch_once(tmp_path: Path) -> None:
    """Eight parts of one process ask for the manifest of the version that has just been released."""
    cache, source, together = Cache(tmp_path), Source(), threading.Barrier(8)

    def ask() -> bytes | None:
        together.wait(DEADLINE_S)
        return read(cache, source=source)

    with ThreadPoolExecutor(8) as pool:
        assert {future.result() for future in [pool.submit(ask) for _ in range(8)]} == {DATA}
    assert source.count == 1


CHILD = """
import fcntl, hashlib, sys
from pathlib import Path
from timberline.registry.cache import Cache
from timberline.registry.objects import Known
folder, most, seed, log = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
def fetch(data):
    with log.open("ab", buffering=0) as file:
        file.write(b"x")
    return Known(data, hashlib.sha256(data).hexdigest())
for number in range(60):
    name = (number * 7 + seed) % 12
    data = bytes([name]) * 20_000
    digest = hashlib.sha256(data).hexdigest()
    known = Cache(folder, most).read_known(digest, len(data), lambda: fetch(data))
    assert known.data == data
    with (folder / "locks" / "room").open("ab") as room:
        fcntl.flock(room, fcntl.LOCK_EX)  # who removes damage needs no lock, and there is none here
        held = sum(path.stat().st_size for path in (folder / "sha256").glob("[0-9a-f]*"))
    assert held <= most, held
"""


@pytest.mark.parametrize("most", [12 * 20_000, 3 * 20_000])
def test_processes_share_a_cache_and_its_bound(tmp_path: Path, most: int) -> None:
    """Workers, trials and two services on one folder: every byte right, never more than the bound."""
    log = tmp_path / "fetched"
    arguments = [str(tmp_path / "cache"), str(most)]
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, *arguments, str(seed), str(log)], cwd=ROOT)
        for seed in range(4)
    ]
    assert [child.wait(DEADLINE_S) for child in children] == [0] * 4
    fetched = log.stat().st_size
    assert fetched == 12 if most == 12 * 20_000 else fetched > 12


def test_a_process_that_was_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """SIGKILL in the middle of a write: the next reader fetches, and the remains go."""
    text = (
        "import sys; from pathlib import Path; from timberline.registry.cache import Cache\n"
        "def stream(take):\n"
        "    take(b'x' * 100_000); print('half', flush=True); sys.stdin.read()\n"
        f"Cache(Path({str(tmp_path)!r})).open_file({SHA256!r}, {len(DATA)}, stream)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        living = read(Cache(tmp_path), OTHER)  # beside it: its file is not taken for a leftover
        assert living == OTHER
        (partial,) = list_entries(tmp_path) - {digest_bytes(OTHER)}
        assert partial.startswith(PARTIAL_PREFIX)
        child.send_signal(signal.SIGKILL)
    assert read(Cache(tmp_path)) == DATA
    assert list_entries(tmp_path) == {SHA256, digest_bytes(OTHER)}


def test_a_reader_does_not_wait_for_ever_for_one_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped while it fetches would stop all others with it."""
    monkeypatch.setattr("timberline.registry.cache._FETCH_WAIT_S", 0.05)
    monkeypatch.setattr("timberline.registry.cache._ROOM_WAIT_S", 0.05)
    (tmp_path / "locks").mkdir()
    with (
        (tmp_path / "locks" / SHA256[:2]).open("wb") as fetching,
        (tmp_path / "locks" / "room").open("wb") as room,
    ):
        fcntl.flock(fetching, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX)
        assert read(Cache(tmp_path)) == DATA
        assert list_entries(tmp_path) == set()
    assert read(Cache(tmp_path)) == DATA
    assert list_entries(tmp_path) == {SHA256}


# Places that cannot be written to


def use(cache: Cache, found: bytes = b"") -> list[Any]:
    """What a process can do with a cache; all of it must go as if there were none, but for ``found``."""
    source = Source()
    assert read(cache, source=source) == DATA
    cache.touch(SHA256)
    cache.write_note("a", b"note")
    return [source.count, cache.read_note("a") == (found or None)]


def test_a_folder_that_may_only_be_read_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """An image or a volume may bring a cache that its service cannot write."""
    with open_to_all() as folder:
        cache = Cache(folder)
        read(cache)
        cache.write_note("a", b"root's note")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        before = sorted(folder.rglob("*"))

        def act() -> list[Any]:
            own = Cache(folder)
            first = use(own, b"root's note")
            own.read_known(digest_bytes(OTHER), len(OTHER), Source(OTHER).fetch)
            return [*first, told(caplog)]

        assert run_forked(act, as_nobody=True) == [0, True, ["cache not written"]]
        assert sorted(folder.rglob("*")) == before


def test_a_folder_that_may_not_even_be_read_is_done_without() -> None:
    """Another service's, which keeps it to itself."""
    with open_to_all() as folder:
        cache = Cache(folder / "own")
        read(cache)
        cache.write_note("a", b"note")
        assert run_forked(lambda: use(Cache(folder / "own")), as_nobody=True) == [1, True]


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file belong to another user than this process's, and not to root."""
    if os.geteuid() == 0:
        os.chown(path, 4321, -1, follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: 5678)


def test_a_note_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes are known by their digest; a note says which digest, and in /tmp anybody could write one."""
    cache = Cache(tmp_path)
    cache.write_note("a", b"whatever")
    assert cache.read_note("a") == b"whatever"
    (path,) = (tmp_path / "notes").iterdir()
    give_away(path, monkeypatch)
    assert cache.read_note("a") is None
    assert told(caplog) == ["note not trusted"]


def test_a_full_disk_costs_the_copy_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bytes are on their way to a prediction; that there is no room for a copy is nobody's fault."""

    def act() -> list[Any]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # a write beyond it fails, as on a full disk
        cache, source = Cache(tmp_path), Source()
        found = [read(cache, source=source) == DATA for _ in range(2)]
        return [
            *found,
            source.count,
            cache.open_file(SHA256, len(DATA), source.stream),
            told(caplog),
            sorted(list_entries(tmp_path)),
        ]

    assert run_forked(act) == [True, True, 2, None, ["cache not written"], []]


def test_a_place_that_is_no_folder_is_done_without(tmp_path: Path) -> None:
    """A typing error in a setting."""
    (tmp_path / "file").write_bytes(b"")
    assert use(Cache(tmp_path / "file")) == [1, True]
    assert use(Cache(tmp_path / "file" / "below")) == [1, True]


def test_a_file_system_without_locks_or_links_costs_the_copy_only(tmp_path: Path) -> None:
    """Much of FUSE has neither; bytes that are there already are read all the same."""
    shim = compile_shim(tmp_path)
    text = (
        "import sys; from pathlib import Path\n"
        "from tests.unit.registry.test_cache import *\n"
        f"cache, source = Cache(Path({str(tmp_path / 'cache')!r})), Source()\n"
        "assert [read(cache, source=source) for _ in range(2)] == [DATA] * 2\n"
        "print(source.count)\n"
    )
    for call, number in (("flock", errno.ENOLCK), ("link", errno.EPERM)):
        done = run_python("-c", text, environment=describe_fault(shim, call, number, "/cache"))
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    read(Cache(tmp_path / "cache"))
    done = run_python("-c", text, environment=describe_fault(shim, "flock", errno.ENOLCK, "/cache"))
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


# Notes


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), st.binary(max_size=200), max_size=5))
def test_notes_are_found_again_by_their_names(notes: dict[str, bytes]) -> None:
    """Whatever a reference is called, its note is its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in notes.items():
            Cache(Path(folder)).write_note(name, b"before")
            Cache(Path(folder)).write_note(name, data)
        assert {name: Cache(Path(folder)).read_note(name) for name in notes} == notes
        assert Cache(Path(folder)).read_note("never written") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_is_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A version number with a bit turned over would be served without a doubt."""
    cache = Cache(tmp_path)
    cache.write_note("a", b'{"version": 1}')
    (path,) = (tmp_path / "notes").iterdir()
    damage(path)
    assert cache.read_note("a") is None
    cache.write_note("a", b'{"version": 2}')
    assert cache.read_note("a") == b'{"version": 2}'


# Where it lies


def test_the_first_usable_folder_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has a read-only root, no home and a /tmp; a person has a home."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (tmp_path / "file").write_bytes(b"")
    home, nowhere = str(tmp_path / "home"), str(tmp_path / "file" / "below")
    own = temporary / f"timberline-cache-{os.geteuid()}"
    assert choose_cache({"TIMBERLINE_CACHE": "/c", "HOME": home}).folder == Path("/c")
    assert choose_cache({"TIMBERLINE_CACHE": "/c"}, "/d").folder == Path("/d")
    assert choose_cache({"XDG_CACHE_HOME": f"{home}/x", "HOME": home}).folder == Path(home, "x", "timberline")
    assert choose_cache({"TIMBERLINE_CACHE": "", "HOME": home}).folder == Path(home, ".cache", "timberline")
    assert choose_cache({"HOME": nowhere}).folder == own
    assert own.stat().st_mode & 0o777 == 0o700
    assert choose_cache({"TIMBERLINE_CACHE": "off", "HOME": home}).folder is None
    assert choose_cache({"HOME": home}, most_bytes=0).folder is None
    # That there is none is told where one was wanted.
    assert not choose_cache({"TIMBERLINE_CACHE": "off", "HOME": home}).most_bytes


def test_a_folder_of_another_user_in_tmp_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may make a folder, or a link to elsewhere, of the name that ours would have."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = tmp_path / f"timberline-cache-{os.geteuid()}"
    name.mkdir()
    assert choose_cache({}).folder == name
    give_away(name, monkeypatch)
    name = name.rename(tmp_path / "timberline-cache-5678")
    assert choose_cache({}).folder is None
    name.rmdir()
    (tmp_path / "elsewhere").mkdir()
    name.symlink_to(tmp_path / "elsewhere")
    give_away(name, monkeypatch)
    assert choose_cache({}).folder is None


def test_nothing_is_left_in_a_folder_where_somebody_happens_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no folder for temporary files can be used, Python takes the current one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert choose_cache({}).folder is None
    assert list(tmp_path.iterdir()) == []


def test_without_a_cache_everything_is_fetched() -> None:
    """`--cache-bytes 0` is a choice."""
    source = Source()
    cache = Cache(None)
    assert [read(cache, source=source) for _ in range(2)] == [DATA] * 2
    assert source.count == 2
    assert cache.open_file(SHA256, len(DATA), source.stream) is None
    assert cache.read_note("a") is None
    cache.write_note("a", b"note")
    assert cache.read_note("a") is None


def test_bytes_are_hashed_once_on_their_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of a gigabyte takes two seconds to hash."""
    hashed: list[int] = []
    real = hashlib.sha256

    def count(data: bytes = b"", **more: Any) -> Any:
        hashed.append(len(data))
        return real(data, **more)

    read(Cache(tmp_path))
    monkeypatch.setattr(hashlib, "sha256", count)
    Cache(tmp_path).read_known(SHA256, len(DATA), refuse)
    assert hashed == [len(DATA)]
