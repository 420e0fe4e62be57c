"""A model's release history: a value to print, and history.html with its figure and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timberline.benchmarks.history.changes import Change, find_changes
from timberline.benchmarks.history.releases import Release, read_releases
from timberline.benchmarks.report.chart import Chart, Format, across
from timberline.benchmarks.report.figures import Figure, Panel
from timberline.benchmarks.report.release_table import HEAD, describe_change, describe_latency, lay_release
from timberline.benchmarks.report.render import render
from timberline.registry.errors import VersionNotFoundError
from timberline.registry.runtime.files import write_atomically
from timberline.registry.runtime.working_copy import share_file
from timberline.registry.store import Store

_HEIGHT = 190  # of a plot, pixels
_MOST_RELEASES = 40  # in the figure; the table has all
_LATENCIES = frozenset({"latency", "p50", "net_p50", "service_p50", "net_p99", "net_tail", "client_p99"})

# (value, low, high) of one release.
Estimate = tuple[float, float, float]


@dataclass(frozen=True)
class ReleaseHistory:
    """Every release of a model, oldest first, and what changed between those in production."""

    model: str
    releases: tuple[Release, ...]
    changes: tuple[Change, ...]


def read_release_history(store: Store, model: str) -> ReleaseHistory:
    """Read the history of ``model`` from the registry.

    Raises:
        VersionNotFoundError: it has no version.
    """
    releases = read_releases(store, model)
    if not releases:
        known = ", ".join(store.models()) or "none"
        raise VersionNotFoundError(f"no model {model!r}", where=store.location, hint=f"There are: {known}.")
    return ReleaseHistory(model, releases, find_changes(releases))


def write_page(history: ReleaseHistory, data: Path) -> Path:
    """Write ``gates/<model>/history.html`` in ``data``, self-contained; returns its path."""
    path = data / "gates" / history.model / "history.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, draw_page(history))
    share_file(path)
    return path


def draw_page(history: ReleaseHistory) -> bytes:
    """The page in UTF-8; equal histories give equal bytes."""
    return render(
        "history.html",
        history=history,
        summary=describe_latency(history.releases),
        figure=draw_releases(history),
        changes=[describe_change(change) for change in history.changes],
        head=HEAD,
        rows=[lay_release(release, history.changes) for release in reversed(history.releases)],
    )


def draw_releases(history: ReleaseHistory) -> Figure | None:
    """Accuracy and latency over the versions; None when there are not two of them."""
    if len(history.releases) < 2:
        return None
    releases = history.releases[-_MOST_RELEASES:]
    root = next((release.latency.root for release in reversed(releases) if release.latency), None)
    panels = [
        _draw(
            "Accuracy",
            "on the test rows, with its 95 % interval",
            [(release, _accuracy(release)) for release in releases],
            [change for change in history.changes if change.quantity == "accuracy"],
            lambda value: f"{100 * value:.4g} %",
        ),
        _draw(
            "Latency",
            "client p50 as a multiple of the first release's, chained over the gates",
            [(release, _latency(release, root)) for release in releases],
            [change for change in history.changes if change.quantity in _LATENCIES],
            lambda value: f"× {value:.4g}",
        ),
    ]
    if not any(panels):
        return None
    outcomes = ("PASS", "BLOCK", "INCONCLUSIVE", "INVALID")
    return Figure(
        name="releases",
        title="The last releases",
        caption=(
            "Filled: was in production. Hollow: was not. An upright line marks the first release of a new "
            "level: a step that a gate measured, or a shift over several releases."
        ),
        legend=(*((outcome.lower(), outcome) for outcome in outcomes), ("none", "not judged")),
        panels=[panel for panel in panels if panel],
    )


def _accuracy(release: Release) -> Estimate | None:
    given = release.accuracy
    return None if given is None else (given.value, given.low, given.high)


def _latency(release: Release, root: int | None) -> Estimate | None:
    """None also for a release of another chain than the last one's: their indexes cannot be compared."""
    given = release.latency
    return None if given is None or given.root != root else (given.value, given.low, given.high)


def _draw(
    title: str,
    note: str,
    estimates: Sequence[tuple[Release, Estimate | None]],
    changes: Sequence[Change],
    format: Format,
) -> Panel | None:
    known = [(release, estimate) for release, estimate in estimates if estimate is not None]
    if not known:
        return None
    ends = [end for _, estimate in known for end in estimate]
    room = (max(ends) - min(ends)) * 0.12 or 0.01
    versions = [release.version for release, _ in estimates]
    chart = Chart(across(versions[0] - 0.6, versions[-1] + 0.6), min(ends) - room, max(ends) + room, _HEIGHT)
    chart.axis_y(format, count=4)
    step = max(1, len(versions) // 10)
    chart.ticks_x([(version, str(version)) for version in versions[::step]], "version")
    for change in changes:
        if versions[0] <= change.version <= versions[-1]:
            chart.rule_x(change.version - 0.5, "worse" if change.is_worse else "better", change.kind)
    live = [(release, estimate) for release, estimate in known if release.promoted_at]
    chart.line([(release.version, estimate[0]) for release, estimate in live], "past")
    for release, (value, low, high) in known:
        kind = (release.outcome or "none").lower()
        chart.whisker_y(release.version, low, high, kind)
        hollow = "" if release.promoted_at else " hollow"
        chart.dot(release.version, value, f"{kind}{hollow}", _describe(release, format(value)))
    last_release, (last, _, _) = known[-1]
    return Panel(title, note, chart.render(f"{title}, version {last_release.version}: {format(last)}"))


def _describe(release: Release, value: str) -> str:
    words = [f"version {release.version}: {value}", release.outcome or "not judged"]
    if release.is_forced:
        words.append("promoted by force")
    if release.rolled_back_at:
        words.append("rolled back")
    if release.is_production:
        words.append("in production")
    return ", ".join(words)
