"""Clients in a closed loop: each sends the same request again as soon as it has its answer.

``python -m benchmarks.dev.service.closed_loop`` is a process of its own that reads one `Round` a line and
writes one `Seen` a line. It must never be what the server waits for, so there is no HTTP library
in it: the request is bytes made beforehand, of an answer it reads the status and the length, and
all connections hang on one epoll. It reads the server's processor time itself, at the very moments
at which it begins and ends to count.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import sys
from array import array
from time import perf_counter, process_time

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.services import read_cpu_s, read_wait_s

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
# One answer of the largest batch comes in a few of these.
_READ_BYTES = 1 << 18
_HEADS_KEPT = 100
# Far beyond what any answer takes; a server that is silent for longer has failed.
_SILENCE_S = 30.0


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One window of load.

    - ``request``: the whole request, head and body.
    - ``pids``: the server's processes, whose processor time is read.
    - ``cores``: the processors that the clients may use.
    - ``warmup_s``: of load before the window, over the same connections.
    """

    port: int
    request: bytes
    connections: int
    warmup_s: float
    window_s: float
    pids: tuple[int, ...]
    cores: tuple[int, ...]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What happened within the window; every answer had status 200.

    - ``server_cpu_s``: of each of the server's processes.
    - ``server_wait_s``: in which they could have worked, but other programs had the processor.
    - ``client_cpu_s``: of this process.
    - ``latencies_s``: float32 of every request, in the order of their answers.
    - ``answer_bytes``: length of the last answer, head and body.
    """

    requests: int
    elapsed_s: float
    server_cpu_s: tuple[float, ...]
    server_wait_s: float
    client_cpu_s: float
    latencies_s: bytes
    answer_bytes: int


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no `Seen`: one answer was wrong or missing, so that the whole round is invalid."""

    failure: str


def read_answer_length(data: bytes) -> int:
    """Bytes of the whole answer that begins with ``data``; 0 while its head is not complete.

    Raises:
        BenchmarkError: the status is not 200, or the answer does not tell its length.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return 0
    length = _LENGTH.search(data, 0, end)
    if data[9:12] != b"200" or length is None:
        raise BenchmarkError(f"answered {data[:300]!r}", where="server")
    return end + int(length[1])


class _Client:
    """One connection and the answer that it is waiting for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # In the kernel and not by Python's timeouts, which cost a system call each time.
        silence = struct.pack("ll", int(_SILENCE_S), 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        self.receive = self.socket.recv
        self.send = self.socket.sendall
        self.asked_at = 0.0
        self.parts = b""


def drive(plan: Round) -> Seen:
    """Load the server for one window.

    Raises:
        BenchmarkError: an answer was wrong, cut short or missing.
        OSError: the server could not be reached, or hung up.
    """
    os.sched_setaffinity(0, plan.cores)
    clients = [_Client(plan.port) for _ in range(plan.connections)]
    try:
        return _Loop(plan, clients).run()
    finally:
        for client in clients:
            client.socket.close()


class _Loop:
    def __init__(self, plan: Round, clients: list[_Client]) -> None:
        self._plan = plan
        self._clients = {client.socket.fileno(): client for client in clients}
        self._epoll = select.epoll()
        for descriptor in self._clients:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._lengths: dict[bytes, int] = {}  # of answers by their heads, which are few
        self._answer_bytes = 0

    def run(self) -> Seen:
        with self._epoll:
            for client in self._clients.values():
                client.asked_at = perf_counter()
                client.send(self._plan.request)
            self._ask(self._plan.warmup_s, [])
            before = self._read_clocks()
            latencies: list[float] = []
            self._ask(self._plan.window_s, latencies)
            after = self._read_clocks()
            self._wait_for_the_rest()
        return Seen(
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

    def _wait_for_the_rest(self) -> None:
        """Read the answers still on their way, so that the server is idle when the round is over."""
        for client in self._clients.values():
            while not self._is_answered(client):
                pass

    def _is_answered(self, client: _Client) -> bool:
        """Read what has arrived; whether the answer is whole now."""
        data = client.receive(_READ_BYTES)
        if not data:
            raise BenchmarkError("hung up", where="server")
        if client.parts:
            data = client.parts + data
        head = data[: data.find(b"\r\n\r\n")]
        length = self._lengths.get(head)
        if length is None:
            if len(self._lengths) > _HEADS_KEPT:
                self._lengths.clear()  # some servers give every answer a head of its own
            length = self._lengths[head] = read_answer_length(data)
            self._answer_bytes = length or self._answer_bytes
        if length == 0 or len(data) < length:
            client.parts = data
            return False
        if len(data) > length:
            raise BenchmarkError("answered more than was asked", where="server")
        client.parts = b""
        return True


def main() -> int:
    """Drive one round for every line on stdin, until it is closed."""
    plans = msgspec.json.Decoder(Round)
    for line in sys.stdin.buffer:
        try:
            seen: Seen | Failed = drive(plans.decode(line))
        except (BenchmarkError, OSError) as error:
            seen = Failed(failure=str(error))
        sys.stdout.buffer.write(msgspec.json.encode(seen) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
