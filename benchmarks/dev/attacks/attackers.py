"""The attackers: what each sends, over real sockets, bounded in bytes and time.

``python -m benchmarks.dev.attacks.attackers`` is a process of its own that reads one `AttackPlan` a line,
carries the attack out and writes one `AttackOutcome`. It goes to 127.0.0.1 only. What is cut or refused is
begun again, as an attacker would, until `AttackPlan.again_s` have passed.
"""

from __future__ import annotations

import gzip
import os
import re
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import NamedTuple

import msgspec

from timberline.benchmarks.dev.attacks.bodies import Subject, list_bodies

_MB = 1_000_000
# What an attack may send in all, and of one address line.
MOST_HEAD_BYTES = 300 * _MB
MOST_URL_BYTES = 64 * _MB
_UNFINISHED = 60
_IDLE = 4000
_SLOW = 500
_PIPELINED = 300
# The same body is sent so many times at most, one after the other.
_MOST_BODIES = 3
_BLOCK_BYTES = 1 << 16
_READ_BYTES = 1 << 18
# An attacker whose bytes are not read for so long stops sending.
_STALL_S = 1.0
_CONNECT_S = 2.0
# A flood goes on for so many times as long as an attack that was cut is repeated.
_FLOOD_TIMES = 2.5
_SLOW_BYTES = 5
# So that it takes no time from honest clients on the same processor.
_NICENESS = 10
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class AttackPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One attack on one service.

    - ``request``: a small request that would be answered 200, whole.
    - ``again_s``: for how long an attack that was cut is repeated.
    - ``most_s``: when it is ended, however far it got.
    """

    attack: str
    port: int
    request: bytes
    subject: Subject
    again_s: float
    most_s: float
    cores: tuple[int, ...] = ()


class AttackOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an attack did and got.

    - ``requests``: begun, whole or not; an idle connection is one as well.
    - ``statuses``: answers by status.
    - ``cut``: connections that the service ended without an answer, or did not take.
    - ``began_at_s``, ``ended_at_s``: on the clock of `time.monotonic`.
    """

    sent_bytes: int
    requests: int
    statuses: dict[str, int]
    cut: int
    began_at_s: float
    ended_at_s: float


@dataclass
class AttackState:
    """One attack: its plan, and what has happened so far."""

    plan: AttackPlan
    began_at: float = field(default_factory=time.monotonic)
    sent_bytes: int = 0
    requests: int = 0
    cut: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    def is_late(self) -> bool:
        """Whether the attack has to end now."""
        return time.monotonic() - self.began_at > self.plan.most_s

    def is_over(self) -> bool:
        """Whether what has ended is not begun again."""
        return self.is_late() or time.monotonic() - self.began_at >= self.plan.again_s


class Connection:
    """One attacker's connection.

    Args:
        blocks: what it sends, in order.
        wants: answers after which it is finished, when all is sent; None is the first one, whenever it comes.
        is_reading: whether it takes its answers.
    """

    def __init__(
        self,
        state: AttackState,
        blocks: Iterable[bytes],
        *,
        wants: int | None = None,
        is_reading: bool = True,
    ) -> None:
        self.is_open = True
        self.is_sent = False
        self.answers = 0
        self._state = state
        self._blocks = iter(blocks)
        self._block = memoryview(b"")
        self._wants = wants
        self._received = b""
        self._skipped = 0  # bytes of an answer's body that have yet to come
        self.is_reading = is_reading
        self.socket = socket.socket()
        if not is_reading:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(_CONNECT_S)
        try:
            self.socket.connect(("127.0.0.1", state.plan.port))
            self.socket.setblocking(False)
        except OSError:
            self._end(is_cut=True)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to send or to wait for."""
        if not self.is_open:
            return True
        if self._wants is None:
            return self.answers > 0
        return self.is_sent and self.answers >= self._wants

    def queue(self, data: bytes) -> None:
        """Send ``data`` after what has been sent."""
        self._blocks = iter([data])
        self.is_sent = False

    def send(self) -> int:
        """Send what there is room for; the bytes."""
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
            if not self._block:
                self.is_sent = True
                return 0
        try:
            count = self.socket.send(self._block)
        except BlockingIOError:
            return 0
        except OSError:
            self.read()  # the refusal may lie there, in front of the reset
            self._end(is_cut=True)
            return 0
        self._block = self._block[count:]
        self._state.sent_bytes += count
        return count

    def read(self) -> int:
        """Take what has come; the bytes."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._end(is_cut=True)
        self._count(data)
        return len(data)

    def close(self) -> None:
        """Hang up; not the service's doing."""
        self._end(is_cut=False)

    def _end(self, *, is_cut: bool) -> None:
        if self.is_open:
            self.is_open = False
            self._state.cut += is_cut and self.answers == 0
            self.socket.close()

    def _count(self, data: bytes) -> None:
        """Count the answers whose heads are in ``data``; those of class 1xx are none."""
        self._received += data
        while True:
            taken = min(self._skipped, len(self._received))
            self._received = self._received[taken:]
            self._skipped -= taken
            end = self._received.find(b"\r\n\r\n") + 4
            if self._skipped or end < 4:
                return
            head, self._received = self._received[:end], self._received[end:]
            length = _LENGTH.search(head)
            self._skipped = int(length[1]) if length else 0
            if head[9:10] != b"1":
                self.answers += 1
                self._state.statuses[head[9:12].decode("ascii", "replace")] += 1


def drive(state: AttackState, connections: Sequence[Connection], *, stall_s: float | None = None) -> None:
    """Send and read on all until each is finished, time is up, or nothing moves for ``stall_s``."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            if connection.is_open:
                selector.register(connection.socket, _wishes(connection), connection)
        moved_at = time.monotonic()
        while selector.get_map() and not state.is_late():
            if stall_s is not None and time.monotonic() - moved_at > stall_s:
                return
            for key, events in selector.select(0.1):
                connection = key.data
                moved = connection.read() if events & selectors.EVENT_READ else 0
                if events & selectors.EVENT_WRITE and not connection.is_finished:
                    moved += connection.send()
                if moved:
                    moved_at = time.monotonic()
                if connection.is_finished:
                    selector.unregister(key.fileobj)
                elif (wishes := _wishes(connection)) != key.events:
                    selector.modify(key.fileobj, wishes, connection)


def _drive_one(
    state: AttackState,
    blocks: Iterable[bytes],
    *,
    wants: int | None = None,
    is_reading: bool = True,
    stall_s: float | None = None,
) -> None:
    """`drive` one new connection, and hang up."""
    connection = Connection(state, blocks, wants=wants, is_reading=is_reading)
    drive(state, [connection], stall_s=stall_s)
    connection.close()


def _wishes(connection: Connection) -> int:
    return (selectors.EVENT_READ if connection.is_reading else 0) | (
        0 if connection.is_sent else selectors.EVENT_WRITE
    )


# 2.1: what is answered twice


def smuggle(state: AttackState) -> None:
    """A ``POST`` with ``Upgrade`` whose body is a request; it may be answered once."""
    for name in (b"h2c", b"websocket", b"foo"):
        state.requests += 1
        length = b"content-length: %d" % len(state.plan.request)
        head = _open_request(b"connection: upgrade", b"upgrade: %b" % name, length) + b"\r\n"
        connection = Connection(state, [head], wants=2)
        drive(state, [connection], stall_s=0.1)  # the body comes in a segment of its own
        connection.queue(state.plan.request)
        drive(state, [connection], stall_s=_STALL_S)
        connection.close()


# 2.2: what is sent before the body has a length


def _endless(start: bytes, block: bytes, most_bytes: int = MOST_HEAD_BYTES) -> Callable[[AttackState], None]:
    """``start`` and then ``block`` again and again, on one connection after the other."""

    def attack(state: AttackState) -> None:
        while True:
            state.requests += 1
            _drive_one(state, _limit(chain([start], repeat(block)), most_bytes), stall_s=_STALL_S)
            if state.is_over() or state.sent_bytes >= most_bytes:
                return

    return attack


def _limit(blocks: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """The first of ``blocks``, ``most_bytes`` and no more than one block beyond."""
    sent_bytes = 0
    for block in blocks:
        if sent_bytes >= most_bytes:
            return
        sent_bytes += len(block)
        yield block


def _open_request(*headers: bytes) -> bytes:
    """A head whose end has yet to come."""
    lines = [b"POST /predict HTTP/1.1", b"host: 127.0.0.1", b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b""])


_CHUNKED = _open_request(b"transfer-encoding: chunked") + b"\r\n"
_LETTERS = b"b" * _BLOCK_BYTES
_LINES = (b"x-a: " + b"b" * 1000 + b"\r\n") * 64


def _leave_unfinished(count: int, size: int) -> Callable[[AttackState], None]:
    """Bodies of ``size`` bytes that miss the last of them, on ``count`` connections at once."""
    head = _open_request(b"content-length: %d" % size) + b"\r\n"
    blocks = (size - 1000) // _BLOCK_BYTES
    return lambda state: _hold(state, count, lambda: chain([head], repeat(b" " * _BLOCK_BYTES, blocks)))


def leave_gzip_unfinished(state: AttackState) -> None:
    """Compressed bodies, 16 KB each, that miss their last bytes."""
    body = gzip.compress(b" " * (state.plan.subject.max_body_bytes - 1000), 9)
    head = _open_request(b"content-encoding: gzip", b"content-length: %d" % len(body)) + b"\r\n"
    _hold(state, _UNFINISHED, lambda: [head + body[:-8]])


def hold_idle(state: AttackState) -> None:
    """Connections that say nothing."""
    _hold(state, _IDLE, lambda: ())


def _hold(state: AttackState, count: int, blocks: Callable[[], Iterable[bytes]]) -> None:
    """Open connections, send ``blocks`` on each, and keep them until nothing has moved for a while."""
    connections = list(_connect(state, count, blocks))
    drive(state, connections, stall_s=max(_STALL_S, state.plan.again_s))
    for connection in connections:
        connection.close()


def _connect(state: AttackState, count: int, blocks: Callable[[], Iterable[bytes]]) -> Iterator[Connection]:
    for _ in range(min(count, _count_files() - 100)):
        if state.is_late():
            return
        state.requests += 1
        yield Connection(state, blocks())


def _count_files() -> int:
    """How many files this process may open, as many as it is let."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


# 2.3: small bodies that explode


def _send_body(name: str) -> Callable[[AttackState], None]:
    def attack(state: AttackState) -> None:
        request = list_bodies(state.plan.subject)[name]()
        state.began_at = time.monotonic()  # to make it took its time
        for _ in range(_MOST_BODIES):
            state.requests += 1
            _drive_one(state, [request])
            if state.is_over():
                return

    return attack


# 2.4: who takes more than a turn


def pipeline_without_end(state: AttackState) -> None:
    """One client that sends requests as fast as it can and takes the answers."""
    block = state.plan.request * 1900
    _drive_one(state, _repeat_for(_FLOOD_TIMES * state.plan.again_s, block), wants=0)
    state.requests = state.sent_bytes // len(state.plan.request)


def pipeline_in_one_packet(state: AttackState) -> None:
    """So many requests in one packet, each of which has an answer coming."""
    while True:
        state.requests += _PIPELINED
        _drive_one(state, [state.plan.request * _PIPELINED], wants=_PIPELINED, stall_s=10.0)
        if state.is_over():
            return


def read_nothing(state: AttackState) -> None:
    """One client that sends requests and takes no answer."""
    block = state.plan.request * 100
    stall_s = max(_STALL_S, state.plan.again_s)
    _drive_one(state, _limit(repeat(block), MOST_URL_BYTES), wants=0, is_reading=False, stall_s=stall_s)
    state.requests = state.sent_bytes // len(state.plan.request)


def send_slowly(state: AttackState) -> None:
    """Many connections on which one byte a second comes."""
    connections = list(_connect(state, _SLOW, lambda: ()))
    for letter in state.plan.request[:_SLOW_BYTES]:
        for connection in connections:
            connection.queue(bytes([letter]))
        drive(state, connections, stall_s=1.0)
    for connection in connections:
        connection.close()


def _repeat_for(seconds: float, block: bytes) -> Iterator[bytes]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield block


class Attack(NamedTuple):
    """One row of the table; ``bounds`` is the table of bounds.toml that it is held against."""

    bounds: str
    carry_out: Callable[[AttackState], None]
    is_behind_uvicorn: bool = False


def list_attacks(subject: Subject) -> dict[str, Attack]:
    """Every attack by its name, in the order of the table."""
    heads = {
        "headers, long lines": _endless(_open_request(), _LINES),
        "headers, short lines": _endless(_open_request(), b"a:b\r\n" * (_BLOCK_BYTES // 5)),
        "URL": _endless(b"GET /", _LETTERS, MOST_URL_BYTES),
        "header line without end": _endless(_open_request() + b"x-a: ", _LETTERS),
        "trailers": _endless(_CHUNKED + b"2\r\n{}\r\n0\r\n", _LINES),
        "chunk extension": _endless(_CHUNKED + b"2;", _LETTERS),
        "chunk size of zeros": _endless(_CHUNKED, b"0" * _BLOCK_BYTES),
        "empty lines before a request": _endless(b"\r\n", b"\r\n" * (_BLOCK_BYTES // 2)),
    }
    waiting = {
        "60 unfinished bodies": _leave_unfinished(_UNFINISHED, subject.max_body_bytes),
        "500 unfinished bodies of 1 MiB": _leave_unfinished(500, min(1 << 20, subject.max_body_bytes)),
        "60 unfinished gzip bodies": leave_gzip_unfinished,
        "chunks of one byte": _endless(_CHUNKED, b"1\r\n \r\n" * (_BLOCK_BYTES // 6), MOST_URL_BYTES),
        "4,000 idle connections": hold_idle,
    }
    return {
        "none": Attack("none", lambda state: time.sleep(state.plan.again_s)),
        "upgrade, body a request": Attack("upgrade", smuggle),
        **{name: Attack("head", attack) for name, attack in heads.items()},
        **{name: Attack("waiting", attack) for name, attack in waiting.items()},
        **{name: Attack("body", _send_body(name)) for name in list_bodies(subject)},
        "300 requests in one packet": Attack("packet", pipeline_in_one_packet),
        "pipelining without end": Attack("turn", pipeline_without_end),
        "the same, plain uvicorn": Attack("none", pipeline_without_end, is_behind_uvicorn=True),
        "answers nobody reads": Attack("turn", read_nothing),
        "500 slow senders": Attack("turn", send_slowly),
    }


def attack(plan: AttackPlan) -> AttackOutcome:
    """Carry one attack out."""
    state = AttackState(plan)
    list_attacks(plan.subject)[plan.attack].carry_out(state)
    return AttackOutcome(
        sent_bytes=state.sent_bytes,
        requests=state.requests,
        statuses=dict(state.statuses),
        cut=state.cut,
        began_at_s=state.began_at,
        ended_at_s=time.monotonic(),
    )


def main() -> int:
    """Carry out one attack for every line on stdin, until it is closed."""
    os.nice(_NICENESS)
    plans = msgspec.json.Decoder(AttackPlan)
    for line in sys.stdin.buffer:
        plan = plans.decode(line)
        if plan.cores:
            os.sched_setaffinity(0, plan.cores)
        sys.stdout.buffer.write(msgspec.json.encode(attack(plan)) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
