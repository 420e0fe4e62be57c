"""Registries that cannot be read: that is no answer, least of all "nothing is there"."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.failing_store import FailingStore
from tests.support.forked import open_to_all, run_forked
from tests.support.manifests import publish_tiny
from tests.support.registry_commands import Answer, ask
from tests.support.registry_tree import read_tree
from timberline.benchmarks.gate.run import find_comparison
from timberline.registry.checks import check_versions
from timberline.registry.errors import RegistryError
from timberline.registry.folder import FolderStore
from timberline.registry.promotion import rollback
from timberline.registry.show import summarise_versions
from timberline.registry.store import Store, open_store

# By path, "" for the whole registry: folders and files that a model has.
PARTS = (
    "tiny",
    "tiny/3",
    "tiny/3/manifest.json",
    "tiny/aliases",
    "tiny/aliases/production",
    "tiny/aliases/production/3.json",
    "tiny/heads",
    "tiny/heads/production.json",
    "tiny/ledger",
    "tiny/ledger/3.json",
)
# Nothing; names but not what they lead to; what they lead to but no names.
MODES = (0o000, 0o444, 0o111)
ERRORS = (errno.EIO, errno.ESTALE, errno.EMFILE)
# Where only the version in production cannot be read, the way back from it is open.
IN_PRODUCTION = ("tiny/3", "tiny/3/manifest.json", "tiny/ledger/3.json")


@pytest.fixture
def root(base: Path) -> Iterator[Path]:
    """A copy that everybody may read."""
    with open_to_all() as folder:
        yield shutil.copytree(base, folder / "registry")


def _ask_as_nobody(root: Path, words: str) -> Answer:
    return Answer(*run_forked(lambda: ask(root, words), as_nobody=True))


def _find_champion(place: Path | Store) -> int | str | None:
    """Who a gate would judge candidates against; the error as text if that cannot be found out."""
    try:
        store = open_store(place) if isinstance(place, Path) else place
        return find_comparison(store, "tiny", "tiny@1", None).champion
    except (OSError, RegistryError) as error:
        return f"{error}"


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_registry_without_the_right_to_read_it_is_no_empty_one(root: Path, mode: int) -> None:
    """Under another uid a volume must not look whole, or start from 1."""
    root.chmod(mode)
    champion = run_forked(lambda: _find_champion(root), as_nobody=True)
    assert champion == 3 or "Permission denied" in champion
    for words in ("verify", "list", "verify tiny", "list tiny", "show tiny", "rollback tiny"):
        answer = _ask_as_nobody(root, words)
        if answer.code == 0:  # what is asked for by its name is found
            assert mode == 0o111
            assert words.endswith("tiny")
        else:
            assert (answer.code, answer.value) == (3, None), words
            assert "Permission denied" in answer.log


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_part_without_the_right_to_read_it_is_told_of(root: Path, part: str, mode: int) -> None:
    """A champion that a gate does not see lets any candidate pass as the first version."""
    before = _ask_as_nobody(root, "verify other").value
    readable = (root / part).is_file() and mode == 0o444
    (root / part).chmod(mode)
    verified = _ask_as_nobody(root, "verify")
    reported = [check for check in verified.value if not check["is_whole"]]
    assert verified.code == (0 if readable else 1)
    assert readable or any("Permission denied" in check["findings"] for check in reported)
    assert all(part in check["path"] + check["findings"] or "@" in check["name"] for check in reported)
    assert [check for check in verified.value if check["name"].startswith("other")] == before
    assert _ask_as_nobody(root, "list").code in (0, 1)
    champion = run_forked(lambda: _find_champion(root), as_nobody=True)
    assert champion == 3 or "Permission denied" in champion
    moved = _ask_as_nobody(root, "rollback tiny")
    if moved.code == 0:  # who owns the registry may write, and it need not read all of it
        assert moved.value["version"] == 2
    else:
        assert "Permission denied" in moved.log


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("part", PARTS)
def test_part_on_a_failing_disk_is_told_of_and_nothing_moves(root: Path, part: str, code: int) -> None:
    """A stale mount or too many open files is over in a minute; what was decided in it stays."""
    objects = FailingStore(FolderStore(root), code)
    store = Store(objects)
    objects.failing = part
    tree = read_tree(root)
    checks = check_versions(store, None)
    reported = [check for check in checks if not check.is_whole]
    assert any(os.strerror(code) in check.findings for check in reported)
    assert [check.is_whole for check in checks if check.name.startswith("other")] == [True] * 3
    listed = [row.problem or "" for row in summarise_versions(store)]
    assert any(os.strerror(code) in problem for problem in listed)
    champion = _find_champion(store)
    assert champion == 3 or os.strerror(code) in str(champion)
    if part in IN_PRODUCTION:
        assert rollback(store, "tiny").version == 2
        return
    with pytest.raises((OSError, RegistryError), match=os.strerror(code)):
        rollback(store, "tiny")
    assert read_tree(root) == tree
    if part in ("tiny", "tiny/aliases", "tiny/aliases/production", "tiny/ledger"):
        with pytest.raises(OSError, match=os.strerror(code)):
            publish_tiny(store)
        assert read_tree(root) == tree


@pytest.mark.parametrize("words", ["verify", "verify tiny", "list tiny", "show tiny", "rollback tiny"])
def test_registry_that_is_not_there_is_not_found(tmp_path: Path, words: str) -> None:
    """A typing error in --registry must not look like a registry in which all is well."""
    answer = ask(tmp_path / "mistyped", words)
    assert (answer.code, answer.value) == (1 if "rollback" in words else 2, None)
    assert not (tmp_path / "mistyped").exists()
