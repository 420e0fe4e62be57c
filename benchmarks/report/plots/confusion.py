"""Which classes the candidate takes for others more or less often than the champion does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from timberline.benchmarks.report.figure import Figure
from timberline.benchmarks.report.markup import Markup, tag

if TYPE_CHECKING:
    from timberline.benchmarks.analysis.predictions import Confusion
    from timberline.benchmarks.report.record import GateRecord

# A table of more is neither read nor small; 20 x 20 cells still fit a screen.
_MOST_CLASSES = 20


def draw_confusion(record: GateRecord) -> Figure | None:
    """Candidate minus champion, a cell for truth and label; None when they were not compared."""
    if record.comparison is None:
        return None
    confusion = record.comparison.confusion
    changes = np.array(confusion.candidate) - np.array(confusion.champion)
    shown = choose_classes(changes)
    is_cut = len(shown) < len(changes)
    cut = f" Shown: {len(shown)} of {len(changes)}, those that changed most." if is_cut else ""
    return Figure(
        name="confusion",
        title="Which classes are taken for which others",
        says=(
            "Rows of the test split, candidate minus champion. On the diagonal more is better, elsewhere it "
            f"is more errors. The colour is the change as a share of the true class's rows.{cut}"
        ),
        legend=(("better", "better"), ("worse", "worse")),
        body=tag("div", _table(confusion, changes, shown), class_="scroll"),
    )


def choose_classes(changes: npt.NDArray[np.int64]) -> list[int]:
    """Indexes to show, in their order: all, or those whose rows and columns changed most."""
    moved = np.abs(changes).sum(axis=0) + np.abs(changes).sum(axis=1)
    chosen = np.argsort(-moved, kind="stable")[:_MOST_CLASSES]
    return sorted(int(index) for index in chosen)


def _table(confusion: Confusion, changes: npt.NDArray[np.int64], shown: list[int]) -> Markup:
    rows = np.array(confusion.champion).sum(axis=1)
    shares = changes / np.maximum(rows, 1)[:, None]
    most = float(np.abs(shares[np.ix_(shown, shown)]).max()) or 1.0
    names = [confusion.classes[index] for index in shown]
    head = tag(
        "tr",
        tag("td", "truth ↓  label →", class_="corner"),
        [tag("th", tag("span", name), scope="col") for name in names],
        tag("th", tag("span", "rows"), scope="col"),
    )
    body = [
        tag(
            "tr",
            tag("th", confusion.classes[truth], scope="row"),
            [_cell(confusion, truth, label, float(shares[truth, label]) / most) for label in shown],
            tag("td", f"{rows[truth]:,}", class_="rows"),
        )
        for truth in shown
    ]
    return tag("table", tag("thead", head), tag("tbody", body), class_="confusion")


def _cell(confusion: Confusion, truth: int, label: int, strength: float) -> Markup:
    before, after = confusion.champion[truth][label], confusion.candidate[truth][label]
    change = after - before
    better = (change > 0) == (truth == label)
    kind = "" if change == 0 else "better" if better else "worse"
    said = (
        f"{confusion.classes[truth]} labelled {confusion.classes[label]}: "
        f"champion {before:,}, candidate {after:,}"
    )
    diagonal = " diagonal" if truth == label else ""
    # At least a tint, so that what changed can be told; at most what leaves the number legible.
    tint = f"--strength:{8 + 42 * abs(strength):.0f}%" if change else None
    return tag("td", f"{change:+,}" if change else "·", class_=f"{kind}{diagonal}", title=said, style=tint)
