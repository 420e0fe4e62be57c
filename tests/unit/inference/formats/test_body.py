"""Inflating bodies: what comes out, what is refused, and how much is held on the way."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
import zlib

import pytest

from timberline.inference.errors import BodyTooLargeError, ClientGoneError, MalformedBodyError, ReceivingError
from timberline.inference.formats.body import BodyReader, Inflater, ReceiveBudget

LIMIT = 100_000
# What no compressor makes small, and what every one makes tiny.
BODIES = (b"", b"{}", random.Random(7).randbytes(3000), b"0," * 40_000, b"ab" * (LIMIT // 2))


def inflate(coding: bytes, sent: bytes, step: int, most: int, limit: int = LIMIT) -> bytes:
    """The body of ``sent``, arriving in parts of ``step`` bytes and inflated ``most`` bytes at a time."""
    inflater = Inflater(coding, limit)
    for start in range(0, len(sent), step):
        is_done = inflater.feed(sent[start : start + step], most)
        while not is_done:
            is_done = inflater.feed(b"", most)
    return inflater.finish()


@pytest.mark.parametrize("body", BODIES, ids=["empty", "tiny", "random", "repeating", "at the limit"])
@pytest.mark.parametrize(("step", "most"), [(1, LIMIT), (7, 1000), (65536, 64), (65536, LIMIT + 1)])
def test_a_body_comes_out_as_it_went_in(body: bytes, step: int, most: int) -> None:
    """However the network cuts it up, and wherever the bound on one step falls."""
    assert inflate(b"gzip", gzip.compress(body, mtime=0), step, most) == body
    assert inflate(b"deflate", zlib.compress(body), step, most) == body


def test_a_body_of_several_members_is_one_body() -> None:
    """RFC 1952 lets a gzip file be several behind each other, and parallel compressors write such."""
    sent = (
        gzip.compress(b'{"rings"', mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(b": 40}", mtime=0)
    )
    assert inflate(b"x-gzip", sent, 5, LIMIT) == b'{"rings": 40}'


@pytest.mark.parametrize("step", [1, 65536])
@pytest.mark.parametrize(
    ("coding", "sent", "message"),
    [
        (b"gzip", gzip.compress(b"{}" * 50, mtime=0)[:-1], "ends early"),
        (b"gzip", gzip.compress(b"{}" * 50, mtime=0)[:5], "ends early"),
        (b"gzip", b"", "ends early"),
        (b"gzip", b'{"rings": 40}', "cannot be inflated"),
        (b"gzip", zlib.compress(b"{}"), "cannot be inflated"),
        (b"gzip", gzip.compress(b"{}", mtime=0)[:-5] + b"wrong", "cannot be inflated"),
        (b"gzip", gzip.compress(b"{}", mtime=0) + b"more", "has something behind its end"),
        (b"gzip", gzip.compress(b"{}", mtime=0) + b"\x00", "ends early"),
        (b"gzip", gzip.compress(b"{}", mtime=0) + gzip.compress(b"{}", mtime=0)[:-4], "ends early"),
        (b"gzip", gzip.compress(b"", mtime=0) * 1025, "has something behind its end"),
        (b"deflate", zlib.compress(b"{}") + b"x", "has something behind its end"),
    ],
)
def test_what_is_no_whole_body_is_refused(coding: bytes, sent: bytes, message: str, step: int) -> None:
    """Half a body must not be answered as if it were the whole, nor a second one be smuggled behind it."""
    with pytest.raises(MalformedBodyError) as caught:
        inflate(coding, sent, step, LIMIT)
    assert str(caught.value) == f"the body is declared to be {coding.decode()}, but {message}"


def test_a_bomb_is_refused_without_inflating_it() -> None:
    """Ten megabytes that stand for ten gigabytes: what is held stays near the limit."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = compressor.compress(b"0" * 2**20) + compressor.flush(zlib.Z_FULL_FLUSH)
    part = compressor.compress(b"0" * 2**20) + compressor.flush(zlib.Z_FULL_FLUSH)
    bomb = head + part * 10_000  # a full flush forgets what came before, so that parts can be repeated
    assert len(bomb) > 10_000_000
    tracemalloc.start()
    try:
        inflater = Inflater(b"gzip", LIMIT)
        with pytest.raises(BodyTooLargeError, match="the inflated body has more than 100,000 bytes"):
            inflater.feed(bomb[:65536], LIMIT + 1)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("step", "most"), [(1, 10), (65536, LIMIT + 1)])
def test_one_byte_over_the_limit_is_over_the_limit(step: int, most: int) -> None:
    """The bound is the one that the error names."""
    with pytest.raises(BodyTooLargeError):
        inflate(b"gzip", gzip.compress(b"x" * (LIMIT + 1)), step, most)


def read_parts(budget: ReceiveBudget, parts: list[bytes], *headers: tuple[bytes, bytes]) -> bytes:
    """The body that arrives in these parts; without an empty one at the end the client hangs up."""
    messages = [{"type": "http.request", "body": part, "more_body": bool(part)} for part in parts]
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, object]:
        """The next part."""
        return messages.pop(0)

    return asyncio.run(BodyReader(LIMIT, 60, budget).read(headers, receive))


def test_a_body_holds_its_share_of_the_budget_until_it_is_given_back() -> None:
    """A body that waits for a thread is as much memory as one that is being received."""
    budget = ReceiveBudget(1000)
    assert len(read_parts(budget, [b"x" * 300, b"x" * 400, b""])) == 700
    assert budget.held == 700
    with pytest.raises(ReceivingError, match="1,000 bytes"):
        read_parts(budget, [b"x" * 300, b"x"])
    assert budget.held == 700
    budget.give(700)
    assert budget.held == 0


@pytest.mark.parametrize("coding", [b"gzip", b"identity"])
def test_a_body_that_is_never_whole_gives_its_share_back(coding: bytes) -> None:
    """Else the service refuses everything after some clients that hung up."""
    budget = ReceiveBudget(LIMIT)
    sent = gzip.compress(random.Random(7).randbytes(3000)) if coding == b"gzip" else b"x" * 3000
    with pytest.raises(ClientGoneError):
        read_parts(budget, [sent[:2000]], (b"content-encoding", coding))
    with pytest.raises(BodyTooLargeError):
        read_parts(budget, [b"x"] * (LIMIT + 1))
    assert budget.held == 0


def test_what_a_compressed_body_inflates_to_is_counted() -> None:
    """Some kilobytes that arrive are megabytes that are held."""
    budget = ReceiveBudget(LIMIT - 1)
    with pytest.raises(ReceivingError):
        read_parts(budget, [gzip.compress(b"x" * LIMIT, mtime=0), b""], (b"content-encoding", b"gzip"))
    assert budget.held == 0
    assert read_parts(budget, [gzip.compress(b"x" * 90_000, mtime=0), b""], (b"content-encoding", b"gzip"))
    assert budget.held == 90_000
