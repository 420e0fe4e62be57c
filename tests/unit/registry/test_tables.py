"""The registry for people."""

from __future__ import annotations

import pytest

from timberline.registry.catalog import VerdictSummary, VersionSummary
from timberline.registry.manifest import Interval
from timberline.registry.tables import format_size, format_verdict, render_table, versions_table


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
    """It is there, it takes a number, and somebody has to deal with it."""
    summary = VersionSummary(model="tiny", version=7, problem="tiny@7: manifest.json: not a manifest")
    assert "DAMAGED: tiny@7: manifest.json: not a manifest" in versions_table([summary], "somewhere")


def test_empty_registry_says_where_and_what_to_do() -> None:
    """A header over nothing leaves open whether the place was wrong."""
    assert versions_table([], "var/registry").startswith("No version in var/registry.")
