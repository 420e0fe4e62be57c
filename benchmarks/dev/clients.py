"""The client processes: a closed loop that costs little, and honest clients beside an attack.

``python -m benchmarks.dev.clients`` reads one plan a line and writes one outcome a line.

`RoundPlan`: clients in a closed loop, each of which sends the same request again as soon as it has its
answer. They must never be what the server waits for, so there is no HTTP library in them: the request is
bytes made beforehand, and all connections hang on one epoll. The process reads the server's processor time
itself, at the very moments at which it begins and ends to count.

`HonestPlan`: small predictions, one after the other, and how long each took, until the next line comes. Two
clients ask at the same time: one over a connection that is kept, one that connects anew for every request.
Times are on the clock of `time.monotonic`, which all processes share.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from time import perf_counter, process_time

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.load.connections import Connection, Connections
from timberline.benchmarks.measure.services import read_cpu_s, read_wait_s

# Longer than any answer takes; a server that is silent for so long has failed.
_SILENCE_S = 30.0
# Longer than any attack; an honest client that has waited for so long gives up.
PATIENCE_S = 25.0


class RoundPlan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One window of load.

    - ``request``: the whole request, head and body.
    - ``pids``: the server's processes, whose processor time is read.
    - ``cores``: the processors that the clients may use.
    - ``warmup_s``: of load before the window, over the same connections.
    """

    port: int
    request: bytes
    connections: int
    warmup_s: float = 0.0
    window_s: float = 0.0
    pids: tuple[int, ...]
    cores: tuple[int, ...]


class RoundOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened within the window; every answer had status 200.

    - ``failure``: one answer was wrong or missing, so that the whole round is invalid; nothing else is known.
    - ``server_cpu_s``: of each of the server's processes.
    - ``server_wait_s``: in which they could have worked, but other programs had the processor.
    - ``client_cpu_s``: of this process.
    - ``latencies_s``: float32 of every request, in the order of their answers.
    - ``answer_bytes``: length of the last answer, head and body.
    """

    requests: int = 0
    elapsed_s: float = 0.0
    server_cpu_s: tuple[float, ...] = ()
    server_wait_s: float = 0.0
    client_cpu_s: float = 0.0
    latencies_s: bytes = b""
    answer_bytes: int = 0
    failure: str = ""


class HonestPlan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What is asked, and how long a client rests after each answer; ``cores`` none is all."""

    port: int
    request: bytes
    pause_s: float
    cores: tuple[int, ...] = ()


class HonestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of one client, in plan.

    - ``asked_at_s``: when each was begun (connecting included).
    - ``waits_s``: until its answer was whole, or until it was clear that there is none.
    - ``outcomes``: ``200``, another status, or ``lost``.
    """

    asked_at_s: list[float]
    waits_s: list[float]
    outcomes: list[str]


class HonestOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the two clients saw."""

    kept: HonestRecord
    anew: HonestRecord


class _Client(Connection):
    """One connection of a closed loop."""

    def __init__(self, port: int) -> None:
        connected = socket.create_connection(("127.0.0.1", port))
        # In the kernel and not by Python's timeouts, which cost a system call each time.
        silence = struct.pack("ll", int(_SILENCE_S), 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        super().__init__(connected)
        self.asked_at = 0.0


def drive(plan: RoundPlan) -> RoundOutcome:
    """Load the server for one window.

    Raises:
        BenchmarkError: an answer was not 200, or the server was silent.
        OSError: the server could not be reached, hung up, or wrote what is no answer.
    """
    os.sched_setaffinity(0, plan.cores)
    clients = [_Client(plan.port) for _ in range(plan.connections)]
    try:
        return _Loop(plan, clients).run()
    finally:
        for client in clients:
            client.close()


class _Loop:
    def __init__(self, plan: RoundPlan, clients: list[_Client]) -> None:
        self._plan = plan
        self._clients = {client.fileno(): client for client in clients}
        self._epoll = select.epoll()
        for descriptor in self._clients:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._answer_bytes = 0

    def run(self) -> RoundOutcome:
        with self._epoll:
            for client in self._clients.values():
                client.asked_at = perf_counter()
                client.send(self._plan.request)
            self._ask(self._plan.warmup_s, [])
            before = self._read_clocks()
            latencies: list[float] = []
            self._ask(self._plan.window_s, latencies)
            after = self._read_clocks()
            # Read what is still on its way, so that the server is idle when the round is over.
            for client in self._clients.values():
                while not self._is_answered(client):
                    pass
        return RoundOutcome(
            requests=len(latencies),
            elapsed_s=after[0] - before[0],
            client_cpu_s=after[1] - before[1],
            server_wait_s=after[2] - before[2],
            server_cpu_s=tuple(end - start for start, end in zip(before[3:], after[3:], strict=True)),
            latencies_s=array("f", latencies).tobytes(),
            answer_bytes=self._answer_bytes,
        )

    def _read_clocks(self) -> tuple[float, ...]:
        pids = self._plan.pids
        return (perf_counter(), process_time(), sum(map(read_wait_s, pids)), *map(read_cpu_s, pids))

    def _ask(self, seconds: float, latencies: list[float]) -> None:
        """Keep every client asking for ``seconds``."""
        clients, poll, request = self._clients, self._epoll.poll, self._plan.request
        now = perf_counter()
        end = now + seconds
        while now < end:
            ready = poll(_SILENCE_S)
            if not ready:
                raise BenchmarkError(f"silent for {_SILENCE_S:g} s", where="server")
            for descriptor, _ in ready:
                client = clients[descriptor]
                if self._is_answered(client):
                    now = perf_counter()
                    latencies.append(now - client.asked_at)
                    client.asked_at = now
                    client.send(request)

    def _is_answered(self, client: _Client) -> bool:
        """Read what has arrived; whether the answer is whole now."""
        reply = client.read()
        if reply is None:
            return False
        if reply.status != HTTPStatus.OK:
            raise BenchmarkError(f"answered {reply.status}: {reply.content[:300]!r}", where="server")
        self._answer_bytes = reply.size
        return True


def watch_service(plan: HonestPlan, await_end: Callable[[], object]) -> HonestOutcome:
    """Ask with both clients until ``await_end`` returns; an answer that is on its way is waited for."""
    if plan.cores:
        os.sched_setaffinity(0, plan.cores)
    is_over = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        kept, anew = (threads.submit(_ask_honestly, plan, is_over, is_kept) for is_kept in (True, False))
        try:
            await_end()
        finally:
            is_over.set()
    return HonestOutcome(kept=kept.result(), anew=anew.result())


def _ask_honestly(plan: HonestPlan, is_over: threading.Event, is_kept: bool) -> HonestRecord:
    """One client's requests until ``is_over`` is set."""
    connections = Connections(partial(socket.create_connection, ("127.0.0.1", plan.port), PATIENCE_S))
    record = HonestRecord(asked_at_s=[], waits_s=[], outcomes=[])
    while not is_over.is_set():
        asked_at = time.monotonic()
        try:
            outcome = str(connections.exchange(plan.request).status)
        except OSError:
            outcome = "lost"
        if outcome != "200" or not is_kept:
            connections.close()
        record.asked_at_s.append(asked_at)
        record.waits_s.append(time.monotonic() - asked_at)
        record.outcomes.append(outcome)
        is_over.wait(plan.pause_s)
    connections.close()
    return record


def main() -> int:
    """Carry out the plans on stdin until it is closed; an honest one ends with the next line."""
    plans = msgspec.json.Decoder(RoundPlan | HonestPlan)
    for line in sys.stdin.buffer:
        plan = plans.decode(line)
        outcome: RoundOutcome | HonestOutcome
        if isinstance(plan, HonestPlan):
            outcome = watch_service(plan, sys.stdin.buffer.readline)  # any line, or the end of the input
        else:
            try:
                outcome = drive(plan)
            except (BenchmarkError, OSError) as error:
                outcome = RoundOutcome(failure=str(error))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
