"""Remembered heads: only whole ones, of requests that came alone, and never too many."""

from __future__ import annotations

from unittest.mock import sentinel

import pytest

from timberline.inference.server.head_cache import Head, KnownHeads

HEAD = b"POST /predict HTTP/1.1\r\nContent-Length: 4\r\n\r\n"
MEANING = Head(
    sentinel.endpoint, "/predict", b"", [(b"content-length", b"4")], {b"content-length": b"4"}, 4, True
)


def test_a_whole_request_teaches_its_head() -> None:
    """The next one with these bytes is not parsed."""
    heads = KnownHeads()
    heads.learn(HEAD + b"body", MEANING)
    assert heads.find(HEAD) is MEANING


@pytest.mark.parametrize(
    "data",
    [
        b"tail" + HEAD + b"body" + HEAD + b"body",
        HEAD + b"body" + HEAD + b"body",
        HEAD + b"bod",
        HEAD[:-1] + b"body",
        b"POST /predict HTTP/1.1\r\nX: " + b"x" * 1024 + b"\r\nContent-Length: 4\r\n\r\nbody",
    ],
)
def test_anything_else_teaches_nothing(data: bytes) -> None:
    """A head whose first or last byte is a guess would answer somebody else's request."""
    heads = KnownHeads()
    heads.learn(data, MEANING)
    assert not any(heads.find(data[:end]) for end in range(len(data) + 1))


def test_heads_that_never_come_again_are_forgotten() -> None:
    """A trace id in every head must not fill the memory."""
    heads = KnownHeads()
    for number in range(5000):
        heads.learn(HEAD[:-2] + b"X: %d\r\n\r\nbody" % number, MEANING)
    assert sum(heads.find(HEAD[:-2] + b"X: %d\r\n\r\n" % n) is not None for n in range(5000)) <= 512
