"""Which evidence lets production move, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support.manifests import build_verdict, give_verdict, publish_tiny, remove_ledger_entry
from timberline.registry.aliases import AliasRecord, inspect_history, read_alias, read_history
from timberline.registry.errors import ConfigError, DamageError, DigestMismatchError, PromotionRefusedError
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import (
    find_objections,
    production_lineage,
    promote,
    repair,
    rollback,
    set_alias,
)
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import Store, open_store
from timberline.registry.verdict import VERDICT_FILE, Outcome, Verdict, encode_verdict


@pytest.fixture
def store(store: Store) -> Store:
    """A registry with tiny@1 in production, and tiny@2 and tiny@3 without a verdict."""
    for number in range(3):
        publish_tiny(store, model_bytes=b"graph %d" % number)
    give_verdict(store, "tiny", 1)
    promote(store, "tiny", 1)
    return store


def _assert_refused(store: Store, version: int, match: str) -> None:
    before = read_history(store, "tiny", PRODUCTION)
    with pytest.raises(PromotionRefusedError, match=match):
        promote(store, "tiny", version)
    assert read_history(store, "tiny", PRODUCTION) == before


def _write(store: Store, version: int, verdict: Verdict) -> None:
    store.open_version("tiny", version).write_document(VERDICT_FILE, encode_verdict(verdict))


def test_passing_verdict_moves_production_and_is_pinned_in_the_history(store: Store) -> None:
    """Later it must be provable on which evidence the release rested."""
    verdict = give_verdict(store, "tiny", 2)
    record = promote(store, "tiny", 2)
    assert read_alias(store, "tiny", PRODUCTION) == record
    assert (record.version, record.action, record.forced) == (2, "promote", False)
    assert record.verdict_sha256 == digest_bytes(encode_verdict(verdict))


def test_promotion_is_refused_without_a_verdict(store: Store) -> None:
    """A version that was never measured is what the gate exists for."""
    _assert_refused(store, 2, "tiny@2: has no verdict of the gate.*timberline gate tiny")


@pytest.mark.parametrize("outcome", ["BLOCK", "INCONCLUSIVE", "INVALID"])
def test_promotion_is_refused_unless_the_verdict_passes(store: Store, outcome: Outcome) -> None:
    """ "Could not find out" is not "is good": only PASS moves production."""
    give_verdict(store, "tiny", 2, outcome)
    _assert_refused(store, 2, rf"the verdict is {outcome} \(accuracy: made up\)")


def test_promotion_is_refused_when_the_verdict_is_for_another_version(store: Store) -> None:
    """A verdict copied from the folder of a good version must not carry a bad one."""
    verdict = give_verdict(store, "tiny", 2)
    _write(store, 3, verdict)
    _assert_refused(store, 3, "verdict is for other bytes: tiny@2")


@pytest.mark.parametrize("field", ["manifest_sha256", "model_sha256"])
def test_promotion_is_refused_when_the_verdict_is_for_another_digest(store: Store, field: str) -> None:
    """The same number with other bytes is another version."""
    verdict = give_verdict(store, "tiny", 2)
    other = msgspec.structs.replace(verdict.candidate, **{field: "0" * 64})
    _write(store, 2, msgspec.structs.replace(verdict, candidate=other))
    _assert_refused(store, 2, "verdict is for other bytes")


def test_promotion_is_refused_when_the_verdict_is_for_another_model(store: Store) -> None:
    """Two models may have versions of equal number and even equal bytes."""
    verdict = give_verdict(store, "tiny", 2)
    _write(store, 2, msgspec.structs.replace(verdict, model="other"))
    _assert_refused(store, 2, "verdict is for other bytes: other@2")


def test_first_verdict_does_not_replace_a_champion(store: Store) -> None:
    """Absolute floors say "fit to serve", not "no worse than what serves now"."""
    _write(store, 2, build_verdict("tiny", store.open_version("tiny", 2).digests))
    _assert_refused(store, 2, "given against no champion, in production is tiny@1")


def test_verdict_against_a_champion_is_no_first_verdict(tmp_path: Path) -> None:
    """With nothing in production a comparison rests on a champion that was never released."""
    store = open_store(tmp_path)
    publish_tiny(store)
    publish_tiny(store)
    champion, candidate = store.open_version("tiny", 1).digests, store.open_version("tiny", 2).digests
    _write(store, 2, build_verdict("tiny", candidate, champion))
    _assert_refused(store, 2, "in production is nothing")


def test_damaged_verdict_is_not_taken_for_a_missing_one(store: Store) -> None:
    """A refusal must say that there was a verdict, so that its damage is looked into."""
    store.open_version("tiny", 2).write_document(VERDICT_FILE, b'{"schema_version": 1, "outcome": "PA')
    _assert_refused(store, 2, r"tiny@2: verdict\.json: not a verdict")


def test_promotion_is_refused_when_the_verdict_was_tampered_with(store: Store) -> None:
    """An editor turns a BLOCK into a PASS in seconds."""
    data = encode_verdict(give_verdict(store, "tiny", 2, "BLOCK"))
    store.open_version("tiny", 2).write_document(VERDICT_FILE, data.replace(b'"BLOCK"', b'"PASS"'))
    _assert_refused(store, 2, "tiny@2: verdict.json: its seal is .*changed after the gate wrote it")


def test_promotion_is_refused_when_the_verdict_has_no_seal(store: Store) -> None:
    """A verdict of an older program is shown, but calling a new one an old one is no way around the seal."""
    verdict = msgspec.structs.replace(give_verdict(store, "tiny", 2), schema_version=1)
    _write(store, 2, verdict)
    _assert_refused(store, 2, "schema_version 1, which has no seal. Nothing was changed.*timberline gate")


@pytest.mark.parametrize("report", [b"exchanged", None])
def test_promotion_is_refused_when_the_report_is_not_the_one_that_was_judged(
    store: Store, report: bytes | None
) -> None:
    """Who reads the report before the release must read what the verdict rests on."""
    evidence = {"report.json": digest_bytes(b"measured"), "observations-1.csv.gz": digest_bytes(b"raw")}
    _write(store, 2, msgspec.structs.replace(give_verdict(store, "tiny", 2), evidence=evidence))
    if report is not None:
        store.open_version("tiny", 2).write_document("report.json", report)
    _assert_refused(store, 2, "report.json.* the verdict rests on")
    store.open_version("tiny", 2).write_document("report.json", b"measured")
    assert promote(store, "tiny", 2).version == 2


def test_every_objection_is_reported(store: Store) -> None:
    """One run must say all that is missing."""
    one, two, three = (store.open_version("tiny", version).digests for version in (1, 2, 3))
    verdict = build_verdict("tiny", two, three, "BLOCK")
    assert len(find_objections(verdict, "tiny", three, one)) == 3
    assert find_objections(build_verdict("tiny", two, one), "tiny", two, one) == []


def test_force_moves_production_in_the_open(store: Store) -> None:
    """At night an operator must be able to overrule the gate, but not secretly."""
    give_verdict(store, "tiny", 2, "BLOCK")
    record = promote(store, "tiny", 2, force=True, reason="the gate's runner is broken")
    assert (record.version, record.forced, record.reason) == (2, True, "the gate's runner is broken")
    assert record.moved_by
    assert record.moved_at
    assert read_alias(store, "tiny", PRODUCTION) == record


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_force_without_a_reason_is_refused(store: Store, reason: str | None) -> None:
    """The history is there so that every forced move can be explained later."""
    with pytest.raises(ConfigError, match="without a reason"):
        promote(store, "tiny", 2, force=True, reason=reason)
    assert len(read_history(store, "tiny", PRODUCTION)) == 1


def test_promoting_what_is_in_production_changes_nothing(store: Store) -> None:
    """`make release` twice in a row must not fail, nor add to the history."""
    before = read_history(store, "tiny", PRODUCTION)
    assert promote(store, "tiny", 1) == before[-1]
    assert read_history(store, "tiny", PRODUCTION) == before


def test_promoting_by_force_what_is_in_production_is_a_move(store: Store) -> None:
    """Services try a version once for each move; this is how to have one tried again that they refused."""
    record = promote(store, "tiny", 1, force=True, reason="the machine is mended")
    assert (record.version, record.sequence, record.forced) == (1, 2, True)
    assert promote(store, "tiny", 1, force=True, reason="again").sequence == 3
    give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    assert rollback(store, "tiny").version == 1


def test_rollback_returns_to_the_version_before(store: Store) -> None:
    """The way back asks for no verdict and no version number: at night both are hard to get."""
    give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    record = rollback(store, "tiny")
    assert (record.version, record.action, record.sequence) == (1, "rollback", 3)
    assert record.reason == "rolled back from version 2"


def test_rollback_onto_other_bytes_is_refused(store: Store) -> None:
    """The way back leads to what was in production, not to what lies under its number now."""
    give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    path = Path(store.location, "tiny", "1", "manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"Spruce"', b'"Larch!"'))
    before = read_history(store, "tiny", PRODUCTION)
    with pytest.raises(DamageError, match=r"tiny@1: manifest\.json has digest .*it was published with"):
        rollback(store, "tiny")
    remove_ledger_entry(store, "tiny", 1)
    with pytest.raises(DigestMismatchError, match="in production was"):
        rollback(store, "tiny")
    assert read_history(store, "tiny", PRODUCTION) == before


def test_pass_from_before_a_rollback_is_void(store: Store) -> None:
    """What the gate measured then did not show what was wrong; a new look has to."""
    early = give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    rollback(store, "tiny", reason="complaints")
    _assert_refused(store, 2, r"the verdict was given .*moved back from version 2 .*\(complaints\)")
    _write(store, 2, msgspec.structs.replace(early, gate_version="another file, as early"))
    _assert_refused(store, 2, "moved back from version 2")
    give_verdict(store, "tiny", 3)
    assert promote(store, "tiny", 3).version == 3
    rollback(store, "tiny")
    give_verdict(store, "tiny", 2)
    assert promote(store, "tiny", 2).version == 2


def test_verdict_that_was_used_before_a_rollback_is_void_whatever_its_clock_says(store: Store) -> None:
    """The gate's machine may be ahead of the registry's."""
    verdict = give_verdict(store, "tiny", 2)
    _write(store, 2, msgspec.structs.replace(verdict, created_at="2999-01-01T00:00:00+00:00"))
    promote(store, "tiny", 2)
    rollback(store, "tiny")
    _assert_refused(store, 2, "moved back from version 2")


def test_damaged_history_refuses_every_move_until_it_is_repaired(store: Store) -> None:
    """A move on top of damage would hide it; overruling the gate does not make the history whole."""
    give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    Path(store.location, "tiny", "aliases", PRODUCTION, "2.json").write_bytes(b"{")
    moves: tuple[Callable[[], object], ...] = (
        lambda: promote(store, "tiny", 3, force=True, reason="night"),
        lambda: rollback(store, "tiny"),
    )
    for move in moves:
        with pytest.raises(
            DamageError, match=r"2\.json: not an alias record.*timberline repair tiny@production"
        ):
            move()
    with pytest.raises(ConfigError, match="without a reason"):
        repair(store, "tiny", PRODUCTION, 1, reason=" ")
    repaired = repair(store, "tiny", PRODUCTION, 1, reason="disk full")
    assert repaired is not None
    assert repaired.version == 1
    assert promote(store, "tiny", 3, force=True, reason="night").version == 3
    assert rollback(store, "tiny").version == 1


def test_two_rollbacks_go_back_two_promotions(store: Store) -> None:
    """Swinging between the two latest versions would never reach the good one before them."""
    for version in (2, 3):
        give_verdict(store, "tiny", version)
        promote(store, "tiny", version)
    assert [rollback(store, "tiny").version, rollback(store, "tiny").version] == [2, 1]


def test_rollback_with_nothing_before_is_refused(store: Store) -> None:
    """Production must not be left pointing nowhere."""
    with pytest.raises(PromotionRefusedError, match="there is no version before 1"):
        rollback(store, "tiny")
    with pytest.raises(PromotionRefusedError, match="no version is in production"):
        rollback(store, "other")
    assert len(read_history(store, "tiny", PRODUCTION)) == 1


def test_production_is_not_set_by_hand(store: Store) -> None:
    """`alias set` would be a second door beside the one that is guarded."""
    with pytest.raises(PromotionRefusedError, match="timberline promote tiny@2"):
        set_alias(store, "tiny", PRODUCTION, 2, reason="quick")
    assert len(read_history(store, "tiny", PRODUCTION)) == 1
    assert set_alias(store, "tiny", "staging", 2, reason="try").version == 2


@pytest.mark.parametrize(
    ("moves", "line"),
    [
        ([], []),
        ([("promote", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("rollback", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], [1, 3]),
        ([("promote", 1), ("promote", 2), ("promote", 1), ("rollback", 2)], [1, 2]),
    ],
)
def test_succession_is_promotions_less_rollbacks(moves: list[tuple[str, int]], line: list[int]) -> None:
    """What was rolled back from is not something to roll back to."""
    record = AliasRecord(
        model="tiny",
        alias=PRODUCTION,
        sequence=1,
        version=1,
        manifest_sha256="0" * 64,
        moved_at="2026-11-22T09:30:00+00:00",
        moved_by="somebody",
        reason="made up",
    )
    history = [msgspec.structs.replace(record, action=action, version=version) for action, version in moves]
    assert production_lineage(history) == line


def test_stray_file_beside_the_records_does_not_stop_a_rollback(store: Store) -> None:
    """An editor's backup copy says nothing against the history; the way back must not wait for tidying up."""
    give_verdict(store, "tiny", 2)
    promote(store, "tiny", 2)
    folder = Path(store.location, "tiny", "aliases", PRODUCTION)
    (folder / "2.json.bak").write_bytes((folder / "2.json").read_bytes())
    assert rollback(store, "tiny").version == 1
    history = inspect_history(store, "tiny", PRODUCTION)
    assert (history.findings, history.problems) == (
        [],
        ["tiny/aliases/production/2.json.bak is no record of an alias"],
    )
    with pytest.raises(DamageError, match="Remove it"):
        repair(store, "tiny", PRODUCTION, 1, reason="tidy")
