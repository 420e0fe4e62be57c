"""A model's history as a value to print and as a page: the table, the plot, what changed where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timberline.benchmarks.history.changes import Change, find_changes
from timberline.benchmarks.history.releases import Release, read_releases
from timberline.benchmarks.history.table import HEAD, describe_change, describe_latency, lay_release
from timberline.benchmarks.report.markup import Markup, tag
from timberline.benchmarks.report.page import lay_page
from timberline.benchmarks.report.plots.releases import draw_history
from timberline.registry.errors import VersionNotFoundError
from timberline.registry.runtime.files import write_atomically
from timberline.registry.store import Store


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
    return path


def draw_page(history: ReleaseHistory) -> bytes:
    """The page in UTF-8; equal pasts give equal bytes."""
    figure = draw_history(history.releases)
    count = len(history.releases)
    main = tag(
        "main",
        tag(
            "header",
            tag("p", "Release history", class_="eyebrow"),
            tag("h1", f"{history.model} ", tag("small", f"{count} version{'' if count == 1 else 's'}")),
            tag("p", describe_latency(history.releases), class_="said"),
            class_="hero",
        ),
        figure.render() if figure else None,
        _list_changes(history.changes),
        _lay_table(history),
    )
    return lay_page(f"{history.model}: release history", tag("body", main))


def _list_changes(changes: Sequence[Change]) -> Markup:
    said = [
        tag("li", describe_change(change), class_="worse" if change.is_worse else "better")
        for change in changes
    ]
    return tag(
        "section",
        tag("h2", "What changed"),
        tag("ul", said) if said else tag("p", "Nothing that can be told from noise.", class_="note"),
        class_="card",
    )


def _lay_table(history: ReleaseHistory) -> Markup:
    rows = [
        tag(
            "tr", [_lay_cell(*cell) for cell in zip(HEAD, lay_release(release, history.changes), strict=True)]
        )
        for release in reversed(history.releases)
    ]
    return tag(
        "section",
        tag("h2", "Every version"),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", head, scope="col") for head in HEAD])),
                tag("tbody", rows),
                class_="lines",
            ),
            class_="scroll",
        ),
        class_="card",
    )


def _lay_cell(head: str, text: str) -> Markup:
    # Where it is narrow every cell is a line of its own, led by the column's name; empty ones go.
    if head == "notes":
        return tag("td", text, class_="why")
    return tag("td", text, data_head=head, class_="num empty" if text == "-" else "num")
