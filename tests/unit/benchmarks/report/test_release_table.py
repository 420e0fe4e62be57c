"""The history as people read it."""

from __future__ import annotations

from dataclasses import replace

from tests.support.releases import make_releases
from timberline.benchmarks.history.changes import find_changes
from timberline.benchmarks.report.release_table import describe_latency, format_history


def test_every_version_is_a_row_and_every_change_a_sentence() -> None:
    """The row says that something happened, the sentence how much and how it is known."""
    releases = make_releases([1.0, 1.1])
    text = format_history("tiny", releases, find_changes(releases))
    rows = text.splitlines()
    assert rows[1].split()[0] == "1"
    assert "× 1.100 [1.078, 1.122]" in rows[3]
    assert "worse: step of p50" in rows[3]
    assert "version 3, worse: step of p50 from 0.4 to 0.44 (× 1.1, 95 %" in text


def test_forced_rolled_back_and_unreadable_releases_are_told() -> None:
    """These are the rows that somebody looks for after an incident."""
    release = replace(
        make_releases([])[0],
        is_forced=True,
        forced_reason="an old client",
        rolled_back_at="2026-01-02T03:04:05+00:00",
        problem="verdict.json: not a verdict",
    )
    text = format_history("tiny", [release], ())
    for told in ("FORCED: an old client", "rolled back 2026-01-02 03:04", "UNREADABLE: verdict.json"):
        assert told in text


def test_what_small_steps_add_up_to_is_said_of_the_last_promoted_release() -> None:
    """Ten times 2 % slower passes ten gates; the sum has to be read somewhere."""
    said = describe_latency(make_releases([1.02] * 10, error=1.02))
    assert said.startswith("Client p50 of version 11 is × 1.219 [")
    assert said.endswith("that of version 1, over 10 gates: proven slower.")
    assert describe_latency(make_releases([])) == ""


def test_a_model_without_a_version_has_an_empty_history() -> None:
    """A registry may be empty on the first day."""
    assert format_history("tiny", [], ()) == "tiny has no version."
