"""A registry in a bucket: who asks and when, what is remembered, and what a service starts with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.forked import run_forked
from tests.support.remote_store import open_remote
from tests.support.tiny_model import point_alias, publish_numeric
from timberline.inference.config import ServiceConfig
from timberline.inference.errors import RegistryUnreachableError
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.board import Board, create_board
from timberline.inference.models.follower import Asker
from timberline.inference.models.loaded import LoadedModels, _HeadUnmoved
from timberline.inference.models.recall import Recollection, spell
from timberline.registry.aliases import read_alias
from timberline.registry.errors import VersionNotFoundError
from timberline.registry.names import ModelRef
from timberline.registry.store import MODEL_FILE


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Remote:
    """A registry with tiny@1 in production and tiny@2, and services of it on one cache."""

    def __init__(self, folder: Path) -> None:
        self.store, self.objects, self.cache = open_remote(folder / "registry", folder / "cache")
        publish_numeric(self.store)
        publish_numeric(self.store, alias=None, scale=-1.0)
        self.clock = Clock()

    def open_models(self, model: str = "tiny", **settings: Any) -> LoadedModels:
        """Models that are not loaded yet."""
        config = ServiceConfig(model=model, registry=self.store.location, **settings)
        notes = Recollection(self.cache, self.store.location)
        return LoadedModels(
            lambda: self.store, config, ServiceMetrics(), clock=self.clock, cache=self.cache, notes=notes
        )

    def move(self, version: int, alias: str = "production") -> None:
        """Point an alias of tiny."""
        point_alias(self.store, "tiny", alias, version)


@pytest.fixture
def remote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Remote:
    """A registry of the test's own."""
    caplog.set_level("INFO", "inference")
    return Remote(tmp_path)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Events in the log since the last call."""
    events = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return events


# The board


def test_what_one_process_writes_all_others_read() -> None:
    """Workers learn of a move, and of an outage, from the one that asks."""
    fd = create_board()
    here = Board(fd)

    def act() -> bool:
        there = Board(fd)
        there.note_answer(12.5)
        there.tell_moved()
        return there.note_failure(20.25) and not there.note_failure(21.0)

    assert run_forked(act)
    assert (here.moves, here.answered_at, here.failing_since) == (1, 12.5, 20.25)
    assert (here.seen_moves, Board(fd).seen_moves) == (0, 1)
    here.note_answer(30.0)
    assert here.failing_since == 0.0


def test_one_process_asks_at_a_time_and_another_when_it_has_ended() -> None:
    """Every worker that asks costs as much as a service; none that asks is a service that follows nothing."""
    fd = create_board()
    assert run_forked(lambda: Board(fd).lead())  # and ends with its lock held
    here = Board(fd)
    assert here.lead()
    assert here.lead()
    assert run_forked(lambda: not Board(fd).lead())


# Asking


def open_asker(remote: Remote, models: LoadedModels, board: Board, every_s: float = 20.0) -> Asker:
    """One whose pauses are the mean."""
    return Asker(models, board, every_s, clock=remote.clock, draw=lambda low, high: (low + high) / 2)


def ask(remote: Remote, asker: Asker, after_s: float = 20.0) -> None:
    """Let time pass."""
    remote.clock.now += after_s
    asker.ask_if_due()


@given(every_s=st.floats(0.01, 1000), failures=st.integers(0, 2000))
def test_each_pause_is_drawn_around_its_mean(every_s: float, failures: int) -> None:
    """A thousand services that were started at once must not ask at once for ever; nor never again."""
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    models = LoadedModels(lambda: None, ServiceConfig(model="a"), ServiceMetrics())  # type: ignore[arg-type, return-value]
    asker = Asker(models, Board(), every_s, clock=lambda: 0.0, draw=draw)
    assert drawn.pop() == (0.5 * every_s, 1.5 * every_s)
    asker._failures = failures
    asker._note_failure(ConnectionError())
    low, high = drawn.pop()
    assert high == 3 * low
    assert every_s <= (low + high) / 2 * (1 + 1e-9)
    assert (low + high) / 2 <= max(300.0, every_s) * (1 + 1e-9)


def test_a_question_is_one_about_a_tag_and_every_tenth_about_the_whole_alias(remote: Remote) -> None:
    """Nine of ten cost one request that is answered with 304."""
    models, board = remote.open_models(), Board()
    models.load()
    asker = open_asker(remote, models, board)
    asker.ask_if_due()
    assert board.moves == 0  # it is not time yet
    ask(remote, asker)
    assert board.moves == 1  # whoever begins to ask has everybody look
    models.look()
    for number in range(2, 21):
        remote.objects.asked.clear()
        ask(remote, asker)
        records = sum(count for key, count in remote.objects.asked.items() if key.startswith("log/"))
        assert (remote.objects.asked["tag"], records > 0) == (1, number % 10 == 0)
    assert board.moves == 1
    remote.move(2)
    ask(remote, asker)
    assert board.moves == 2
    assert board.answered_at > 0


def test_a_move_without_its_head_is_found_by_the_tenth_question(remote: Remote) -> None:
    """Its promoter was killed between the record and the head."""
    models, board = remote.open_models(), Board()
    models.load()
    asker = open_asker(remote, models, board)
    ask(remote, asker)
    models.look()
    head = remote.store.objects.read("tiny/aliases/production/head.json")
    assert head is not None
    remote.move(2)
    remote.store.objects.put("tiny/aliases/production/head.json", head)
    for _ in range(8):
        ask(remote, asker)
    assert board.moves == 1
    ask(remote, asker)
    assert board.moves == 2
    change = models.look()
    assert change is not None
    assert change.table.default.version == 2


def test_a_bucket_that_fails_is_asked_less_often_and_told_once(
    remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    """Its bad hour must not become worse by a thousand services; the log is no place to count questions."""
    models, board = remote.open_models(), Board()
    models.load()
    asker = open_asker(remote, models, board)
    ask(remote, asker)
    told(caplog)
    remote.objects.failing = ""
    for pause_s in (20, 40, 80, 160, 300, 300):
        remote.objects.asked.clear()
        ask(remote, asker, pause_s - 0.01)
        assert not remote.objects.asked
        ask(remote, asker, 0.01)
        assert remote.objects.asked
        assert board.failing_since
    assert told(caplog) == ["registry does not answer"]
    remote.objects.failing = None
    before = board.moves
    ask(remote, asker, 300)
    assert (board.failing_since, board.moves) == (0.0, before + 1)  # all look: it may have moved meanwhile
    assert told(caplog) == ["registry answers again"]
    remote.objects.asked.clear()
    ask(remote, asker, 20)
    assert remote.objects.asked["tag"] == 1


def test_a_head_that_is_no_head_is_told_once_and_is_no_outage(
    remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage in the bucket is the alias's, and the version that is served stays."""
    models, board = remote.open_models(), Board()
    models.load()
    asker = open_asker(remote, models, board)
    ask(remote, asker)
    models.look()
    told(caplog)
    remote.store.objects.put("tiny/aliases/production/head.json", b"x" * (2 << 20))
    before = board.moves
    for _ in range(3):
        ask(remote, asker)
        models.look()
    assert (board.moves, board.failing_since) == (before + 1, 0.0)
    assert told(caplog) == ["alias not readable"]


def test_a_pinned_version_is_asked_for_until_it_is_confirmed(remote: Remote) -> None:
    """It never moves: after that nothing is worth a request."""
    remote.open_models("tiny@1").load()
    remote.objects.failing = ""
    models, board = remote.open_models("tiny@1"), Board()
    models.load()
    asker = open_asker(remote, models, board)
    ask(remote, asker)
    assert board.failing_since
    remote.objects.failing = None
    ask(remote, asker, 60)
    assert not board.failing_since
    models.look()
    assert not models.unconfirmed
    remote.objects.asked.clear()
    for _ in range(3):
        ask(remote, asker)
    assert not remote.objects.asked


# What is remembered


def test_a_reference_is_remembered_as_itself(remote: Remote, tmp_path: Path) -> None:
    """`tiny` and `tiny@production` are one; another alias, registry or server is another."""
    version = remote.store.open_version("tiny", 1)
    record = read_alias(remote.store, "tiny", "production")
    notes = Recollection(remote.cache, "s3://a/b", "http://one")
    notes.keep(ModelRef("tiny"), version.manifest, version.digests.manifest_sha256, record)
    found = notes.find(ModelRef("tiny", alias="production"))
    assert found is not None
    assert (found.version, found.record) == (1, record)
    assert found.manifest_sha256 == version.digests.manifest_sha256
    assert notes.find(ModelRef("tiny", alias="candidate")) is None
    assert notes.find(ModelRef("tiny", version=1)) is None
    assert Recollection(remote.cache, "s3://a/c", "http://one").find(ModelRef("tiny")) is None
    assert Recollection(remote.cache, "s3://a/b", "http://two").find(ModelRef("tiny")) is None
    assert spell(ModelRef("tiny", version=7)) == "tiny@7"


def change_field(tree: dict[str, Any]) -> None:
    tree["future"] = 1


def change_reference(tree: dict[str, Any]) -> None:
    tree["reference"] = "tiny@other"


def change_schema(tree: dict[str, Any]) -> None:
    tree["schema_version"] = 2


@pytest.mark.parametrize("change", [change_field, change_reference, change_schema])
def test_a_note_of_another_form_is_none(remote: Remote, change: Callable[[dict[str, Any]], None]) -> None:
    """A newer release wrote it: what it says is not guessed at."""
    version = remote.store.open_version("tiny", 1)
    notes = Recollection(remote.cache, "s3://a/b")
    notes.keep(ModelRef("tiny"), version.manifest, version.digests.manifest_sha256, None)
    name = " s3://a/b tiny@production"
    data = remote.cache.read_note(name)
    assert data is not None
    tree = json.loads(data)
    change(tree)
    remote.cache.write_note(name, json.dumps(tree).encode())
    assert notes.find(ModelRef("tiny")) is None
    remote.cache.write_note(name, b"no JSON")
    assert notes.find(ModelRef("tiny")) is None


# Starting


@pytest.mark.parametrize("model", ["tiny", "tiny@production", "tiny@1"])
def test_what_was_served_is_served_again_without_the_bucket(
    remote: Remote, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A note, a manifest and a graph are all that a start takes."""
    assert remote.open_models(model).load().default.version == 1
    remote.objects.failing = ""
    models = remote.open_models(model)
    told(caplog)
    assert models.load().default.version == 1
    assert models.unconfirmed == {("tiny", 1)}
    assert told(caplog) == ["started from the cache"]
    assert models.look() is None  # still down
    told(caplog)
    remote.objects.failing = None
    change = models.look()
    assert change is not None
    assert (change.swaps, change.unconfirmed, change.table.default.version) == ([], frozenset(), 1)
    assert told(caplog) == ["version confirmed"]
    assert models.look() is None


def test_a_move_that_was_missed_is_followed_afterwards(remote: Remote) -> None:
    """The version of before is served for as long as it must, and no longer."""
    remote.open_models().load()
    remote.move(2)
    models = remote.open_models()
    remote.objects.failing = ""
    assert models.load().default.version == 1
    remote.objects.failing = None
    change = models.look()
    assert change is not None
    assert (change.unconfirmed, change.table.default.version) == (frozenset(), 2)


def test_a_version_that_cannot_be_fetched_leaves_the_one_before(remote: Remote) -> None:
    """The bucket says where the alias points, and fails before the graph has come."""
    remote.open_models().load()
    remote.move(2)
    remote.objects.failing = f"2/{MODEL_FILE}"
    models = remote.open_models()
    assert models.load().default.version == 1
    assert models.unconfirmed == {("tiny", 1)}
    remote.objects.failing = None
    change = models.look()
    assert change is not None
    assert change.table.default.version == 2


def test_a_canary_comes_from_the_cache_too(remote: Remote) -> None:
    """The share of requests that it answers is not to change by an outage."""
    remote.move(2, alias="candidate")
    remote.open_models(canary="candidate=0.5").load()
    remote.objects.failing = ""
    models = remote.open_models(canary="candidate=0.5")
    table = models.load()
    assert table.canary is not None
    assert (table.default.version, table.canary.version) == (1, 2)
    assert models.unconfirmed == {("tiny", 1), ("tiny", 2)}


def test_a_canary_that_is_in_no_cache_is_left_out(remote: Remote) -> None:
    """The main version serves without, as it does without the alias."""
    remote.open_models().load()
    remote.move(2, alias="candidate")
    remote.objects.failing = ""
    table = remote.open_models(canary="candidate=0.5").load()
    assert (table.default.version, table.canary) == (1, None)


def test_an_outage_that_another_worker_has_met_is_not_met_again(remote: Remote) -> None:
    """Each question to a bucket that hangs takes seconds, in which a worker answers nobody."""
    remote.open_models().load()
    remote.objects.asked.clear()
    remote.objects.failing = ""
    assert remote.open_models().load(outage=ConnectionError("known")).default.version == 1
    assert not remote.objects.asked


@pytest.mark.parametrize("copy", ["none", "damaged"])
def test_what_another_worker_has_met_may_be_over(remote: Remote, copy: str) -> None:
    """It asks again only after minutes; a worker that has nothing to start with asks for itself."""
    if copy == "damaged":
        remote.open_models().load()
        assert remote.cache.folder is not None
        for path in (remote.cache.folder / "sha256").iterdir():
            path.write_bytes(b"")
    models = remote.open_models()
    assert models.load(outage=ConnectionError("known")).default.version == 1
    assert models.unconfirmed == (frozenset() if copy == "none" else {("tiny", 1)})


def test_an_answer_is_no_outage(remote: Remote) -> None:
    """A bucket that says that there is no such alias is believed, whatever a cache remembers."""
    remote.open_models().load()
    for key in remote.store.objects.list_keys("tiny/aliases"):
        Path(remote.objects._store._root, key).unlink()  # type: ignore[attr-defined]
    with pytest.raises(VersionNotFoundError):
        remote.open_models().load()


@pytest.mark.parametrize("lost", ["manifest", "graph", "note"])
def test_a_start_with_half_a_copy_fails_and_says_what_to_do(remote: Remote, lost: str) -> None:
    """A version that is not whole is not served."""
    live = remote.open_models().load().default
    digest = live.manifest_sha256 if lost == "manifest" else live.manifest.files[MODEL_FILE].sha256
    folder = remote.cache.folder
    assert folder is not None
    (note,) = (folder / "notes").iterdir()
    (note if lost == "note" else folder / "sha256" / digest).unlink()
    remote.objects.failing = ""
    with pytest.raises(RegistryUnreachableError) as caught:
        remote.open_models().load()
    text = str(caught.value)
    assert text.startswith("tiny@production: s3://models/registry cannot be asked, and there is nothing")
    assert str(folder) in text
    assert "See that the bucket answers" in text


def test_without_a_cache_the_sentence_says_so(remote: Remote) -> None:
    """`--cache-bytes 0` has its price."""
    config = ServiceConfig(model="tiny", registry=remote.store.location)
    remote.objects.failing = ""
    with pytest.raises(RegistryUnreachableError, match="as there is no cache"):
        LoadedModels(lambda: remote.store, config, ServiceMetrics()).load()


def test_a_pinned_version_that_is_another_by_now_keeps_its_statement(
    remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    """The bytes that are served are not those that the bucket has: that is for a person to decide."""
    remote.open_models("tiny@1").load()
    remote.objects.failing = ""
    models = remote.open_models("tiny@1")
    models.load()
    remote.objects.failing = None
    manifest = Path(remote.objects._store._root, "tiny/1/manifest.json")  # type: ignore[attr-defined]
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    told(caplog)
    assert models.look() is None
    assert models.look() is None
    assert told(caplog) == ["version not confirmed"]
    assert models.unconfirmed == {("tiny", 1)}


def test_a_trial_asks_for_the_head_now_and_then(remote: Remote) -> None:
    """It is held against the alias every half second, which in a bucket would cost a request each."""
    record = read_alias(remote.store, "tiny", "production")
    assert record is not None
    unmoved = _HeadUnmoved(remote.store, record, 20.0, remote.clock)
    remote.objects.asked.clear()
    assert all(unmoved() for _ in range(5))
    assert not remote.objects.asked
    remote.clock.now += 20
    assert unmoved()
    remote.clock.now += 20
    remote.objects.failing = ""
    assert unmoved()  # what cannot be read has not moved
    remote.objects.failing = None
    remote.move(2)
    assert unmoved()
    remote.clock.now += 20
    assert not unmoved()


# Metrics


def test_gauges_say_what_living_processes_know() -> None:
    """`GET /` and alerts are made from them; of a folder there is nothing to say."""
    metrics = ServiceMetrics()
    assert "\nregistry_up " not in write_page(metrics)
    metrics.note_registry(0.0, 5.0)
    metrics.show_from_cache({("tiny", 1), ("tiny", 2)})
    page = write_page(metrics)
    assert "\nregistry_up 1.0\n" in page
    assert '\nmodel_from_cache{model="tiny",version="1"} 1.0\n' in page
    metrics.note_registry(7.0, 5.0)
    metrics.show_from_cache({("tiny", 2)})
    page = write_page(metrics)
    assert "\nregistry_up 0.0\n" in page
    assert 'model_from_cache{model="tiny",version="1"}' not in page
    assert 'model_from_cache{model="tiny",version="2"} 1.0' in page


def write_page(metrics: ServiceMetrics) -> str:
    """The page as a scrape gets it."""
    return metrics.write_page("")[0].decode()
