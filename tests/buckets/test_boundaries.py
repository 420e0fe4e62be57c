"""A client of a bucket is killed at its requests, readers beside: the old state or the new one.

The kills fall on one registry that goes on growing, so each meets what those before it have left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.support.places import BucketPlace, new_prefix
from tests.support.registry_child import Attempts
from tests.support.registry_commands import ask, build_registry, list_broken
from tests.support.registry_reader import DAMAGED, MODEL, Looked, start_readers
from tests.support.s3_proxy import Fault, S3Proxy
from tests.support.soak import IS_FULL, Summary
from timberline.registry.aliases import inspect_history, read_alias
from timberline.registry.store import open_store

ALIASES = ("production", "candidate", DAMAGED)
READERS = 2 if IS_FULL else 1


def _find_next(location: str, alias: str) -> int:
    """A version that the alias does not point at."""
    record = read_alias(open_store(location), MODEL, alias)
    assert record
    return record.version % 3 + 1


def _promote(location: str) -> list[str]:
    target = f"{MODEL}@{_find_next(location, 'production')}"
    return ["promote", target, "--force", "--reason", "night"]


def _roll_back(location: str) -> list[str]:
    for _ in range(2):  # so that there is somewhere to go back to, after the kill too
        assert ask(location, _promote(location)).code == 0
    return ["rollback", MODEL]


def _set_alias(location: str) -> list[str]:
    return ["alias", "set", f"{MODEL}@candidate", str(_find_next(location, "candidate"))]


def _repair(location: str) -> list[str]:
    BucketPlace(location).put(f"{MODEL}/heads/{DAMAGED}.json", b"{")
    return ["repair", f"{MODEL}@{DAMAGED}", "2", "--reason", "settled"]


# What makes the registry ready for a command, and the command.
ACTIONS: dict[str, Callable[[str], list[str]]] = {
    "judge": lambda _: ["judge", f"{MODEL}@1", "PASS"],
    "promote": _promote,
    "rollback": _roll_back,
    "alias set": _set_alias,
    "repair": _repair,
    # Last, as everything takes longer with each version.
    "publish": lambda _: ["publish", MODEL, "more"],
}


class Kill(NamedTuple):
    """At request ``number`` of an action; whether the server still does what that asks for."""

    number: int
    fault: Fault


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    attempts = Attempts()
    yield attempts
    attempts.close()


@pytest.fixture
def location(proxy: S3Proxy) -> str:
    """A registry of `build_registry`, with one alias more."""
    location = new_prefix("s3://registry")
    build_registry(location)
    assert ask(location, f"alias set {MODEL}@{DAMAGED} 1").code == 0
    return location


def test_client_killed_at_any_request_leaves_the_old_state_or_the_new_one(
    proxy: S3Proxy, location: str, attempts: Attempts
) -> None:
    """Machines are reclaimed in the middle of a release, and services go on reading."""
    summary, killed = Summary("kills at requests of a bucket's clients"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.upstream)
        starting = start_readers(location, READERS)
        with starting as readers:
            patch.undo()
            for name, prepare in ACTIONS.items():
                kills = _list_kills(proxy, location, prepare(location))
                killed[name] = sum(_kill(proxy, location, attempts, name, kill) for kill in kills)
                assert killed[name] >= len(kills) * 3 // 4, f"{name}: the boundaries are elsewhere"
            looked = readers.stop()
    _assert_seen(location, looked)
    assert sum(killed.values()) >= (50 if IS_FULL else 10)
    summary.show(**{name.replace(" ", "_"): count for name, count in killed.items()})
    summary.show(looks=sum(each.looks for each in looked))


def _list_kills(proxy: S3Proxy, location: str, words: list[str]) -> list[Kill]:
    """Before and after each write of a command that is left alone, and before every third question.

    In small only after each write: that is before whatever follows.
    """
    proxy.clear()
    assert ask(location, words).code == 0
    requests = sorted(seen.asked for seen in proxy.seen)
    writes = [asked.number for asked in requests if asked.method == "PUT"]
    after = [Kill(number, "lose") for number in writes]
    if not IS_FULL:
        return after
    questions = [asked.number for asked in requests if asked.number not in writes]
    return [*(Kill(number, "refuse") for number in sorted([*writes, *questions[::3]])), *after]


def _kill(proxy: S3Proxy, location: str, attempts: Attempts, name: str, kill: Kill) -> bool:
    """Run and kill an action, and look at what it has left; whether it was killed."""
    proxy.clear()
    words = ACTIONS[name](location)
    before = _count(location)
    is_killed = not attempts.make_at(proxy, location, words, *kill)
    proxy.clear()
    changes = sorted(now - then for then, now in zip(before, _count(location), strict=True))
    assert changes in ([0, 0, 0, 0], [0, 0, 0, 1]), (name, kill, changes)
    broken = [check["name"] for check in list_broken(ask(location, "verify"))]
    assert broken == [] or (name == "repair" and broken == [f"{MODEL}@{DAMAGED}"]), (name, kill, broken)
    again = ask(location, words)
    assert again.code == 0, (name, kill, again.log)
    assert list_broken(ask(location, "verify")) == [], (name, kill)
    return is_killed


def _count(location: str) -> tuple[int, ...]:
    """Versions, and moves of each alias: one of them is one more, or none."""
    store = open_store(location)
    histories = [inspect_history(store, MODEL, alias) for alias in ALIASES]
    return (len(store.versions(MODEL)), *(len(history.chain) for history in histories))


def _assert_seen(location: str, looked: list[Looked]) -> None:
    """What readers were told is what the history says."""
    for each in looked:
        for alias, records in each.records.items():
            chain = inspect_history(open_store(location), MODEL, alias).chain
            assert [record for record in chain if record in records] == records
