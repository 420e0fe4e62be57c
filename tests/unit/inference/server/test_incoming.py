"""What a request on its way in may be, told from its bytes alone.

Remembered heads are whole ones only, of requests that came alone, and never too many.
"""

from __future__ import annotations

import itertools
from unittest.mock import sentinel

import pytest

from timberline.inference.errors import HeadTooLargeError, RequestError, TargetTooLongError
from timberline.inference.server.incoming import (
    LONGEST_HEAD,
    Head,
    IncomingRequest,
    RequestHeadCache,
    write_head,
)


def feed_head(incoming: IncomingRequest, data: bytes, cuts: list[int]) -> int:
    """Find the end of a head whose bytes come in pieces; how many of ``data`` belong to it."""
    incoming.begin(0)
    edges = [0, *cuts, len(data)]
    for begin, end in itertools.pairwise(edges):
        part = data[begin:end]
        found = incoming.find_end(part, 0)
        incoming.remember_end(part, 0, found)
        if found < len(part):
            return begin + found
    return len(data)


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, len(HEAD)))
def test_a_heads_end_is_found_wherever_it_is_cut(cut: int) -> None:
    """What stands behind a head is never counted as the head, nor given to the parser with it."""
    data = HEAD + b"GET /next HTTP/1.1\r\n"
    assert feed_head(IncomingRequest(), data, [cut]) == len(HEAD)
    if cut > 1:
        assert feed_head(IncomingRequest(), data, [cut - 1, cut]) == len(HEAD)


@pytest.mark.parametrize("piece", [1, 1000, LONGEST_HEAD])
def test_a_head_is_bounded_to_the_byte(piece: int) -> None:
    """Its bytes are counted before the parser has them, in whatever pieces they come."""
    line = b"GET / HTTP/1.1\r\n"
    fitting = line + b"a" * (LONGEST_HEAD - len(line))
    incoming = IncomingRequest()
    for begin in range(0, LONGEST_HEAD, piece):
        part = fitting[begin : begin + piece]
        assert incoming.find_end(part, 0) == len(part)
    with pytest.raises(HeadTooLargeError):
        incoming.find_end(b"a", 0)
    with pytest.raises(TargetTooLongError):
        IncomingRequest().find_end(b"GET /" + b"a" * LONGEST_HEAD, 0)


def test_chunks_may_be_as_small_as_they_can_be() -> None:
    """Framing is bounded in relation to the body: six bytes for one are how some clients write."""
    incoming = IncomingRequest()
    incoming.end_head("1.0", b"POST")
    for _ in range(200_000):
        incoming.add_body(b"x")
        incoming.count_framing(6, 1)
    incoming.count_framing(LONGEST_HEAD, 0)  # as much once is no attack
    with pytest.raises(HeadTooLargeError):
        incoming.count_framing(1_000_000, 1)


def test_a_second_framing_is_refused() -> None:
    """Two ways to find a body's end are two ends (CWE-444)."""
    incoming = IncomingRequest()
    incoming.add_header(b"Transfer-Encoding", b"chunked")
    with pytest.raises(RequestError):
        incoming.add_header(b"transfer-encoding", b"chunked")


def test_a_head_is_written_again_without_its_wish() -> None:
    """Every other field stays, in order, and so do the other options of the connection."""
    headers = [
        (b"host", b"x"),
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"content-length", b"2"),
    ]
    assert write_head(b"POST", b"/predict?a=b", b"1.1", headers) == (
        b"POST /predict?a=b HTTP/1.1\r\nhost: x\r\nconnection: HTTP2-Settings\r\ncontent-length: 2\r\n\r\n"
    )
    assert b"connection" not in write_head(b"GET", b"/", b"1.1", [(b"connection", b"upgrade")])


KNOWN_HEAD = b"POST /predict HTTP/1.1\r\nContent-Length: 4\r\n\r\n"
MEANING = Head(
    sentinel.endpoint, "/predict", b"", [(b"content-length", b"4")], {b"content-length": b"4"}, 4, True
)


def test_a_whole_request_teaches_its_head() -> None:
    """The next one with these bytes is not parsed."""
    heads = RequestHeadCache()
    heads.learn(KNOWN_HEAD + b"body", MEANING)
    assert heads.find(KNOWN_HEAD) is MEANING


@pytest.mark.parametrize(
    "data",
    [
        b"tail" + KNOWN_HEAD + b"body" + KNOWN_HEAD + b"body",
        KNOWN_HEAD + b"body" + KNOWN_HEAD + b"body",
        KNOWN_HEAD + b"bod",
        KNOWN_HEAD[:-1] + b"body",
        b"POST /predict HTTP/1.1\r\nX: " + b"x" * 1024 + b"\r\nContent-Length: 4\r\n\r\nbody",
    ],
)
def test_anything_else_teaches_nothing(data: bytes) -> None:
    """A head whose first or last byte is a guess would answer somebody else's request."""
    heads = RequestHeadCache()
    heads.learn(data, MEANING)
    assert not any(heads.find(data[:end]) for end in range(len(data) + 1))


def test_heads_that_never_come_again_are_forgotten() -> None:
    """A trace id in every head must not fill the memory."""
    heads = RequestHeadCache()
    for number in range(5000):
        heads.learn(KNOWN_HEAD[:-2] + b"X: %d\r\n\r\nbody" % number, MEANING)
    assert sum(heads.find(KNOWN_HEAD[:-2] + b"X: %d\r\n\r\n" % n) is not None for n in range(5000)) <= 512
