"""What a handler gives back: a whole answer, to be sent in one piece."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

Header = tuple[bytes, bytes]

_JSON: Header = (b"content-type", b"application/json")


class Answer(NamedTuple):
    """Status, headers (names in lower case) and body."""

    status: int
    headers: list[Header]
    body: bytes


def answer_bytes(body: bytes, status: int = 200, content_type: Header = _JSON) -> Answer:
    """An answer of finished bytes."""
    return Answer(status, [content_type, (b"content-length", b"%d" % len(body))], body)


def answer_json(value: Any, status: int = 200, *more: Header) -> Answer:
    """An answer with ``value`` as JSON and ``more`` headers."""
    answer = answer_bytes(msgspec.json.encode(value), status)
    answer.headers.extend(more)
    return answer
