"""A bucket's answer is lost after the server has done what it was asked: the one caller is told the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.places import BucketPlace, new_prefix
from tests.support.registry_commands import Answer, ask, build_registry, list_broken
from tests.support.registry_tree import Tree, compare
from tests.support.s3_proxy import Decide, S3Proxy, be_gone_after, lose_conditional, lose_each_conditional
from tests.support.soak import IS_FULL
from timberline.registry.aliases import inspect_history, read_alias
from timberline.registry.store import open_store

BUCKET = "s3://registry"


class Action(NamedTuple):
    """A command, and what it does to a registry of `build_registry`.

    Attributes:
        words: of the command.
        moves: the alias of ``tiny`` that is one move further afterwards, and the version it points at then.
        last: the last version of ``tiny`` afterwards.
        damage: what is wrong before; the command repairs it.
    """

    words: str
    moves: tuple[str, int] | None = None
    last: int = 3
    damage: str = ""


ACTIONS = {
    "publish": Action("publish tiny more", last=4),
    "promote": Action("promote tiny@1 --force --reason night", ("production", 1)),
    "rollback": Action("rollback tiny", ("production", 2)),
    "alias set": Action("alias set tiny@candidate 1", ("candidate", 1)),
    "repair alias": Action("repair tiny@candidate 2 --reason settled", ("candidate", 2), damage="candidate"),
    "repair entry": Action("repair tiny@2 --reason settled", damage="ledger/2.json"),
}


@pytest.fixture(scope="module")
def whole(proxy: S3Proxy) -> Tree:
    """What lies in a bucket's registry after `build_registry`."""
    location = new_prefix(BUCKET)
    build_registry(location)
    return BucketPlace(location).read_tree()


@pytest.fixture
def place(proxy: S3Proxy, whole: Tree) -> BucketPlace:
    """A copy of it, for one test; the proxy goes easy."""
    return _copy(proxy, whole)


def _copy(proxy: S3Proxy, whole: Tree) -> BucketPlace:
    proxy.clear()
    place = BucketPlace(new_prefix(BUCKET))
    place.fill(whole)
    return place


def _damage(place: BucketPlace, part: str) -> None:
    """Have the first record of an alias, or the file itself, end early."""
    tree = place.read_tree()
    if not part:
        return
    path = min(path for path in tree if path.startswith("tiny/") and part in path)
    content = tree[path]
    assert isinstance(content, bytes)
    place.put(path, content[:-9])


class Run(NamedTuple):
    """What was there before a command, what it answered, and what is there after it."""

    before: Tree
    answer: Answer
    after: Tree
    conditional: int  # PUTs, new attempts included


def _run(proxy: S3Proxy, place: BucketPlace, action: Action, decide: Decide) -> Run:
    _damage(place, action.damage)
    before = place.read_tree()
    proxy.clear()
    proxy.decide = decide
    answer = ask(place.location, action.words)
    conditional = max((seen.asked.conditional for seen in proxy.seen), default=0)
    proxy.clear()
    return Run(before, answer, place.read_tree(), conditional)


def _assert_done(place: BucketPlace, action: Action, run: Run, expected: Run) -> None:
    """Exactly what the command does when no answer is lost, and nothing besides."""
    assert run.answer.code == 0, run.answer.log
    assert compare(run.before, run.after) == compare(expected.before, expected.after)
    _assert_state(place, action, run.answer)
    assert not list_broken(ask(place.location, "verify"))


def _assert_state(place: BucketPlace, action: Action, answer: Answer) -> None:
    store = open_store(place.location)
    assert store.versions("tiny") == list(range(1, action.last + 1))
    if action.last == 4:
        assert answer.value == 4
    if action.moves:
        alias, version = action.moves
        history = inspect_history(store, "tiny", alias)
        record = history.chain[-1]
        assert (record.version, record.sequence) == (version, 4)
        assert (answer.value["version"], answer.value["sequence"]) == (version, 4)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_only_caller_whose_answers_are_lost_is_told_that_it_is_done(
    name: str, proxy: S3Proxy, whole: Tree
) -> None:
    """The client asks again and hears "exists": the winner was told that it lost, and released twice."""
    action = ACTIONS[name]
    place = _copy(proxy, whole)
    expected = _run(proxy, place, action, lambda _: None)
    _assert_done(place, action, expected, expected)
    faults: list[Decide] = [lose_each_conditional()]
    faults += [lose_conditional(number) for number in range(1, expected.conditional + 1)]
    for fault in faults:
        place = _copy(proxy, whole)
        _assert_done(place, action, _run(proxy, place, action, fault), expected)


@pytest.mark.parametrize("name", ACTIONS)
def test_caller_whose_server_is_gone_is_told_that_the_outcome_is_not_known(
    name: str, proxy: S3Proxy, whole: Tree
) -> None:
    """ "Failed" would be a lie if it was done, and so would "done": asking again finds out."""
    action = ACTIONS[name]
    expected = _run(proxy, _copy(proxy, whole), action, lambda _: None)
    for number in range(1, expected.conditional + 1):
        place = _copy(proxy, whole)
        import time; t = time.time()
        run = _run(proxy, place, action, be_gone_after(number))
        print(name, number, time.time() - t, run.answer.log, list_broken(ask(place.location, "verify")), compare(run.before, run.after))
        print(ask(place.location, action.words))
