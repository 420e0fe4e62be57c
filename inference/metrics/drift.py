"""How far the rows being asked about have moved from the training rows: PSI over a sliding window.

The population stability index of shares ``a`` (live) and ``e`` (expected) over the same bins is
Σ (a − e) · ln(a / e): the Kullback–Leibler divergences of both directions, added. By the rule of
thumb of credit scoring, where it comes from, 0.1 deserves a look and 0.2 an answer. Of rows that
have not moved it is about χ² with (bins − 1) degrees of freedom, divided by the number of rows
(Yurdakul & Naranjo 2020, "Statistical properties of the population stability index", Journal of Risk
Model Validation 14(4)): with 10 bins and 1,000 rows, 0.03 is passed once in 1,000 times.

A request only leaves its row in a list. When a second is over the event loop bins what was left,
some rows at a turn, and of a second never more than the window holds. Each process has a window of
its own, a share of the whole; counts are added up before anything is computed from them.

What is expected is the training split, so a model that is known to be used on other rows than it
was trained on has a high PSI from its first day. (Kaggle's forest cover is one: its training rows
are balanced by class, its test rows are not.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from timberline.inference.metrics.psi import Binner, FloatArray, Stability
from timberline.inference.metrics.shared_memory import Slot, clear
from timberline.inference.session import Feed, Outputs, Row
from timberline.registry.manifest import Manifest

# Before the window has this many rows there is no PSI: chance alone would bring one column in
# 10,000 to 0.17 (χ² with 9 degrees of freedom over 200 rows).
LEAST_ROWS = 200
# The window moves by a tenth of itself: the unit in which rows are binned and forgotten.
_STEPS = 10
_PERIOD_S = 1.0

_Labels = npt.NDArray[np.int64]
_Later = Callable[[float, Callable[[], None]], object]


class Drift:
    """The window of one version in one process; belongs to the event loop's thread.

    Args:
        manifest: of the version.
        window_rows: how many of the latest rows count; up to a fifth more do.
        later: runs something when that many seconds are over.
    """

    def __init__(self, manifest: Manifest, window_rows: int, later: _Later | None = None) -> None:
        self.key = ("drift", manifest.model, str(manifest.version))
        self.class_count = len(manifest.signature.classes)
        self._binner = Binner(manifest)
        self._window_rows = window_rows
        self._step = max(1, window_rows // _STEPS)
        self._later = later or _run_later
        self._is_scheduled = False
        self._rows: list[Row] = []
        self._labels: list[int] = []
        self._feeds: list[tuple[Feed, _Labels]] = []
        self._noted = 0  # rows of ``_feeds``
        self._work: deque[tuple[Feed | list[Row], _Labels]] = deque()
        self._parts: deque[FloatArray] = deque()
        self._total = np.zeros(self._binner.size)
        self._shared: memoryview[float] | None = None

    def show(self, slot: Slot) -> None:
        """Publish the window in ``slot`` from now on."""
        self._shared = slot.add(self.key, self._binner.size, is_gauge=True)
        self._shared[:] = self._total.data

    def retire(self) -> None:
        """Take the window off the page."""
        if self._shared is not None:
            clear(self._shared)
            self._shared = None

    def keep_row(self, row: Row, label: int) -> None:
        """Take note of one answered row, which must not be changed afterwards."""
        rows = self._rows
        if len(rows) < self._window_rows:
            rows.append(row)
            self._labels.append(label)
            if not self._is_scheduled:
                self._schedule()

    def keep_rows(self, feed: Feed, outputs: Outputs) -> None:
        """Take note of the rows of one answered request; of many, of some evenly spaced ones."""
        room = self._window_rows - self._noted
        if room <= 0:
            return
        stride = -(-feed.row_count // room)
        # Copies: a slice would hold the whole request's memory.
        numeric = None if feed.numeric is None else feed.numeric[::stride].copy()
        text = None if feed.text is None else feed.text[::stride].copy()
        labels = outputs.labels[::stride].copy()
        self._feeds.append((Feed(numeric, text), labels))
        self._noted += len(labels)
        if not self._is_scheduled:
            self._schedule()

    def flush(self) -> None:
        """Count everything noted so far, at once."""
        self._take()
        while self._work:
            self._count_step()

    def measure(self, counts: Sequence[float]) -> Stability:
        """PSI of the window whose counts, of all processes together, are ``counts``.

        Without `LEAST_ROWS` rows there is no PSI, only their number.
        """
        found = self._binner.measure(np.array(counts))
        return found if found.rows >= LEAST_ROWS else Stability(found.rows, {}, None)

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._later(_PERIOD_S, self._begin)

    def _begin(self) -> None:
        self._take()
        self._go_on()

    def _go_on(self) -> None:
        """Count one step in this turn of the event loop and leave the others to the next ones."""
        if self._work:
            self._count_step()
            self._later(0.0, self._go_on)

    def _take(self) -> None:
        """Cut what was noted into steps."""
        self._is_scheduled = False
        rows, labels = self._rows, np.array(self._labels, dtype=np.int64)
        feeds = self._feeds
        self._rows, self._labels, self._feeds, self._noted = [], [], [], 0
        for start in range(0, len(rows), self._step):
            end = start + self._step
            self._work.append((rows[start:end], labels[start:end]))
        for feed, own in feeds:
            for start in range(0, len(own), self._step):
                end = start + self._step
                self._work.append((_cut(feed, start, end), own[start:end]))

    def _count_step(self) -> None:
        rows, labels = self._work.popleft()
        feed = rows if isinstance(rows, Feed) else self._binner.feed(rows)
        self._slide(self._binner.count(feed, labels))
        if self._shared is not None:
            self._shared[:] = self._total.data

    def _slide(self, counts: FloatArray) -> None:
        """Add the newest rows, and forget the oldest while enough are left without them."""
        self._total += counts
        if self._parts and self._count_rows(self._parts[-1]) < self._step:
            self._parts[-1] += counts  # few rows a second: do not keep a part for each second
        else:
            self._parts.append(counts)
        while self._count_rows(self._total) - self._count_rows(self._parts[0]) >= self._window_rows:
            self._total -= self._parts.popleft()

    def _count_rows(self, counts: FloatArray) -> int:
        return int(counts[-self.class_count :].sum())


def _cut(feed: Feed, start: int, end: int) -> Feed:
    numeric = None if feed.numeric is None else feed.numeric[start:end]
    text = None if feed.text is None else feed.text[start:end]
    return Feed(numeric, text)


def _run_later(seconds: float, work: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, work)
