"""A real server that freezes, dies and fills up in the middle of a publish and of a promotion.

Afterwards the registry is in its old state or in its new one and verifies, the command said what to do, and
the same command succeeds. `make soak` does it at every request and freezes for a minute; in small it is done
at the requests that decide: the manifest of a version, and the record of a move.
"""

from __future__ import annotations

import contextlib
import functools
import io
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import obstore
import pytest

from tests.support.places import BucketPlace, new_prefix
from tests.support.registry_commands import Answer, act, ask, build_registry, list_broken
from tests.support.registry_tree import Tree
from tests.support.s3_proxy import Asked, Fault, S3Proxy, serve_proxied
from tests.support.s3_server import S3Server
from tests.support.soak import IS_FULL
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.store import open_store

BUCKET = "s3://registry"
Verb = Literal["publish", "promote"]
VERBS: tuple[Verb, ...] = ("publish", "promote")
COMMANDS = {
    "publish": ["publish", "tiny", "new"],
    "promote": ["promote", "tiny@2", "--force", "--reason", "back to it"],
}
# The last request before others see it, by a part of its path.
DECIDING = {"publish": "/manifest.json", "promote": "/log/"}
# One of these is in each error: what is known, or what to do.
HINTS = (
    "Nothing was published.",
    "It was not written.",
    "It is not known whether it was written: look first.",
    "Do not publish it again.",
    "Do not repeat the command",
    "Check the network",
    "Make room",
)
FREEZES_S = (20.0, 60.0) if IS_FULL else (2.0,)
_WRITABLE_DEADLINE_S = 60.0


class State(NamedTuple):
    """What readers see: the versions, and which is in production."""

    versions: list[int]
    production: int


OLD = State([1, 2, 3], 3)
NEW = {"publish": State([1, 2, 3, 4], 3), "promote": State([1, 2, 3], 2)}


class Rig(NamedTuple):
    """The server, the proxy that commands go through, and a registry to begin with."""

    server: S3Server
    proxy: S3Proxy
    whole: Tree

    def copy_registry(self) -> str:
        """A registry of its own; the proxy goes easy, and counts from here."""
        self.proxy.clear()
        place = BucketPlace(new_prefix(BUCKET))
        place.fill(self.whole)
        self.proxy.clear()
        return place.location

    def restart(self) -> None:
        """Start the server again on its data, and wait until it knows what it has and takes something new."""
        self.server.process.start()
        client, deadline = self.server.open(BUCKET), time.monotonic() + _WRITABLE_DEADLINE_S
        while True:
            try:
                for page in obstore.list(client):
                    for each in page:
                        obstore.get(client, each["path"]).bytes()
                obstore.put(client, "again", b"as before", use_multipart=False)
            except obstore.exceptions.BaseError:
                assert time.monotonic() < deadline
                threading.Event().wait(0.1)
            else:
                return


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with serve_proxied(tmp_path_factory.mktemp("s3"), "registry") as (server, proxy):
        location = new_prefix(BUCKET)
        build_registry(location)
        tree = BucketPlace(location).read_tree()
        yield Rig(server, proxy, {path: data for path, data in tree.items() if path.startswith("tiny/")})


@pytest.fixture(scope="module")
def count_requests(rig: Rig) -> Callable[[Verb], int]:
    """How many requests a command makes when nothing goes wrong."""

    @functools.cache
    def count(verb: Verb) -> int:
        location = rig.copy_registry()
        assert run(location, verb).code == 0
        return rig.proxy.count()

    return count


def run(location: str, verb: Verb) -> Answer:
    """The command, for as long as it takes."""
    out, log = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
        code = act(location, COMMANDS[verb])
    return Answer(code, out.getvalue(), log.getvalue())


def read_state(location: str) -> State:
    store = open_store(location)
    production = read_alias(store, "tiny", PRODUCTION)
    assert production is not None
    return State(store.versions("tiny"), production.version)


def assert_told(answer: Answer) -> None:
    """An error is one line with what to do, and no traceback."""
    assert answer.code == 3, answer
    assert any(hint in answer.log for hint in HINTS), answer.log
    assert "unexpected failure" not in answer.log
    assert len(answer.log.splitlines()) == 1


def assert_whole(location: str, verb: Verb, answer: Answer) -> None:
    """The old state or the new one, and the same command succeeds."""
    found = read_state(location)
    assert found in (OLD, NEW[verb]), answer
    assert answer.code == 3 or found == NEW[verb], answer
    assert not list_broken(ask(location, "verify"))
    again = run(location, verb)
    assert again.code == 0, again.log
    after = read_state(location)
    if verb == "promote":
        assert after == NEW["promote"]
    else:
        assert after.versions[:-1] == found.versions
        assert after.versions[-1] > found.versions[-1]
    assert not list_broken(ask(location, "verify"))


def choose_requests(verb: Verb, count: int) -> list[int | str]:
    """Numbers of requests, or a part of the path of the first that has it."""
    return list(range(1, count + 1)) if IS_FULL else [DECIDING[verb]]


def is_meant(asked: Asked, which: int | str) -> bool:
    """Whether it is this one."""
    return asked.number == which if isinstance(which, int) else asked.method == "PUT" and which in asked.path


class Once:
    """A fault at the first request that is meant, and none at those that follow."""

    def __init__(self, which: int | str, do: Callable[[], Fault | None]) -> None:
        self._which, self._do = which, do
        self.is_done = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Fault | None:
        with self._lock:
            if self.is_done.is_set() or not is_meant(asked, self._which):
                return None
            self.is_done.set()
        return self._do()


@pytest.mark.parametrize("frozen_s", FREEZES_S)
@pytest.mark.parametrize("verb", VERBS)
def test_frozen_server_is_waited_for(verb: Verb, frozen_s: float, rig: Rig) -> None:
    """For 20 s: a disk that hangs, a machine that is moved. One that stays silent is given up in words."""
    parts = ["/claim", "/model.onnx", "/manifest.json"] if verb == "publish" else ["/log/", "/head.json"]
    for part in parts if IS_FULL else [DECIDING[verb]]:
        location = rig.copy_registry()
        thaw = threading.Timer(frozen_s, rig.server.process.thaw)

        def freeze(thaw: threading.Timer = thaw) -> None:
            rig.server.process.freeze()
            thaw.start()

        rig.proxy.decide = once = Once(part, freeze)
        answer = run(location, verb)
        assert once.is_done.is_set()
        thaw.join()
        rig.proxy.settle()  # what the server was asked for while it was frozen it does now
        rig.proxy.clear()
        if frozen_s <= 20:
            assert answer.code == 0, answer
        if answer.code:
            assert_told(answer)
        assert_whole(location, verb, answer)


@pytest.mark.parametrize("is_done", [False, True] if IS_FULL else [False])
def test_server_that_dies_leaves_the_old_state_or_the_new_one(
    is_done: bool, rig: Rig, count_requests: Callable[[Verb], int]
) -> None:
    """It is killed when the request comes, or has done it and says nothing; and starts again on its data."""
    plan = [(verb, which) for verb in VERBS for which in choose_requests(verb, count_requests(verb))]
    for verb, which in plan:
        location = rig.copy_registry()
        rig.proxy.decide = killed = Once(which, (lambda: "lose") if is_done else rig.server.process.kill)
        if is_done:
            rig.proxy.after = Killer(rig.server, which)
        answer = run(location, verb)
        assert killed.is_done.is_set()
        rig.proxy.clear()
        rig.restart()
        if answer.code:  # a read may have been the last request
            assert_told(answer)
        assert_whole(location, verb, answer)


class Killer:
    """Kills the server when it has done the request that is meant."""

    def __init__(self, server: S3Server, which: int | str) -> None:
        self._server, self._which = server, which

    def __call__(self, asked: Asked, status: int) -> None:
        if is_meant(asked, self._which):
            self._server.process.kill()


@pytest.mark.parametrize("verb", VERBS)
def test_full_server_leaves_the_old_state_or_the_new_one(
    verb: Verb, rig: Rig, count_requests: Callable[[Verb], int]
) -> None:
    """From one request on it takes nothing more, and says so (RFC 4918, section 11.5)."""
    for which in choose_requests(verb, count_requests(verb)):
        location = rig.copy_registry()
        rig.proxy.decide = full = Full(which)
        answer = run(location, verb)
        assert full.is_full
        rig.proxy.clear()
        if answer.code:
            assert_told(answer)
            assert "its server is full (507" in answer.log
            assert "Make room there" in answer.log
        assert_whole(location, verb, answer)


class Full:
    """Has no room for what comes from one request on."""

    def __init__(self, which: int | str) -> None:
        self._which = which
        self.is_full = False

    def __call__(self, asked: Asked) -> Fault | None:
        self.is_full |= is_meant(asked, self._which)
        return 507 if self.is_full and asked.method in ("PUT", "POST") else None


@pytest.mark.parametrize("verb", VERBS if IS_FULL else VERBS[1:])
def test_server_whose_disk_is_full_leaves_the_old_state_or_the_new_one(verb: Verb, rig: Rig) -> None:
    """The real one, none of whose files may grow any more. It has to be started again when there is room."""
    location = rig.copy_registry()
    pid = rig.server.process.pid

    def fill() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    rig.proxy.decide = Once(DECIDING[verb], fill)
    answer = run(location, verb)
    rig.proxy.clear()
    if answer.code:
        assert_told(answer)
    assert read_state(location) in (OLD, NEW[verb])
    rig.server.process.kill()
    rig.restart()
    assert_whole(location, verb, answer)


def refuse_from(number: int, asked: Asked) -> Fault | None:
    """The server is gone from this question on."""
    return "refuse" if asked.number >= number else None


@pytest.mark.parametrize("command", ["verify", "list", "show tiny@3"])
def test_server_that_is_gone_is_no_damage(command: str, rig: Rig) -> None:
    """Whoever reads "damaged" restores from a copy. It goes at each question in turn, in small at some."""
    location = rig.copy_registry()
    assert ask(location, command).code == 0
    count = rig.proxy.count()
    for number in range(1, count + 1, 1 if IS_FULL else count // 3):
        rig.proxy.clear()
        rig.proxy.decide = functools.partial(refuse_from, number)
        answer = ask(location, command)
        assert (answer.code, answer.value) == (3, None), (number, answer)
        assert "the connection broke off" in answer.log
