"""Registries that earlier programs wrote are whole for this one, and go on, in a folder and in a bucket.

Each folder of ``golden/past`` was made by the program of one commit: two versions with verdicts, both
promoted, the second rolled back; the first is the candidate. They are never edited. A program that writes
another ``schema_version`` adds one.
"""

from __future__ import annotations

import shutil
import typing
from pathlib import Path

import msgspec
import pytest

from tests.support.places import download, new_prefix, upload
from tests.support.registry_commands import ask, list_broken
from tests.support.s3_proxy import S3Proxy
from timberline.registry.aliases import AliasRecord, _Head, inspect_history, read_alias
from timberline.registry.manifest import SCHEMA_VERSION, encode_manifest
from timberline.registry.store import LedgerEntry, open_store
from timberline.registry.summary import SUMMARY_SCHEMA_VERSION
from timberline.registry.verdict import VERDICT_SCHEMA_VERSION, decode_verdict

GOLDEN = Path(__file__).parent / "golden"
PAST = sorted(path for path in (GOLDEN / "past").iterdir())
MODEL = "tiny"


def _list_literals(kind: type) -> set[int]:
    return set(typing.get_args(typing.get_type_hints(kind)["schema_version"]))


# Every schema_version that this program reads, by what it is of.
KNOWN = {
    "manifest": set(range(1, SCHEMA_VERSION + 1)),
    "verdict": set(range(1, VERDICT_SCHEMA_VERSION + 1)),
    "summary": set(range(1, SUMMARY_SCHEMA_VERSION + 1)),
    "record": _list_literals(AliasRecord),
    "head": _list_literals(_Head),
    "entry": _list_literals(LedgerEntry),
}


def _tell_kind(path: Path) -> str:
    parts = path.parts
    if "heads" in parts or path.name == "head.json":
        return "head"
    if "aliases" in parts:
        return "record"
    return "entry" if "ledger" in parts else path.stem


def test_every_schema_version_is_among_the_past_registries() -> None:
    """One that nobody reads in a test is one that is given up unnoticed."""
    found: dict[str, set[int]] = {}
    for path in (GOLDEN / "past").rglob("*.json"):
        number = msgspec.json.decode(path.read_bytes())["schema_version"]
        found.setdefault(_tell_kind(path), set()).add(number)
    assert found == KNOWN


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a registry may be put."""
    if request.param == "folder":
        return str(tmp_path / "registry")
    proxy: S3Proxy = request.getfixturevalue("proxy")
    proxy.clear()
    return new_prefix("s3://registry")


def _copy(past: Path, place: str) -> None:
    if "://" in place:
        upload(past, place)
    else:
        shutil.copytree(past, place, dirs_exist_ok=True)


@pytest.mark.parametrize("past", PAST, ids=lambda path: path.name)
def test_past_registry_is_whole_and_nothing_of_it_is_lost(past: Path, place: str) -> None:
    """What is served today was released years ago, and who did it and why must still be known."""
    _copy(past, place)
    store = open_store(place)
    assert list_broken(ask(place, "verify")) == []
    assert ask(place, "list").code == 0
    assert store.versions(MODEL) == [1, 2]
    for version in (1, 2):
        folder = past / MODEL / str(version)
        written = msgspec.json.decode(encode_manifest(store.open_version(MODEL, version).manifest))
        _assert_kept(msgspec.json.decode((folder / "manifest.json").read_bytes()), written)
        verdict = decode_verdict((folder / "verdict.json").read_bytes())
        assert (verdict.outcome, verdict.candidate.version) == ("PASS", version)
    moves = inspect_history(store, MODEL, "production").chain
    assert [(move.version, move.action) for move in moves] == [
        (1, "promote"),
        (2, "promote"),
        (1, "rollback"),
    ]
    assert read_alias(store, MODEL, "production") == moves[-1]
    records = [msgspec.json.decode(path.read_bytes()) for path in _list_records(past)]
    for told, move in zip(records, moves, strict=True):
        _assert_kept(told, msgspec.to_builtins(move))


@pytest.mark.parametrize("past", PAST, ids=lambda path: path.name)
def test_past_registry_goes_on(past: Path, place: str) -> None:
    """An update of the program is no migration: the next release is a command like the one before."""
    _copy(past, place)
    for words in (
        "publish tiny third",
        "judge tiny@3 PASS",
        "promote tiny@3",
        "rollback tiny",
        "alias set tiny@candidate 3",
        "alias set tiny@new 2",
    ):
        assert ask(place, words).code == 0, words
    store = open_store(place)
    assert list_broken(ask(place, "verify")) == []
    assert [(move.version, move.sequence) for move in inspect_history(store, MODEL, "production").chain] == [
        (1, 1),
        (2, 2),
        (1, 3),
        (3, 4),
        (1, 5),
    ]


@pytest.mark.parametrize("past", PAST, ids=lambda path: path.name)
def test_registry_that_is_copied_out_of_a_bucket_and_back_is_whole_and_goes_on(
    past: Path, proxy: S3Proxy, tmp_path: Path
) -> None:
    """``aws s3 sync`` is how people move it, and there is no other command for it."""
    proxy.clear()
    there, back = new_prefix("s3://registry"), new_prefix("s3://registry")
    upload(past, there)
    assert ask(there, "alias set tiny@new 2").code == 0
    download(there, tmp_path / "registry")
    for place, words in (
        (str(tmp_path / "registry"), "alias set tiny@new 1"),
        (back, "alias set tiny@new 2"),
    ):
        if place == back:
            upload(tmp_path / "registry", back)
        assert list_broken(ask(place, "verify")) == []
        for command in (words, "promote tiny@2 --force --reason again", "publish tiny more"):
            assert ask(place, command).code == 0, (place, command)
        assert list_broken(ask(place, "verify")) == []
    assert open_store(back).versions(MODEL) == [1, 2, 3, 4]
    assert [move.version for move in inspect_history(open_store(back), MODEL, "new").chain] == [2, 1, 2]


def _list_records(past: Path) -> list[Path]:
    folder = past / MODEL / "aliases" / "production"
    folder = folder / "log" if (folder / "log").is_dir() else folder
    return sorted(folder.glob("*.json"))


def _assert_kept(told: object, found: object) -> None:
    """Everything in the JSON value ``told`` is in ``found``; more may be."""
    if isinstance(told, dict) and isinstance(found, dict):
        for name, value in told.items():
            assert name in found
            _assert_kept(value, found[name])
    elif isinstance(told, list) and isinstance(found, list):
        assert len(told) == len(found)
        for value, other in zip(told, found, strict=True):
            _assert_kept(value, other)
    else:
        assert told == found
