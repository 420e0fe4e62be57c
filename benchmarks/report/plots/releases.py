"""The last releases: how accurate and how fast each was, and where something changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from timberline.benchmarks.history.releases import judge_release
from timberline.benchmarks.report.chart import Chart, Format, across
from timberline.benchmarks.report.figure import Figure, panel, panels
from timberline.benchmarks.report.markup import Markup

if TYPE_CHECKING:
    from timberline.benchmarks.history.changes import Change
    from timberline.benchmarks.history.releases import Release
    from timberline.benchmarks.report.record import GateRecord

_HEIGHT = 190
# More would be a smear; `python -m benchmarks history` shows all.
_LAST = 40
_LATENCIES = frozenset({"latency", "p50", "net_p50", "service_p50", "net_p99", "net_tail", "client_p99"})

# (value, low, high) of one release.
Estimate = tuple[float, float, float]


def draw_releases(record: GateRecord) -> Figure | None:
    """The releases with this gate's, whose verdict the registry does not hold yet; see `draw_history`."""
    return draw_history(judge_release(record.history, record.verdict))


def draw_history(history: Sequence[Release]) -> Figure | None:
    """Accuracy and latency over the versions; None when there are not two of them."""
    if len(history) < 2:
        return None
    # Imported late: it brings scipy along, and most gates of a young model have no history.
    from timberline.benchmarks.history.changes import find_changes  # noqa: PLC0415

    changes, releases = find_changes(history), history[-_LAST:]
    root = next((release.latency.root for release in reversed(releases) if release.latency), None)
    drawn = [
        _draw(
            "Accuracy",
            "on the test rows, with its 95 % interval",
            [(release, _accuracy(release)) for release in releases],
            [change for change in changes if change.quantity == "accuracy"],
            lambda value: f"{100 * value:.4g} %",
        ),
        _draw(
            "Latency",
            "client p50 as a multiple of the first release's, chained over the gates",
            [(release, _latency(release, root)) for release in releases],
            [change for change in changes if change.quantity in _LATENCIES],
            lambda value: f"× {value:.4g}",
        ),
    ]
    if not any(drawn):
        return None
    return Figure(
        name="releases",
        title="The last releases",
        says=(
            "Filled: was in production. Hollow: was not. An upright line marks the first release of a new "
            "level: a step that a gate measured or a shift seen over several releases."
        ),
        legend=(
            ("pass", "PASS"),
            ("block", "BLOCK"),
            ("inconclusive", "INCONCLUSIVE"),
            ("invalid", "INVALID"),
            ("none", "not judged"),
        ),
        body=panels(drawn),
    )


def _accuracy(release: Release) -> Estimate | None:
    given = release.accuracy
    return None if given is None else (given.value, given.low, given.high)


def _latency(release: Release, root: int | None) -> Estimate | None:
    """None also for a release of another chain than the last one's: their indexes do not compare."""
    given = release.latency
    return None if given is None or given.root != root else (given.value, given.low, given.high)


def _draw(
    title: str,
    note: str,
    estimates: Sequence[tuple[Release, Estimate | None]],
    changes: Sequence[Change],
    format: Format,
) -> Markup | None:
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
        chart.dot(release.version, value, f"{kind}{hollow}", _say(release, format(value)))
    last_release, (last, _, _) = known[-1]
    return panel(title, chart.render(f"{title}, version {last_release.version}: {format(last)}"), note)


def _say(release: Release, value: str) -> str:
    said = [f"version {release.version}: {value}", release.outcome or "not judged"]
    if release.is_forced:
        said.append("promoted by force")
    if release.rolled_back_at:
        said.append("rolled back")
    if release.is_production:
        said.append("in production")
    return ", ".join(said)
