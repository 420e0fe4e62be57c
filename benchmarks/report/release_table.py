"""The history of a model for people on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from timberline.benchmarks.history.changes import Change
from timberline.benchmarks.history.releases import LatencyIndex, Release
from timberline.benchmarks.report.terminal import format_table
from timberline.registry.show import format_interval, format_size
from timberline.registry.verdict import VerdictLine

HEAD = (
    "version",
    "created (UTC)",
    "gate",
    "in production",
    "accuracy [95 %]",
    "p50 to its champion",
    "p50 to the first",
    "size",
    "notes",
)


def format_history(model: str, releases: Sequence[Release], changes: Sequence[Change]) -> str:
    """One row a version, then what changed where, then how far the latency has come."""
    if not releases:
        return f"{model} has no version."
    rows = [lay_release(release, changes) for release in releases]
    parts = [format_table(HEAD, rows, right=("version", "size"))]
    if changes:
        parts.append("\n".join(describe_change(change) for change in changes) + "\n")
    if sentence := describe_latency(releases):
        parts.append(f"{sentence}\n")
    return "\n".join(parts).rstrip()


def lay_release(release: Release, changes: Sequence[Change]) -> tuple[str, ...]:
    """One release as text, a cell for each of ``HEAD``."""
    return (
        str(release.version),
        _minute(release.created_at),
        _gate(release),
        _minute(release.promoted_at),
        format_interval(release.accuracy),
        _ratio(release.p50),
        format_index(release.latency),
        format_size(release.model_bytes),
        "; ".join(_notes(release, changes)),
    )


def _gate(release: Release) -> str:
    if release.outcome is None:
        return "-"
    against = "first version" if release.champion is None else f"against {release.champion}"
    return f"{release.outcome} ({against})"


def _ratio(line: VerdictLine | None) -> str:
    if line is None or line.difference is None:
        return "-"
    bounds = "" if line.low is None or line.high is None else f" [{line.low:.3f}, {line.high:.3f}]"
    return f"× {line.difference:.3f}{bounds}"


def format_index(index: LatencyIndex | None) -> str:
    """``× 1.210 [1.050, 1.394]``, with the version it is measured in when that is not the first."""
    if index is None:
        return "-"
    of_root = "" if index.root == 1 else f" of version {index.root}"
    bounds = f" [{index.low:.3f}, {index.high:.3f}]" if index.path else ""
    return f"× {index.value:.3f}{bounds}{of_root}"


def _notes(release: Release, changes: Sequence[Change]) -> list[str]:
    notes = ["in production now"] if release.is_production else []
    if release.rolled_back_at:
        notes.append(f"rolled back {_minute(release.rolled_back_at)}")
    if release.is_forced:
        notes.append(f"FORCED: {release.forced_reason[:80]}")
    notes += [_mark(change) for change in changes if change.version == release.version]
    if release.problem:
        notes.append(f"UNREADABLE: {release.problem}")
    return notes


def _mark(change: Change) -> str:
    return f"{'worse' if change.is_worse else 'better'}: {change.kind} of {change.quantity}"


def describe_change(change: Change) -> str:
    """One change as a sentence."""
    levels = (
        ""
        if change.before is None or change.after is None
        else f" from {_value(change.before)} to {_value(change.after)}"
    )
    bounds = (
        "" if change.low is None or change.high is None else f", 95 % {change.low:.4g} to {change.high:.4g}"
    )
    by = f"× {change.difference:.4g}" if change.is_ratio else f"{change.difference:+.4g}"
    seen = "measured by its gate" if change.kind == "step" else "seen over several releases"
    return (
        f"version {change.version}, {'worse' if change.is_worse else 'better'}: {change.kind} of "
        f"{change.quantity}{levels} ({by}{bounds}), {seen}"
    )


def _value(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def describe_latency(releases: Sequence[Release]) -> str:
    """How far client p50 has come along the champions; empty when nothing links two releases.

    Many releases that each pass for equal may add up; no single gate shows that.
    """
    linked = [release for release in releases if release.promoted_at and release.latency]
    # Times have whole seconds; what is in production now is the last whatever they are.
    order = [(release.is_production, release.promoted_at or "", release.version) for release in linked]
    last = linked[order.index(max(order))] if linked else None
    if last is None or last.latency is None or not last.latency.path:
        return ""
    index = last.latency
    links = len(index.path)
    proven = "" if index.low <= 1 <= index.high else ": proven " + ("slower" if index.low > 1 else "faster")
    return (
        f"Client p50 of version {last.version} is × {index.value:.3f} [{index.low:.3f}, {index.high:.3f}] "
        f"that of version {index.root}, over {links} {'gate' if links == 1 else 'gates'}{proven}."
    )


def _minute(instant: str | None) -> str:
    return "-" if instant is None else instant[:16].replace("T", " ")
