"""What a list costs: it is looked at by people, of registries that have grown for years."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support.forked import Work, count_work
from tests.support.manifests import give_verdict, publish_tiny
from timberline.registry.catalog import summarise_versions
from timberline.registry.checks import check_versions
from timberline.registry.promotion import promote, rollback, set_alias
from timberline.registry.store import Store, open_store
from timberline.registry.verdict import VERDICT_FILE, encode_verdict

# A listing and the sizes of the folder; manifest, verdict, entry in the ledger, two records of aliases.
MOST_LOOKS = 7


def _grow(store: Store, versions: int) -> None:
    """Publish, judge and promote; every fifth is moved back from."""
    for count in range(versions):
        version = publish_tiny(store)
        give_verdict(store, "tiny", version)
        promote(store, "tiny", version)
        set_alias(store, "tiny", "candidate", version, reason="exported")
        if count % 5 == 4:
            rollback(store, "tiny")


def _measure(store: Store, action: Callable[[Store], object]) -> list[Work]:
    """At 10, 20 and 30 versions."""
    measured = []
    for _ in range(3):
        _grow(store, 10)
        measured.append(count_work(lambda: action(store)))
    return measured


@pytest.mark.parametrize(
    "action",
    [summarise_versions, lambda store: check_versions(store, None), publish_tiny],
    ids=["list", "verify", "publish"],
)
def test_work_grows_with_the_versions_and_no_faster(
    tmp_path: Path, action: Callable[[Store], object]
) -> None:
    """What is walked once for each version is nothing at ten versions, and minutes at five thousand."""
    few, more, many = _measure(open_store(tmp_path), action)
    assert many.looks - more.looks <= 1.05 * (more.looks - few.looks) + 1
    assert many.lines - more.lines <= 1.05 * (more.lines - few.lines) + 10


def test_a_list_names_the_lines_that_are_marked(tmp_path: Path) -> None:
    """Whoever promotes from the list is told what the gate wants looked at."""
    store = open_store(tmp_path)
    version = publish_tiny(store)
    verdict = give_verdict(store, "tiny", version)
    lines = (msgspec.structs.replace(verdict.lines[0], mark="WARN"), *verdict.lines[1:])
    marked = encode_verdict(msgspec.structs.replace(verdict, lines=lines))
    store.write_document("tiny", version, VERDICT_FILE, marked)
    (listed,) = summarise_versions(store)
    assert listed.verdict is not None
    assert listed.verdict.warned == (verdict.lines[0].name,)


def test_list_opens_a_few_files_a_version(tmp_path: Path) -> None:
    """On a network file system each costs a millisecond."""
    few, more, _ = _measure(open_store(tmp_path), summarise_versions)
    # Every fifth version has one record more: of the rollback.
    assert more.looks - few.looks <= 10 * MOST_LOOKS + 2


def test_moves_cost_no_look_at_other_versions(tmp_path: Path) -> None:
    """Only the history of the alias is read: the other versions may be any number."""
    store = open_store(tmp_path)
    publish_tiny(store)
    before = count_work(lambda: promote(store, "tiny", 1, force=True, reason="x"))
    other = open_store(tmp_path / "other")
    for _ in range(6):
        publish_tiny(other)
    assert count_work(lambda: promote(other, "tiny", 1, force=True, reason="x")) == before
