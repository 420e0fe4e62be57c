"""deploy/vm/timberline on a machine with git and Docker: update, release, swap and back, killed or not.

The real script, git, engine, serve image, service and gate; stand-ins are named in `tests.support.machine`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import commit, git
from tests.support.closed_loop import ClosedLoop, NewConnections
from tests.support.engine import ROOT, running_engine
from tests.support.machine import Machine, Remote, machine_of
from tests.support.markdown import list_blocks
from tests.support.walkthrough import Walkthrough

pytestmark = pytest.mark.real("dockerd", "mmdebstrap")
PAGE = ROOT / "docs" / "how-to" / "machine.md"
ROW = b'{"Elevation": 2596, "Aspect": 51, "Slope": 3}'


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One on which a first commit is built, released and served."""
    with running_engine() as engine, machine_of(tmp_path_factory.mktemp("machine"), engine) as ready:
        for verb in ("update", "build", "release", "swap"):
            ready.run(verb)
        yield ready


@contextlib.contextmanager
def asking(machine: Machine) -> Iterator[ClosedLoop]:
    """Clients that ask meanwhile, on kept and on new connections; every one of their requests is answered."""
    fresh = NewConnections(Remote(machine.port), ROW)
    fresh.start()
    with ClosedLoop(Remote(machine.port), 2, ROW) as load:
        load.wait_for_answers(50)
        yield load
        load.wait_for_answers(load.answer_count + 50)
        load.stop_asking()
        fresh.finish()
    assert load.failures + fresh.failures == []
    assert load.refused_count == 0
    assert load.statuses == {200}
    assert fresh.answer_count > 10


def served_version(machine: Machine) -> int:
    """The version that answers now."""
    connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/predict", ROW, {"Content-Type": "application/json"})
        return int(json.loads(connection.getresponse().read())["version"])


def wait_for_version(machine: Machine, version: int) -> None:
    """Until the service follows the alias."""
    Remote(machine.port).wait_for(lambda: served_version(machine) == version)


def production(machine: Machine) -> int:
    """Where the registry's alias points."""
    shown = dict(line.split(":", 1) for line in machine.run("status").stdout.splitlines())
    return int(shown["production"].rpartition("@")[2])


def history_length(machine: Machine) -> int:
    """How often production has moved."""
    return len(list((machine.home / "var/registry/forest_cover/aliases/production").glob("*.json")))


def test_a_commit_is_served_and_taken_back_and_no_request_is_lost(machine: Machine) -> None:
    """What the script is for: clients on this one machine see neither the way there nor the way back."""
    first, version = machine.head, production(machine)
    with asking(machine):
        second = machine.push("second")
        assert machine.run("update", "main").stdout.strip() == f"{second} second"
        assert machine.run("build").stdout.split()[-1] == second
        machine.run("release", "--set", "training.epochs=3")
        wait_for_version(machine, version + 1)
        assert machine.run("swap").stdout.split() == [second]
        (name,) = machine.services
        assert name.startswith(f"timberline-{second[:12]}-")
        machine.run("rollback")
        wait_for_version(machine, version)
        (name,) = machine.services
        assert name.startswith(f"timberline-{first[:12]}-")
    status = machine.run("status").stdout
    assert f"served:      {first}" in status
    assert f"before:      {second}" in status
    assert f"production:  forest_cover@{version}\n" in status


def test_the_gates_exit_code_is_the_commands_and_production_stays(machine: Machine) -> None:
    """`release && swap` stops at a version that is worse."""
    version = production(machine)
    done = machine.run("release", "--set", "training.epochs=1", "--set", "gate.min_accuracy=0.9999", code=1)
    assert "BLOCK" in done.stderr
    assert production(machine) == version


def test_each_verb_that_was_killed_is_run_again_to_its_end(machine: Machine) -> None:
    """A connection that breaks, or a machine that is switched off, is no reason to look after it by hand."""
    third = machine.push("third")
    machine.run("update")
    machine.kill_at("build --build-arg", "build")
    machine.run("build")
    machine.kill_at("run --rm --name timberline-release", "release", "--set", "training.epochs=4")
    before = history_length(machine)
    machine.run("release", "--set", "training.epochs=4")
    assert history_length(machine) <= before + 1
    with asking(machine):
        machine.kill_at("run --detach", "swap")  # a container that may be there, and is not waited for
        machine.kill_at("logs", "swap")
        machine.kill_at("stop --time", "swap")  # both are there, and the old one may be about to end
        assert machine.run("swap").stdout.split() == [third]
    assert len(machine.services) == 1


def test_a_rollback_that_was_killed_goes_one_step_back_and_no_further(machine: Machine) -> None:
    """The registry's rollback goes one version further each time; run again by this script it does not."""
    machine.push("what it goes back from")
    for verb in ("update", "build", "swap"):
        machine.run(verb)
    machine.run("release", "--set", "training.epochs=5")
    moves, version = history_length(machine), production(machine)
    before = (machine.home / "state" / "previous").read_text("utf-8")
    with asking(machine):
        machine.kill_at("run --rm --name timberline-rollback", "rollback", "model")
        machine.kill_at("run --rm --name timberline-alias", "rollback", "model")
        machine.run("rollback", "model")
        machine.kill_at("run --detach", "rollback", "code")
        machine.run("rollback", "code")
    assert history_length(machine) == moves + 1
    assert production(machine) < version
    assert not (machine.home / "state" / "rolling-back").exists()
    (name,) = machine.services
    assert name.startswith(f"timberline-{before[:12]}-")


def test_a_service_that_does_not_get_ready_leaves_the_other_one(machine: Machine) -> None:
    """A wrong setting is found by the new service, while the old one answers."""
    before = machine.services
    settings = (machine.home / "settings").read_text("utf-8")
    with asking(machine):
        (machine.home / "settings").write_text(f"{settings}TIMBERLINE_SERVE_NONSENSE=1\n", "utf-8")
        done = machine.run("swap", code=3)
    assert "TIMBERLINE_SERVE_NONSENSE: no such setting" in done.stderr
    assert "what answered before goes on" in done.stderr.splitlines()[-1]
    assert machine.services == before
    (machine.home / "settings").write_text(settings, "utf-8")


def test_other_settings_are_another_service(machine: Machine) -> None:
    """Settings are read at the start: a swap of the same commit brings them in, and only if they differ."""
    (before,) = machine.services
    machine.run("swap")
    machine.write_settings(TIMBERLINE_SERVE_WORKERS="2")
    with asking(machine):
        machine.run("swap")
    (after,) = machine.services
    assert before.rpartition("-")[0] != after  # its name has the digest of its settings
    machine.run("swap")
    assert machine.services == [after]


def test_stop_ends_it_and_start_brings_back_what_was_served(machine: Machine) -> None:
    """As systemd calls them at a shutdown and at boot, whatever is checked out by then."""
    (before,) = machine.services
    machine.push("not built")
    machine.run("stop")
    assert machine.services == []
    assert "service:     stopped" in machine.run("status", code=1).stdout
    machine.run("update")
    machine.run("start")
    assert machine.services == [before]
    assert "build it" in machine.run("swap", code=2).stderr
    assert "build it" in machine.run("release", code=2).stderr


def test_a_way_back_that_was_never_finished_ends_with_the_next_way_forward(machine: Machine) -> None:
    """Else the next rollback would take itself for that one, and do nothing."""
    note = machine.home / "state" / "rolling-back"
    machine.push("never built")
    machine.run("update")
    for verb in ("release", "swap"):
        note.write_text("both another-commit 1 1\n", "utf-8")
        machine.run(verb, code=2)  # nothing is built of what is checked out
        assert not note.exists()


def test_two_at_a_time_are_refused(machine: Machine) -> None:
    """A timer and a person would stop each other's services."""
    with (machine.home / "state" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another timberline is at work" in machine.run("swap", code=3).stderr
        machine.run("status")


def test_an_update_that_was_killed_in_the_middle_of_writing_is_finished(machine: Machine) -> None:
    """git leaves a lock, files of both commits and files that it does not know yet."""
    source = machine.home / "source"
    (machine.origin / "another.md").write_text("new", "utf-8")
    target = commit(machine.origin, "another")
    git(source, "fetch", "--quiet", "origin")
    (machine.home / "state" / "updating").write_text(target, "utf-8")
    (source / ".git" / "index.lock").touch()
    (source / "another.md").write_text("ne", "utf-8")
    (source / "CHANGELOG.md").write_text("half", "utf-8")
    assert machine.run("update").stdout.split() == [target, "another"]
    assert machine.head == target
    assert git(source, "status", "--porcelain") == ""


def test_an_update_goes_forward_on_a_clean_tree_only(machine: Machine) -> None:
    """What somebody changed on the machine is neither lost nor built unseen; and going back is no update."""
    source, head = machine.home / "source", machine.head
    git(machine.origin, "tag", "v1", "HEAD~1")
    assert "v1 is not ahead" in machine.run("update", "v1", code=2).stderr
    assert "no branch or tag v9" in machine.run("update", "v9", code=2).stderr
    git(machine.origin, "tag", "v2", machine.push("tagged"))
    (source / "CHANGELOG.md").write_text("changed here", "utf-8")
    for verb in ("update", "build"):
        assert "has changes of its own" in machine.run(verb, code=2).stderr
    assert machine.head == head
    git(source, "checkout", "--quiet", "CHANGELOG.md")
    assert "tagged" in machine.run("update", "v2").stdout
    git(source, "remote", "set-url", "origin", str(machine.home / "gone"))
    assert "cannot fetch" in machine.run("update", code=3).stderr
    git(source, "remote", "set-url", "origin", str(machine.origin))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["deploy"],
        ["build", "main"],
        ["update", "a", "b"],
        ["rollback", "all"],
        ["swap", "now"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_wrong_use_ends_with_2_and_the_verbs(machine: Machine, words: list[str]) -> None:
    """A misspelt word is not half of something else."""
    done = machine.run(*words, code=2)
    assert done.stderr.startswith("usage: timberline update [BRANCH|TAG] | build")
    assert len(done.stderr.splitlines()) == 1


def test_a_home_that_is_not_one_is_told(machine: Machine, tmp_path: Path) -> None:
    """The line says what to do."""
    assert "is no checkout: git clone" in machine.run("status", code=2, home=tmp_path).stderr
    (tmp_path / "source").mkdir()
    git(tmp_path / "source", "init", "--quiet")
    assert "settings cannot be read" in machine.run("status", code=2, home=tmp_path).stderr
    (tmp_path / "settings").touch()
    assert "nothing was served here yet" in machine.run("rollback", code=2, home=tmp_path).stderr


def test_the_page_can_be_followed(machine: Machine, tmp_path: Path) -> None:
    """What a reader types, in a home of its own beside the other one's."""
    machine.run("stop")
    home = tmp_path / "home"
    home.mkdir()
    environment = {**machine.environment, "TIMBERLINE_HOME": str(home), "ORIGIN": str(machine.origin)}
    commands = environment["PATH"].partition(os.pathsep)[0]

    codes = [block.code for block in list_blocks(PAGE.read_text("utf-8")) if block.language == "sh"]
    (updates,) = [number for number, code in enumerate(codes) if "update main" in code]
    with Walkthrough(tmp_path / "reader", environment) as reader:
        reader.provide("docker", f'#!/bin/sh\nexec {commands}/docker "$@"\n')
        count = reader.follow(PAGE, slice(updates))
        machine.push("what the page updates to")
        count += reader.follow(PAGE, slice(updates, None))
    assert count == len(codes) > 5
