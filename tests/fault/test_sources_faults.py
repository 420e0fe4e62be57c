"""What a fetch does when the world breaks under it: cut lines, killed processes, full disks, two at once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.ended import ROOT, starting
from tests.support.http_files import FileServer, Resource, serve_files
from tests.support.kaggle_stand_in import make_zip
from tests.support.pips import list_oldest_and_newest, use_pip
from tests.support.sources import config_for, hidden_files, visible_files
from timberline.training.config import CsvSource, ModelConfig, PackageSource
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.errors import SourceError

BODY = random.Random(0).randbytes(3_000_000)
# Larger than what a process may write in the tests of full disks.
_FILE_LIMIT_BYTES = 1_000_000
_DEADLINE_S = 60.0

_FETCH = """
import json, resource, sys
from pathlib import Path
import msgspec
from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.logs import configure_logging
from timberline.training.config import ModelConfig
from timberline.training.data.fetch import run_fetch
data, config, limit = sys.argv[1:]
configure_logging("info", "json")
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
config = msgspec.json.decode(config, type=ModelConfig)
sys.exit(run_command("training", lambda: print(json.dumps(run_fetch(config, Path(data)))) or 0))
"""


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A file server that holds three megabytes."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # a proxy of this machine is none of the test's business
    with serve_files() as server:
        server.resources["/table.csv"] = Resource(BODY)
        yield server


def _config(files: FileServer, sha256: str | None = None) -> ModelConfig:
    return config_for(CsvSource(path=f"{files.url}/table.csv", sha256=sha256))


def _run(config: ModelConfig, data: Path) -> bytes:
    run_fetch(config, data, pause=lambda _: None)
    assert not hidden_files(data)
    (table,) = fetched_files(config, data)
    return table.read_bytes()


def _fetch_words(config: ModelConfig, data: Path, limit_bytes: int = 0) -> list[str]:
    """What to say to Python."""
    return ["-c", _FETCH, str(data), msgspec.json.encode(config).decode(), str(limit_bytes)]


def _start_fetch(config: ModelConfig, data: Path, limit_bytes: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, *_fetch_words(config, data, limit_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_bytes(data: Path, count: int) -> None:
    """Until a download in progress has written ``count`` bytes."""
    deadline = time.monotonic() + _DEADLINE_S
    while not any(path.stat().st_size >= count for path in data.rglob(".partial-body")):
        assert time.monotonic() < deadline, f"not {count} bytes: {hidden_files(data)}"
        threading.Event().wait(0.01)


def test_a_connection_cut_half_way_is_taken_up_where_it_broke(tmp_path: Path, files: FileServer) -> None:
    """Twice in one download; no byte is fetched twice or lost."""
    files.resources["/table.csv"].cuts = [1_000_000, 500_000]
    assert _run(_config(files), tmp_path) == BODY
    ranges = [seen.headers.get("range") for seen in files.seen]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_server_that_cannot_resume_is_asked_for_the_whole_again(tmp_path: Path, files: FileServer) -> None:
    """It answers a range with the whole file, which must not be appended."""
    files.resources["/table.csv"].ranges = False
    files.resources["/table.csv"].cuts = [1_000_000]
    assert _run(_config(files), tmp_path) == BODY


def test_without_an_etag_a_cut_download_starts_again(tmp_path: Path, files: FileServer) -> None:
    """Nothing proves that the second half belongs to the same file."""
    files.resources["/table.csv"].etag = None
    files.resources["/table.csv"].cuts = [1_000_000]
    assert _run(_config(files), tmp_path) == BODY
    assert "range" not in files.seen[1].headers


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(tmp_path: Path, files: FileServer) -> None:
    """Half of yesterday's table and half of today's would be a table that never was."""
    old, new = files.resources["/table.csv"], Resource(BODY[::-1], etag='"v2"')
    old.cuts = [1_000_000]

    def change(_: float) -> None:
        files.resources["/table.csv"] = new

    config = _config(files)
    run_fetch(config, tmp_path, pause=change)
    assert fetched_files(config, tmp_path)[0].read_bytes() == new.body


def test_a_file_that_shrank_meanwhile_is_fetched_from_the_start(tmp_path: Path, files: FileServer) -> None:
    """The server then has no such range, or ignores it; both must end in the new file."""
    files.resources["/table.csv"].cuts = [1_000_000]

    def shrink(_: float) -> None:
        files.resources["/table.csv"] = Resource(BODY[:500_000])

    config = _config(files)
    run_fetch(config, tmp_path, pause=shrink)
    assert fetched_files(config, tmp_path)[0].read_bytes() == BODY[:500_000]


def test_a_line_that_stays_dead_ends_in_one_error_and_the_next_run_goes_on(
    tmp_path: Path, files: FileServer
) -> None:
    """The user sees what is kept, and pays for no byte twice."""
    config, pauses = _config(files), list[float]()
    files.resources["/table.csv"].cuts = [1_000_000, 0, 0, 0]
    with pytest.raises(SourceError, match=r"gave up after 4 attempts: .*1,000,000 bytes are kept.*goes on"):
        run_fetch(config, tmp_path, pause=pauses.append)
    assert pauses == [0.5, 1.0, 2.0]
    assert not visible_files(tmp_path)
    assert _run(config, tmp_path) == BODY
    assert files.seen[-1].headers["range"] == "bytes=1000000-"


def test_no_server_at_all_is_one_error(tmp_path: Path) -> None:
    """Behind a wrong address or a closed port."""
    with serve_files() as files:
        config = _config(files)
    with pytest.raises(SourceError, match=r"gave up after 4 attempts: .*refused"):
        run_fetch(config, tmp_path, pause=lambda _: None)
    assert not visible_files(tmp_path)


def test_a_resumed_body_is_still_held_to_the_pinned_digest(tmp_path: Path, files: FileServer) -> None:
    """A server may send the wrong bytes under the right ETag; then nothing is kept to go on from."""
    config = _config(files, hashlib.sha256(BODY).hexdigest())
    files.resources["/table.csv"].cuts = [1_000_000]

    def swap(_: float) -> None:
        files.resources["/table.csv"].body = bytes(len(BODY))

    with pytest.raises(SourceError, match="it is not used"):
        run_fetch(config, tmp_path, pause=swap)
    assert not visible_files(tmp_path)
    assert not hidden_files(tmp_path)
    files.resources["/table.csv"].body = BODY
    assert _run(config, tmp_path) == BODY


def test_killed_half_way_the_next_run_goes_on(tmp_path: Path, files: FileServer) -> None:
    """kill -9 leaves nothing that a reader could take for the table, and no lock that stays shut."""
    config, release = _config(files), threading.Event()
    table = files.resources["/table.csv"]
    table.cuts, table.hold = [1_000_000], lambda: release.wait(_DEADLINE_S)
    process = _start_fetch(config, tmp_path)
    try:
        _wait_for_bytes(tmp_path, 1_000_000)
    finally:
        process.kill()
        process.communicate()
        release.set()
    assert process.returncode == -signal.SIGKILL
    assert not visible_files(tmp_path)
    assert _run(config, tmp_path) == BODY
    assert files.seen[-1].headers["range"] == "bytes=1000000-"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_half_way_the_next_run_goes_on(
    tmp_path: Path, files: FileServer, number: signal.Signals
) -> None:
    """As the first process of a container, with a server that has gone silent."""
    config, release = _config(files), threading.Event()
    table = files.resources["/table.csv"]
    table.cuts, table.hold = [1_000_000], lambda: release.wait(_DEADLINE_S)
    try:
        with starting(_fetch_words(config, tmp_path / "data"), tmp_path / "log") as fetch:
            _wait_for_bytes(tmp_path / "data", 1_000_000)
            fetch.end(number)
    finally:
        release.set()
    assert not visible_files(tmp_path / "data")
    assert _run(config, tmp_path / "data") == BODY
    assert files.seen[-1].headers["range"] == "bytes=1000000-"


def test_two_fetches_of_one_source_make_one_download(tmp_path: Path, files: FileServer) -> None:
    """Two models of one source started side by side must not write into each other's file."""
    config, release = _config(files), threading.Event()
    table = files.resources["/table.csv"]
    table.cuts, table.hold = [1_000_000], lambda: release.wait(_DEADLINE_S)
    first = _start_fetch(config, tmp_path)
    second = None
    try:
        _wait_for_bytes(tmp_path, 1_000_000)
        second = _start_fetch(config, tmp_path)
        assert second.stderr is not None
        assert "waiting for it" in second.stderr.readline()
    finally:
        release.set()
        answers = [process.communicate(timeout=_DEADLINE_S) for process in (first, second) if process]
    assert [process.returncode for process in (first, second) if process] == [0, 0], answers
    assert [json.loads(out)["skipped"] for out, _ in answers] == [False, True]
    assert [seen.headers.get("range") for seen in files.seen] == [None, "bytes=1000000-"]


def test_a_full_disk_is_one_clear_error_that_frees_what_was_written(
    tmp_path: Path, files: FileServer
) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write in the same place."""
    config = _config(files)
    process = _start_fetch(config, tmp_path, _FILE_LIMIT_BYTES)
    _, said = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 3, said
    assert "the disk is full or a size limit is reached" in said
    assert "point DATA at another disk" in said
    assert "Traceback" not in said
    assert not visible_files(tmp_path)
    assert not hidden_files(tmp_path)
    assert _run(config, tmp_path) == BODY


@pytest.fixture(params=[pytest.param(version, id=f"pip-{version}") for version in list_oldest_and_newest()])
def wheel(
    request: pytest.FixtureRequest, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> PackageSource:
    """A wheel of three megabytes on the file server, which is all that pip may ask."""
    packed = make_zip(
        {
            "big_data/table.csv": BODY,
            "big_data-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: big-data\nVersion: 1.0\n",
            "big_data-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
            "big_data-1.0.dist-info/RECORD": b"",
        }
    )
    name = "big_data-1.0-py3-none-any.whl"
    files.resources[f"/{name}"] = Resource(packed, content_type="application/zip")
    files.resources["/"] = Resource(f'<a href="/{name}">{name}</a>'.encode(), content_type="text/html")
    use_pip(monkeypatch, request.param, files.url + "/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    return PackageSource(
        package="big-data",
        version="1.0",
        python_version="3.7",
        platform="any",
        sha256=hashlib.sha256(packed).hexdigest(),
        member="big_data/table.csv",
        member_sha256=hashlib.sha256(BODY).hexdigest(),
    )


def hold_download(files: FileServer) -> tuple[threading.Event, threading.Event]:
    """Hold the wheel's first download after a megabyte: one event is set then, the other lets it go on."""
    asked, release = threading.Event(), threading.Event()
    served = files.resources["/big_data-1.0-py3-none-any.whl"]

    def hold() -> None:
        asked.set()
        release.wait(_DEADLINE_S)

    served.cuts, served.hold = [1_000_000], hold
    return asked, release


def test_killed_while_pip_downloads_the_next_run_starts_again(
    tmp_path: Path, files: FileServer, wheel: PackageSource
) -> None:
    """pip outlives its killed parent for a while; what it still writes must not reach the new run."""
    asked, release = hold_download(files)
    process = _start_fetch(config_for(wheel), tmp_path)
    try:
        assert asked.wait(_DEADLINE_S)
    finally:
        process.kill()
    try:
        run_fetch(config_for(wheel), tmp_path)
        assert fetched_files(config_for(wheel), tmp_path)[0].read_bytes() == BODY
    finally:
        release.set()
        process.communicate(timeout=_DEADLINE_S)  # ends when the orphaned pip lets go of the pipe
    assert process.returncode == -signal.SIGKILL


def test_asked_to_end_while_pip_downloads_no_pip_is_left(
    tmp_path: Path, files: FileServer, wheel: PackageSource
) -> None:
    """It is ended with the fetch, here an ordinary child: it would go on writing beside the next one."""
    asked, release = hold_download(files)
    words = _fetch_words(config_for(wheel), tmp_path / "data")
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])
    try:
        with starting(words, tmp_path / "log", is_first=False, environment={"PYTHONPATH": path}) as fetch:
            assert asked.wait(_DEADLINE_S)
            assert len(fetch.find().children()) == 1
            fetch.end()
    finally:
        release.set()
    assert not visible_files(tmp_path / "data")
    run_fetch(config_for(wheel), tmp_path / "data")
    assert not hidden_files(tmp_path / "data")
    assert fetched_files(config_for(wheel), tmp_path / "data")[0].read_bytes() == BODY


def test_a_wheel_that_breaks_off_for_good_is_one_error_that_leaves_nothing(
    tmp_path: Path, files: FileServer, wheel: PackageSource
) -> None:
    """Old pips take half a wheel for the whole one, newer ones ask for the rest: the user reads the same."""
    files.resources["/big_data-1.0-py3-none-any.whl"].cuts = [1_000_000, *[0] * 50]
    with pytest.raises(SourceError, match=r"^package big-data 1\.0: .*the download broke off") as refused:
        run_fetch(config_for(wheel), tmp_path)
    assert "WARNING" not in str(refused.value)
    assert not visible_files(tmp_path)
    assert not hidden_files(tmp_path)


def test_a_wheel_that_breaks_off_once_is_whole_at_the_latest_in_the_next_run(
    tmp_path: Path, files: FileServer, wheel: PackageSource
) -> None:
    """Whether the rest is asked for is the pip's own matter; half a wheel must never be used."""
    files.resources["/big_data-1.0-py3-none-any.whl"].cuts = [1_000_000]
    try:
        run_fetch(config_for(wheel), tmp_path)
    except SourceError:
        assert not visible_files(tmp_path)
        assert not hidden_files(tmp_path)
    run_fetch(config_for(wheel), tmp_path)
    assert fetched_files(config_for(wheel), tmp_path)[0].read_bytes() == BODY


@pytest.mark.usefixtures("files")
def test_a_disk_that_is_full_for_pip_is_one_clear_error(tmp_path: Path, wheel: PackageSource) -> None:
    """The write fails in another process here, and its words must come through."""
    process = _start_fetch(config_for(wheel), tmp_path, _FILE_LIMIT_BYTES)
    _, said = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 3, said
    assert "pip could not download the wheel" in said
    assert "A size limit for files is in force" in said
    assert not visible_files(tmp_path)
    assert not hidden_files(tmp_path)
