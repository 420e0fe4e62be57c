"""Movable names: compare-and-swap, history, resolution."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.aliases import list_aliases, move_alias, read_alias, read_history, resolve
from registry.errors import AliasConflictError, ConfigError, VersionNotFoundError
from registry.store import Store, open_store
from tests.support.manifests import publish_tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A registry with tiny@1 and tiny@2."""
    store = open_store(tmp_path)
    publish_tiny(store)
    publish_tiny(store)
    return store


def test_alias_that_never_moved_points_nowhere(store: Store) -> None:
    """The first release has no champion; that is a fact and no error."""
    assert read_alias(store, "tiny", "production") is None
    assert read_history(store, "tiny", "production") == []
    assert list_aliases(store, "tiny") == []


def test_alias_points_where_it_moved_last_and_remembers_the_rest(store: Store) -> None:
    """Rollback and audit both live on the history."""
    first = move_alias(store, "tiny", "staging", 2, expected=None, reason="try it")
    second = move_alias(store, "tiny", "staging", 1, expected=first.sequence, reason="it was slow")
    assert read_alias(store, "tiny", "staging") == second
    assert read_history(store, "tiny", "staging") == [first, second]
    assert [record.sequence for record in (first, second)] == [1, 2]
    assert "@" in second.moved_by
    assert second.manifest_sha256 == store.identify("tiny", 1).manifest_sha256


def test_tenth_move_follows_the_ninth(store: Store) -> None:
    """File names sort as text; moves must not."""
    for seen in range(11):
        move_alias(store, "tiny", "staging", 1 + seen % 2, expected=seen or None, reason="again")
    assert [record.sequence for record in read_history(store, "tiny", "staging")] == list(range(1, 12))


@pytest.mark.parametrize("expected", [None, 2, 7])
def test_alias_does_not_move_from_where_the_caller_did_not_see_it(store: Store, expected: int | None) -> None:
    """Whoever decided on an old state has to look again."""
    seen = move_alias(store, "tiny", "staging", 1, expected=None, reason="first")
    with pytest.raises(AliasConflictError, match="Nothing was changed"):
        move_alias(store, "tiny", "staging", 2, expected=expected, reason="late")
    assert read_history(store, "tiny", "staging") == [seen]


def test_alias_never_points_at_a_version_that_is_not_there(store: Store) -> None:
    """A service that resolves the alias would not start."""
    with pytest.raises(VersionNotFoundError, match=r"There are: 1, 2"):
        move_alias(store, "tiny", "staging", 3, expected=None, reason="typing error")
    assert read_alias(store, "tiny", "staging") is None


@pytest.mark.parametrize("alias", ["7", "../x", "Production", ""])
def test_alias_with_another_kind_of_name_is_refused(store: Store, alias: str) -> None:
    """An alias 7 would hide version 7."""
    with pytest.raises(ConfigError):
        move_alias(store, "tiny", alias, 1, expected=None, reason="why not")


def test_reference_resolves_to_a_number(store: Store) -> None:
    """Services, gates and people name versions in these ways only."""
    move_alias(store, "tiny", "production", 1, expected=None, reason="first")
    move_alias(store, "tiny", "candidate", 2, expected=None, reason="exported")
    assert resolve(store, "tiny@2") == 2
    assert resolve(store, "tiny@candidate") == 2
    assert resolve(store, "tiny") == 1
    assert resolve(store, "tiny", default="candidate") == 2


@pytest.mark.parametrize("ref", ["tiny", "tiny@production", "tiny@9", "other"])
def test_reference_to_nothing_says_what_there_is(store: Store, ref: str) -> None:
    """`make serve` before the first promotion ends here; the answer must name the way out."""
    with pytest.raises(VersionNotFoundError, match=r"There are"):
        resolve(store, ref)
