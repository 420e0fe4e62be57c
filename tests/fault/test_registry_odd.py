"""Damaged registries: each damage is reported, and stops nothing that it need not stop."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.manifests import give_verdict, publish_tiny
from tests.support.registry_commands import ask, list_broken
from tests.support.registry_tree import Kind, compare, put, read_tree, restore
from timberline.benchmarks.gate.run import find_comparison
from timberline.registry.errors import DamageError
from timberline.registry.store import open_store

MOVED = 0
REFUSED = 1
TIP = "tiny/aliases/production/3.json"
ALIAS = ("tiny@production", "tiny/aliases/production")
V2 = ("tiny@2", "tiny/2")
V3 = ("tiny@3", "tiny/3")
CANDIDATE = ("tiny@candidate", "tiny/aliases/candidate")
LOST = "tiny@3: was published, and is lost|was published .* and is lost"
PIN = "it was published with"


class Case(NamedTuple):
    """A damage and what is reported of it.

    ``reported`` is all that `verify` reports: name, path, part of the finding. ``listed`` is a part of what
    `list` says, empty where it shows no damage. ``answers`` are those of other commands: exit code, part of
    the log. An exit code of 0 for a move is followed by the version.
    """

    name: str
    damage: Callable[[Path], object]
    reported: tuple[tuple[tuple[str, str], str], ...]
    listed: str
    answers: dict[str, tuple[int, int | str]]


def _cut(path: str, length: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / path).write_bytes((root / path).read_bytes()[:length])

    return damage


def _put(path: str, content: Any) -> Callable[[Path], None]:
    return lambda root: put(root, path, content)


def _edit(path: str, old: bytes, new: bytes, to: str = "") -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = (root / path).read_bytes()
        assert old in data
        put(root, to or path, data.replace(old, new, 1))

    return damage


def _break_byte(path: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = bytearray((root / path).read_bytes())
        data[200] = 0xFF
        (root / path).write_bytes(data)

    return damage


def _link_record(root: Path) -> None:
    (root / TIP).rename(root.parent / "three.json")
    (root / TIP).symlink_to(root.parent / "three.json")


def _link_folder(root: Path) -> None:
    folder = root / "tiny" / "aliases" / "production"
    folder.rename(root.parent / "production")
    folder.symlink_to(root.parent / "production")


def _leave_things(root: Path) -> None:
    for path in ("tiny/2/.DS_Store", "tiny/2/notes.txt", "tiny/2/sub/x"):
        put(root, path, b"")


def _copy_model(root: Path, name: str) -> None:
    shutil.copytree(root / "tiny", root / name)


def _leave_things_beside(root: Path) -> None:
    for path in ("README", "lost+found/x", ".git/config", "tiny/notes"):
        put(root, path, b"")


def _copy_half(root: Path) -> None:
    _edit("tiny/3/manifest.json", b'"version": 3', b'"version": 4', "tiny/4/manifest.json")(root)
    put(root, "tiny/4/model.onnx", b"not")


def _replay_verdict(root: Path) -> None:
    shutil.copy(root / "tiny" / "2" / "verdict.json", root / "tiny" / "3" / "verdict.json")


def _stopped(text: str) -> dict[str, tuple[int, int | str]]:
    """What a damaged alias answers: it points nowhere until it is repaired, forced or not."""
    hint = f"{text}.*timberline repair tiny@production"
    commands = ("show tiny", "rollback tiny", "promote tiny@2 --force --reason x")
    return {**dict.fromkeys(commands, (REFUSED, hint)), "show tiny@1": (1, "")}


# The finding where something else lies than what was written.
NO_PLAIN = "is no plain file"
NO_FILE = f"3.json: {NO_PLAIN}"
CASES = [
    Case(
        "the last record is empty",
        _cut(TIP, 0),
        ((ALIAS, f"{TIP}: not an alias record"),),
        TIP,
        _stopped(TIP),
    ),
    Case(
        "the last record is cut",
        _cut(TIP, 100),
        ((ALIAS, f"{TIP}: not an alias record"),),
        TIP,
        _stopped(TIP),
    ),
    Case(
        "the last record is no text",
        _put(TIP, b'{"a": \xff\xfe}'),
        ((ALIAS, f"{TIP}: not an alias record: not UTF-8: byte 6 is 0xff"),),
        TIP,
        _stopped("not UTF-8"),
    ),
    Case(
        "an older record is garbage",
        _put("tiny/aliases/production/1.json", b"{"),
        ((ALIAS, "production/1.json: not an alias record"),),
        "production/1.json: not an alias record",
        {
            "show tiny": (1, ""),
            "rollback tiny": (REFUSED, "1.json: not an alias record.*timberline repair"),
            "promote tiny@2": (REFUSED, "1.json: not an alias record.*timberline repair"),
            "promote tiny@2 --force --reason x": (MOVED, 2),
        },
    ),
    Case(
        "an older record is gone",
        _put("tiny/aliases/production/1.json", None),
        ((ALIAS, "production/1.json is missing"),),
        "production/1.json is missing",
        {
            "show tiny": (1, ""),
            "rollback tiny": (REFUSED, "1.json is missing.*timberline repair"),
            "promote tiny@2 --force --reason x": (MOVED, 2),
        },
    ),
    Case(
        "the last record is gone",
        _put(TIP, None),
        ((ALIAS, f"{TIP} is missing"),),
        f"{TIP} is missing",
        _stopped("is missing"),
    ),
    Case(
        "a record is planted",
        _edit(
            "tiny/aliases/production/1.json",
            b'"sequence": 1',
            b'"sequence": 1000',
            "tiny/aliases/production/1000.json",
        ),
        ((ALIAS, "production/4.json to 999.json are missing"),),
        "production/4.json to 999.json are missing",
        _stopped("are missing"),
    ),
    Case(
        "the version in production is gone",
        _put("tiny/3", None),
        ((CANDIDATE, LOST), (ALIAS, LOST), (V3, LOST)),
        "tiny@production: points at version 3, which is lost",
        {"show tiny": (1, LOST), "promote tiny@2": (REFUSED, LOST), "rollback tiny": (MOVED, 2)},
    ),
    Case(
        "a file in the place of the alias",
        _put("tiny/aliases/production", b"x"),
        ((ALIAS, "is no folder"),),
        "tiny/aliases/production: is no folder",
        dict.fromkeys(("show tiny", "rollback tiny", "promote tiny@2"), (REFUSED, "is no folder")),
    ),
    Case(
        "a link in the place of the alias",
        _link_folder,
        ((ALIAS, "is reached through a symbolic link"),),
        "tiny/aliases/production: is reached through a symbolic link",
        dict.fromkeys(("show tiny", "rollback tiny", "promote tiny@2"), (REFUSED, "symbolic link")),
    ),
    Case(
        "a link in the place of the last record",
        _link_record,
        ((ALIAS, f"{TIP}: is reached through a symbolic link"),),
        "symbolic link",
        _stopped("symbolic link"),
    ),
    *[
        Case(
            f"a {kind} in the place of the last record",
            _put(TIP, kind),
            ((ALIAS, NO_FILE),),
            NO_FILE,
            _stopped(NO_FILE),
        )
        for kind in ("fifo", "socket", "folder")
    ],
    Case(
        "a FIFO in the place of a manifest",
        _put("tiny/2/manifest.json", "fifo"),
        ((V2, "manifest.json: is no plain file"),),
        "tiny/2/manifest.json: is no plain file",
        {
            "show tiny@2": (1, "is no plain file"),
            "show tiny": (0, ""),
            "rollback tiny": (REFUSED, "no plain file"),
        },
    ),
    *[
        Case(
            f"a {kind} in the place of a verdict",
            _put("tiny/2/verdict.json", kind),
            ((V2, "verdict.json is not a plain file"),),
            "verdict.json is not a plain file",
            {"promote tiny@2": (REFUSED, "verdict.json is not a plain file"), "show tiny": (0, "")},
        )
        for kind in ("fifo", "folder")
    ],
    Case(
        "a folder in the place of a manifest",
        _put("tiny/2/manifest.json", "folder"),
        ((V2, "was published .*and is lost"),),
        "tiny@2: was published",
        {"show tiny@2": (1, NO_PLAIN), "rollback tiny": (REFUSED, NO_PLAIN), "show tiny": (0, "")},
    ),
    Case(
        "a FIFO in the place of a graph",
        _put("tiny/3/model.onnx", "fifo"),
        ((V3, "model.onnx is not a plain file"),),
        "model.onnx is not a plain file",
        {
            "show tiny": (0, ""),
            "promote tiny@3 --force --reason x": (REFUSED, "not a plain file"),
            "rollback tiny": (MOVED, 2),
        },
    ),
    Case(
        "a byte of a manifest is no text",
        _break_byte("tiny/2/manifest.json"),
        ((V2, PIN),),
        "not a manifest: not UTF-8: byte 200 is 0xff",
        {"show tiny@2": (1, PIN), "show tiny": (0, ""), "rollback tiny": (REFUSED, PIN)},
    ),
    Case(
        "a byte of a verdict is no text",
        _break_byte("tiny/2/verdict.json"),
        ((V2, "verdict.json: not a verdict: not UTF-8: byte 200 is 0xff"),),
        "not a verdict: not UTF-8",
        {
            "show tiny@2": (1, ""),
            "promote tiny@2": (REFUSED, "not a verdict: not UTF-8"),
            "rollback tiny": (MOVED, 2),
        },
    ),
    Case(
        "a verdict is cut",
        _cut("tiny/3/verdict.json", 200),
        ((V3, "verdict.json: not a verdict"),),
        "tiny@3: verdict.json: not a verdict",
        {"show tiny@3": (1, ""), "rollback tiny": (MOVED, 2)},
    ),
    Case(
        "a manifest of another schema",
        _edit("tiny/3/manifest.json", b'"schema_version": 1', b'"schema_version": 2, "new_thing": {}'),
        ((V3, PIN), (ALIAS, PIN), (CANDIDATE, PIN)),
        "schema_version is 2, this program reads 1",
        {"show tiny": (1, PIN), "promote tiny@2": (REFUSED, PIN), "rollback tiny": (MOVED, 2)},
    ),
    Case(
        "a manifest is edited with all its digests",
        _edit("tiny/2/manifest.json", b'"Tiny"', b'"Larch"'),
        ((V2, PIN),),
        PIN,
        {
            "show tiny@2": (1, PIN),
            "rollback tiny": (REFUSED, PIN),
            "promote tiny@2 --force --reason x": (REFUSED, PIN),
        },
    ),
    Case(
        "files and a folder in a version",
        _leave_things,
        ((V2, "^notes.txt is not named in the manifest; sub is not named in the manifest$"),),
        "notes.txt is not named",
        {"promote tiny@2 --force --reason x": (REFUSED, "notes.txt is not named"), "show tiny": (0, "")},
    ),
    Case(
        "files beside the models and in one",
        _leave_things_beside,
        ((("tiny", "tiny/notes"), "is no part of a registry"),),
        "tiny/notes: is no part of a registry",
        {"show tiny": (0, ""), "rollback tiny": (MOVED, 2)},
    ),
    *[
        Case(
            f"a folder called {name}",
            partial(_copy_model, name=name),
            (((name, name), "is not the name of a model"),),
            f"{name}: is not the name of a model",
            {f"list {name}": (2, "expected model"), "show tiny": (0, ""), "rollback tiny": (MOVED, 2)},
        )
        for name in ("Tiny", "modèle")
    ],
    Case(
        "a copy of a version that is under way",
        _copy_half,
        ((("tiny@4", "tiny/4"), "model.onnx has 3 bytes, manifest says 8; evaluation.parquet is missing"),),
        "tiny@4: model.onnx has 3 bytes",
        {"promote tiny@4 --force --reason x": (REFUSED, "model.onnx has 3 bytes"), "show tiny": (0, "")},
    ),
    Case(
        "what rsync names a file that is under way",
        _put("tiny/3/.model.onnx.Ab12Cd", b""),
        ((V3, ".model.onnx.Ab12Cd is not named in the manifest"),),
        ".model.onnx.Ab12Cd is not named",
        {"show tiny": (0, ""), "rollback tiny": (MOVED, 2)},
    ),
    Case(
        "the verdict of another version",
        _replay_verdict,
        ((V3, "verdict.json is for other bytes"),),
        "",
        {"show tiny@3": (0, ""), "rollback tiny": (MOVED, 2)},
    ),
]


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.DOTALL) is not None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_damage_is_told_and_stops_nothing_else(case: Case, root: Path) -> None:
    """An operator sees in one look what is damaged, and everything that does not need it goes on."""
    others = ("verify other", "list other", "show other", "alias other")
    before = {words: ask(root, words) for words in others}
    case.damage(root)
    verified = ask(root, "verify")
    assert verified.code == 1
    assert {(check["name"], check["path"]) for check in list_broken(verified)} == {
        place for place, _ in case.reported
    }
    for (name, _), finding in case.reported:
        (check,) = [check for check in list_broken(verified) if check["name"] == name]
        assert _matches(finding, check["findings"]), check
    listed = ask(root, "list")
    problems = [row["problem"] for row in listed.value if row.get("problem")]
    assert listed.code == (1 if case.listed else 0), problems
    assert any(case.listed in problem for problem in problems) or not case.listed
    assert {words: ask(root, words) for words in others} == before
    tree = read_tree(root)
    for words, (code, expected) in case.answers.items():
        answer = ask(root, words)
        assert answer.code == code, (words, answer)
        if isinstance(expected, int):
            assert answer.value["version"] == expected
            restore(root, tree, compare(tree, read_tree(root)))
        else:
            assert _matches(expected, answer.log), (words, answer)
            assert read_tree(root) == tree, f"{words} changed something"
    assert {words: ask(root, words) for words in others} == before


def test_registry_that_was_copied_is_whole(root: Path, tmp_path: Path) -> None:
    """Times and links are not what a version is: a copy from a backup is the registry."""
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (tmp_path / "outside.onnx").hardlink_to(root / "tiny" / "3" / "model.onnx")
    verified = ask(root, "verify")
    assert (verified.code, list_broken(verified)) == (0, [])
    assert ask(root, "list").code == 0
    refused = ask(root, "promote tiny@2")
    assert refused.code == REFUSED
    assert "given against tiny@1" in refused.log


def test_model_that_was_renamed_is_told_of_in_every_part(root: Path) -> None:
    """All that is in it names the model: under another name its evidence would be counted twice."""
    (root / "tiny").rename(root / "small")
    reported = {check["name"]: check["findings"] for check in list_broken(ask(root, "verify"))}
    assert reported.keys() == {"small@1", "small@2", "small@3", "small@candidate", "small@production"}
    assert "of tiny@1" in reported["small@1"]
    assert "1.json: is move 1 of tiny@production" in reported["small@production"]
    assert [ask(root, words).code for words in ("list small", "show small", "rollback small")] == [
        1,
        1,
        REFUSED,
    ]
    assert ask(root, "verify other").code == 0


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "back\\slash", "x" * 255, " ", "é", "-n"])
@pytest.mark.parametrize(
    "place", ["", "tiny", "tiny/2", "tiny/aliases", "tiny/aliases/production", "tiny/ledger"]
)
def test_name_that_nobody_expects_is_told_and_ends_no_command(root: Path, place: str, name: str) -> None:
    """A file's name is bytes that others chose: one that is no text must not end the list of damage."""
    path = f"{place}/{name}" if place else name
    shown = name.encode("utf-8", "backslashreplace").decode()[:60]
    contents: tuple[bytes | Kind, ...] = (b"x", "fifo", "folder", "link")
    for content in contents:
        is_folder = content == "folder"
        put(root, f"{path}/x" if is_folder else path, b"x" if is_folder else content)
        is_anybodys = not place and not is_folder
        verified = ask(root, "verify")
        assert verified.code == (0 if is_anybodys else 1)
        assert is_anybodys or any(
            shown in check["path"] + check["findings"] for check in list_broken(verified)
        )
        assert ask(root, "list").code == verified.code
        assert ask(root, "verify other").code == 0
        assert ask(root, "alias tiny").code in (0, 1)
        put(root, path, None)
    assert ask(root, "verify").code == 0


def test_registry_at_a_path_that_is_no_text_is_read_and_told_of(base: Path, tmp_path: Path) -> None:
    """A path is bytes; an error about one that is no text has to be reported too."""
    root = shutil.copytree(base, tmp_path / "\udcff")
    assert ask(root, "verify").code == 0
    put(root, "tiny/aliases/production", b"x")
    for words in ("verify", "list", "show tiny", "rollback tiny"):
        answer = ask(root, words)
        assert answer.code == 1
        assert r"udcff/tiny/aliases/production: is no folder" in json.dumps(answer.value) + answer.log


@pytest.mark.parametrize("place", ["ledger", "aliases"])
@pytest.mark.parametrize("content", [b"x", "link", "fifo"])
def test_nothing_is_published_where_the_numbers_cannot_be_known(root: Path, place: str, content: Any) -> None:
    """What lies there instead may hide that a number was given out; the next one could not be noted."""
    put(root, f"tiny/{place}", content)
    tree = read_tree(root)
    answer = ask(root, "publish tiny x")
    assert (answer.code, answer.value) == (3, None)
    assert read_tree(root) == tree
    assert ask(root, "publish other x").value == 2


@pytest.mark.parametrize("is_lost", [True, False])
def test_no_one_is_judged_against_another_champion_than_was_promoted(root: Path, is_lost: bool) -> None:
    """A pass against what lies under the champion's number now says nothing about what people get."""
    publish_tiny(open_store(root))
    put(root, "tiny/ledger/3.json", None)  # as of a version that an older program published
    if is_lost:
        put(root, "tiny/3", None)
    else:
        _edit("tiny/3/manifest.json", b'"Tiny"', b'"Larch"')(root)
    with pytest.raises(DamageError, match="which is lost" if is_lost else "the alias was moved to"):
        find_comparison(open_store(root), "tiny", "tiny@4", None)
    if not is_lost:
        give_verdict(open_store(root), "tiny", 4)
    for words in ("promote tiny@4", "promote tiny@3"):
        assert ask(root, words).code != 0
    assert ask(root, "promote tiny@4 --force --reason x").code == 0
