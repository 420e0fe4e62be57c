"""How connections share one event loop: a few of those that send much in each turn, and room for newcomers.

A turn of the loop reads from every connection that has something to be read, and a small request waits
for all of them. So one that fills the whole buffer, or has something left to be parsed, stands in line
for its next turn, and a turn takes few out of the line.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Collection
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

# 64 KiB are read in 60 µs, and 4 KiB of the smallest chunks parsed in 1.2 ms.
_MOST_A_TURN = 8
# Of idle connections, in one look at all: it takes half a millisecond, and so is worth it for many.
_MOST_FOUND = 64
# After a look that found no idle connection.
_LOOK_AGAIN_S = 0.02


class Flow(FlowControl):
    """As uvicorn's; reading is not resumed by anybody while its connection stands in line."""

    is_in_line = False

    def resume_reading(self) -> None:
        """Read on, unless the connection's turn does it."""
        if not self.is_in_line:
            super().resume_reading()


class Sharing(Protocol):
    """A connection as it is seen here; ``since`` is when it was last asked or answered."""

    transport: Any
    since: float

    @property
    def is_idle(self) -> bool:
        """Whether nothing that has been read waits for an answer."""

    def count_unread(self) -> int:
        """Bytes that have come and not been read."""

    def go_on(self) -> None:
        """Take a turn."""


class Turns:
    """The line of all connections that have more to do than one turn allows."""

    def __init__(self) -> None:
        self._line: deque[Sharing] = deque()
        self._is_due = False

    def line_up(self, connection: Sharing) -> None:
        """Have the connection go on in a later turn of the loop, behind all that are in line."""
        self._line.append(connection)
        self._plan()

    def _plan(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        self._is_due = False
        try:
            for _ in range(min(_MOST_A_TURN, len(self._line))):
                self._line.popleft().go_on()
        finally:  # whatever goes wrong with one, the others have their turns
            if self._line:
                self._plan()


class IdleConnections:
    """Finds the connection that has been idle for longest, without a look at all of them each time."""

    def __init__(self) -> None:
        self._found: list[Sharing] = []  # the longest idle last
        self._missed_at = 0.0  # when a look found none

    def close_one(self, newcomer: Sharing, others: Collection[Any]) -> bool:
        """Close one of ``others``; False if none is idle. ``newcomer`` may be among them, and stays."""
        found = self._found
        if not found and newcomer.since - self._missed_at > _LOOK_AGAIN_S:
            idle = [other for other in others if other.is_idle and other is not newcomer]
            found += reversed(heapq.nsmallest(_MOST_FOUND, idle, key=lambda other: other.since))
            self._missed_at = self._missed_at if found else newcomer.since
        while found:
            oldest = found.pop()
            if oldest.is_idle and not oldest.count_unread():
                oldest.transport.close()
                return True
        return False
