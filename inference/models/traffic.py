"""The share of traffic that a second version gets: to answer it (canary), or to be asked too (shadow)."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import groupby
from random import Random
from typing import Literal, NamedTuple

import numpy as np

from timberline.inference.formats.request import Request
from timberline.inference.session import Feed, Outputs, Row, Session
from timberline.registry.errors import ConfigError
from timberline.registry.names import ModelRef
from timberline.registry.runtime.logs import log_event
from timberline.registry.signature import Column

_logger = logging.getLogger("inference.models.traffic")

# What became of a row that was to be replayed.
Replayed = Literal["agree", "differ", "dropped", "failed"]

# Rows that may wait to be replayed. A thread replays some ten thousand a second, so that these are
# worked off within a tenth of one; whatever does not fit was too much for this machine anyway.
_MOST_QUEUED = 1024
# Rows that are replayed in one run: as many as a request may have that is answered on the event loop.
_MOST_AT_ONCE = 64


class Share(NamedTuple):
    """A version, and the share (0 to 1) of the traffic that it gets."""

    ref: ModelRef
    share: float


def parse_share(text: str, model: str, *, setting: str) -> Share | None:
    """Read ``alias=share`` or ``number=share`` of ``model``; None where ``text`` is empty.

    Raises:
        ConfigError: it is neither, or the share is not within 0 to 1.
    """
    if not text:
        return None
    name, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    try:
        ref = ModelRef.parse(f"{model}@{name.strip()}")
    except ConfigError:
        ref = None
    if ref is None or not 0 <= share <= 1:
        raise ConfigError(
            f"found {text[:80]!r}, expected a version or alias of {model} and its share",
            where=setting,
            hint="Write candidate=0.1 or 7=0.1; the share is within 0 to 1.",
        )
    return Share(ref, share)


class Split:
    """Chooses the requests that the canary answers.

    Requests whose header ``header`` has the same value always go the same way, in every process
    and after every restart; those sent to a share of 0.1 are among those of a share of 0.2. Requests
    without it are drawn.

    Args:
        share: of the requests, 0 to 1.
        header: name, in any case.
        seed: of the drawing.
    """

    def __init__(self, share: float, header: str, seed: int) -> None:
        self.share = share
        self._header = header.lower().encode("latin-1")
        self._draw = Random(seed).random

    def takes(self, request: Request) -> bool:
        """Whether the canary is to answer this request."""
        key = request.find_header(self._header)
        return (self._draw() if key is None else hash_key(key)) < self.share


def hash_key(key: bytes) -> float:
    """Where ``key`` lies in [0, 1): everywhere the same, and evenly over all keys."""
    # 53 bits: as many as a float64 has, so that no key is rounded up to 1.
    return (int.from_bytes(blake2b(key, digest_size=8).digest()) >> 11) / (1 << 53)


class ColumnChoice:
    """The columns that one version takes, among those of another one's rows.

    Args:
        columns: of the rows.
        wanted: other columns in their order; `is_possible` says whether all of them are there.
    """

    def __init__(self, columns: Sequence[Column], wanted: Sequence[Column]) -> None:
        kinds = {_identify(column): index for index, column in enumerate(columns)}
        indexes = [kinds.get(_identify(column)) for column in wanted]
        self.is_possible = None not in indexes
        self._row = [index for index in indexes if index is not None]
        is_text = [column.datatype == "BYTES" for column in columns]
        within = [is_text[:index].count(kind) for index, kind in enumerate(is_text)]  # of its tensor
        self._numeric = [within[index] for index in self._row if not is_text[index]]
        self._text = [within[index] for index in self._row if is_text[index]]
        self._is_all = self._row == list(range(len(columns)))

    def choose(self, rows: Feed | Sequence[Row]) -> Feed | Sequence[Row]:
        """The rows with these columns only."""
        if self._is_all:
            return rows
        if isinstance(rows, Feed):
            numeric = None if rows.numeric is None or not self._numeric else rows.numeric[:, self._numeric]
            return Feed(numeric, None if rows.text is None or not self._text else rows.text[:, self._text])
        return [[row[index] for index in self._row] for row in rows]


def _identify(column: Column) -> tuple[str, str, str | None]:
    """What two columns have in common whose values mean the same."""
    return column.name, column.datatype, column.moment


class _Item(NamedTuple):
    """Rows of one answered request, as they came to the runner: one alone, or a feed."""

    shadow: Shadow
    row: Row | None
    feed: Feed | None
    labels: Sequence[int]


class Shadow:
    """One version that is asked what another one has answered, and how often they agree.

    Args:
        session: of the version that is asked too; it has the same classes.
        columns: what it takes of a row.
        share: of the requests, 0 to 1.
        replay: does the asking.
        count: called on the event loop's thread with an outcome and its number of rows.
        seed: of the drawing.
    """

    def __init__(
        self,
        session: Session,
        columns: ColumnChoice,
        share: float,
        replay: Replay,
        count: Callable[[Replayed, int], None],
        seed: int,
    ) -> None:
        self.session = session
        self.columns = columns
        self.count = count
        self.has_failed = False  # which is logged once
        self._share = share
        self._replay = replay
        self._draw = Random(seed).random

    def offer_row(self, row: Row, label: int) -> None:
        """Take note of an answered row, if it is drawn."""
        if self._draw() < self._share:
            self._replay.put(_Item(self, row, None, (label,)))

    def offer_rows(self, feed: Feed, outputs: Outputs) -> None:
        """Take note of the answered rows of one request, all or none of them."""
        if self._draw() < self._share:
            self._replay.put(_Item(self, None, feed, outputs.labels.tolist()))


class Replay:
    """Asks shadows in a thread of its own, one batch after the other; no request waits for it.

    Rows wait in a bounded queue and are dropped when it is full, so that a slow shadow costs its
    own numbers and nothing else. Belongs to the event loop's thread.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._queue: list[_Item] = []
        self._queued_rows = 0
        self._is_running = False

    def put(self, item: _Item) -> None:
        """Queue the rows, or count them as dropped."""
        rows = len(item.labels)
        if self._queued_rows + rows > _MOST_QUEUED:
            item.shadow.count("dropped", rows)
            return
        self._queue.append(item)
        self._queued_rows += rows
        if not self._is_running:
            self._begin()

    def close(self) -> None:
        """Give up what waits; what is being replayed is finished."""
        self._queue.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """Hand the whole queue to the thread, and whatever came meanwhile after it."""
        batch, self._queue, self._queued_rows = self._queue, [], 0
        self._is_running = True
        running = asyncio.get_running_loop().run_in_executor(self._pool, _replay_all, batch)
        running.add_done_callback(self._end)

    def _end(self, running: asyncio.Future[_Counts]) -> None:
        self._is_running = False
        if not running.cancelled():
            for (shadow, outcome), rows in running.result().items():
                shadow.count(outcome, rows)
        if self._queue:
            self._begin()


_Counts = Counter[tuple[Shadow, Replayed]]


def _replay_all(batch: list[_Item]) -> _Counts:
    """Rows by shadow and outcome; touches nothing that the event loop's thread does."""
    counts: _Counts = Counter()
    for shadow, items in groupby(batch, key=lambda item: item.shadow):
        rows: list[tuple[Row, int]] = []
        for item in items:
            if item.row is not None:
                rows.append((item.row, item.labels[0]))
            else:
                _ask(shadow, item.feed, item.labels, counts)
        for start in range(0, len(rows), _MOST_AT_ONCE):
            some, labels = zip(*rows[start : start + _MOST_AT_ONCE], strict=True)
            _ask(shadow, some, labels, counts)
    return counts


def _ask(shadow: Shadow, rows: Feed | Sequence[Row] | None, answered: Sequence[int], counts: _Counts) -> None:
    """Run the shadow's graph once and compare its labels with the ``answered`` ones."""
    assert rows is not None
    try:
        rows = shadow.columns.choose(rows)
        outputs = shadow.session.run(rows if isinstance(rows, Feed) else shadow.session.feed_rows(rows))
    except Exception as error:  # a shadow's failure is no client's
        if not shadow.has_failed:
            log_event(_logger, "shadow failed", logging.WARNING, why=str(error)[:300])
        shadow.has_failed = True
        counts[shadow, "failed"] += len(answered)
        return
    finite = np.isfinite(outputs.probabilities).all(axis=1)  # (rows, classes) → (rows,)
    agree = int((finite & (outputs.labels == np.array(answered))).sum())
    failed = int((~finite).sum())
    counts[shadow, "agree"] += agree
    counts[shadow, "differ"] += len(answered) - agree - failed
    counts[shadow, "failed"] += failed
