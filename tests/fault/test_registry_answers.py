"""A bucket's answer is lost after the server has done what it was asked: the one caller is told the truth."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.places import BucketPlace, new_prefix
from tests.support.registry_commands import Answer, ask, build_registry, list_broken
from tests.support.registry_tree import Tree, compare
from tests.support.s3_proxy import (
    Asked,
    Decide,
    Fault,
    S3Proxy,
    Seen,
    be_gone_after,
    lose_conditional,
    lose_each_conditional,
)
from tests.support.soak import IS_FULL
from timberline.registry.aliases import inspect_history
from timberline.registry.errors import AfterChangeError
from timberline.registry.store import open_store

BUCKET = "s3://registry"


class Action(NamedTuple):
    """A command, and what it does to a registry of `build_registry`.

    Attributes:
        words: of the command.
        moves: the alias of ``tiny`` that has one move more afterwards, its fourth, and where it points then.
        last: the last version of ``tiny`` afterwards.
        damage: the path that is damaged before; the command repairs it.
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
    "repair alias": Action(
        "repair tiny@candidate 2 --reason settled", ("candidate", 2), damage="tiny/heads/candidate.json"
    ),
    "repair entry": Action("repair tiny@2 --reason settled", damage="tiny/ledger/2.json"),
}


@pytest.fixture(scope="module")
def whole(proxy: S3Proxy) -> Tree:
    """What lies in a bucket's registry after `build_registry`."""
    location = new_prefix(BUCKET)
    build_registry(location)
    tree = BucketPlace(location).read_tree()
    return {path: content for path, content in tree.items() if path.startswith("tiny/")}


def _copy(proxy: S3Proxy, whole: Tree) -> BucketPlace:
    """A place of its own; the proxy goes easy."""
    proxy.clear()
    place = BucketPlace(new_prefix(BUCKET))
    place.fill(whole)
    return place


def _damage(place: BucketPlace, path: str) -> None:
    """Have an entry of the ledger be gone, or the head of an alias be none."""
    if path:
        place.put(path, None if "/ledger/" in path else b"{")


class Run(NamedTuple):
    """What was there before a command, what it answered, and what is there after it."""

    before: Tree
    answer: Answer
    after: Tree
    seen: list[Seen]

    @property
    def conditional(self) -> int:
        """The conditional PUTs, new attempts included."""
        return max((seen.asked.conditional for seen in self.seen), default=0)


def _run(proxy: S3Proxy, place: BucketPlace, action: Action, decide: Decide = lambda _: None) -> Run:
    _damage(place, action.damage)
    before = place.read_tree()
    proxy.clear()
    proxy.decide = decide
    answer = ask(place.location, action.words)
    seen = proxy.seen
    proxy.clear()
    return Run(before, answer, place.read_tree(), seen)


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


@pytest.fixture(scope="module")
def expect(proxy: S3Proxy, whole: Tree) -> Callable[[str], Run]:
    """What an action does when no answer is lost."""
    return functools.cache(lambda name: _run(proxy, _copy(proxy, whole), ACTIONS[name]))


def _assert_faulty(run: Run) -> Run:
    assert any(seen.told != seen.status for seen in run.seen), "no answer was lost or made up"
    return run


def _some(numbers: range) -> list[int]:
    """All of them in `make soak`; in small the two that decide: the claim or the record, and what follows."""
    return list(numbers)[: None if IS_FULL else 2]


@pytest.mark.parametrize("name", ACTIONS)
def test_only_caller_whose_answers_are_lost_is_told_that_it_is_done(
    name: str, proxy: S3Proxy, whole: Tree, expect: Callable[[str], Run]
) -> None:
    """The client asks again and hears "exists": a winner that is told it lost would release twice."""
    expected = expect(name)
    faults = [lose_each_conditional()]
    if IS_FULL:
        faults += map(lose_conditional, range(1, expected.conditional + 1))
    for fault in faults:
        place = _copy(proxy, whole)
        run = _assert_faulty(_run(proxy, place, ACTIONS[name], fault))
        _assert_done(place, ACTIONS[name], run, expected)


@pytest.mark.parametrize("status", [409, 500, 503, 507] if IS_FULL else [409, 503])
@pytest.mark.parametrize("name", ACTIONS if IS_FULL else ["publish", "promote"])
def test_server_that_refuses_once_is_asked_again(
    name: str, status: int, proxy: S3Proxy, whole: Tree, expect: Callable[[str], Run]
) -> None:
    """A busy server says so with any of these, and a release in the night has nobody to repeat it."""
    expected = expect(name)
    for number in range(1, expected.conditional + 1):

        def refuse(asked: Asked, number: int = number) -> int | None:
            return status if asked.conditional == number else None

        place = _copy(proxy, whole)
        run = _assert_faulty(_run(proxy, place, ACTIONS[name], refuse))
        _assert_done(place, ACTIONS[name], run, expected)


@pytest.mark.parametrize("name", ACTIONS)
def test_caller_whose_server_is_gone_is_told_that_the_outcome_is_not_known(
    name: str, proxy: S3Proxy, whole: Tree, expect: Callable[[str], Run]
) -> None:
    """ "Failed" would be a lie if it was done, and so would "done": who looks afterwards finds out."""
    action = ACTIONS[name]
    for number in _some(range(1, expect(name).conditional + 1)):
        place = _copy(proxy, whole)
        run = _assert_faulty(_run(proxy, place, action, be_gone_after(number)))
        assert run.answer.code == 3
        told = json.loads(run.answer.log)
        is_said_done = told.get("code") == AfterChangeError.code
        is_said_undone = "Nothing was published" in told["event"]
        assert is_said_done or is_said_undone or "It is not known whether" in told["event"]
        assert _is_done(place, action) or not is_said_done, "was said to be done"
        assert not _is_done(place, action) or not is_said_undone, "was said not to be done"
        _assert_found_out(place, action)


@pytest.mark.parametrize("name", ["publish", "promote", "rollback"] if IS_FULL else ["publish"])
def test_answer_that_breaks_off_is_not_taken_for_a_whole_one(
    name: str, proxy: S3Proxy, whole: Tree, expect: Callable[[str], Run]
) -> None:
    """Half a list of versions would have a number given out twice, half a history a move undone."""
    action = ACTIONS[name]
    questions = [seen.asked.number for seen in expect(name).seen if seen.asked.method == "GET"]
    for number in questions[:: 1 if IS_FULL else 4]:

        def cut(asked: Asked, number: int = number) -> Fault | None:
            return "cut" if asked.number == number else None

        place = _copy(proxy, whole)
        answer = _run(proxy, place, action, cut).answer
        if answer.code == 0:
            _assert_state(place, action, answer)
        else:
            is_said_done = json.loads(answer.log).get("code") == AfterChangeError.code
            assert (answer.code, _is_done(place, action)) == (3, is_said_done), answer.log
        assert not list_broken(ask(place.location, "verify"))


def _assert_found_out(place: BucketPlace, action: Action) -> None:
    """The registry is in its old state or in its new one, and the next command works."""
    broken = list_broken(ask(place.location, "verify"))
    assert not broken or action.damage, broken
    before = _count_moves(place, action)
    again = ask(place.location, action.words)
    assert again.code == 0, again.log
    assert not list_broken(ask(place.location, "verify"))
    if action.moves and not action.damage:
        assert _count_moves(place, action) == before + 1
    if action.last == 4:
        assert again.value == 5, "a number that was taken is not given out again"


def _is_done(place: BucketPlace, action: Action) -> bool:
    if action.last == 4:
        return open_store(place.location).versions("tiny")[-1] == 4
    if action.moves:
        return _count_moves(place, action) == 4
    return not list_broken(ask(place.location, "verify"))


def _count_moves(place: BucketPlace, action: Action) -> int:
    """The moves of the action's alias; 0 if it has none."""
    alias = action.moves[0] if action.moves else "none"
    return len(inspect_history(open_store(place.location), "tiny", alias).records)
