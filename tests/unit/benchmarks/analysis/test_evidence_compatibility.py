"""What a client of the champion would trip over."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from tests.support.manifests import TINY_CLASSES, TINY_COLUMNS, build_manifest
from timberline.benchmarks.analysis.evidence import find_breaks, list_new_classes
from timberline.registry.manifest import Manifest
from timberline.registry.signature import ClassLabel, Column, SourceTable, UnreadRole, build_signature

HEIGHT, RINGS = TINY_COLUMNS
BEFORE = build_manifest()


def of_columns(
    columns: Sequence[Column], classes: Sequence[ClassLabel] = TINY_CLASSES, **unread: UnreadRole
) -> Manifest:
    """A manifest of these columns and classes, whose table has ``unread`` beside."""
    signature = build_signature(tuple(columns), tuple(classes))
    return build_manifest(signature=signature, table=SourceTable(unread=unread))


def changed(column: Column, **fields: object) -> Column:
    """The column with other fields."""
    return msgspec.structs.replace(column, **fields)


@pytest.mark.parametrize(
    "columns",
    [
        TINY_COLUMNS,
        (RINGS, HEIGHT),
        (*TINY_COLUMNS, Column(name="bark", datatype="FP64", default=0.0)),
        (*TINY_COLUMNS, Column(name="bark", datatype="BYTES", is_nullable=True)),
        (HEIGHT, changed(RINGS, datatype="FP64")),
        (HEIGHT, changed(RINGS, default=1)),
        (changed(HEIGHT, is_nullable=True, maximum=5.0, unit="ft"), RINGS),
    ],
)
def test_what_old_clients_do_not_notice_is_no_break(columns: tuple[Column, ...]) -> None:
    """A gate that blocks harmless growth gets switched off."""
    assert find_breaks(BEFORE, of_columns(columns)) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((HEIGHT,), "column rings was removed"),
        ((*TINY_COLUMNS, Column(name="bark", datatype="FP64")), "column bark is new and required"),
        ((changed(HEIGHT, default=None), RINGS), "column height became required"),
        ((changed(HEIGHT, datatype="INT64"), RINGS), "column height was FP64, is INT64"),
        ((HEIGHT, changed(RINGS, datatype="BYTES")), "column rings was INT64, is BYTES"),
    ],
)
def test_what_old_clients_trip_over_is_a_break(columns: tuple[Column, ...], message: str) -> None:
    """Their next request would be answered with 400."""
    assert find_breaks(BEFORE, of_columns(columns)) == [message]


def test_every_break_is_told_at_once() -> None:
    """Whoever is blocked mends all of them in one go."""
    nullable = of_columns((changed(HEIGHT, is_nullable=True), changed(RINGS, default=3)))
    after = of_columns((changed(HEIGHT, default=None, datatype="BYTES"), RINGS), TINY_CLASSES[::-1])
    before, now = (
        ", ".join(label.value for label in labels) for labels in (TINY_CLASSES, TINY_CLASSES[::-1])
    )
    assert find_breaks(nullable, after) == [
        "column height was FP64, is BYTES",
        "column height became required",
        "column height may no longer be null",
        "column rings became required",
        f"classes were {before}, are {now}",
    ]


@pytest.mark.parametrize(
    ("before", "after", "is_break"),
    [
        ({"default": 1.0}, {"is_nullable": True, "default": None}, False),
        ({"is_nullable": True, "default": None}, {"default": 1.0}, True),
        ({"default": None}, {"default": None}, False),
        ({"default": None}, {"default": 0.0}, False),
        ({"is_nullable": True, "default": 1.0}, {"default": 1.0}, True),
    ],
)
def test_a_column_is_optional_by_a_default_or_by_null(
    before: dict[str, object], after: dict[str, object], is_break: bool
) -> None:
    """What may be left out stays so either way; a null that was sent needs a column that takes it."""
    versions = [of_columns((changed(HEIGHT, **one), RINGS)) for one in (before, after)]
    assert bool(find_breaks(*versions)) == is_break


def test_a_column_that_may_no_longer_be_null_is_a_break() -> None:
    """A null that was fine yesterday is refused today."""
    nullable = of_columns((changed(HEIGHT, is_nullable=True), RINGS))
    assert find_breaks(nullable, BEFORE) == ["column height may no longer be null"]


THIRD = ClassLabel(value="3", label="")


@pytest.mark.parametrize(
    ("classes", "has_hint"),
    [
        (TINY_CLASSES[:1], False),
        (TINY_CLASSES[::-1], False),
        ((THIRD, *TINY_CLASSES), True),
        ((TINY_CLASSES[0], THIRD, TINY_CLASSES[1]), True),
        ((TINY_CLASSES[0], THIRD), False),
    ],
)
def test_classes_that_are_gone_or_moved_are_a_break(classes: tuple[ClassLabel, ...], has_hint: bool) -> None:
    """Clients of tensors know a class by its place: another one there is taken for it."""
    candidate = of_columns(TINY_COLUMNS, classes)
    (told,) = find_breaks(BEFORE, candidate)
    assert ("list the new ones last in [target]" in told) == has_hint
    assert list_new_classes(BEFORE, candidate) == []


def test_classes_behind_the_old_ones_are_no_break() -> None:
    """A table that grew may hold a new class; who knows the old ones finds them where they were."""
    candidate = of_columns(TINY_COLUMNS, (*TINY_CLASSES, THIRD))
    assert find_breaks(BEFORE, candidate) == []
    assert list_new_classes(BEFORE, candidate) == ["3"]
    assert list_new_classes(BEFORE, BEFORE) == []


def test_a_column_that_is_not_read_any_more_is_no_break() -> None:
    """Its clients go on sending it and are answered: a leaner features.sql must reach production."""
    assert find_breaks(BEFORE, of_columns([HEIGHT], rings="input")) == []


def test_a_column_that_its_table_has_lost_is_a_break_even_if_the_champion_does_not_read_it() -> None:
    """Clients of the version before the champion still send it, and were answered until now."""
    champion = of_columns([HEIGHT], rings="input", Id="ignored", answer="target")
    assert find_breaks(champion, of_columns([HEIGHT])) == ["column rings was removed"]


def test_a_column_that_is_read_for_the_first_time_is_a_break() -> None:
    """The champion's clients were not asked for it."""
    champion = of_columns([HEIGHT], rings="input")
    assert find_breaks(champion, BEFORE) == ["column rings is new and required"]
