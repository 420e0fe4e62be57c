"""The way out of damage: what a repair settles, what it refuses, and what is believed after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.manifests import give_verdict, publish_tiny
from tests.support.registry_commands import ask, list_broken
from tests.support.registry_tree import put, read_tree
from timberline.registry.store import open_store

REFUSED = 1
TIP = "tiny/aliases/production/3.json"


@pytest.mark.parametrize("alias", ["production", "candidate"])
def test_repaired_alias_moves_again(root: Path, alias: str) -> None:
    """The way out of a damaged alias: a version that an operator names, recorded as forced."""
    put(root, f"tiny/aliases/{alias}/3.json", b"{")
    assert ask(root, f"repair tiny@{alias} 2").code == 2
    repaired = ask(root, f"repair tiny@{alias} 2 --reason disk")
    assert (repaired.code, repaired.value["version"], repaired.value["forced"]) == (0, 2, True)
    assert (ask(root, "verify").code, ask(root, "list").code, ask(root, f"show tiny@{alias}").code) == (
        0,
        0,
        0,
    )
    assert ask(root, f"repair tiny@{alias} 2 --reason again").value == {"name": f"tiny@{alias}", "done": None}


@pytest.mark.parametrize("what", ["stray", "head", "folder"])
def test_repair_refuses_what_it_cannot_settle(root: Path, what: str) -> None:
    """A repair that leaves the damage would be asked for again and again, each time one record longer."""
    places = {"stray": "tiny/aliases/production/3.json~", "head": "tiny/heads/production.json"}
    put(root, places.get(what, "tiny/aliases/production"), b"x" if what == "stray" else "link")
    tree = read_tree(root)
    answer = ask(root, "repair tiny@production 2 --reason disk")
    assert answer.code == REFUSED
    assert "Remove it" in answer.log
    assert read_tree(root) == tree


def test_rollback_does_not_lead_to_a_planted_record(root: Path) -> None:
    """A repair accepts what is there; that it was ever in production it cannot know."""
    tip = json.loads((root / TIP).read_bytes())
    publish_tiny(open_store(root))
    pin = open_store(root).open_version("tiny", 4).digests.manifest_sha256
    planted = tip | {"sequence": 9, "version": 4, "manifest_sha256": pin}
    put(root, "tiny/aliases/production/9.json", json.dumps(planted).encode())
    assert ask(root, "repair tiny@production 3 --reason planted").code == 0
    rolled_back = ask(root, "rollback tiny")
    assert (rolled_back.code, rolled_back.value["version"]) == (0, 2)


@pytest.mark.parametrize("sequence", [4, 1000])
def test_planted_repair_does_not_move_the_alias(root: Path, sequence: int) -> None:
    """A repair follows on no single record; what it accepted has to be there."""
    tip = json.loads((root / TIP).read_bytes())
    planted = tip | {"sequence": sequence, "version": 1, "action": "repair", "previous_sha256": None}
    planted["history_sha256"] = "0" * 64
    put(root, f"tiny/aliases/production/{sequence}.json", json.dumps(planted).encode())
    answer = ask(root, "show tiny")
    assert answer.code == 1
    assert f"{sequence}.json accepted has changed since" in answer.log


def test_version_that_was_written_off_and_is_back_is_reported(root: Path, tmp_path: Path) -> None:
    """Which of the two is right, the removal or the folder, only a person can know."""
    (root / "tiny" / "1").rename(tmp_path / "copy")
    assert (
        ask(root, "repair tiny@1 --reason large").value["done"]
        == "is written off; its number is not used again"
    )
    assert ask(root, "verify").code == 0
    shutil.copytree(tmp_path / "copy", root / "tiny" / "1")
    assert [check["name"] for check in list_broken(ask(root, "verify"))] == ["tiny@1"]
    answer = ask(root, "repair tiny@1 --reason again")
    assert answer.code == REFUSED
    assert "Remove the folder, or tiny/ledger/1.removed.json" in answer.log


def test_damaged_removal_is_told_and_written_again(root: Path) -> None:
    """It is all that is left of a version."""
    put(root, "tiny/1", None)
    assert ask(root, "repair tiny@1 --reason large").code == 0
    put(root, "tiny/ledger/1.removed.json", b"{")
    (check,) = list_broken(ask(root, "verify"))
    assert check["findings"].startswith("tiny@1: tiny/ledger/1.removed.json: not an entry of the ledger")
    assert ask(root, "repair tiny@1 --reason again").code == 0
    assert ask(root, "verify").code == 0


def test_verdict_from_before_a_rollback_from_nobody_knows_where_is_void(root: Path) -> None:
    """The record of where production was moved back from is lost; it may have been this version."""
    store = open_store(root)
    publish_tiny(store)
    give_verdict(store, "tiny", 4)
    assert (ask(root, "promote tiny@4").code, ask(root, "rollback tiny").code) == (0, 0)
    put(root, "tiny/aliases/production/4.json", b"{")
    assert ask(root, "repair tiny@production 3 --reason disk").code == 0
    refused = ask(root, "promote tiny@4")
    assert refused.code == REFUSED
    assert "production was moved back" in refused.log
    give_verdict(store, "tiny", 4)
    assert ask(root, "promote tiny@4").code == 0


def test_version_with_a_damaged_verdict_is_not_said_to_need_no_repair(root: Path) -> None:
    """What verify calls damaged, repair must not call whole; only the gate can judge again."""
    put(root, "tiny/1/verdict.json", b"{")
    answer = ask(root, "repair tiny@1 --reason again")
    assert answer.code == REFUSED
    assert "verdict.json: not a verdict" in answer.log
    assert "run the gate again" in answer.log
