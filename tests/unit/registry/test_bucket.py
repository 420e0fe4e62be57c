"""The contract of an object store, in a folder and with two servers; what only a bucket has; half servers."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import psutil
import pytest

from tests.support.manifests import publish_tiny
from tests.support.s3_server import S3Server, serve_localbucket, serve_moto, serve_rclone, serve_s3
from timberline.registry.bucket import BucketStore
from timberline.registry.errors import DamageError, DigestMismatchError, RegistryError
from timberline.registry.folder import FolderStore
from timberline.registry.objects import CLAIM_FILE, ObjectStore
from timberline.registry.refusals import WrongNameError
from timberline.registry.store import open_store

SECRET = "s3cr3t-k3y-0123456789"
BIG = 100_000_000
NewStore = Callable[[], ObjectStore]


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process's environment lead to the server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real server with the bucket ``contract``."""
    with serve_s3(tmp_path_factory.mktemp("seaweed"), secret_key=SECRET) as server:
        server.make_bucket("contract")
        yield server


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Another, which has flat keys, with the bucket ``contract``."""
    with serve_moto(tmp_path_factory.mktemp("moto")) as server:
        server.make_bucket("contract")
        yield server


@pytest.fixture(params=["seaweed", "moto"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Each of the two in turn, with the environment leading to it."""
    server: S3Server = request.getfixturevalue(request.param)
    use(server, monkeypatch)
    return server


@pytest.fixture(params=["folder", "seaweed", "moto"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewStore:
    """Opens a store that is empty at first, the same one each time."""
    if request.param == "folder":
        return lambda: FolderStore(tmp_path / "store")
    use(request.getfixturevalue(request.param), monkeypatch)
    return lambda: BucketStore(f"s3://contract/{tmp_path.name}")


@pytest.fixture
def objects(new_store: NewStore) -> ObjectStore:
    """An empty store."""
    return new_store()


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path) -> BucketStore:
    """An empty store in a bucket."""
    return BucketStore(f"s3://contract/{tmp_path.name}")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_put_is_read(objects: ObjectStore) -> None:
    """Read in each of the ways that there are, and with nothing there as well."""
    data = bytes(range(256)) * 10
    objects.put("a/b.bin", b"before")
    objects.put("a/b.bin", data)
    tagged = objects.read_tagged("a/b.bin")
    assert objects.read("a/b.bin") == data
    assert tagged is not None
    assert tagged.data == data
    assert objects.find_size("a/b.bin") == len(data)
    assert objects.read_known("a/b.bin", sha256(data), len(data)) == (data, sha256(data))
    assert objects.digest("a/b.bin") == sha256(data)
    assert objects.open_file("a/b.bin", sha256(data), len(data)).read_bytes() == data
    assert objects.read_many(["a/b.bin", "a/none", "a/b.bin"]) == [data, None, data]
    nothing = [objects.read("a/x"), objects.read_tagged("a/x"), objects.find_size("x")]
    assert [*nothing, objects.read_known("x", "", 1)] == [None] * 4
    with pytest.raises(FileNotFoundError):
        objects.digest("a/x")


def test_an_absent_key_is_put_once(objects: ObjectStore) -> None:
    """The promise that numbers and the log of an alias rest on."""
    assert objects.put_if_absent("a/1.json", b"first")
    assert not objects.put_if_absent("a/1.json", b"second")
    assert objects.read("a/1.json") == b"first"


def test_a_swap_is_made_by_who_saw_the_last_bytes(objects: ObjectStore) -> None:
    """The promise that the head of an alias rests on; also where it is not there (any more)."""
    objects.put("head.json", b"1")
    first = objects.read_tagged("head.json")
    assert first is not None
    assert objects.put_if_same("head.json", b"2", first.tag)
    assert not objects.put_if_same("head.json", b"3", first.tag)
    assert objects.read("head.json") == b"2"
    assert not objects.put_if_same("none.json", b"4", first.tag)
    assert objects.read("none.json") is None


def test_one_of_many_writers_is_told_that_it_won(new_store: NewStore) -> None:
    """In each of the two ways, with threads of one store and with stores of their own."""
    store, start = new_store(), threading.Barrier(8)
    store.put("head", b"0")
    seen = store.read_tagged("head")
    assert seen is not None

    def write(number: int) -> tuple[bool, bool]:
        mine = store if number % 2 else new_store()
        start.wait()
        data = f"writer {number}".encode()
        return mine.put_if_absent("taken", data), mine.put_if_same("head", data, seen.tag)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(write, range(8)))
    created = [number for number, (won, _) in enumerate(told) if won]
    assert [store.read("taken")] == [f"writer {number}".encode() for number in created]
    if store.is_remote:  # in a folder another writer's bytes may be replaced, says the contract
        swapped = [number for number, (_, won) in enumerate(told) if won]
        assert [store.read("head")] == [f"writer {number}".encode() for number in swapped]


def test_lists_name_what_is_there_and_nothing_of_the_store(objects: ObjectStore) -> None:
    """A version is found by a list; ``1`` is no beginning of ``10`` (as in a bucket's bare prefixes)."""
    assert objects.list_keys() == objects.list_names() == []
    for key in ("m/1/manifest.json", "m/1/model.onnx", "m/10/manifest.json", "m/aliases/a/1.json", "top"):
        objects.put(key, key.encode())
    assert objects.list_keys("m/1") == ["m/1/manifest.json", "m/1/model.onnx"]
    assert objects.list_keys("m") == [key for key in objects.list_keys() if key != "top"]
    assert objects.list_names("m") == ["1/", "10/", "aliases/"]
    assert objects.list_names() == ["m/", "top"]
    assert objects.list_keys("none") == objects.list_names("none") == []
    assert objects.list_sizes("m/1") == {"manifest.json": 17, "model.onnx": 14}
    assert objects.list_sizes("m") == {"1": None, "10": None, "aliases": None}
    with pytest.raises(FileNotFoundError):
        objects.list_sizes("none")


@pytest.mark.parametrize(
    "name", ["sp ace", "ünïcode", "per%20cent", "a+b", "#?&=;", "*[x]~^", "a'b\"c", "1:2", "x" * 200]
)
def test_odd_names_are_the_same_in_lists_and_when_read(objects: ObjectStore, name: str) -> None:
    """What others copied into a registry is found, named and read; nothing is decoded once too often."""
    objects.put(f"m/{name}", name.encode())
    assert objects.list_keys("m") == [f"m/{name}"]
    assert objects.list_names("m") == [name]
    assert objects.read(f"m/{name}") == name.encode()


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", ".staging/x", "a\\b", "a\x00"])
def test_a_key_that_leads_elsewhere_is_refused(objects: ObjectStore, key: str) -> None:
    """Keys are built from names that others chose."""
    actions: list[Callable[[], object]] = [
        lambda: objects.read(key),
        lambda: objects.put(key, b""),
        lambda: objects.put_if_absent(key, b""),
        lambda: objects.digest(key),
    ]
    if key:  # which is the whole store
        actions += [lambda: objects.list_keys(key), lambda: objects.list_names(key)]
    for act in actions:
        with pytest.raises(RegistryError, match="is not a key"):
            act()


def test_no_more_than_the_bound_is_read(objects: ObjectStore) -> None:
    """A record of some bytes that has gigabytes must not fill the memory."""
    objects.put("a", b"12345")
    assert objects.read("a", 5) == b"12345"
    reads: list[Callable[[], object]] = [
        lambda: objects.read("a", 4),
        lambda: objects.read_tagged("a", most_bytes=4),
        lambda: objects.read_known("a", "", 3),
    ]
    for read in reads:
        with pytest.raises(DamageError, match="has more than 4 bytes"):
            read()
    (answer,) = objects.read_many(["a"], 4)
    assert isinstance(answer, DamageError)


def test_a_commit_appears_once_and_whole(objects: ObjectStore) -> None:
    """A loser's files stay where they are, for the next number."""
    for text in (b"one", b"two"):
        with objects.open_staging() as staged:
            (staged / "model.onnx").write_bytes(text)
            (staged / "manifest.json").write_bytes(b"{}")
            is_first = text == b"one"
            assert objects.commit(staged, "m/1", last="manifest.json") is is_first
            if not is_first:
                assert sorted(path.name for path in staged.iterdir()) == ["manifest.json", "model.onnx"]
                assert objects.commit(staged, "m/2", last="manifest.json")
        assert not staged.exists()
    assert [objects.read(f"m/{number}/model.onnx") for number in (1, 2)] == [b"one", b"two"]
    names = {"manifest.json", "model.onnx", *([CLAIM_FILE] if objects.is_remote else [])}
    assert set(objects.list_names("m/1")) == names


def test_a_commit_writes_the_last_file_last(bucket: BucketStore, server: S3Server) -> None:
    """A bucket has no rename: a version is there when its manifest is."""
    with bucket.open_staging() as staged:
        (staged / "a").mkdir()  # cannot be sent
        (staged / "manifest.json").write_bytes(b"{}")
        with pytest.raises(OSError, match="directory"):
            bucket.commit(staged, "m/1", last="manifest.json")
    assert bucket.list_names("m/1") == [CLAIM_FILE]
    with bucket.open_staging() as staged:
        (staged / "manifest.json").write_bytes(b"{}")
        assert not bucket.commit(staged, "m/1", last="manifest.json")


def test_an_unchanged_object_is_not_sent_again(bucket: BucketStore) -> None:
    """What a service asks for every some seconds costs no bytes while nothing moves."""
    bucket.put("head", b"state 1")
    seen = bucket.read_tagged("head")
    assert seen is not None
    assert bucket.read_tagged("head", seen.tag) == (b"", seen.tag)
    bucket.put("head", b"state 2")
    changed = bucket.read_tagged("head", seen.tag)
    assert changed is not None
    assert changed.data == b"state 2"
    assert changed.tag != seen.tag


def test_a_file_with_other_bytes_is_not_opened(bucket: BucketStore) -> None:
    """A copy is verified as it comes, and one that is wrong does not stay."""
    bucket.put("file", b"right")
    path = bucket.open_file("file", sha256(b"right"), 5)
    assert bucket.open_file("file", sha256(b"right"), 5) == path
    with pytest.raises(DigestMismatchError, match="has digest"):
        bucket.open_file("file", sha256(b"wrong"), 5)
    with pytest.raises(DamageError, match="has more than 4 bytes"):
        bucket.open_file("file", sha256(b"wron"), 4)
    with pytest.raises(DigestMismatchError, match="is missing"):
        bucket.open_file("none", sha256(b"none"), 4)
    assert list(path.parent.iterdir()) == [path]


def test_hidden_names_and_markers_of_folders_are_not_listed(bucket: BucketStore, server: S3Server) -> None:
    """Consoles make a folder by an empty object ``name/``; obstore lists that as ``name``."""
    raw = server.open("s3://contract")
    folder = bucket.location.removeprefix("s3://contract/")
    for key in ("m/1/manifest.json", "m/.DS_Store", ".timberline/x", ".staging/a", "m/empty"):
        obstore.put(raw, f"{folder}/{key}", b"")
    for marker in ("", "m", "m/1", "m/9"):
        put_raw(server, f"contract/{folder}/{marker}/".replace("//", "/"))
    assert bucket.list_keys("m") in (
        ["m/1/manifest.json", "m/9/", "m/empty"],
        ["m/1/manifest.json", "m/empty"],  # this server lists no empty folder
    )
    assert bucket.list_keys() == bucket.list_keys("m")
    assert set(bucket.list_names("m")) - {"9/"} == {"1/", "empty"}
    assert bucket.list_names() == ["m/"]


def put_raw(server: S3Server, path: str) -> None:
    """Put an empty object under a key that obstore would not put."""
    bucket, _, key = path.partition("/")
    # A URL that is signed for a key with a letter behind cannot be used for the key without: moto asks for no
    # signature; SeaweedFS makes folders of its own accord.
    if server.is_open:
        request = urllib.request.Request(f"{server.endpoint}/{bucket}/{key}", data=b"", method="PUT")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30):
            pass


def test_a_name_that_cannot_be_listed_is_told(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of `aws s3 cp`, ``//``, keeps the client from listing anything; who reads that has to act."""
    use(moto, monkeypatch)
    moto.make_bucket("slips")
    put_raw(moto, "slips/m//model.onnx")
    with pytest.raises(WrongNameError, match=r"cannot be listed: 'm//model.onnx'. Remove that object"):
        BucketStore("s3://slips").list_keys()


@pytest.mark.usefixtures("server")
def test_a_server_that_proves_itself_is_asked_once(bucket: BucketStore) -> None:
    """Else each command would pay for eight requests. The proof leaves nothing behind but its result."""
    bucket.put("m/a", b"1")
    raw = bucket._client
    own = [each["path"] for page in obstore.list(raw, ".timberline/") for each in page]
    assert own == [".timberline/conditions.json"]
    before = obstore.head(raw, own[0])["last_modified"]
    other = BucketStore(bucket.location)
    other.put("m/b", b"2")
    assert other.put_if_absent("m/c", b"3")
    assert [each["path"] for page in obstore.list(raw, ".timberline/") for each in page] == own
    assert obstore.head(raw, own[0])["last_modified"] == before
    assert bucket.list_keys() == ["m/a", "m/b", "m/c"]


@pytest.mark.parametrize(
    ("serve_half", "missing"),
    [(serve_rclone, "ignores If-None-Match"), (serve_localbucket, "ignores If-Match")],
    ids=["rclone", "localbucket"],
)
def test_half_a_server_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve_half: Any, missing: str
) -> None:
    """Two releases at once would each be told that they won. It can still be read."""
    with serve_half(tmp_path) as half:
        use(half, monkeypatch)
        url = half.make_bucket("registry")
        store = open_store(f"{url}/prefix")
        writes: list[Callable[[], object]] = [
            lambda: store.objects.put("m/a", b""),
            lambda: store.objects.put_if_absent("m/a", b""),
            lambda: store.objects.put_if_same("m/a", b"", "tag"),
            lambda: publish_tiny(store),
        ]
        for write in writes:
            with pytest.raises(RegistryError, match=f"{missing}.*Nothing was written"):
                write()
        assert store.models() == []
        assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("server")
def test_a_missing_bucket_is_told_to_readers_and_writers(server: S3Server) -> None:
    """A slip in its name must not look like an empty registry."""
    store = open_store("s3://no-such-bucket/prefix")
    with pytest.raises(FileNotFoundError, match=r"no such bucket. The bucket has to be there: create it"):
        store.versions("tiny")
    with pytest.raises(FileNotFoundError, match="no such bucket"):
        publish_tiny(store)


def test_100_mb_pass_in_little_memory(seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training data beside a model must not decide how large a machine is: parts go as they are read."""
    use(seaweed, monkeypatch)
    bucket, process = BucketStore("s3://contract/large"), psutil.Process()
    block = bytes(range(256)) * 4000
    with bucket.open_staging() as staged:
        with (staged / "large").open("wb") as file:
            file.writelines([block] * (BIG // len(block)))
        (staged / "manifest.json").write_bytes(b"{}")
        expected = sha256((staged / "large").read_bytes())
        size = (staged / "large").stat().st_size
        before, peaks, is_over = process.memory_info().rss, [0], threading.Event()

        def watch() -> None:
            while not is_over.wait(0.01):
                peaks.append(process.memory_info().rss - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert bucket.commit(staged, "m/1", last="manifest.json")
            assert bucket.find_size("m/1/large") == size
            assert bucket.digest("m/1/large") == expected
            assert bucket.open_file("m/1/large", expected, size).stat().st_size == size
        finally:
            is_over.set()
            watcher.join()
    assert max(peaks) < BIG * 0.8
