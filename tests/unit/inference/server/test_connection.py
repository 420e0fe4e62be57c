"""The first lines of answers, which are joined once and used again."""

from __future__ import annotations

from timberline.inference.formats.answers import JSON
from timberline.inference.server.head_cache import AnswerHeads


def test_a_head_holds_the_status_and_every_header() -> None:
    """A header that is lost here is lost in every answer."""
    head = AnswerHeads().find(503, (JSON, (b"retry-after", b"1")), [(b"date", b"today")])
    lines = [b"HTTP/1.1 503 Service Unavailable", b"date: today", b"content-type: application/json"]
    assert head.split(b"\r\n") == [*lines, b"retry-after: 1", b""]


def test_a_head_is_joined_anew_when_the_date_changes() -> None:
    """What is kept must not be older than what it says."""
    heads = AnswerHeads()
    today = [(b"date", b"today")]
    assert heads.find(200, (JSON,), today) is heads.find(200, (JSON,), today)
    assert b"tomorrow" in heads.find(200, (JSON,), [(b"date", b"tomorrow")])
    assert heads.find(200, (JSON,), today).count(b"date") == 1


def test_heads_are_told_apart_by_status_and_headers() -> None:
    """An answer with another version's header would be a wrong answer."""
    heads = AnswerHeads()
    defaults = [(b"date", b"today")]
    found = {
        heads.find(status, (JSON, (b"x-model-version", version)), defaults)
        for status in (200, 400)
        for version in (b"a@1", b"a@2")
    }
    assert len(found) == 4
