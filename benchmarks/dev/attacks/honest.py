"""Honest clients beside an attack: small predictions, one after the other, and how long each took.

``python -m benchmarks.dev.attacks.honest`` is a process of its own, so that an attacker's work does not
delay it. It reads one `HonestPlan` a line, asks until the next line comes, and writes what it saw as one
`HonestOutcome`. Two clients ask at the same time: one over a connection that is kept, one that connects
anew for every request. Times are on the clock of `time.monotonic`, which all processes share.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from array import array
from collections.abc import Callable

import msgspec

from timberline.benchmarks.dev.service.closed_loop import read_answer_length
from timberline.benchmarks.errors import BenchmarkError

_READ_BYTES = 1 << 16
# Longer than any attack; a client that has waited for so long goes away without an answer.
PATIENCE_S = 25.0


class HonestPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how long a client rests after each answer; ``cores`` none is all."""

    port: int
    request: bytes
    pause_s: float
    cores: tuple[int, ...] = ()


class HonestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of one client, in plan.

    - ``asked_at_s``: float64, when each was begun (connecting included).
    - ``waits_s``: float64, until its answer was whole, or there was to be none.
    - ``outcomes``: ``200``, another status, or ``lost``.
    """

    asked_at_s: bytes
    waits_s: bytes
    outcomes: tuple[str, ...]


class HonestOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the two clients saw."""

    kept: HonestRecord
    anew: HonestRecord


class _Client(threading.Thread):
    """Asks again and again until ``is_over`` is set."""

    def __init__(self, watch: HonestPlan, is_over: threading.Event, *, is_kept: bool) -> None:
        super().__init__(daemon=True)
        self._watch = watch
        self._is_over = is_over
        self._is_kept = is_kept
        self._connection: socket.socket | None = None
        self._asked_at_s = array("d")
        self._waits_s = array("d")
        self._outcomes: list[str] = []

    def run(self) -> None:
        while not self._is_over.is_set():
            asked_at = time.monotonic()
            try:
                outcome = self._ask()
            except OSError:
                outcome = "lost"
            if outcome != "200" or not self._is_kept:
                self._hang_up()
            self._waits_s.append(time.monotonic() - asked_at)
            self._asked_at_s.append(asked_at)
            self._outcomes.append(outcome)
            self._is_over.wait(self._watch.pause_s)
        self._hang_up()

    def describe(self) -> HonestRecord:
        """What it saw; the thread has ended."""
        return HonestRecord(
            asked_at_s=self._asked_at_s.tobytes(),
            waits_s=self._waits_s.tobytes(),
            outcomes=tuple(self._outcomes),
        )

    def _ask(self) -> str:
        if self._connection is None:
            self._connection = socket.create_connection(("127.0.0.1", self._watch.port), PATIENCE_S)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(self._watch.request)
        data = b""
        try:
            while not (length := read_answer_length(data)) or len(data) < length:
                part = self._connection.recv(_READ_BYTES)
                if not part:
                    return "lost"
                data += part
        except BenchmarkError:  # not 200
            return data[9:12].decode("ascii", "replace")
        return "200"

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def watch_service(watch: HonestPlan, await_end: Callable[[], object]) -> HonestOutcome:
    """Ask with both clients until ``await_end`` returns; an answer that is on its way is waited for."""
    is_over = threading.Event()
    clients = [_Client(watch, is_over, is_kept=is_kept) for is_kept in (True, False)]
    for client in clients:
        client.start()
    await_end()
    is_over.set()
    for client in clients:
        client.join()
    kept, anew = (client.describe() for client in clients)
    return HonestOutcome(kept=kept, anew=anew)


def main() -> int:
    """HonestPlan from each odd line on stdin until the line after it."""
    plans = msgspec.json.Decoder(HonestPlan)
    for line in sys.stdin.buffer:
        watch = plans.decode(line)
        if watch.cores:
            os.sched_setaffinity(0, watch.cores)
        waits = watch_service(watch, sys.stdin.buffer.readline)  # whatever it says, or the end
        sys.stdout.buffer.write(msgspec.json.encode(waits) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
