"""How far the rows of requests have moved from the training rows: PSI over a sliding window.

The population stability index of shares ``a`` (live) and ``e`` (expected) over the same bins is
Σ (a − e) · ln(a / e): the Kullback–Leibler divergences of both directions, added. By the rule of
thumb of credit scoring, where it comes from, 0.1 deserves a look and 0.2 an answer. Of rows that
have not moved it is about χ² with (bins − 1) degrees of freedom, divided by the number of rows
(Yurdakul & Naranjo 2020, "Statistical properties of the population stability index", Journal of Risk
Model Validation 14(4)): with 10 bins and 1,000 rows, 0.03 is passed once in 1,000 times.

The bins come from the manifest's training histograms. Neighbouring bins of numbers are merged until
each has a tenth of the training rows, so that chance moves none of them far; so an equal-width
histogram of 20 bins becomes one of at most 10 that are about equally full. Values below and above
all of training have a bin each: a column with a long tail has most of its rows in one bin, and a
shift within it would show nowhere else. Of text, the most frequent categories have a bin each and
all others one together. NULL always has its own.

A request only leaves its row in a list. Once a second the event loop bins the rows that were left,
some rows at a turn, and of a second never more than the window holds. Each process has a window of
its own, a share of the whole; counts are added up before anything is computed from them.

What is expected is the training split, so a model that is known to be used on other rows than it
was trained on has a high PSI from its first day. (Kaggle's forest cover is one: its training rows
are balanced by class, its test rows are not.)
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from timberline.inference.metrics.shared_memory import Slot, clear
from timberline.inference.session import Feed, Outputs, Row, RowFeeder
from timberline.registry.manifest import Histogram, Manifest, rank_values
from timberline.registry.signature import NULL_TEXT

# An empty bin counts as this share, so that the logarithm exists; a usual value. One stray row in
# 1,000 outside of everything seen in training then adds 0.002, a twentieth of the rows 0.3.
_LEAST_SHARE = 1e-4
# Of the training rows, in a bin of numbers; what is left over at the upper end may have half of it.
_SHARE_OF_BIN = 0.1
# Bins of text beside the one of all others.
_MOST_CATEGORIES = 9

FloatArray = npt.NDArray[np.float64]
# Before the window has this many rows there is no PSI: chance alone would bring one column in
# 10,000 to 0.17 (χ² with 9 degrees of freedom over 200 rows).
LEAST_ROWS = 200
# The window moves by a tenth of itself: the unit in which rows are binned and forgotten.
_STEPS = 10
_PERIOD_S = 1.0
_Labels = npt.NDArray[np.int64]
_Later = Callable[[float, Callable[[], None]], object]


class Numbers(NamedTuple):
    """Bins of a column of numbers: bin i ends before ``edges[i]``, the last one never; then NULL.

    The first and the last one are outside of what training saw.
    """

    at: int  # of the column in `Feed.numeric`
    edges: tuple[float, ...]
    expected: tuple[float, ...]  # training rows by bin, and NULL


class Texts(NamedTuple):
    """Bins of a column of text: each of ``names``, all others, NULL."""

    at: int  # of the column in `Feed.text`
    names: tuple[str, ...]
    expected: tuple[float, ...]


class Stability(NamedTuple):
    """PSI by column, and of the predicted classes: None where it is not known what to expect.

    ``greatest`` is the greatest of the columns that are no moments: dates go on with time, as they should.
    """

    rows: int
    features: dict[str, float]
    classes: float | None
    greatest: float | None = None


class Binner:
    """Bins of a version: those of every column with a histogram, then its classes, in one vector.

    ``size`` is the vector's length.
    """

    def __init__(self, manifest: Manifest) -> None:
        columns = manifest.signature.columns
        self._class_count = len(manifest.signature.classes)
        self.feed = RowFeeder(columns).feed
        text_at = [i for i, column in enumerate(columns) if column.datatype == "BYTES"]
        numeric_at = [i for i, column in enumerate(columns) if column.datatype != "BYTES"]
        bins = {
            columns[at].name: build(index, manifest.histograms[columns[at].name])
            for at_all, build in ((numeric_at, bin_numbers), (text_at, bin_text))
            for index, at in enumerate(at_all)
            if columns[at].name in manifest.histograms
        }
        # Those with the most edges first: the loop over edges then works on ever fewer columns.
        numbers = {name: found for name, found in bins.items() if isinstance(found, Numbers)}
        self._numbers = dict(sorted(numbers.items(), key=lambda item: -len(item[1].edges)))
        self._texts = {name: found for name, found in bins.items() if isinstance(found, Texts)}
        self._names = [*self._numbers, *self._texts]
        self._order = [column.name for column in columns]
        self._moments = frozenset(column.name for column in columns if column.moment is not None)
        self._arrange_numbers()
        parts = [bins[name].expected for name in self._names]
        self._starts = np.cumsum([0, *map(len, parts)])
        self.size = int(self._starts[-1]) + self._class_count
        self._expected = np.concatenate([_shares(np.array(part)) for part in parts] or [np.zeros(0)])
        self._classes = expect_classes(manifest)

    def _arrange_numbers(self) -> None:
        """Edges as a matrix, (edges, columns), and where each of its counts stands in the vector."""
        columns = list(self._numbers.values())
        self._columns = [column.at for column in columns]
        deepest = len(columns[0].edges) if columns else 0
        self._edges = [
            np.array([column.edges[step] for column in columns if step < len(column.edges)])
            for step in range(deepest)
        ]
        rows = [[*range(len(column.edges) + 1), deepest + 1] for column in columns]  # the last one is NULL
        self._from_row = np.array([row for part in rows for row in part], dtype=np.intp)
        self._from_column = np.repeat(np.arange(len(columns)), [len(part) for part in rows])

    def count(self, feed: Feed, labels: npt.NDArray[np.int64]) -> FloatArray:
        """Rows by bin: (size,)."""
        parts = []
        if self._numbers and feed.numeric is not None:
            parts.append(self._count_numbers(feed.numeric[:, self._columns]))
        for texts in self._texts.values():
            assert feed.text is not None
            parts.append(_count_text(texts, feed.text[:, texts.at].tolist()))
        parts.append(np.bincount(labels, minlength=self._class_count))
        return np.concatenate(parts).astype(np.float64)

    def _count_numbers(self, values: FloatArray) -> npt.NDArray[np.int64]:
        rows, columns = values.shape
        deepest = len(self._edges)
        # reached[i]: values of at least the i-th edge, which NaN never is.
        reached = np.zeros((deepest + 2, columns), dtype=np.int64)
        nulls = np.count_nonzero(np.isnan(values), axis=0)
        reached[0] = rows - nulls
        for step, edges in enumerate(self._edges):
            reached[step + 1, : len(edges)] = np.count_nonzero(values[:, : len(edges)] >= edges, axis=0)
        counts = np.empty((deepest + 2, columns), dtype=np.int64)
        counts[:-1] = reached[:-1] - reached[1:]
        counts[-1] = nulls
        found: npt.NDArray[np.int64] = counts[self._from_row, self._from_column]
        return found

    def compute(self, counts: FloatArray) -> Stability:
        """PSI of rows by bin; (size,)."""
        end = int(self._starts[-1])
        rows = int(counts[end:].sum())
        live = np.maximum(counts[:end] / max(rows, 1), _LEAST_SHARE)
        terms = (live - self._expected) * np.log(live / self._expected)
        sums = np.add.reduceat(terms, self._starts[:-1]).tolist() if self._names else []
        by_name = dict(zip(self._names, sums, strict=True))
        features = {name: by_name[name] for name in self._order if name in by_name}
        greatest = max((psi for name, psi in features.items() if name not in self._moments), default=None)
        if self._classes is None:
            return Stability(rows, features, None, greatest)
        predicted = _shares(counts[end:])
        classes = float(((predicted - self._classes) * np.log(predicted / self._classes)).sum())
        return Stability(rows, features, classes, greatest)


def bin_numbers(at: int, histogram: Histogram) -> Numbers:
    """Merge neighbours into at most 10 bins that are about equally full, and add those outside."""
    edges = histogram.edges
    assert edges is not None
    least = _SHARE_OF_BIN * sum(histogram.counts)
    inner: list[float] = []
    merged: list[float] = []
    count = 0
    for upper, more in zip(edges[1:], histogram.counts, strict=True):
        count += more
        if count and count >= least:
            merged.append(count)
            inner.append(upper)
            count = 0
    if count and (len(merged) < 2 or count >= least / 2):
        merged.append(count)
    elif merged:
        merged[-1] += count
    # The last bin of the histogram is closed.
    ends = (edges[0], *inner[: max(len(merged) - 1, 0)], math.nextafter(edges[-1], math.inf))
    return Numbers(at, ends, (0, *(merged or [0]), 0, histogram.nulls))


def bin_text(at: int, histogram: Histogram) -> Texts:
    """Keep the most frequent categories."""
    ranked = rank_values(histogram)
    kept, rest = ranked[:_MOST_CATEGORIES], ranked[_MOST_CATEGORIES:]
    others = sum(count for _, count in rest)
    names = tuple(name for name, _ in kept)
    return Texts(at, names, (*(count for _, count in kept), others, histogram.nulls))


def expect_classes(manifest: Manifest) -> FloatArray | None:
    """Shares of the predicted classes that a version gives when nothing has moved; (classes,).

    What it predicts is not what is true: the prior of its rows goes through the confusion matrix of
    the test split, each row of it as shares. None if the manifest's tables are of other classes.
    """
    prior = manifest.prior
    shares = np.array(prior.training if prior.method == "none" else prior.deployment)
    classes = len(manifest.signature.classes)
    if shares.shape != (classes,):
        return None
    confusion = np.array(manifest.metrics.confusion, dtype=np.float64)
    if confusion.shape == (classes, classes):
        tested = confusion.sum(axis=1, keepdims=True)  # (classes, 1); nought for a class that had no row
        answers = np.where(tested > 0, confusion / np.maximum(tested, 1), np.eye(classes))
        shares = shares @ answers
    return _shares(shares)


def _count_text(texts: Texts, values: Sequence[str]) -> npt.NDArray[np.int64]:
    found = Counter(values)
    nulls = found.pop(NULL_TEXT, 0)
    named = [found[name] for name in texts.names]
    return np.array([*named, len(values) - nulls - sum(named), nulls])


def _shares(counts: FloatArray) -> FloatArray:
    shares: FloatArray = np.maximum(counts / max(counts.sum(), _LEAST_SHARE), _LEAST_SHARE)
    return shares


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
        self.category_count = len(manifest.categories)
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

    def compute(self, counts: Sequence[float]) -> Stability:
        """PSI of the window whose counts, of all processes together, are ``counts``.

        Without `LEAST_ROWS` rows there is no PSI, only their number.
        """
        found = self._binner.compute(np.array(counts))
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
                self._work.append((feed.cut(start, end), own[start:end]))

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


def _run_later(seconds: float, work: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, work)
