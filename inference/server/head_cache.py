"""Heads, of requests and of answers: parsed once and joined once, as most are the same bytes as the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from timberline.inference.app import Endpoint
from timberline.inference.formats.answers import Header

# A client's head changes with its body's length only: some dozen heads a client, a fifth of a KB each.
_MOST_KNOWN = 512
LONGEST_KNOWN = 1024


class Head(NamedTuple):
    """What the bytes before a short request's body say."""

    endpoint: Endpoint
    path: str
    query: bytes
    headers: list[Header]
    first: dict[bytes, bytes]  # of the headers, by name
    length: int  # of the body, in bytes
    keep_alive: bool


def write_head(method: bytes, target: bytes, version: bytes, headers: Sequence[Header]) -> bytes:
    """A request's head as bytes, without what asks for another protocol (RFC 9110, 7.6.1 and 7.8)."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version)]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() != b"upgrade")  # noqa: PLW2901
        if name != b"upgrade" and not (name == b"connection" and not value):
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])


class KnownHeads:
    """Heads of requests that were parsed before, by their bytes: equal bytes mean the same."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.find = self._known.get

    def learn(self, data: bytes, head: Head) -> None:
        """Keep a head if ``data`` is one whole request: a head from its first byte on, and its body."""
        end = len(data) - head.length
        if data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4 == end:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[data[:end]] = head


class AnswerHeads:
    """Status line and headers as bytes, joined once for all answers that have the same ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[Header, ...]], bytes] = {}
        self._defaults: list[Header] | None = None

    def find(self, status: int, headers: tuple[Header, ...], defaults: list[Header]) -> bytes:
        """Everything before ``content-length``; ``defaults`` is a new list whenever they change."""
        if defaults is not self._defaults:
            self._known.clear()  # once a second, when the date changes
            self._defaults = defaults
        head = self._known.get((status, headers))
        if head is None:
            lines = [b"%b: %b\r\n" % header for header in (*defaults, *headers)]
            head = self._known[status, headers] = STATUS_LINE[status] + b"".join(lines)
        return head
