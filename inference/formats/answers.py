"""What a handler gives back: a whole answer, to be sent in one piece."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from timberline.inference.errors import BatchTooLargeError

Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
# Headers of every answer in JSON that names no version.
JSON_HEADERS: tuple[Header, ...] = (JSON,)


class Answer(NamedTuple):
    """Status, headers (names in lower case; the length is added when it is sent) and body."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


def answer_bytes(body: bytes, headers: tuple[Header, ...] = JSON_HEADERS) -> Answer:
    """A good answer of finished bytes."""
    return Answer(200, headers, body)


def answer_json(value: Any, status: int = 200, *more: Header) -> Answer:
    """An answer with ``value`` as JSON and ``more`` headers."""
    return Answer(status, (JSON, *more), msgspec.json.encode(value))


def check_length(most_bytes: int, allowed: int) -> None:
    """Raise `BatchTooLargeError` if an answer may have more bytes than are kept of one."""
    if most_bytes > allowed:
        raise BatchTooLargeError(
            f"the answer may have {most_bytes:,} bytes, more than {allowed:,}",
            hint="Send the rows in parts, or ask for less.",
        )
