"""Movable names: compare-and-swap, history, resolution."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from tests.support.manifests import publish_tiny, remove_ledger_entry
from timberline.registry.aliases import (
    inspect_history,
    list_aliases,
    move_alias,
    read_alias,
    read_history,
    repair_alias,
    resolve,
)
from timberline.registry.errors import (
    AliasConflictError,
    ConfigError,
    DamageError,
    DigestMismatchError,
    VersionNotFoundError,
)
from timberline.registry.folder import FolderStore
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import Store


@pytest.fixture
def store(store: Store) -> Store:
    """A registry with tiny@1 and tiny@2."""
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
    assert second.manifest_sha256 == store.open_version("tiny", 1).digests.manifest_sha256


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
    with pytest.raises(VersionNotFoundError, match=r"There are: 2, 1"):
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


@pytest.mark.parametrize("ref", ["tiny", "tiny@staging"])
def test_an_alias_that_does_not_exist_is_answered_with_a_name_that_does(store: Store, ref: str) -> None:
    """A newcomer who serves before the first promotion has not seen the form MODEL@VERSION yet."""
    with pytest.raises(VersionNotFoundError, match=r"There are versions: 2, 1; .* as in tiny@2\."):
        resolve(store, ref)


@pytest.mark.parametrize("ref", ["tiny", "tiny@production", "tiny@9", "other"])
def test_reference_to_nothing_says_what_there_is(store: Store, ref: str) -> None:
    """`make serve` before the first promotion ends here; the answer must name the way out."""
    with pytest.raises(VersionNotFoundError, match=r"There are"):
        resolve(store, ref)


def _move_to(store: Store, *versions: int) -> Path:
    """Move tiny@staging to each of ``versions``; returns the folder of its records."""
    for version in versions:
        current = read_alias(store, "tiny", "staging")
        expected = current.sequence if current else None
        move_alias(store, "tiny", "staging", version, expected=expected, reason="again")
    return Path(store.location, "tiny", "aliases", "staging")


def _head(store: Store) -> Path:
    return Path(store.location, "tiny", "heads", "staging.json")


def test_every_record_carries_the_digest_of_the_one_before(store: Store) -> None:
    """So that none can be changed, taken out or put in between without a trace."""
    folder = _move_to(store, 1, 2, 1)
    digests = [None, *(digest_bytes((folder / f"{move}.json").read_bytes()) for move in (1, 2))]
    assert [record.previous_sha256 for record in read_history(store, "tiny", "staging")] == digests
    assert msgspec.json.decode(_head(store).read_bytes())["sequence"] == 3


@pytest.mark.parametrize("move", [1, 2, 3])
def test_record_that_is_missing_is_found_wherever_it_was(store: Store, move: int) -> None:
    """A history that is shorter than it was looks like any other, but for the chain and the head."""
    folder = _move_to(store, 1, 2, 1)
    (folder / f"{move}.json").unlink()
    with pytest.raises(DamageError, match=f"aliases/staging/{move}.json is missing"):
        read_history(store, "tiny", "staging")


@pytest.mark.parametrize("move", [1, 2, 3])
def test_record_that_was_edited_is_found_wherever_it_is(store: Store, move: int) -> None:
    """Another reason, version or person under an old move is a lie about who released what."""
    folder = _move_to(store, 1, 2, 1)
    path = folder / f"{move}.json"
    path.write_bytes(path.read_bytes().replace(b"again", b"other"))
    later = f"{move + 1}.json does not follow" if move < 3 else "3.json is not the record that was written"
    with pytest.raises(DamageError, match=later):
        read_history(store, "tiny", "staging")


def test_planted_record_does_not_move_the_alias(store: Store) -> None:
    """A file of a great number would otherwise point production wherever its writer likes."""
    folder = _move_to(store, 1, 2)
    planted = msgspec.structs.replace(read_history(store, "tiny", "staging")[0], sequence=1000)
    (folder / "1000.json").write_bytes(msgspec.json.encode(planted))
    with pytest.raises(DamageError, match=r"3\.json to 999\.json are missing"):
        read_alias(store, "tiny", "staging")


@pytest.mark.parametrize("what", ["folder", "head"])
def test_alias_without_its_records_or_its_head_is_damaged(store: Store, what: str) -> None:
    """An alias that is lost must not look like one that never was: a gate would judge a first version."""
    folder = _move_to(store, 1, 2)
    if what == "folder":
        shutil.rmtree(folder)
    else:
        _head(store).unlink()
    assert list_aliases(store, "tiny") == ["staging"]
    with pytest.raises(DamageError, match="missing"):
        read_alias(store, "tiny", "staging")
    assert inspect_history(store, "tiny", "staging").findings


def test_move_that_was_killed_before_its_head_is_whole(store: Store) -> None:
    """The record is the move; the head is written after it, and by the next move if it was not."""
    _move_to(store, 1, 2)
    before = _head(store).read_bytes()
    _move_to(store, 1)
    _head(store).write_bytes(before)
    assert inspect_history(store, "tiny", "staging").findings == []
    moved = read_alias(store, "tiny", "staging")
    assert moved is not None
    assert moved.version == 1
    _move_to(store, 2)
    assert msgspec.json.decode(_head(store).read_bytes())["sequence"] == 4


def test_writer_of_a_head_that_was_overtaken_does_not_put_it_back(store: Store) -> None:
    """Else the loss of the last record would go unnoticed."""

    class Overtaken(FolderStore):
        """Another process makes a move just before the head of ours is written."""

        def put(self, key: str, data: bytes) -> None:
            if key == "tiny/heads/staging.json" and not moves:
                moves.append(1)
                _move_to(store, 2)
            super().put(key, data)

    moves: list[int] = []
    move_alias(Store(Overtaken(Path(store.location))), "tiny", "staging", 1, expected=None, reason="slow")
    assert moves
    assert msgspec.json.decode(_head(store).read_bytes())["sequence"] == 2
    assert [record.version for record in read_history(store, "tiny", "staging")] == [1, 2]


def test_history_of_an_older_program_goes_on_as_a_chain(store: Store) -> None:
    """Records of schema_version 1 have no links; what follows them has."""
    folder = _move_to(store, 1, 2)
    for record in read_history(store, "tiny", "staging"):
        tree = msgspec.to_builtins(record)
        del tree["previous_sha256"], tree["history_sha256"], tree["nonce"]
        (folder / f"{record.sequence}.json").write_bytes(msgspec.json.encode({**tree, "schema_version": 1}))
    shutil.rmtree(_head(store).parent)
    _move_to(store, 1)
    assert [record.schema_version for record in read_history(store, "tiny", "staging")] == [1, 1, 3]
    (folder / "2.json").write_bytes((folder / "2.json").read_bytes().replace(b"again", b"other"))
    with pytest.raises(DamageError, match=r"3\.json does not follow"):
        read_alias(store, "tiny", "staging")


@pytest.mark.parametrize(
    "damage", ["last is cut", "first is missing", "last is missing", "planted", "no head"]
)
def test_repaired_alias_is_whole_and_its_damage_stays_on_record(store: Store, damage: str) -> None:
    """The way out of a damaged alias is in the open: who, why, and over what."""
    folder = _move_to(store, 1, 2, 1)
    if damage == "last is cut":
        (folder / "3.json").write_bytes((folder / "3.json").read_bytes()[:50])
    elif damage == "planted":
        (folder / "70.json").write_bytes((folder / "1.json").read_bytes())
    elif damage == "no head":
        _head(store).unlink()
    else:
        (folder / ("1.json" if damage == "first is missing" else "3.json")).unlink()
    record = repair_alias(store, "tiny", "staging", 2, reason="the disk was full")
    assert record is not None
    assert (record.version, record.action, record.forced) == (2, "repair", True)
    assert record.sequence == (71 if damage == "planted" else 4)
    assert read_alias(store, "tiny", "staging") == record
    assert inspect_history(store, "tiny", "staging").findings == []
    assert repair_alias(store, "tiny", "staging", 2, reason="again") is None
    _move_to(store, 1)
    assert inspect_history(store, "tiny", "staging").findings == []
    (folder / "2.json").unlink()
    findings = inspect_history(store, "tiny", "staging").findings
    assert findings == [f"what tiny/aliases/staging/{record.sequence}.json accepted has changed since"]


def test_reference_with_a_digest_is_that_version_or_none(store: Store) -> None:
    """Who pins bytes must not get others under the same number."""
    digest = store.open_version("tiny", 2).digests.manifest_sha256
    assert resolve(store, f"tiny@2#sha256:{digest}") == 2
    with pytest.raises(DigestMismatchError, match="the reference names 000000000000"):
        resolve(store, f"tiny@2#sha256:{'0' * 64}")


def test_alias_does_not_resolve_to_other_bytes_than_it_was_moved_to(store: Store) -> None:
    """A manifest edited together with its digests is whole, and is not what was released."""
    _move_to(store, 2)
    path = Path(store.location, "tiny", "2", "manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"Spruce"', b'"Larch!"'))
    with pytest.raises(DamageError, match="it was published with"):
        resolve(store, "tiny@2")
    remove_ledger_entry(store, "tiny", 2)
    assert resolve(store, "tiny@2") == 2
    with pytest.raises(DigestMismatchError, match="the alias was moved to"):
        resolve(store, "tiny@staging")


def test_alias_of_a_lost_version_is_damage(store: Store) -> None:
    """ "Not found" would mean that it was never released."""
    _move_to(store, 2)
    shutil.rmtree(Path(store.location, "tiny", "2"))
    for ref in ("tiny@staging", "tiny@2"):
        with pytest.raises(DamageError, match="tiny@2: was published, and is lost"):
            resolve(store, ref)
    remove_ledger_entry(store, "tiny", 2)
    with pytest.raises(DamageError, match="tiny@staging: points at version 2, which is lost"):
        resolve(store, "tiny@staging")


@pytest.mark.parametrize("thing", ["folder", "link"])
def test_repair_asks_for_what_is_in_the_place_of_the_head_to_be_removed(
    store: Store, tmp_path: Path, thing: str
) -> None:
    """A repair that cannot end the damage must not add a move each time it is tried."""
    folder = _move_to(store, 1, 2)
    _head(store).unlink()
    if thing == "folder":
        _head(store).mkdir()
    else:
        _head(store).symlink_to(tmp_path)
    with pytest.raises(DamageError, match="Remove it"):
        repair_alias(store, "tiny", "staging", 2, reason="odd")
    assert len(list(folder.iterdir())) == 2


def test_planted_record_of_the_greatest_number_is_refused(store: Store) -> None:
    """After it there is no number, and so no move; a repair must not write what cannot be read."""
    folder = _move_to(store, 1)
    (folder / "999999999.json").write_bytes(b"{}")
    with pytest.raises(DamageError, match=r"999999999\.json leaves no number"):
        repair_alias(store, "tiny", "staging", 1, reason="odd")
    assert len(list(folder.iterdir())) == 2
