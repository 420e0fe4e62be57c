"""Following aliases: what is published, what is refused, and what is told."""

from __future__ import annotations

import asyncio
import shutil
import weakref
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest

from tests.support.failing_store import FailingStore
from tests.support.manifests import remove_ledger_entry
from tests.support.registry_tree import folder_of
from tests.support.service import DEADLINE_S
from tests.support.tiny_model import (
    NUMERIC_COLUMNS,
    point_alias,
    publish_lean,
    publish_mixed,
    publish_numeric,
)
from timberline.inference.config import ServiceConfig
from timberline.inference.formats.request import Answer, Request
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.follower import Watcher
from timberline.inference.models.loaded import Change, LoadedModels, parse_models
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.inference.models.runner import Runner, WorkLimit
from timberline.inference.routes.predict import Predict
from timberline.registry.errors import ConfigError, DigestMismatchError, ManifestError, VersionNotFoundError
from timberline.registry.names import ModelRef
from timberline.registry.objects import MAX_BYTES
from timberline.registry.store import MODEL_FILE, Store, open_store


@pytest.fixture
def store(store: Store) -> Store:
    """A registry with tiny@1, which production points at, and tiny@2 of other answers."""
    publish_numeric(store)
    publish_numeric(store, alias=None, scale=-1.0)
    return store


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def open_models(
    store: Store, model: str = "tiny", clock: Clock | None = None, **settings: Any
) -> LoadedModels:
    """Models that are not loaded yet."""
    config = ServiceConfig(model=model, **settings)
    return LoadedModels(lambda: store, config, ServiceMetrics(), clock=clock or Clock())


def move(store: Store, version: int, alias: str = "production") -> None:
    """Point an alias of tiny somewhere else."""
    point_alias(store, "tiny", alias, version)


def look(models: LoadedModels) -> tuple[list[str], list[tuple[str, int | None, int]]]:
    """Versions that answer by the routing table, canary last; and what was swapped or refused."""
    change = models.look()
    assert change is not None
    swaps: list[tuple[str, int | None, int]] = [
        (swap.outcome, swap.from_version, swap.to_version) for swap in change.swaps
    ]
    return name(change.table), swaps


def name(table: RoutingTable) -> list[str]:
    """``model@version`` of everything that answers."""
    lists = [table.list_versions(model) for model in table.models]
    return [f"{live.model}@{live.version}" for versions in lists for live in versions]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Events in the log since the last call."""
    events = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return events


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inference")


def test_models_are_read_with_their_own_references() -> None:
    """One service may serve one model's production beside another's pinned version."""
    assert parse_models("a@production, b@3,c") == [
        ModelRef("a", alias="production"),
        ModelRef("b", version=3),
        ModelRef("c"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a@7,a@candidate", "model: model a is named twice. A second version of it is a canary: "),
        ("a,", "found ''"),
        ("a@7@8", "found 'a@7@8'"),
    ],
)
def test_models_that_cannot_be_read_stop_the_start(text: str, message: str) -> None:
    """Serving the first of two versions of a model would leave the second out without a word."""
    with pytest.raises(ConfigError) as caught:
        parse_models(text)
    assert message in str(caught.value)


def test_an_alias_is_followed_forward_and_back(store: Store) -> None:
    """A rollback is a move like any other, and the one that must not wait."""
    models = open_models(store)
    assert name(models.load()) == ["tiny@1"]
    assert models.look() is None
    move(store, 2)
    assert look(models) == (["tiny@2"], [("swapped", 1, 2)])
    assert models.look() is None
    move(store, 1)
    assert look(models) == (["tiny@1"], [("swapped", 2, 1)])


def test_a_move_to_the_version_that_is_live_loads_nothing(store: Store) -> None:
    """Somebody who promotes twice must not cost a reload in every worker."""
    models = open_models(store)
    before = models.load().default
    move(store, 1)
    assert models.look() is None
    move(store, 2)
    move(store, 1)  # between two looks: nothing has changed for those who ask
    assert models.look() is None
    assert models.load().default.session is not None
    assert before.version == 1


def test_a_pinned_version_stays_and_is_not_watched(store: Store) -> None:
    """Whoever pins a version decides themselves when it changes."""
    models = open_models(store, "tiny@1")
    models.load()
    assert not models.is_movable
    move(store, 2)
    assert models.look() is None


def test_each_model_follows_its_own_alias(store: Store) -> None:
    """A release of one model is no business of another's."""
    publish_mixed(store, alias="stable")
    models = open_models(store, "tiny,tiny_text@stable")
    assert name(models.load()) == ["tiny@1", "tiny_text@1"]
    publish_mixed(store, alias="stable")
    assert look(models) == (["tiny@1", "tiny_text@2"], [("swapped", 1, 2)])


def flip_byte(store: Store, version: int, file: str = MODEL_FILE) -> None:
    """Damage a file of tiny behind the registry's back."""
    path = folder_of(store.open_version("tiny", version)) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_version_is_refused_once_and_the_old_one_stays(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Verifying a large file at every look would be the damage's second victim."""
    models = open_models(store)
    models.load()
    flip_byte(store, 2)
    move(store, 2)
    assert look(models) == (["tiny@1"], [("refused", 1, 2)])
    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert record.getMessage() == "version refused"
    assert (fields["model"], fields["version"], fields["code"]) == ("tiny", 2, "digest_mismatch")
    assert "model.onnx has digest" in fields["why"]
    assert models.look() is None
    move(store, 1)
    assert models.look() is None


def test_a_manifest_rewritten_after_the_move_is_refused(store: Store) -> None:
    """Digests of files stand in the manifest; what holds the manifest itself is the alias's record."""
    models = open_models(store)
    models.load()
    move(store, 2)
    manifest = folder_of(store.open_version("tiny", 2)) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes().replace(b'"title": "', b'"title": "Other '))
    assert look(models) == (["tiny@1"], [("refused", 1, 2)])
    with pytest.raises(ManifestError, match="it was published with"):
        open_models(store).load()
    remove_ledger_entry(store, "tiny", 2)
    with pytest.raises(DigestMismatchError, match="the alias was moved to"):
        open_models(store).load()


def test_a_refused_version_is_tried_again_when_the_alias_moves(store: Store) -> None:
    """Mending the registry and promoting again is what an operator does."""
    models = open_models(store)
    models.load()
    flip_byte(store, 2)
    move(store, 2)
    assert look(models)[1] == [("refused", 1, 2)]
    flip_byte(store, 2)
    assert models.look() is None
    move(store, 2)
    assert look(models) == (["tiny@2"], [("swapped", 1, 2)])


def fail(store: Store) -> tuple[Store, FailingStore]:
    """The same registry on a disk that fails when told to."""
    objects = FailingStore(store.objects)
    return Store(objects), objects


@pytest.mark.parametrize("part", ["aliases/production", "2/model.onnx"])
def test_a_registry_that_cannot_be_read_is_asked_again(
    store: Store, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage says nothing about a version: one line in the log, and the swap when it is over."""
    broken, objects = fail(store)
    models = open_models(broken, clock=(clock := Clock()))
    models.load()
    move(store, 2)
    objects.failing = part
    assert [models.look() for _ in range(3)] == [None, None, None]
    assert len(told(caplog)) == 1
    objects.failing = None
    clock.now += 1
    assert look(models) == (["tiny@2"], [("swapped", 1, 2)])
    told(caplog)
    objects.failing = "aliases/production"
    assert models.look() is None
    assert told(caplog) == ["alias not readable"]  # a new outage is news


def test_a_registry_in_whose_place_is_a_file_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mount that went wrong for a minute must not end what is served, nor stay unsaid."""
    registry = tmp_path / "registry"
    store = open_store(registry)
    publish_numeric(store)
    publish_numeric(store, alias=None, scale=-1.0)
    models = LoadedModels(lambda: open_store(registry), ServiceConfig(model="tiny"), ServiceMetrics())
    models.load()
    told(caplog)
    registry.rename(tmp_path / "away")
    registry.touch()
    assert [models.look() for _ in range(3)] == [None] * 3
    assert (told(caplog), models.has_seen_all) == (["registry not readable"], False)
    registry.unlink()
    (tmp_path / "away").rename(registry)
    move(store, 2)
    assert look(models) == (["tiny@2"], [("swapped", 1, 2)])
    assert models.has_seen_all


def count_attempts(models: LoadedModels, clock: Clock, reads: Reads, seconds: int) -> list[int]:
    """In which of the next seconds a look read more than the alias."""
    attempts = []
    for second in range(1, seconds + 1):
        clock.now += 1
        before = reads.count
        assert models.look() is None
        if reads.count > before:
            attempts.append(second)
    return attempts


class Reads(FailingStore):
    """Counts how often a manifest is read."""

    count = 0

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        self.count += key.endswith("manifest.json")
        return super().read(key, most_bytes)


def test_what_may_become_whole_is_tried_again_with_growing_pauses(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Copies bring files in any order; asking a slow file server every second would slow the copy down."""
    reads = Reads(store.objects)
    models = open_models(Store(reads), clock=(clock := Clock()))
    models.load()
    (graph := folder_of(store.open_version("tiny", 2)) / MODEL_FILE).rename(
        graph.with_name(".model.onnx.part")
    )
    move(store, 2)
    assert look(models) == (["tiny@1"], [("refused", 1, 2)])
    assert count_attempts(models, clock, reads, 300) == [1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert told(caplog) == ["version refused"]
    graph.with_name(".model.onnx.part").rename(graph)
    clock.now += 60
    assert look(models) == (["tiny@2"], [("swapped", 1, 2)])


def test_what_no_byte_can_mend_is_tried_once_for_each_move(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A graph that is not what was promised costs a trial, and not one every minute for ever."""
    publish_numeric(store, alias=None, model_bytes=b"no graph")
    reads = Reads(store.objects)
    models = open_models(Store(reads), clock=(clock := Clock()))
    models.load()
    for _ in range(2):
        move(store, 3)
        assert look(models) == (["tiny@1"], [("refused", 1, 3)])
        assert count_attempts(models, clock, reads, 300) == []
        assert told(caplog) == ["version refused"]


def test_a_refusal_is_counted_once_and_told_when_its_reason_changes(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """First it is not whole, then whole and no good: one failed release, two things to know."""
    publish_numeric(store, alias=None, model_bytes=b"no graph")
    models = open_models(store, clock=(clock := Clock()))
    models.load()
    move(store, 3)
    (manifest := folder_of(store.open_version("tiny", 3)) / "manifest.json").rename(
        hidden := manifest.with_name(".m")
    )
    assert look(models) == (["tiny@1"], [("refused", 1, 3)])
    hidden.rename(manifest)
    clock.now += 1
    assert models.look() is None
    codes = [record.__dict__["fields"]["code"] for record in caplog.records]
    assert codes == ["damaged", "signature_mismatch"]


def test_a_switched_tree_with_other_bytes_under_the_same_number_is_followed(
    tmp_path: Path, store: Store
) -> None:
    """A link in front of a registry may lead to one that was built anew: numbers start at 1 there too."""
    other = open_store(tmp_path / "other")
    publish_numeric(other, scale=-1.0)
    places = [store]
    models = LoadedModels(lambda: places[0], ServiceConfig(model="tiny"), ServiceMetrics())
    models.load()
    assert models.look() is None
    places[0] = other
    assert look(models) == (["tiny@1"], [("swapped", 1, 1)])
    assert models.look() is None
    places[0] = store
    assert look(models) == (["tiny@1"], [("swapped", 1, 1)])


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_an_alias_that_is_gone_or_damaged_changes_nothing(
    store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was promoted yesterday is still the best that is known."""
    models = open_models(store)
    models.load()
    record = folder_of(store.open_version("tiny", 1)).parent / "aliases" / "production" / "1.json"
    if damage == "removed":
        shutil.rmtree(record.parents[1])
        shutil.rmtree(record.parents[2] / "heads")
    else:
        record.with_name("2.json").write_bytes(record.read_bytes()[:40])
    assert [models.look() for _ in range(3)] == [None, None, None]
    assert told(caplog) == ["alias gone" if damage == "removed" else "alias not readable"]


def test_a_canary_is_followed_promoted_and_then_off(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The whole life of a release; the promoted version is the very one that was the canary."""
    models = open_models(store, canary="candidate=0.1")
    assert name(models.load()) == ["tiny@1"]
    assert told(caplog) == ["canary off"]
    move(store, 2, "candidate")
    change = models.look()
    assert change is not None
    assert name(change.table) == ["tiny@1", "tiny@2"]
    assert told(caplog) == ["canary on"]
    move(store, 2)
    promoted = models.look()
    assert promoted is not None
    assert name(promoted.table) == ["tiny@2"]
    assert promoted.table.default is change.table.canary
    assert told(caplog) == ["canary off"]
    assert models.look() is None


def test_a_canary_that_is_refused_at_the_start_does_not_stop_it(store: Store) -> None:
    """A broken candidate must not keep production from starting."""
    flip_byte(store, 2)
    move(store, 2, "candidate")
    assert name(open_models(store, canary="candidate=0.1").load()) == ["tiny@1"]


def test_a_worker_that_joins_others_falls_back_to_what_they_serve(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """They refused the newest versions and go on; one that is started again must not end for it."""
    publish_numeric(store, alias=None)
    for version in (2, 3):
        flip_byte(store, version)
        move(store, version)
    with pytest.raises(DigestMismatchError):
        open_models(store).load()
    models = open_models(store)
    assert name(models.load(falls_back=True)) == ["tiny@1"]
    assert told(caplog) == ["version refused"] * 2
    assert models.look() is None


def test_a_pinned_canary_that_is_not_there_stops_the_start(store: Store) -> None:
    """Its number was written down by somebody; nothing will ever move it."""
    with pytest.raises(VersionNotFoundError):
        open_models(store, canary="9=0.1").load()


def test_a_shadow_goes_with_the_version_it_is_compared_with(store: Store) -> None:
    """After a swap its numbers are about another pair, and it is never asked about itself."""
    move(store, 2, "candidate")
    models = open_models(store, shadow="candidate=1")
    first = models.load()
    assert first.default.shadow is not None
    assert name(first) == ["tiny@1"]
    move(store, 2)
    change = models.look()
    assert change is not None
    assert (name(change.table), change.table.default.shadow) == (["tiny@2"], None)
    models.close()


def test_a_shadow_of_other_columns_is_off(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be asked about rows that it does not take, and that is no error of anybody's."""
    publish_mixed(store, "tiny", alias="candidate")
    models = open_models(store, shadow="candidate=1")
    assert models.load().default.shadow is None
    assert told(caplog) == ["shadow off"]
    models.close()


def test_a_shadow_of_fewer_columns_is_on(store: Store) -> None:
    """A candidate whose features read less can be asked about every row of the main version's."""
    publish_lean(store, alias="candidate")
    models = open_models(store, shadow="candidate=1")
    assert models.load().default.shadow is not None
    models.close()


def test_a_version_is_freed_with_its_last_request(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A version held for longer fills the memory; one freed earlier takes a request's answer away."""
    asyncio.run(hold_a_request(store, caplog))


async def hold_a_request(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Swap while a request for the old version waits for its thread."""
    config = ServiceConfig(model="tiny", inline_max_body_bytes=0)
    models = LoadedModels(lambda: store, config, metrics := ServiceMetrics())
    state = ServiceState(models.load())
    watcher = Watcher(models, state, metrics, every_s=0)
    metrics.add_model(state.live.metrics)
    old = weakref.ref(state.live.session)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit((may_go_on := Event()).wait, DEADLINE_S)
        predict = Predict(state, config, Runner(pool, WorkLimit(10, DEADLINE_S), 10))
        waiting = predict(Request("POST", "/predict", b"", [(b"content-type", b"application/json")], BODY))
        assert not isinstance(waiting, Answer)
        move(store, 2)
        publish(watcher, models.look())
        assert state.live.version == 2
        assert old() is not None
        assert told(caplog) == ["swap"]
        may_go_on.set()
        assert blocked.result()
        assert await version_of(waiting) == 1
    del waiting
    await asyncio.sleep(0)  # the turn of the loop that brought the answer holds it
    assert old() is None
    assert told(caplog) == ["retired"]


BODY = msgspec.json.encode({column.name: None if column.is_nullable else 1 for column in NUMERIC_COLUMNS[:2]})


def publish(watcher: Watcher, change: Change | None) -> None:
    """Publish, and keep nothing of it."""
    assert change is not None
    watcher.publish(change)


async def version_of(coming: Awaitable[Answer]) -> int:
    """The version that an answer names in body and header alike."""
    answer = await coming
    version: int = msgspec.json.decode(answer.body)["version"]
    assert (b"x-model-version", b"tiny@%d" % version) in answer.headers
    return version
