"""The share of traffic that a second version gets."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from tests.support.service import DEADLINE_S
from tests.support.tiny_model import (
    CLASSES,
    LEAN_COLUMNS,
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    build_graph,
    build_lean_graph,
    expect_probabilities,
)
from timberline.inference.formats.request import Request
from timberline.inference.models.traffic import (
    ColumnChoice,
    Replay,
    Replayed,
    Shadow,
    Share,
    Split,
    hash_key,
    parse_share,
)
from timberline.inference.session import Feed, Session
from timberline.registry.errors import ConfigError
from timberline.registry.names import ModelRef
from timberline.registry.signature import Column, build_signature

SEED = 7
KEYS = [b"customer-%d" % number for number in range(10_000)]
LABELS = expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS).argmax(axis=1).tolist()


def ask(*headers: tuple[bytes, bytes]) -> Request:
    """A request with these headers."""
    return Request("POST", "/predict", b"", headers, b"{}")


def open_tiny(scale: float = 1.0) -> Session:
    """A session over the tiny graph."""
    graph = build_graph(NUMERIC_COLUMNS, scale=scale)
    return Session(graph, build_signature(NUMERIC_COLUMNS, CLASSES), where="tiny@1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("candidate=0.1", Share(ModelRef("tiny", alias="candidate"), 0.1)),
        ("7=1", Share(ModelRef("tiny", version=7), 1.0)),
        ("", None),
    ],
)
def test_a_share_is_read(text: str, expected: Share | None) -> None:
    """An alias follows its moves and a number does not; both are written alike."""
    assert parse_share(text, "tiny", setting="canary") == expected


@pytest.mark.parametrize(
    "text",
    ["candidate", "candidate=", "=0.1", "candidate=10%", "candidate=1.1", "-1=0.1", "a=nan", "a=b=0.1"],
)
def test_what_is_no_share_is_refused_with_its_setting(text: str) -> None:
    """A share that was read as something else would send customers to an unproven version."""
    with pytest.raises(ConfigError, match=r"^canary: found .*Write candidate=0\.1"):
        parse_share(text, "tiny", setting="canary")


def test_a_key_lies_where_it_always_lay() -> None:
    """Another place after an update would move every customer to another version at once."""
    assert [round(hash_key(key), 6) for key in KEYS[:3]] == [0.662683, 0.954051, 0.769247]


def test_requests_of_one_key_go_one_way_and_the_share_is_kept() -> None:
    """A customer who sees both versions in turn sees neither."""
    split = Split(0.1, "X-Request-Key", SEED)
    first, second = ([split.takes(ask((b"x-request-key", key))) for key in KEYS] for _ in range(2))
    assert first == second
    # 1,000 expected of 10,000; five standard deviations of a binomial are 150.
    assert sum(first) == pytest.approx(1000, abs=150)


def test_a_greater_share_keeps_those_who_were_in_the_smaller() -> None:
    """Raising the share step by step must not send anybody back."""
    small, great = ({k for k in KEYS if Split(s, "key", SEED).takes(ask((b"key", k)))} for s in (0.1, 0.3))
    assert small < great


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.1, 850, 1150), (1.0, 10_000, 10_000)])
def test_requests_without_the_header_are_drawn(share: float, low: int, high: int) -> None:
    """Most clients send no key; their share must be right all the same, and none at 0."""
    split = Split(share, "key", SEED)
    assert low <= sum(split.takes(ask()) for _ in range(10_000)) <= high


async def offer_all(
    session: Session, repeats: int = 1, *, columns: Sequence[Column] = NUMERIC_COLUMNS
) -> Counter[Replayed]:
    """What a shadow makes of the tiny rows, answered by the true graph, in one turn of the loop."""
    counts: Counter[Replayed] = Counter()
    is_counted = asyncio.Event()

    def count(outcome: Replayed, rows: int) -> None:
        counts[outcome] += rows
        if counts.total() == 2 * len(LABELS) * repeats:
            is_counted.set()

    replay = Replay()
    shadow = Shadow(session, ColumnChoice(NUMERIC_COLUMNS, columns), 1.0, replay, count, SEED)
    feed = (true := open_tiny()).feed_rows(NUMERIC_ROWS)
    outputs = true.run(feed)
    for _ in range(repeats):
        for row, label in zip(NUMERIC_ROWS, LABELS, strict=True):
            shadow.offer_row(row, label)
        shadow.offer_rows(feed, outputs)
    async with asyncio.timeout(DEADLINE_S):
        await is_counted.wait()
    replay.close()
    return counts


def test_a_shadow_that_answers_alike_agrees_on_every_row() -> None:
    """Single rows and whole requests go to it by different ways, and none may be lost."""
    assert asyncio.run(offer_all(open_tiny())) == Counter(agree=2 * len(LABELS))


def test_a_shadow_that_answers_otherwise_differs_where_it_does() -> None:
    """The share of agreement is what a candidate is judged by before it answers anybody."""
    turned = expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS, -1.0).argmax(axis=1).tolist()
    agree = sum(a == b for a, b in zip(turned, LABELS, strict=True))
    assert agree < len(LABELS)
    assert asyncio.run(offer_all(open_tiny(-1.0))) == Counter(
        agree=2 * agree, differ=2 * (len(LABELS) - agree)
    )


def test_a_shadow_is_asked_the_columns_that_it_takes() -> None:
    """A candidate that reads fewer columns is compared before it answers anybody, like any other."""
    zeroed = [(*row[:3], 0.0) for row in NUMERIC_ROWS]
    alike = expect_probabilities(NUMERIC_COLUMNS, zeroed).argmax(axis=1).tolist()
    assert alike == LABELS
    lean = Session(build_lean_graph(), build_signature(LEAN_COLUMNS, CLASSES), where="tiny@2")
    assert asyncio.run(offer_all(lean, columns=LEAN_COLUMNS)) == Counter(agree=2 * len(LABELS))


def test_the_columns_of_a_shadow_are_found_by_name_in_both_tensors() -> None:
    """Another order of columns is another place in a row, and in a tensor yet another."""
    wanted = [MIXED_COLUMNS[index] for index in (5, 4, 1)]  # note, slope, height
    choice = ColumnChoice(MIXED_COLUMNS, wanted)
    assert choice.is_possible
    assert choice.choose(MIXED_ROWS[2:]) == [["ü:7", -3.5, 0.0]]
    numbers, texts = np.array([[0.0, 1.0, 1.0, -3.5]]), np.array([["peat", "ü:7"]], dtype=object)
    chosen = choice.choose(Feed(numbers, texts))
    assert isinstance(chosen, Feed)
    assert chosen.numeric is not None
    assert chosen.text is not None
    assert (chosen.numeric.tolist(), chosen.text.tolist()) == ([[-3.5, 0.0]], [["ü:7"]])
    assert not ColumnChoice(NUMERIC_COLUMNS, MIXED_COLUMNS).is_possible
    assert not ColumnChoice(
        NUMERIC_COLUMNS, [msgspec.structs.replace(MIXED_COLUMNS[1], datatype="BYTES")]
    ).is_possible


def test_a_shadow_without_a_finite_answer_fails_and_nobody_else() -> None:
    """A broken candidate must show in its own numbers only."""
    assert asyncio.run(offer_all(open_tiny(math.nan))) == Counter(failed=2 * len(LABELS))


def test_a_shadow_that_takes_other_rows_fails_and_nobody_else() -> None:
    """Whatever the runtime raises stays in the shadow's thread."""
    text = Session(build_graph(MIXED_COLUMNS), build_signature(MIXED_COLUMNS, CLASSES), where="tiny@2")
    assert asyncio.run(offer_all(text)) == Counter(failed=2 * len(LABELS))


def test_rows_beyond_the_queue_are_dropped_and_counted() -> None:
    """A shadow slower than the traffic must cost neither memory nor answers."""
    counts = asyncio.run(offer_all(open_tiny(), repeats=1000))
    assert counts["dropped"] > 0
    assert counts["agree"] + counts["dropped"] == 6000
    # The first row is handed on at once; the queue then fills within the same turn of the loop.
    assert 1 + 1024 - len(LABELS) < counts["agree"] <= 1 + 1024
