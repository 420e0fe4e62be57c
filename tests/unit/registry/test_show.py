"""The registry for people, and what a list of years of versions costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support.forked import Work, count_work
from tests.support.manifests import give_verdict, publish_tiny
from tests.support.pet_model import publish_pets
from timberline.registry.checks import check_versions
from timberline.registry.manifest import Interval
from timberline.registry.promotion import promote, rollback, set_alias
from timberline.registry.show import (
    VerdictSummary,
    VersionSummary,
    details_text,
    format_size,
    format_verdict,
    read_details,
    render_table,
    summarise_versions,
    versions_table,
)
from timberline.registry.store import Store, open_store
from timberline.registry.verdict import VERDICT_FILE, encode_verdict


def test_columns_line_up_and_numbers_end_flush() -> None:
    """A table is read downwards."""
    assert render_table(("name", "n"), [("a", "7"), ("long name", "1,000")], right=("n",)) == (
        "name           n\na              7\nlong name  1,000\n"
    )


def test_control_characters_do_not_reach_the_terminal() -> None:
    """A reason or title may hold an escape sequence that repaints the line above."""
    assert "\x1b" not in render_table(("why",), [("\x1b[2Kfine\n",)])


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_250_000, "1.2 MB")]
)
def test_size_has_its_unit(count: int | None, text: str) -> None:
    """A bare number would be read as whatever the reader expects."""
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (None, "none"),
        (VerdictSummary("PASS", None, True, True), "PASS (first version)"),
        (VerdictSummary("PASS", 3, True, True, warned=("baseline",)), "PASS (against 3), WARN: baseline"),
        (VerdictSummary("BLOCK", 3, True, True), "BLOCK (against 3)"),
        (VerdictSummary("PASS", 3, False, True), "void: PASS for other bytes"),
        (VerdictSummary("PASS", 3, True, False), "void: PASS without a seal"),
    ],
)
def test_verdict_says_against_whom_and_whether_it_counts(verdict: VerdictSummary | None, text: str) -> None:
    """A bare PASS beside a version that it does not bind would invite a promotion."""
    assert format_verdict(verdict) == text


def test_version_is_one_line_with_its_accuracy_interval() -> None:
    """Two versions whose intervals overlap must not look ranked."""
    summary = VersionSummary(
        model="tiny",
        version=7,
        created_at="2026-11-22T09:30:00+00:00",
        accuracy=Interval(value=0.79654, low=0.7954, high=0.7976),
        model_bytes=1_200_000,
        aliases=("candidate", "production"),
    )
    header, line = versions_table([summary], "somewhere").splitlines()
    assert header.split("  ")[0] == "model"
    assert line == (
        "tiny         7  2026-11-22 09:30  0.7965 [0.7954, 0.7976]      1.2 MB  candidate, production  none"
    )


def test_unreadable_version_is_a_line_that_says_why() -> None:
    """It is there, it takes a number, and has to be dealt with."""
    summary = VersionSummary(model="tiny", version=7, problem="tiny@7: manifest.json: not a manifest")
    assert "DAMAGED: tiny@7: manifest.json: not a manifest" in versions_table([summary], "somewhere")


def test_empty_registry_says_where_and_what_to_do() -> None:
    """A header over nothing leaves open whether the place was wrong."""
    assert versions_table([], "var/registry").startswith("No version in var/registry.")


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
    """Who promotes from the list sees what the gate marked."""
    store = open_store(tmp_path)
    version = publish_tiny(store)
    verdict = give_verdict(store, "tiny", version)
    lines = (msgspec.structs.replace(verdict.lines[0], mark="WARN"), *verdict.lines[1:])
    marked = encode_verdict(msgspec.structs.replace(verdict, lines=lines))
    store.open_version("tiny", version).write_document(VERDICT_FILE, marked)
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


def test_dates_text_and_what_was_learned_are_shown(store: Store) -> None:
    """Days since 1970 tell a reader nothing, and a category is known by its commonest values."""
    publish_pets(store, constants={"fitted.mean(weight)": 9.5, "fitted.mode(breed)": "Pug"})
    text = details_text(read_details(store, store.open_version("pets", 1)))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["born"].split()[1:] == ["date", "-", "required", "2000-01-01", "to", "2020-01-01"]
    assert "2001-09-09T01:46:40Z to 2020-09-13T12:26:40Z" in lines["seen"]
    assert lines["breed"].endswith("Collie (40), Pug (30), Zander, blau (20)")
    assert lines["kind_of_breed"].split() == ["kind_of_breed", "3"]
    assert (lines["fitted.mean(weight)"].split()[1], lines["fitted.mode(breed)"].split()[1]) == ("9.5", "Pug")
