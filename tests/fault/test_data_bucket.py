"""Data in a bucket, on a real server: whole after every kill, damage found, two machines at once."""

from __future__ import annotations

import functools
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.fresh import draw_table, lay_out, publish_on
from tests.support.s3_proxy import Asked, Fault, S3Proxy, serve_proxy
from tests.support.s3_server import S3Server, serve_s3
from tests.support.share_child import FILES, FOLDER, fill
from tests.support.tables import HEADER, NAME, SmallTable, rows
from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.data_bucket import DataBucket
from timberline.registry.errors import DigestMismatchError, RegistryError, StageError
from timberline.registry.runtime.documents import decode_json, encode_document
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.receipts import RECEIPT, Output, SharedReceipt
from timberline.registry.runtime.stages import Stage, require_receipt
from timberline.registry.runtime.working_copy import WorkingCopy, open_data, share_folder
from timberline.registry.store import Store
from timberline.training.data.etl import run_etl
from timberline.training.data.fetch import run_fetch
from timberline.training.errors import DatasetError

SECRET = "only-a-test-9b7a"
_logger = logging.getLogger("tests")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that the module's tests share."""
    with serve_s3(tmp_path_factory.mktemp("s3"), secret_key=SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[S3Proxy]:
    """What stands between the tests and the server."""
    with serve_proxy(server.endpoint) as running:
        yield running


@pytest.fixture
def location(
    request: pytest.FixtureRequest, server: S3Server, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A place in a bucket for one test, reached through the proxy."""
    for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint}.items():
        monkeypatch.setenv(name, value)
    proxy.clear()
    return f"s3://data/{digest_bytes(request.node.name.encode())[:12]}"


def machine(location: str, folder: Path, *, kept_s: float = 86_400) -> WorkingCopy:
    """The working copy of a machine of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return WorkingCopy(DataBucket(location), folder, kept_s=kept_s)


def share(copy: WorkingCopy, text: str) -> SharedReceipt:
    """Fill the folder with files about ``text`` and put it."""
    folder = copy.root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    outputs = {}
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {text}" * 100, "utf-8")
        outputs[name] = Output.of(path)
    copy.share(folder, SharedReceipt("etl", {"text": text}, outputs))
    found = copy.receipt(folder)
    assert found
    return found


def read(location: str, folder: Path) -> str:
    """What a new machine finds: the text that all files are about; "" if there is nothing.

    Fails if they are not about one text.
    """
    copy = machine(location, folder)
    receipt = copy.receipt(folder / FOLDER)
    if receipt is None:
        return ""
    copy.bring(folder / FOLDER)
    text = receipt.inputs["text"]
    for name in FILES:
        assert (folder / FOLDER / name).read_text("utf-8") == f"{name} {text}" * 100
    return text


def child(location: str, text: str, cache: Path, **more: str) -> subprocess.Popen[str]:
    """Start the stage of `tests.support.share_child` on a machine of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.share_child", location, text],
        env={**os.environ, "TIMBERLINE_CACHE": str(cache), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_and_kill(proxy: S3Proxy, number: int, start: Callable[[], subprocess.Popen[str]]) -> bool:
    """Kill a process as it makes its request of this number; False if it ended before."""
    running: list[subprocess.Popen[str]] = []
    is_started = threading.Event()

    def kill(asked: Asked) -> Fault | None:
        if asked.number < number:
            return None
        is_started.wait()
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        return "refuse"

    proxy.clear()
    proxy.decide = kill
    running.append(start())
    is_started.set()
    _, log = running[0].communicate()
    proxy.settle()
    proxy.clear()
    assert running[0].returncode in (0, -signal.SIGKILL), log
    return running[0].returncode != 0


def test_a_kill_at_any_request_leaves_the_old_state_or_the_new_one(
    location: str, proxy: S3Proxy, tmp_path: Path
) -> None:
    """A spot machine goes away whenever it likes; what trains meanwhile reads one table, not two."""
    share(machine(location, tmp_path / "first"), "old")
    found: list[str] = []
    is_killed = True
    while is_killed:
        number = len(found) + 1
        cache = tmp_path / f"cache-{number}"
        is_killed = run_and_kill(proxy, number, functools.partial(child, location, "new", cache))
        found.append(read(location, tmp_path / f"reader-{number}"))
        if is_killed:
            share(machine(location, tmp_path / f"again-{number}"), "old")
    assert found[-1] == "new"
    assert {"old", "new"} == set(found)
    assert len(found) > len(FILES) + 3


def test_a_stage_that_is_done_is_skipped_and_nothing_of_it_is_fetched(
    location: str, proxy: S3Proxy, tmp_path: Path
) -> None:
    """The second container pays two small requests, whatever the size of the table."""
    share(machine(location, tmp_path / "first"), "old")
    proxy.clear()
    done = child(location, "old", tmp_path / "second")
    _, log = done.communicate()
    assert done.returncode == 0, log
    assert "skipped" in log
    # A list of the files and their sizes; one that is answered late is asked for again.
    asked = dict.fromkeys((seen.asked.method, seen.asked.path.rpartition("/")[2]) for seen in proxy.seen)
    assert list(asked) == [("GET", RECEIPT), ("GET", "data")]
    assert list((tmp_path / "second").rglob("*.txt")) == []


def test_what_is_here_with_the_right_bytes_is_not_fetched_again(
    location: str, proxy: S3Proxy, tmp_path: Path
) -> None:
    """Stages on one machine share its copy."""
    share(machine(location, tmp_path / "first"), "old")
    assert read(location, tmp_path / "second") == "old"
    (tmp_path / "second" / FOLDER / FILES[1]).write_text("changed", "utf-8")
    proxy.clear()
    assert read(location, tmp_path / "second") == "old"
    assert proxy.count("GET", part=".txt") == 1


@pytest.mark.parametrize("damage", [b"first.txt new" * 100, b"", b"first.txt old" * 101, None])
def test_damage_is_found_by_its_digest_and_named(location: str, tmp_path: Path, damage: bytes | None) -> None:
    """Half a table trains a network that looks well."""
    receipt = share(machine(location, tmp_path / "first"), "old")
    key = f"{FOLDER}/{receipt.folder}/{FILES[0]}"
    bucket = DataBucket(location)
    if damage is None:
        bucket.remove([key])
    else:
        bucket.replace(key, damage)
    with pytest.raises(RegistryError) as refused:
        read(location, tmp_path / "second")
    assert f"{location}/{key}" in str(refused.value)
    assert not (tmp_path / "second" / FOLDER / FILES[0]).exists()
    assert not (tmp_path / "second" / FOLDER / RECEIPT).exists()


def test_a_file_that_is_gone_makes_its_stage_run_again(location: str, tmp_path: Path) -> None:
    """Somebody tidied up the bucket: the same command puts it right."""
    receipt = share(machine(location, tmp_path / "first"), "old")
    DataBucket(location).remove([f"{FOLDER}/{receipt.folder}/{FILES[0]}"])
    done = child(location, "old", tmp_path / "second")
    _, log = done.communicate()
    assert (done.returncode, "skipped" in log) == (0, False), log
    assert read(location, tmp_path / "third") == "old"


@pytest.mark.parametrize("name", ["../../escaped.txt", "/escaped.txt", "a/./b.txt"])
def test_a_receipt_cannot_name_a_file_elsewhere_on_this_machine(
    location: str, tmp_path: Path, name: str
) -> None:
    """Who may write the bucket is not to write the home folders of all who train from it."""
    receipt = SharedReceipt("etl", {}, {name: Output("0" * 64, 1)}, "0" * 12)
    DataBucket(location).replace(f"{FOLDER}/{RECEIPT}", encode_document(receipt))
    copy = machine(location, tmp_path / "deep" / "below")
    with pytest.raises(RegistryError, match="is not a key"):
        copy.bring(copy.root / FOLDER)
    assert list(tmp_path.rglob("*escaped*")) == []


def test_a_reader_gets_what_its_receipt_names_though_it_was_replaced(location: str, tmp_path: Path) -> None:
    """An etl may finish while a training fetches its rows."""
    writer, reader = machine(location, tmp_path / "writer"), machine(location, tmp_path / "reader")
    share(writer, "old")
    assert reader.receipt(reader.root / FOLDER)
    share(writer, "new")
    reader.bring(reader.root / FOLDER)
    assert (reader.root / FOLDER / FILES[0]).read_text("utf-8") == f"{FILES[0]} old" * 100


def test_two_machines_at_once_leave_the_work_of_one_of_them(location: str, tmp_path: Path) -> None:
    """Two pipelines of one model, started by two people: no reader finds a mixture."""
    share(machine(location, tmp_path / "before"), "zero")
    texts: list[str] = []
    for number in range(6):
        barrier = threading.Barrier(2)

        def run(name: str, number: int = number, barrier: threading.Barrier = barrier) -> None:
            copy = machine(location, tmp_path / f"{name}{number}")
            barrier.wait()
            share(copy, f"{name}{number}")

        threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        texts.append(read(location, tmp_path / f"beside{number}"))
        for thread in threads:
            thread.join()
        texts.append(read(location, tmp_path / f"after{number}"))
        assert texts[-1] in (f"one{number}", f"two{number}")
    assert all(texts)


def test_what_no_receipt_names_goes_after_its_time_and_not_before(location: str, tmp_path: Path) -> None:
    """A table a week fills a bucket; but whoever reads the one before is not to lose it under way."""
    copy = machine(location, tmp_path / "writer")
    generations = [share(copy, text).folder for text in ("one", "two", "three")]
    assert list_generations(location) == set(generations)
    DataBucket(location).replace(f"{FOLDER}/notes.txt", b"a user's own")
    impatient = machine(location, tmp_path / "impatient", kept_s=0)
    last = share(impatient, "four").folder
    # The one before stays: its readers have had no time yet.
    assert list_generations(location) == {generations[-1], last}
    assert DataBucket(location).read(f"{FOLDER}/notes.txt")
    assert read(location, tmp_path / "reader") == "four"


def list_generations(location: str) -> set[str]:
    """Folders of files in the bucket."""
    keys = [item.key.removeprefix(f"{FOLDER}/") for item in DataBucket(location).list_items(FOLDER)]
    return {key.split("/")[0] for key in keys if "/" in key}


def test_equal_outputs_are_not_put_again(location: str, proxy: S3Proxy, tmp_path: Path) -> None:
    """A new release of the program runs a stage again, mostly with the same result."""
    first = share(machine(location, tmp_path / "first"), "old")
    copy = machine(location, tmp_path / "second")
    proxy.clear()
    copy.bring(copy.root / FOLDER)
    copy.share(copy.root / FOLDER, SharedReceipt("etl", {"text": "old", "code": "new"}, first.outputs))
    assert proxy.count("PUT", part=".txt") == 0
    assert list_generations(location) == {first.folder}


def test_a_copy_of_a_local_folder_is_read(location: str, tmp_path: Path) -> None:
    """Who moves to a bucket copies his folder with `aws s3 sync`."""
    fill(Stage("etl", tmp_path / FOLDER, {"text": "old"}))
    bucket = DataBucket(location)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        bucket.replace(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    assert read(location, tmp_path / "reader") == "old"


def test_what_could_not_be_put_is_not_done_again(
    location: str, proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of an hour is not trained again because the bucket was away for a minute."""
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path))
    proxy.decide = lambda asked: 403 if asked.method == "PUT" else None
    with open_data(location) as data:
        stage = Stage("train", data / FOLDER, {"text": "old"})
        with pytest.raises(OSError, match="access is refused"):
            fill(stage)
    proxy.clear()
    with open_data(location) as data:
        assert Stage("train", data / FOLDER, {"text": "old"}).is_current(_logger)
    assert read(location, tmp_path / "reader") == "old"


def test_a_bucket_that_cannot_be_reached_is_one_line(location: str, server: S3Server, tmp_path: Path) -> None:
    """Exit code 3: the environment failed. The line is for whoever has to set the variables."""
    wrong: dict[str, Callable[[], dict[str, str]]] = {
        "no server": lambda: {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        "another account": lambda: {"AWS_SECRET_ACCESS_KEY": "not-the-secret-7c1d"},
    }
    for name, environment in wrong.items():
        done = child(location, "old", tmp_path / name, **environment())
        out, log = done.communicate()
        assert (done.returncode, out) == (3, ""), log
        (line,) = log.splitlines()
        assert location in line
        assert "mount" not in line
        assert SECRET not in line
        assert "not-the-secret" not in line


def test_a_full_disk_is_one_line_that_says_where_to_make_room(location: str, tmp_path: Path) -> None:
    """Containers have small disks; a traceback of a download names no variable."""
    share(machine(location, tmp_path / "first"), "old" * 20_000)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from pathlib import Path\n"
        "from timberline.registry.runtime.cli import run_command\n"
        "from timberline.registry.runtime.working_copy import bring, open_data\n"
        "def run():\n"
        "    with open_data(sys.argv[1]) as data: bring(data / sys.argv[2])\n"
        "    return 0\n"
        "sys.exit(run_command('training', run))"
    )
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", code, location, FOLDER],
        env={**os.environ, "TIMBERLINE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert "no room" in line
    assert "TIMBERLINE_CACHE" in line
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_copy_lies_where_this_machine_has_room_for_it(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only root: TMPDIR is what there is. A folder that was named has to do, or is refused."""
    monkeypatch.setenv("TIMBERLINE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_data(f"{location}/") as data:
        assert data.is_relative_to(tmp_path / f"timberline-cache-{os.geteuid()}")
    assert data.is_dir(), "the next command goes on with it"
    assert (tmp_path / f"timberline-cache-{os.geteuid()}").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "named"))
    with open_data(location) as data:
        assert data.is_relative_to(tmp_path / "named")
    monkeypatch.setenv("TIMBERLINE_CACHE", "off")
    with open_data(location) as data:
        assert data.parent == tmp_path
    assert not data.exists()
    monkeypatch.setenv("TIMBERLINE_CACHE", "/proc/none")
    with pytest.raises(PermissionError, match="/proc/none"), open_data(location):
        pass


def test_the_receipt_in_the_bucket_names_where_the_files_are(location: str, tmp_path: Path) -> None:
    """Other programs find the rows by one small document."""
    found = share(machine(location, tmp_path / "first"), "old")
    data = DataBucket(location).read(f"{FOLDER}/{RECEIPT}")
    assert data is not None
    receipt = decode_json(data, SharedReceipt)
    assert receipt == found
    text = DataBucket(location).read(f"{FOLDER}/{receipt.folder}/{FILES[2]}")
    assert text == f"{FILES[2]} old".encode() * 100


def test_a_digest_that_differs_is_an_error_of_its_own_kind(location: str, tmp_path: Path) -> None:
    """Whoever calls from Python tells damage from a network that fails."""
    receipt = share(machine(location, tmp_path / "first"), "old")
    DataBucket(location).replace(f"{FOLDER}/{receipt.folder}/{FILES[0]}", b"first.txt new" * 100)
    with pytest.raises(DigestMismatchError, match="its receipt says"):
        read(location, tmp_path / "second")


def test_files_of_this_machine_come_along_in_their_order(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that prepares the table does not see the files; two of one name are two files."""
    table = SmallTable(tmp_path, path="parts/*/table.csv")
    for part, start in (("b", 60), ("a", 0)):
        (tmp_path / "parts" / part).mkdir(parents=True)
        lines = [HEADER, *rows(60, start)]
        (tmp_path / "parts" / part / "table.csv").write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "first"))
    with open_data(location) as data:
        assert not run_fetch(table.config(), data)["skipped"]
        assert run_fetch(table.config(), data)["skipped"]
    shutil.rmtree(tmp_path / "parts")
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "second"))
    with open_data(location) as data:
        summary = run_etl(table.config(), table.models, data)
        prepared = pq.read_table(data / "prepared" / NAME / "train.parquet", columns=["__row__", "weight"])
    assert sum(summary["rows"].values()) == 120
    found = prepared.to_pydict()
    assert found["weight"] == [row / 8 for row in found["__row__"]]


def test_the_gate_reads_the_test_rows_from_the_bucket(
    location: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of two tables are asked about rows that only the machine of the etl has ever had."""
    table = draw_table(2000)
    numbers = {
        "champion": publish_on(store, draw_table(1200), alias="production"),
        "candidate": publish_on(store, table),
    }
    versions = {arm: store.open_version("tiny", number) for arm, number in numbers.items()}
    settings = load_gate_settings().accuracy
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "gate"))
    with open_data(location) as data:
        missing = judge_static(store, versions, settings, data=data, folder=tmp_path)
    assert f"{location}/prepared/tiny/test.parquet" in " ".join(line.reason for line in missing.lines)
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "etl"))
    with open_data(location) as data:
        lay_out(table, data)
        (data / "prepared" / "tiny" / "train.parquet").write_bytes(b"not for the gate")
        share_folder(data / "prepared" / "tiny", "etl")
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "gate"))
    with open_data(location) as data:
        found = judge_static(store, versions, settings, data=data, folder=tmp_path)
        assert [path.name for path in data.rglob("*.parquet")] == ["test.parquet"]
    assert {line.outcome for line in found.lines} == {"PASS", "INFO"}


def test_what_the_checks_found_is_in_the_bucket(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container is gone when somebody wants to know which rows broke a rule."""
    table = SmallTable(tmp_path, [*rows(60), "1000,2,0,0,north,true,absent"])
    monkeypatch.setenv("TIMBERLINE_CACHE", str(tmp_path / "cache"))
    with open_data(location) as data:
        run_fetch(table.config(), data)
        with pytest.raises(DatasetError, match=f"{location}/prepared/{NAME}.failed"):
            run_etl(table.config(), table.models, data)
    reader = machine(location, tmp_path / "reader")
    failed = reader.root / "prepared" / f"{NAME}.failed"
    reader.bring(failed)
    assert not all(check.passed for check in table.report(failed).checks)
    with open_data(location) as data:
        config = table.config("etl.max_reject_fraction=1", "checks.max_violation_fraction=1")
        run_etl(config, table.models, data)
    assert DataBucket(location).list_items(f"prepared/{NAME}.failed") == []


def test_a_damaged_receipt_is_none(location: str, tmp_path: Path) -> None:
    """As in a folder: the stage runs again and writes a whole one."""
    share(machine(location, tmp_path / "first"), "old")
    DataBucket(location).replace(f"{FOLDER}/{RECEIPT}", b'{"stage": "etl"')
    assert read(location, tmp_path / "second") == ""
    with pytest.raises(StageError, match=f"{location}/{FOLDER}: this stage has not run"):
        require_from(location, tmp_path / "cache")


def require_from(location: str, cache: Path) -> None:
    """Ask for the stage's receipt as the next stage does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIMBERLINE_CACHE", str(cache))
        with open_data(location) as data:
            require_receipt(data / FOLDER, "timberline etl model")
