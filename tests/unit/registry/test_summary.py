"""``summary.json``, and that commands say of a bucket what they say of a folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import obstore
import pytest

from tests.support.failing_store import FailingStore
from tests.support.manifests import build_verdict, give_verdict, publish_tiny
from tests.support.markdown import ROOT
from tests.support.s3_server import serve_s3
from timberline.benchmarks.history.releases import read_releases
from timberline.registry.__main__ import main
from timberline.registry.aliases import open_reference, read_head_tag, resolve
from timberline.registry.bucket import open_client
from timberline.registry.checks import check_versions
from timberline.registry.errors import DamageError, ManifestError, RegistryError
from timberline.registry.names import ModelRef
from timberline.registry.objects import CLAIM_FILE, MAX_BYTES, OnError, read_or_error
from timberline.registry.promotion import promote, rollback, set_alias, write_off
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.show import VersionSummary, summarise_versions
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.registry.summary import SUMMARY_FILE
from timberline.registry.verdict import VERDICT_FILE, encode_verdict
from timberline.registry.version import MANIFEST_FILE, key_of_version

SUMMARY = f"tiny/1/{SUMMARY_FILE}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real server, which this process's environment names."""
    with (
        serve_s3(tmp_path_factory.mktemp("server"), secret_key="summaries") as started,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, value in started.environment.items():
            patched.setenv(name, value)
        yield


@pytest.fixture
def bucket(server: None, request: pytest.FixtureRequest) -> Store:
    """An empty registry in a bucket that is there."""
    place = f"s3://summaries/{digest_bytes(request.node.name.encode())[:16]}"
    obstore.put(open_client(place), "README", b"so that the server makes the bucket")
    return open_store(place)


def fill(store: Store) -> None:
    """tiny: three versions that were judged, of which the second is void, and one that was not."""
    for outcome in ("PASS", "PASS", "BLOCK"):
        version = publish_tiny(store)
        give_verdict(store, "tiny", version, outcome)
        if outcome == "PASS":
            promote(store, "tiny", version)
    rollback(store, "tiny", reason="slow")
    set_alias(store, "tiny", "candidate", publish_tiny(store), reason="exported")


def remove(store: Store, key: str) -> None:
    """Delete an object."""
    obstore.delete(open_client(store.location), key)


def recompute(store: Store) -> list[VersionSummary]:
    """What a list shows if no summary can be used."""
    return summarise_versions(Store(Watched(store, hidden=SUMMARY_FILE)))


class Watched(FailingStore):
    """Notes what is asked for; ``hidden`` files are not there, and a write may be broken off."""

    def __init__(self, store: Store, *, hidden: str = "", most_writes: int | None = None) -> None:
        super().__init__(store.objects)
        self.asked: list[str] = []
        self.before_write: Callable[[str], object] = lambda _key: None
        self._hidden = hidden
        self._writes_left = most_writes

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        self.asked.append("list")
        return super().list_keys(prefix, on_error=on_error)

    def list_names(self, prefix: str = "") -> list[str]:
        self.asked.append("list")
        return super().list_names(prefix)

    def list_sizes(self, prefix: str) -> dict[str, int | None]:
        self.asked.append("list")
        return super().list_sizes(prefix)

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        self.asked.append(key.rpartition("/")[2])
        return None if self._hidden and key.endswith(self._hidden) else super().read(key, most_bytes)

    def read_many(
        self, keys: Sequence[str], most_bytes: int = MAX_BYTES
    ) -> list[bytes | OSError | RegistryError | None]:
        return [read_or_error(self, key, most_bytes) for key in keys]

    def put(self, key: str, data: bytes) -> None:
        if self._writes_left is not None:
            if not self._writes_left:
                raise ConnectionError("the process was killed")
            self._writes_left -= 1
        self.before_write(key)
        super().put(key, data)


def test_a_list_shows_the_same_of_both_stores(store: Store, bucket: Store) -> None:
    """Whoever moves a registry into a bucket sees what was there before."""
    fill(store)
    fill(bucket)
    shown = summarise_versions(bucket)
    assert shown == summarise_versions(store) == recompute(bucket)
    assert [each.verdict and (each.verdict.outcome, each.verdict.is_rolled_back) for each in shown] == [
        ("PASS", False),
        ("PASS", True),
        ("BLOCK", False),
        None,
    ]


def test_a_list_of_a_bucket_reads_one_small_object_a_version(bucket: Store) -> None:
    """A manifest has ninety times its bytes; a LIST of every file grows with what a gate leaves."""
    fill(bucket)
    watched = Watched(bucket)
    summarise_versions(Store(watched), "tiny")
    lists = watched.asked.count("list")
    assert watched.asked.count(SUMMARY_FILE) == 4
    assert not {MANIFEST_FILE, VERDICT_FILE, MODEL_FILE} & set(watched.asked)
    for _ in range(3):
        give_verdict(bucket, "tiny", publish_tiny(bucket))
    watched.asked.clear()
    summarise_versions(Store(watched), "tiny")
    assert (watched.asked.count("list"), watched.asked.count(SUMMARY_FILE)) == (lists, 7)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-40],
        lambda data: data.replace(b'"version": 1', b'"version": 2'),
        lambda data: data.replace(b'"schema_version": 1', b'"schema_version": 2'),
        lambda data: data.replace(b'"verdict": {', b'"verdicts": {'),
    ],
    ids=["empty", "cut", "another version's", "a later program's", "unknown key"],
)
def test_a_summary_that_cannot_be_used_is_computed_and_found(
    bucket: Store, damage: Callable[[bytes], bytes]
) -> None:
    """It is derived: losing it loses nothing, and damage is a line of `verify` until `repair` mends it."""
    give_verdict(bucket, "tiny", publish_tiny(bucket))
    whole = summarise_versions(bucket)
    data = bucket.objects.read(SUMMARY)
    assert data is not None
    assert damage(data) != data
    bucket.objects.put(SUMMARY, damage(data))
    assert summarise_versions(bucket) == whole
    (check,) = check_versions(bucket, None)
    assert not check.is_whole
    assert SUMMARY_FILE in check.findings
    assert write_off(bucket, "tiny", 1, reason="a flipped bit") == "has its summary again"
    assert bucket.objects.read(SUMMARY) == data
    assert check_versions(bucket, None)[0].is_whole


def test_every_flipped_bit_of_a_summary_is_found(bucket: Store, tmp_path: Path) -> None:
    """A list that shows another accuracy than the manifest's misleads whoever chooses by it."""
    give_verdict(bucket, "tiny", publish_tiny(bucket))
    folder = copy_down(bucket, tmp_path / "copy")
    opened = folder.open_version("tiny", 1)
    path = tmp_path / "copy" / SUMMARY
    data = path.read_bytes()
    assert not opened.check_summary()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        assert SUMMARY_FILE in opened.check_summary(), place


def test_a_version_without_summary_is_whole(bucket: Store) -> None:
    """A registry that was copied from a folder has none."""
    fill(bucket)
    whole = summarise_versions(bucket)
    remove(bucket, SUMMARY)
    assert summarise_versions(bucket) == whole
    assert all(check.is_whole for check in check_versions(bucket, None))


@pytest.mark.parametrize("writes", range(4))
def test_no_verdict_but_the_last_is_listed_wherever_a_gate_is_killed(bucket: Store, writes: int) -> None:
    """A list that goes on showing BLOCK, or PASS, for a version that was judged anew is acted upon."""
    publish_tiny(bucket)
    give_verdict(bucket, "tiny", 1, "BLOCK")
    version = Store(Watched(bucket, most_writes=writes)).open_version("tiny", 1)
    passing = encode_verdict(build_verdict("tiny", version.digests))
    if writes < 2:
        with pytest.raises(ConnectionError):
            version.write_document(VERDICT_FILE, passing)
    else:  # the verdict is written: a summary that is not does not make the gate fail
        version.write_document(VERDICT_FILE, passing)
    (shown,) = summarise_versions(bucket)
    assert [shown] == recompute(bucket)
    assert shown.verdict
    assert shown.verdict.outcome == ("BLOCK" if writes < 2 else "PASS")
    assert check_versions(bucket, None)[0].is_whole


def test_of_two_gates_at_once_the_last_verdict_is_listed(bucket: Store) -> None:
    """Each writes two files; the one that is overtaken between them would leave its own summary."""
    publish_tiny(bucket)
    watched = Watched(bucket)
    version = Store(watched).open_version("tiny", 1)
    other = encode_verdict(build_verdict("tiny", version.digests, outcome="BLOCK"))
    written: list[str] = []

    def overtake(key: str) -> None:
        written.append(key.rpartition("/")[2])
        if written == [SUMMARY_FILE, VERDICT_FILE, SUMMARY_FILE]:
            bucket.open_version("tiny", 1).write_document(VERDICT_FILE, other)

    watched.before_write = overtake
    version.write_document(VERDICT_FILE, encode_verdict(build_verdict("tiny", version.digests)))
    (shown,) = summarise_versions(bucket)
    assert shown.verdict
    assert shown.verdict.outcome == "BLOCK"
    assert check_versions(bucket, None)[0].is_whole


def test_a_publish_is_done_though_its_summary_cannot_be_written(
    bucket: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A publisher that is told of a failure publishes once more."""
    with caplog.at_level(logging.WARNING):
        assert publish_tiny(Store(Watched(bucket, most_writes=0))) == 1
    assert f"tiny@1: {SUMMARY_FILE} is not up to date" in caplog.text
    assert [each.version for each in summarise_versions(bucket)] == [1]
    assert bucket.objects.read(SUMMARY) is None


def test_a_broken_off_publish_is_no_damage(bucket: Store) -> None:
    """Its publisher may be at work; and the number that it took is nobody else's."""
    publish_tiny(bucket)
    bucket.objects.put(f"tiny/2/{CLAIM_FILE}", b"{}")
    bucket.objects.put(f"tiny/2/{MODEL_FILE}", b"half")
    assert [each.version for each in summarise_versions(bucket)] == [1]
    whole, unfinished = check_versions(bucket, None)
    assert whole.is_unfinished is msgspec.UNSET
    assert (unfinished.name, unfinished.is_whole, unfinished.is_unfinished) == ("tiny@2", True, True)
    assert publish_tiny(bucket) == 3
    write_off(bucket, "tiny", 2, reason="its machine is gone")
    assert [check.name for check in check_versions(bucket, None)] == ["tiny@1", "tiny@3"]


def test_files_of_no_version_are_strays_in_a_bucket_too(bucket: Store) -> None:
    """A list that passes over what it does not know hides a half-copied version."""
    publish_tiny(bucket)
    for key in ("tiny/7/model.onnx", "tiny/notes.txt", "tiny/old/1.json"):
        bucket.objects.put(key, b"{}")
    listed = [each.problem for each in summarise_versions(bucket) if each.problem]
    checked = [check.findings for check in check_versions(bucket, None) if not check.is_whole]
    assert sorted(listed) == sorted(checked)
    assert [problem.partition(":")[0] for problem in listed] == [
        "tiny/7",
        "tiny/notes.txt",
        "tiny/old/1.json",
    ]


def test_a_lost_version_is_a_line_of_the_list(bucket: Store) -> None:
    """Its summary alone, which is derived, is no version."""
    publish_tiny(bucket)
    publish_tiny(bucket)
    for name in (MANIFEST_FILE, MODEL_FILE, "evaluation.parquet", SUMMARY_FILE, CLAIM_FILE):
        remove(bucket, f"tiny/2/{name}")
    _, lost = summarise_versions(bucket)
    assert "tiny@2: was published" in str(lost.problem)


def test_a_version_that_is_published_meanwhile_is_not_lost(bucket: Store) -> None:
    """Names are listed page by page; the ledger of a new version comes on a later page than its folder."""
    publish_tiny(bucket)
    publish_tiny(bucket)

    class Late(FailingStore):
        def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
            keys = super().list_keys(prefix, on_error=on_error)
            return [key for key in keys if not key.startswith("tiny/2/")]

    assert [check.name for check in check_versions(Store(Late(bucket.objects)), None)] == ["tiny@1"]


def test_a_registry_may_be_copied_out_of_a_bucket_and_back(bucket: Store, tmp_path: Path) -> None:
    """`aws s3 sync` is all that a backup needs; a gate that runs on the copy keeps its summary."""
    fill(bucket)
    bucket.objects.put(f"tiny/9/{CLAIM_FILE}", b"{}")
    copy = copy_down(bucket, tmp_path / "copy")
    assert summarise_versions(copy) == summarise_versions(bucket)
    assert [check.is_whole for check in check_versions(copy, None)] == [True] * 7
    give_verdict(copy, "tiny", 4, "BLOCK")
    copy_up(tmp_path / "copy", bucket)
    (*_, last) = summarise_versions(bucket)
    assert last.verdict
    assert last.verdict.outcome == "BLOCK"
    assert all(check.is_whole for check in check_versions(bucket, None))
    assert publish_tiny(copy) == publish_tiny(bucket) == 10


def test_a_folder_that_was_copied_into_a_bucket_is_listed_alike(store: Store, bucket: Store) -> None:
    """Where somebody starts with a folder, the bucket begins as a copy of it."""
    fill(store)
    copy_up(Path(store.location), bucket)
    assert summarise_versions(bucket) == summarise_versions(store)
    assert check_versions(bucket, None) == check_versions(store, None)
    promote(bucket, "tiny", 4, force=True, reason="as good")
    assert write_off(bucket, "tiny", 4, reason="none") == ""


@pytest.mark.parametrize("action", [summarise_versions, lambda store: check_versions(store, None)])
@pytest.mark.parametrize("failing", [SUMMARY_FILE, MANIFEST_FILE, VERDICT_FILE, "log/", "ledger/"])
def test_a_bucket_that_does_not_answer_is_not_called_damaged(
    bucket: Store, action: Callable[[Store], object], failing: str
) -> None:
    """Whoever reads DAMAGED restores a copy; and five thousand timeouts one after the other take hours."""
    fill(bucket)
    remove(bucket, SUMMARY)
    asked = []

    class Lost(FailingStore):
        def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
            if failing in key:
                asked.append(key)
                raise ConnectionError(f"{key}: it did not answer in time")
            return super().read(key, most_bytes)

    with pytest.raises(ConnectionError, match="did not answer"):
        action(Store(Lost(bucket.objects)))
    assert asked


def test_names_of_what_lies_beside_a_version_are_not_for_its_files(store: Store, tmp_path: Path) -> None:
    """A file of that name would be overwritten by the next gate."""
    path = tmp_path / "file"
    path.touch()
    for name in (SUMMARY_FILE, CLAIM_FILE):
        with pytest.raises(ManifestError, match=name):
            store.publish("tiny", {MODEL_FILE: path, name: path}, lambda *_: pytest.fail("described"))
    assert store.versions("tiny") == []


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", "tiny"),
        ("show", "tiny@3"),
        ("verify",),
        ("verify", "tiny@production"),
        ("alias", "tiny"),
        ("rollback", "tiny"),
        ("promote", "tiny@4"),
        ("repair", "tiny@1", "--reason", "to be sure"),
        ("show", "tiny@9"),
    ],
    ids=" ".join,
)
def test_commands_say_the_same_of_both_stores(
    store: Store,
    bucket: Store,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> None:
    """A runbook for a folder holds for a bucket."""
    answers = []
    for place in (store, bucket):
        fill(place)
        code = main([*words, "--registry", place.location, "--json"])
        out = capsys.readouterr().out
        answers.append((code, out and _drop_random(msgspec.json.decode(out))))
    assert answers[0] == answers[1]


def _drop_random(value: Any) -> Any:
    """The same without what differs from run to run: times, nonces, and digests of what has them."""
    if isinstance(value, list):
        return [_drop_random(each) for each in value]
    if isinstance(value, dict):
        varying = {"moved_at", "nonce", "previous_sha256", "verdict_sha256"}
        return {name: _drop_random(each) for name, each in value.items() if name not in varying}
    return value


def test_the_history_is_the_same_of_both_stores(store: Store, bucket: Store) -> None:
    """It is drawn at every gate."""
    fill(store)
    fill(bucket)
    columns = [
        [
            (each.version, each.outcome, each.is_production, each.problem)
            for each in read_releases(place, "tiny")
        ]
        for place in (store, bucket)
    ]
    assert columns[0] == columns[1]
    assert len(columns[0]) == 4


def test_a_damaged_manifest_is_found_by_verify_and_nothing_is_served_by_its_summary(bucket: Store) -> None:
    """A list goes by the summary alone: it is no evidence of what lies there."""
    publish_tiny(bucket)
    key = f"{key_of_version('tiny', 1)}/{MANIFEST_FILE}"
    data = bucket.objects.read(key)
    assert data
    bucket.objects.put(key, data.replace(b"Tiny", b"Tidy"))
    assert summarise_versions(bucket)[0].problem is None
    assert not check_versions(bucket, None)[0].is_whole
    with pytest.raises(DamageError):
        bucket.open_version("tiny", 1)
    with pytest.raises(DamageError):
        promote(bucket, "tiny", 1, force=True, reason="no matter what")


# What docs/reference/registry.md says of a model of v versions of f files, a aliases, m moves: reads, lists
# and writes at most.
Load = Callable[[int, int, int, int], float]
ASKED: dict[str, tuple[Callable[[Store], object], tuple[tuple[str, Load], ...]]] = {
    "has the alias moved?": (
        lambda store: read_head_tag(store, "tiny", "production", "?"),
        (("1", lambda v, f, a, m: 1), ("", lambda v, f, a, m: 0), ("", lambda v, f, a, m: 0)),
    ),
    "`MODEL@production` is which version?": (
        lambda store: resolve(store, "tiny@production"),
        (("6", lambda v, f, a, m: 6), ("", lambda v, f, a, m: 0), ("", lambda v, f, a, m: 0)),
    ),
    "open that version and read its graph": (
        lambda store: open_reference(store, ModelRef("tiny")).read_file(MODEL_FILE),
        (("8", lambda v, f, a, m: 8), ("", lambda v, f, a, m: 0), ("", lambda v, f, a, m: 0)),
    ),
    "publish": (
        publish_tiny,
        (
            ("5 + a + m", lambda v, f, a, m: 5 + a + m),
            ("3 + 2 a", lambda v, f, a, m: 3 + 2 * a),
            ("4 + f, and for each", lambda v, f, a, m: 4 + f),
        ),
    ),
    "`promote`": (
        lambda store: promote(store, "tiny", 5),
        (
            ("27 + f + m", lambda v, f, a, m: 27 + f + m),
            ("3", lambda v, f, a, m: 3),
            ("2", lambda v, f, a, m: 2),
        ),
    ),
    "`rollback`": (
        lambda store: rollback(store, "tiny"),
        (
            ("22 + f + m", lambda v, f, a, m: 22 + f + m),
            ("3", lambda v, f, a, m: 3),
            ("2", lambda v, f, a, m: 2),
        ),
    ),
    "`list MODEL`": (
        lambda store: summarise_versions(store, "tiny"),
        (
            ("3 + v + 2 a + m", lambda v, f, a, m: 3 + v + 2 * a + m),
            ("6 + a + v / 500", lambda v, f, a, m: 6 + a + v / 500),
            ("", lambda v, f, a, m: 0),
        ),
    ),
    "`verify MODEL`": (
        lambda store: check_versions(store, ModelRef("tiny")),
        (
            ("3 + (5 + f) v + 4 a + m", lambda v, f, a, m: 3 + (5 + f) * v + 4 * a + m),
            ("6 + a + v", lambda v, f, a, m: 6 + a + v),
            ("", lambda v, f, a, m: 0),
        ),
    ),
}
# As they are billed.
KINDS = {"get": 0, "head": 0, "list": 1, "list_with_delimiter": 1, "put": 2}


@pytest.mark.parametrize("what", ASKED)
def test_commands_ask_no_more_than_the_page_says(
    bucket: Store, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request is paid for, and a service asks all day: bucket-costs.md goes by these."""
    fill(bucket)
    give_verdict(bucket, "tiny", publish_tiny(bucket))
    if is_rollback := what == "`rollback`":
        promote(bucket, "tiny", 5)
    counts = [0, 0, 0]

    def count(name: str) -> None:
        ask = getattr(obstore, name)

        def counting(*given: Any, **more: Any) -> Any:
            counts[KINDS[name]] += 1
            return ask(*given, **more)

        monkeypatch.setattr(obstore, name, counting)

    for name in KINDS:
        count(name)
    action, expected = ASKED[what]
    action(Store(open_store(bucket.location).objects))
    page = (ROOT / "docs" / "reference" / "registry.md").read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {what} |")]
    _, *cells = [cell.strip() for cell in row.strip("|").split("|")]
    for cell, (text, most), counted in zip(cells, expected, counts, strict=True):
        assert cell.startswith(text)
        assert bool(cell) == bool(text)
        assert counted <= most(5, 2, 2, 4 + is_rollback), counts


def copy_down(store: Store, folder: Path) -> Store:
    """The registry of a bucket as files, as `aws s3 sync` copies it."""
    for key in store.objects.list_keys():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(store.objects.read(key) or b"")
    return open_store(folder)


def copy_up(folder: Path, store: Store) -> None:
    """The files of a folder into a bucket; hidden ones stay, as `--exclude ".staging/*"` has it."""
    shutil.rmtree(folder / ".staging", ignore_errors=True)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.objects.put(path.relative_to(folder).as_posix(), path.read_bytes())
