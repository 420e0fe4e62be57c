"""Steps and shifts marked in a history."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.releases import make_line, make_releases
from timberline.benchmarks.history.changes import find_changes, share_errors
from timberline.benchmarks.history.releases import Link, Release, chain_ratios
from timberline.registry.manifest import Interval


def test_a_measured_step_is_marked_with_its_interval() -> None:
    """The gate measured it side by side; no series is needed to believe it."""
    (step,) = find_changes(make_releases([1.0, 1.1, 1.0]))
    assert (step.version, step.kind, step.quantity, step.is_worse) == (3, "step", "p50", True)
    assert step.low is not None
    assert step.high is not None
    assert 1.0 < step.low < step.difference < step.high
    assert step.difference == pytest.approx(1.1)


def test_many_small_steps_are_seen_as_a_shift() -> None:
    """Each step passes for nothing, all together are 15 %: what a pairwise gate alone never sees."""
    changes = find_changes(make_releases([1.015] * 10, error=1.015))
    assert {change.kind for change in changes} == {"shift"}
    assert {change.quantity for change in changes} == {"latency"}
    assert all(change.is_worse for change in changes)


def test_what_the_gate_kept_out_changed_nothing() -> None:
    """A blocked candidate's slowness never reached anybody."""
    releases = make_releases([1.0, 1.5, 1.0])
    releases[2] = replace(releases[2], promoted_at=None, outcome="BLOCK", latency=None)
    assert find_changes(releases) == ()


def test_a_shift_of_accuracy_is_found_only_among_releases_tested_on_the_same_rows() -> None:
    """Other test rows move accuracy without any change of the model."""
    values = [0.80, 0.801, 0.799, 0.80, 0.85, 0.851, 0.849, 0.85]
    same = [
        Release(
            version=number,
            promoted_at=f"2026-01-{number:02}",
            accuracy=Interval(value=value, low=value - 0.01, high=value + 0.01),
            test_fingerprint="one",
        )
        for number, value in enumerate(values, start=1)
    ]
    (shift,) = find_changes(same)
    assert (shift.version, shift.kind, shift.quantity, shift.is_worse) == (5, "shift", "accuracy", False)
    assert shift.difference == pytest.approx(0.05)
    other = [replace(release, test_fingerprint="two" if release.version > 4 else "one") for release in same]
    assert find_changes(other) == ()


def test_a_drop_measured_on_the_same_rows_is_a_step_for_the_worse() -> None:
    """A fall of accuracy has the other sign than a rise of latency."""
    releases = [
        Release(version=1, promoted_at="2026-01-01"),
        Release(
            version=2,
            promoted_at="2026-01-02",
            lines=(make_line("accuracy", -0.01, -0.008, "share of rows"),),
        ),
    ]
    (step,) = find_changes(releases)
    assert (step.quantity, step.is_worse, step.is_ratio) == ("accuracy", True, False)


def test_indexes_share_the_errors_of_the_links_they_share() -> None:
    """After a rollback two releases hang on one champion; only what lies before it is common."""
    links = [Link(2, 1, 1.0, 1.1), Link(3, 2, 1.0, 1.1), Link(4, 2, 1.0, 1.1)]
    indexes = chain_ratios(links, [1])
    variance = links[0].log_error ** 2
    covariance = share_errors([indexes[version] for version in (1, 2, 3, 4)])
    expected = [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 1], [0, 1, 1, 2]]
    assert covariance == pytest.approx(np.asarray(expected) * variance)


def test_no_release_has_no_change() -> None:
    """The first day of a registry."""
    assert find_changes([]) == ()
